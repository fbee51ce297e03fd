"""Signals that stop a run: finish the step, save, leave with 128 + the signal's number.

Ctrl-C is 130, SIGTERM 143, SIGUSR1 138 (of Linux): the warning that clusters send before they take
a machine away, as SLURM does with `--signal=USR1@60`.
"""

from __future__ import annotations

import contextvars
import logging
import signal
import time
import types
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)

# one kill often arrives twice: from the terminal's group and from a parent that passes it on
_SAME_SECONDS = 1.0

# a warning from the cluster; what it sends next is no person's impatience
WARNING = getattr(signal, "SIGUSR1", None)  # None: not a Unix
STOPPING = tuple(s for s in (signal.SIGINT, signal.SIGTERM, WARNING) if s is not None)


class StopRequest:
    """Remembers that a signal asked the run to stop.

    Attributes:
        signum: the signal's number, 0 while none came; of a warning and another, the other.
    """

    def __init__(self) -> None:
        self.signum = 0
        self._since = 0.0

    def __bool__(self) -> bool:
        return self.signum != 0

    def _receive(self, signum: int, frame: types.FrameType | None) -> None:
        if self.signum and WARNING in (self.signum, signum):
            if signum != WARNING:  # from here on, once more means at once
                self.signum, self._since = signum, time.monotonic()
            return
        if self.signum:
            if time.monotonic() - self._since > _SAME_SECONDS:
                raise KeyboardInterrupt  # asked again: the person does not want to wait
            return
        self.signum, self._since = signum, time.monotonic()
        # it may have come while one of several runs had its turn, but concerns them all
        contextvars.Context().run(
            logger.warning,
            "%s: stopping after this step%s",
            signal.Signals(signum).name,
            "" if signum == WARNING else " (once more to stop at once)",
        )


@contextmanager
def catch_signals() -> Iterator[StopRequest]:
    """Turn the signals that stop a run into a request that loops ask for between steps."""
    request = StopRequest()
    previous = {s: signal.signal(s, request._receive) for s in STOPPING}
    try:
        yield request
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
