"""Image classification: top-1 and top-5 accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ladon.errors import DataError
from ladon.metrics.base import LabelRange, Metric


class Accuracy(Metric):
    """Share of images whose label is among the k highest logits, in percent."""

    def __init__(self, top: Sequence[int] = (1, 5)) -> None:
        self._top = tuple(top)
        # on the outputs' device, read once in the end
        self._correct: Tensor | None = None
        self._labels = LabelRange()
        self._num_classes = 0
        self._count = 0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Take logits [N, K] and labels [N].

        Raises:
            DataError: for a label outside the classes, which would count as a wrong answer; on a
                GPU `state` raises it, because looking at labels here would make the host wait.
        """
        self._num_classes = outputs.shape[1]
        self._labels.add(targets)
        if not targets.is_cuda:
            self._check_labels()
        k = min(max(self._top), outputs.shape[1])
        ranked = outputs.float().topk(k, dim=1).indices == targets[:, None]
        correct = torch.stack([ranked[:, :t].any(dim=1).sum() for t in self._top])
        self._correct = correct if self._correct is None else self._correct + correct
        self._count += len(targets)

    def _check_labels(self) -> None:
        wrong = self._labels.outside(self._num_classes)
        if wrong is not None:
            raise DataError(
                f"an image has label {wrong}, but the model has {self._num_classes} classes "
                f"(labels 0 to {self._num_classes - 1}); correct the labels or use the model's own "
                "classes"
            )

    def state(self) -> tuple[list[int], int]:
        """Return the number of correct images for each k, and of images.

        Raises:
            DataError: for a label outside the classes.
        """
        self._check_labels()
        correct = [0] * len(self._top) if self._correct is None else self._correct.tolist()
        return correct, self._count

    def compute(self, states: Sequence[tuple[list[int], int]]) -> dict[str, Any]:
        """Return `acc1` and `acc5` in percent."""
        count = max(1, sum(n for _, n in states))
        correct = [sum(c[i] for c, _ in states) for i in range(len(self._top))]
        return {f"acc{t}": 100.0 * c / count for t, c in zip(self._top, correct, strict=True)}

    def lines(self, values: Mapping[str, Any]) -> list[str]:
        """Return the published `* Acc@1 …` line."""
        return [" * " + "\t".join(f"Acc@{t} {values[f'acc{t}']:.4f}" for t in self._top)]
