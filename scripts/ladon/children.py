"""Runs as child processes, which are told to stop when this process is; others that are, too."""

from __future__ import annotations

import os
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any, Self

from ladon.engine.interrupt import STOPPING

Say = Callable[[str], None]
"""Shows one line to the person who waits."""


class Stoppable(ABC):
    """What runs elsewhere and is told to stop when this process is.

    Within this context SIGINT, SIGTERM and SIGUSR1 are passed on instead of ending this process.

    Attributes:
        received: the signal that this process was sent.
        stopping: the signal that was passed on; nothing more should be started.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.stopping: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for signum in STOPPING:
            self._previous[signum] = signal.signal(signum, self._receive)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def stop(self) -> None:
        """Ask all to stop; not a second time, which would mean 'at once'."""
        if self.stopping is None:
            self._pass_on(signal.SIGTERM)

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        self.received = self.received or signum
        self._pass_on(signum)

    def _pass_on(self, signum: int) -> None:
        self.stopping = signum
        self._send(signum)

    @abstractmethod
    def _send(self, signum: int) -> None:
        """Send a signal to all that run."""


class Children(Stoppable):
    """Child processes that stop when this one is told to, after they have saved their state."""

    def __init__(self) -> None:
        super().__init__()
        self._running: set[subprocess.Popen[str]] = set()

    def __call__(
        self,
        command: Sequence[str],
        env: Mapping[str, str] | None = None,
        say: Say | None = None,
        cwd: str | os.PathLike[str] | None = None,
    ) -> int:
        """Run a command to its end; several threads may call it.

        Args:
            command: program and arguments.
            env: variables that differ from this process's.
            say: is given each line of output; without it, output goes where this process's goes.
            cwd: folder to run it in; this process's if None.

        Returns:
            The exit code, -N if signal N killed it.
        """
        process = subprocess.Popen(
            command,
            stdout=None if say is None else subprocess.PIPE,
            stderr=None if say is None else subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            encoding="utf-8",
            errors="replace",
        )
        self._running.add(process)
        try:
            if self.stopping is not None:  # it came while the child was being started
                process.send_signal(self.stopping)
            if say is not None and process.stdout is not None:
                for line in process.stdout:
                    say(line.rstrip())
            return process.wait()
        finally:
            self._running.discard(process)

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        # Ctrl-C reaches the children from the terminal; a second one would look like impatience
        if signum == signal.SIGINT and _in_foreground():
            self.received = self.received or signum
            self.stopping = signum
        else:
            super()._receive(signum, frame)

    def _send(self, signum: int) -> None:
        for process in list(self._running):
            process.send_signal(signum)


def _in_foreground() -> bool:
    """Whether a terminal's Ctrl-C goes to this process group."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)
