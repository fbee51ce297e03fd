"""The base of metrics, and what several of them need."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ladon.tasks.base import Score


class Metric(ABC):
    """Scores of one evaluation, mergeable across processes.

    `state` returns a picklable summary of what `update` saw; `compute` turns the summaries
    of all processes into numbers, so that each image counts once wherever it was evaluated.

    Attributes:
        scores: what it computes, where a config gives it to a task that has another metric; the
            first one chooses the best checkpoint then.
    """

    scores: ClassVar[tuple[Score, ...]] = ()

    @abstractmethod
    def update(self, outputs: Any, targets: Any) -> None:
        """Take a batch of model outputs and its targets."""

    @abstractmethod
    def state(self) -> Any:
        """Return the picklable summary of this process."""

    @abstractmethod
    def compute(self, states: Sequence[Any]) -> dict[str, Any]:
        """Return metric values by name from all processes' summaries."""

    @abstractmethod
    def lines(self, values: Mapping[str, Any]) -> list[str]:
        """Return the published result lines for these values."""


METRICS: dict[str, type[Metric]] = {}
"""What configs give to a task in the place of its own metric, by their dotted names."""


class LabelRange:
    """The smallest and the largest label so far, kept where the labels are and read when asked."""

    def __init__(self) -> None:
        self._extremes: Tensor | None = None

    def add(self, labels: Tensor) -> None:
        """Take labels of any shape, one at least."""
        extremes = torch.stack(labels.aminmax())
        if self._extremes is not None:
            both = torch.stack([self._extremes, extremes])
            extremes = torch.stack([both[:, 0].amin(), both[:, 1].amax()])
        self._extremes = extremes

    def outside(self, num_classes: int) -> int | None:
        """Return a label that is not in 0..num_classes-1, None if there was none."""
        if self._extremes is None:
            return None
        lowest, highest = self._extremes.tolist()
        if lowest < 0:
            return lowest
        return highest if highest >= num_classes else None
