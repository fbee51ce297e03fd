"""Where the jobs of a sweep run: an engine runs one at a time for each thread that asks it to."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ladon.children import Children, Say, Stoppable
from ladon.engine.interrupt import STOPPING
from ladon.errors import LadonError

LINES_KEPT = 15
"""Last lines of a run's output that are shown if it fails."""


class NodeLost(LadonError):
    """The machine that a job ran on is gone, or the process there that ran it."""


@dataclass(frozen=True)
class Ended:
    """The end of a job's process.

    Args:
        code: exit code, -N if signal N killed it.
        said: last lines of its output, where an engine keeps them.
    """

    code: int
    said: Sequence[str] = field(default=())

    @property
    def is_stop(self) -> bool:
        """Whether it ended as one that was asked to stop."""
        return self.code in {code for number in STOPPING for code in (128 + number, -number)}

    def judge(self, *, interrupted: bool) -> tuple[str, str]:
        """Return status and detail of the job.

        Args:
            interrupted: whether all jobs had been asked to stop.
        """
        if self.code == 0:
            return "done", ""
        if interrupted:
            return "interrupted", ""
        code = self.code
        return "failed", f"killed by signal {-code}" if code < 0 else f"exit code {code}"


class Engine(Stoppable):
    """Runs jobs; told to stop, it lets them save their state.

    Attributes:
        slots: how many jobs it takes at a time; None for any number.
    """

    slots: int | None = 1

    @abstractmethod
    def run(self, command: Sequence[str], say: Say | None = None, *, alone: bool = False) -> Ended:
        """Run a command to its end; several threads may call it.

        Args:
            command: program and arguments.
            say: is given each line of output where the engine sees them as they come.
            alone: nothing can run beside it.

        Raises:
            NodeLost: it is gone before its end.
        """


class LocalEngine(Children, Engine):
    """Child processes on this machine.

    Args:
        slots: jobs side by side.
        cores: of this machine, which jobs side by side share; None to let each have them all.
        whole: whether a job that nothing can run beside has them all, too. Sums of another number
            of threads differ in their last bits, so that another engine would not give the same.
    """

    def __init__(self, slots: int = 1, cores: int | None = None, *, whole: bool = False) -> None:
        super().__init__()
        self.slots: int = slots
        self._cores, self._whole = cores, whole

    def run(self, command: Sequence[str], say: Say | None = None, *, alone: bool = False) -> Ended:
        """Run a command in a child process; without `say` it writes where this process does."""
        said: deque[str] = deque(maxlen=LINES_KEPT)
        code = self(command, self._threads(alone), _both(said.append, say))
        return Ended(code, tuple(said))

    def _threads(self, alone: bool) -> dict[str, str] | None:
        """Return the variables by which jobs side by side share the cores."""
        if self._cores is None:
            return None
        threads = self._cores if alone and self._whole else self._cores // self.slots
        # threads that spin while they wait take the core from whoever else works: with another
        # process on two cores, training was five times slower
        return {"OMP_NUM_THREADS": str(max(1, threads)), "OMP_WAIT_POLICY": "passive"}


def _both(keep: Callable[[str], None], say: Say | None) -> Say | None:
    if say is None:
        return None

    def tell(line: str) -> None:
        keep(line)
        say(line)

    return tell
