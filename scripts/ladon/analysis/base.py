"""The base of analyses: what a task says of each class and of each image of a test."""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ladon.split.answers import Answers

NameOf = Callable[[int], str | None]
"""Returns the name of a label, None where it has none."""

MOST = 20
"""How many of the worst images are kept."""


@dataclass(frozen=True)
class ByClass:
    """What a test found of each class.

    Attributes:
        columns: values by name, each by label; None where a class has none.
        overall: the test's own value of a column, as its metric reports it.
        confusion: counts [label, answer] int64; None where answers are no labels.
        counted: what they count: 'images' or 'pixels'.
    """

    columns: Mapping[str, Sequence[float | None]]
    overall: Mapping[str, float]
    confusion: np.ndarray | None = None
    counted: str = "images"


@dataclass(frozen=True)
class Judged:
    """An image as a test judged it.

    Attributes:
        words: how bad it is.
        truth: what it should have been.
        found: what was found.
    """

    words: str
    truth: Answers
    found: Answers


class Analysis(ABC):
    """A task's part, of one model and of one process; the engine brings processes together.

    Args:
        name_of: names labels.
    """

    def __init__(self, name_of: NameOf) -> None:
        self.name_of = name_of

    @abstractmethod
    def update(self, outputs: Any, targets: Any) -> list[float]:
        """Take a batch that the metric has taken; return how bad each image is.

        The greater, the worse; equal whatever the batches are.
        """

    @abstractmethod
    def judge(self, outputs: Any, targets: Any, number: int) -> Judged:
        """Return what is to be shown of an image of a batch.

        Args:
            outputs: the batch's, as in `update`.
            targets: likewise.
            number: the image's in the batch.
        """

    @abstractmethod
    def state(self) -> Any:
        """Return the picklable summary of this process."""

    @abstractmethod
    def compute(self, states: Sequence[Any]) -> ByClass:
        """Return what all processes found of each class."""


@dataclass
class Worst:
    """The worst images so far.

    Attributes:
        kept: badness, index in the data set, and what is to be shown; in no order.
    """

    kept: list[tuple[float, int, Judged]] = field(default_factory=list)

    def add(
        self, indices: Sequence[int], badness: Sequence[float], judge: Callable[[int], Judged]
    ) -> None:
        """Take the images of a batch.

        Args:
            indices: in the data set.
            badness: of each.
            judge: returns what is to be shown of the image of a number in the batch.
        """
        for number, (index, bad) in enumerate(zip(indices, badness, strict=True)):
            if len(self.kept) < MOST or _order((bad, index)) < max(map(_order, self.kept)):
                self.kept.append((bad, index, judge(number)))
                self.kept = self.of(self.kept)

    @staticmethod
    def of(kept: Iterable[tuple[float, int, Judged]]) -> list[tuple[float, int, Judged]]:
        """Return the worst of images, the worst one first."""
        return heapq.nsmallest(MOST, kept, key=_order)


def _order(one: Sequence[Any]) -> tuple[float, int]:
    """Of equally bad ones the first in the data set: processes must not matter."""
    return -one[0], one[1]


@dataclass(frozen=True)
class Analysed:
    """What a test found beyond its scores.

    Attributes:
        by_class: of each class.
        worst: badness, index in the data set and what is to be shown of the worst images, the worst
            one first.
    """

    by_class: ByClass
    worst: Sequence[tuple[float, int, Judged]]
