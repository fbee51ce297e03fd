"""Metrics of a user's own: one that counts, and some that a config must not name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ladon.metrics.base import Metric
from ladon.tasks import Score


class Misses(Metric):
    """Wrong answers, each at a price: the fewer the better."""

    scores = (Score("misses", "misses", 1, greater_is_better=False),)

    def __init__(self, price: float = 1.0) -> None:
        self.price, self.wrong = price, 0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.wrong += int((outputs.argmax(dim=1) != targets).sum())

    def state(self) -> int:
        return self.wrong

    def compute(self, states: Sequence[int]) -> dict[str, Any]:
        return {"misses": self.price * sum(states)}

    def lines(self, values: Mapping[str, Any]) -> list[str]:
        return [f"Misses: {values['misses']}"]


class Silent(Misses):
    """Does not say what it computes."""

    scores = ()


class Unfinished(Metric):
    """Lacks all but its scores."""

    scores = Misses.scores
