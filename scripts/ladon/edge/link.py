"""How fast the link to a server is, from the answers that came so far."""

from __future__ import annotations


class Link:
    """Bytes a second of a link, measured anew with each answer, the latest one weighing most.

    A payload's time on the link is what passed until its answer came, less what the server worked.
    Its round trip is in it, so that small payloads make a link seem slower than it is: what is
    planned by it comes early rather than late.

    Args:
        weight: of the latest answer, above 0 and at most 1.
    """

    def __init__(self, weight: float = 0.3) -> None:
        self._weight = weight
        self._bytes = self._seconds = 0.0

    @property
    def bytes_per_second(self) -> float | None:
        """The rate; None before the first answer."""
        return self._bytes / self._seconds if self._seconds else None

    def note(self, num_bytes: int, seconds: float) -> None:
        """Take in that so many bytes took so long.

        Args:
            num_bytes: of the payload.
            seconds: on the link; what is not above 0 says nothing.
        """
        if seconds <= 0:
            return
        keep = 1 - self._weight if self._seconds else 0.0
        share = self._weight if self._seconds else 1.0
        self._bytes = keep * self._bytes + share * num_bytes
        self._seconds = keep * self._seconds + share * seconds

    def budget(self, seconds: float) -> int | None:
        """Return how many bytes pass in a time; None before the first answer."""
        rate = self.bytes_per_second
        return None if rate is None else max(0, int(rate * seconds))
