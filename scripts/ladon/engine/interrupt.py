"""Ctrl-C and SIGTERM: finish the step, save, leave with 130 or 143."""

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


class StopRequest:
    """Remembers that a signal asked the run to stop.

    Attributes:
        signum: the signal's number, 0 while none came.
    """

    def __init__(self) -> None:
        self.signum = 0
        self._since = 0.0

    def __bool__(self) -> bool:
        return self.signum != 0

    def _receive(self, signum: int, frame: types.FrameType | None) -> None:
        if self.signum:
            if time.monotonic() - self._since > _SAME_SECONDS:
                raise KeyboardInterrupt  # asked again: the person does not want to wait
            return
        self.signum, self._since = signum, time.monotonic()
        # it may have come while one of several runs had its turn, but concerns them all
        contextvars.Context().run(
            logger.warning,
            "%s: stopping after this step (once more to stop at once)",
            signal.Signals(signum).name,
        )


@contextmanager
def catch_signals() -> Iterator[StopRequest]:
    """Turn SIGINT and SIGTERM into a request that loops ask for between steps."""
    request = StopRequest()
    previous = {s: signal.signal(s, request._receive) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
