"""Seconds by stage, as they come."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Adds up seconds by stage.

    Attributes:
        seconds: by stage, in the order in which they first ended.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def add(self, stage: str, seconds: float) -> None:
        """Take a stage's seconds; `on_stage` of a `SplitModel`."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what is done within it, less what is added meanwhile for other stages."""
        before, start = sum(self.seconds.values()), time.perf_counter()
        yield
        whole = time.perf_counter() - start
        self.add(name, max(0.0, whole - (sum(self.seconds.values()) - before)))
