"""Connections that may not dawdle: uvicorn's own time is only short between two requests."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 10.0
"""From a connection's beginning, or a further request's first byte, to the end of its headers."""
READING_SECONDS = 30.0
"""That a client may take none of a response for which the system's buffers have no room."""


class Connection(H11Protocol):
    """A connection that is ended if its client is too slow with headers, or to read a response.

    Bodies are the application's matter, which can still answer. h11 bounds the headers' size.
    """

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for headers."""
        super().connection_made(transport)
        self._end_after(HEADER_SECONDS)

    def data_received(self, data: bytes) -> None:
        """Read on; the headers' time is not begun anew."""
        super().data_received(data)
        if self.flow.write_paused:  # it is the client's turn to read
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self._stay()
        elif self._timer is None:
            self._end_after(HEADER_SECONDS)

    def pause_writing(self) -> None:
        """Wait for the client to read."""
        super().pause_writing()
        self._end_after(READING_SECONDS)

    def resume_writing(self) -> None:
        """Go on."""
        super().resume_writing()
        self._stay()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the time."""
        self._stay()
        super().connection_lost(exc)

    def _end_after(self, seconds: float) -> None:
        self._stay()
        self._timer = self.loop.call_later(seconds, self._end)

    def _stay(self, *_: Any) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end(self) -> None:
        self._timer = None
        self.transport.abort()
