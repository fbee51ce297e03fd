"""A command that a machine of a cluster runs for a sweep, as it travels there.

It is sent by value, so that a node needs nothing of this module; it imports the standard library
only.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence

_POLL_SECONDS = 0.1
# Ends with whoever started it, so that no run goes on unseen, and in its folder, after the process
# that ran it is gone (PR_SET_PDEATHSIG is Linux's). SLURM sends SIGUSR2, by which submitit is told
# that time is running out, to every process of a job, and unhandled it would end this one unsaved.
_TIED = """
import ctypes, os, signal, sys
signal.signal(signal.SIGUSR2, signal.SIG_IGN)
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != int(sys.argv[1]):
        sys.exit(1)
os.execvp(sys.argv[2], sys.argv[2:])
"""


class Errand:
    """Runs a command to its end.

    Args:
        command: program and arguments.
        resumed: the same, for when it was begun before.
        folder: where it is run.
        env: variables that differ from those of the process that runs it.
        lines: how many of its last lines are kept.
    """

    def __init__(
        self,
        command: Sequence[str],
        resumed: Sequence[str],
        folder: str,
        env: Mapping[str, str],
        lines: int,
    ) -> None:
        self.command, self.resumed = list(command), list(resumed)
        self.folder, self.env, self.lines = folder, dict(env), lines
        self._process: subprocess.Popen[str] | None = None
        self._code: int | None = None

    def run(self) -> tuple[int, list[str]]:
        """Return the exit code (-N: killed by signal N) and the last lines of the output.

        KeyboardInterrupt, by which Ray cancels, lets the command save its state and end.
        """
        said: deque[str] = deque(maxlen=self.lines)
        env = {**os.environ, **self.env}
        env.pop("SLURM_PROCID", None)  # of what srun started here: the command is no task of it
        self._process = subprocess.Popen(
            [sys.executable, "-c", _TIED, str(os.getpid()), *self.command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self.folder,
            env=env,
            encoding="utf-8",
            errors="replace",
        )
        reader = threading.Thread(target=self._read, args=(said,), daemon=True)
        reader.start()
        try:
            self._wait()
        except KeyboardInterrupt:
            self._stop()
        assert self._code is not None
        return self._code, list(said)

    def __call__(self) -> None:
        """Run it as a job of SLURM's, which takes a job that raises to have failed.

        Raises:
            RuntimeError: it failed.
        """
        if int(os.environ.get("SLURM_RESTART_COUNT") or 0):
            self.command = self.resumed  # its machine was lost before
        code, said = self.run()
        sys.stdout.write("\n".join([*said, ""]))
        if code:
            raise RuntimeError(f"exit code {code}")

    def checkpoint(self) -> object:
        """Save its state before SLURM takes the machine away; return what goes on later."""
        from submitit.helpers import DelayedSubmission

        if self._process is not None:
            self._stop()
        again = Errand(self.resumed, self.resumed, self.folder, self.env, self.lines)
        return DelayedSubmission(again)

    def _stop(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        self._wait()

    def _wait(self) -> None:
        # by looking, not by a lock: a signal's handler waits in here, too, while this does
        while self._code is None:
            time.sleep(_POLL_SECONDS)

    def _read(self, said: deque[str]) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said.append(line.rstrip())
        self._code = self._process.wait()
