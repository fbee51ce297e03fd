"""Reading a request's body: no more than is allowed, and not for longer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from ladon.serve.refusals import Refusal

Receive = Callable[[], Awaitable[Any]]
_DISCARDED = 1 << 24
"""Bytes of a body that is too large are read and dropped up to here, so that a client that sends
all before it listens learns why; then the connection ends."""


class ClientGone(Exception):
    """A client that has left before its answer."""


class Bodies:
    """Reads bodies, whose bytes together are bounded, too.

    Args:
        most: bytes of one.
        most_together: bytes of those that are being read.
        seconds: that one may take.
    """

    def __init__(self, most: int, most_together: int, seconds: float) -> None:
        self.most, self._most_together, self._seconds = most, most_together, seconds
        self._held = 0

    async def read(self, receive: Receive, length: str | None) -> bytes:
        """Return a body.

        Args:
            receive: ASGI's.
            length: the value of the header `Content-Length`; None: there is none.

        Raises:
            Refusal: it is too large or too slow, or there are too many.
            ClientGone: it has not come to its end.
        """
        parts: list[bytes] = []
        size = 0
        announced = int(length) if length is not None and length.isdecimal() else 0
        try:
            async with asyncio.timeout(self._seconds):
                while True:
                    if max(size, announced) > max(self.most, _DISCARDED):
                        break
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGone
                    part = message.get("body", b"")
                    size += len(part)
                    if max(size, announced) <= self.most:
                        self._held += len(part)
                        parts.append(part)
                        self._check_room()
                    if not message.get("more_body", False):
                        break
        except TimeoutError:
            raise Refusal(
                408, "slow body", f"the body has not come within {self._seconds:g} s: send it anew"
            ) from None
        finally:
            self._held -= sum(map(len, parts))
        if max(size, announced) > self.most:
            raise Refusal(413, "too large", f"a body of more than {self.most:,} bytes")
        return b"".join(parts)

    def _check_room(self) -> None:
        if self._held > self._most_together:
            raise Refusal(503, "bodies", "too many bodies are being received: try again")
