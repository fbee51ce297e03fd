"""Requests that are refused: each error's status, and the word for it in metrics and logs."""

from __future__ import annotations

from collections.abc import Iterable

from ladon.codec.container import ForeignPayloadError
from ladon.edge.protocol import ANY_MODEL, ProtocolError, TooLargeError
from ladon.errors import LadonError, PayloadError, UsageError

RETRY_SECONDS = 1
"""When a client may come again; the queue is short by design."""


class Refusal(LadonError):
    """A request that gets an error's status instead of answers.

    Args:
        status: of HTTP.
        reason: one of few words, counted in the metrics.
        message: what is wrong and what to do.
    """

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(status, reason, message)  # as `args`, by which it is pickled
        self.status, self.reason, self.message = status, reason, message

    def __str__(self) -> str:
        return self.message

    @property
    def headers(self) -> dict[str, str]:
        """What the response says beside its body."""
        if self.status == 503:
            retry = {"Retry-After": str(RETRY_SECONDS)}
            return {**retry, "Connection": "close"} if self.reason == "draining" else retry
        if self.status == 401:
            return {"WWW-Authenticate": "Bearer"}
        # of a body that has not been read there may be any number of bytes to come
        return {"Connection": "close"} if self.status in (408, 413) else {}


def refusal_of(error: UsageError) -> Refusal:
    """Return how a request is refused whose sender can mend it."""
    if isinstance(error, ForeignPayloadError):
        return Refusal(422, "foreign payload", str(error))
    if isinstance(error, PayloadError):
        return Refusal(400, "payload", str(error))
    if isinstance(error, TooLargeError):
        return Refusal(413, "too large", str(error))
    return Refusal(400, "message" if isinstance(error, ProtocolError) else "request", str(error))


def no_such_model(name: str, models: Iterable[str]) -> Refusal:
    """Return how a request to a model is refused that is not here."""
    there = ", ".join(dict.fromkeys((ANY_MODEL, *models)))
    return Refusal(404, "model", f"no model '{name[:80]}' here: there are {there}")
