"""Mean IoU and pixel accuracy, from the whole set's confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ladon.errors import DataError
from ladon.metrics.base import LabelRange, Metric

IGNORED = 255


class ConfusionMatrix(Metric):
    """Pixel counts [label, prediction]; pixels labelled 255 don't count.

    A class that neither labels nor predictions contain has no IoU: it is left out of the mean and
    named (the published code printed `nan` for the whole mean).

    Attributes:
        num_classes: of labels and predictions.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        # on the outputs' device, read once in the end
        self._counts: Tensor | None = None
        self._labels = LabelRange()

    def update(self, outputs: Mapping[str, Tensor] | Tensor, targets: Tensor) -> None:
        """Take logits [N, K, H, W] (or a dict with them under 'out') and labels [N, H, W].

        Raises:
            DataError: for a label outside the classes; on a GPU `state` raises it, because
                looking at labels here would make the host wait.
        """
        logits = outputs["out"] if isinstance(outputs, Mapping) else outputs
        n = self.num_classes
        if logits.shape[1] > n:
            raise DataError(f"the model predicts {logits.shape[1]} classes, but the task has {n}")
        ignored = targets == IGNORED
        self._labels.add(targets.masked_fill(ignored, 0))
        if not targets.is_cuda:
            self._check_labels()
        # one more row takes what is ignored; a bad label must not lead outside the matrix
        labels = targets.masked_fill(ignored, n).clamp(0, n)
        # of logits in channels_last, argmax takes twice as long
        cells = (labels * n + logits.max(dim=1).indices).flatten()
        if cells.is_cuda:  # bincount would ask the host for the largest value
            counts = torch.zeros((n + 1) * n, dtype=torch.int64, device=cells.device)
            counts.index_add_(0, cells, torch.ones_like(cells))
        else:
            counts = torch.bincount(cells, minlength=(n + 1) * n)
        counts = counts.reshape(n + 1, n)[:n]
        self._counts = counts if self._counts is None else self._counts + counts

    def _check_labels(self) -> None:
        wrong = self._labels.outside(self.num_classes)
        if wrong is not None:
            raise DataError(
                f"a mask holds class {wrong}, but the task has {self.num_classes} classes"
            )

    def state(self) -> list[list[int]]:
        """Return the confusion matrix.

        Raises:
            DataError: for a label outside the classes.
        """
        self._check_labels()
        n = self.num_classes
        return [[0] * n for _ in range(n)] if self._counts is None else self._counts.tolist()

    def compute(self, states: Sequence[list[list[int]]]) -> dict[str, Any]:
        """Return `mean_iou`, `pixel_accuracy` in percent, `iou` and `row_correct` lists.

        Classes without a pixel have None in the lists.
        """
        counts = torch.tensor(states, dtype=torch.float64).sum(dim=0)
        hit, labelled, predicted = counts.diag(), counts.sum(dim=1), counts.sum(dim=0)
        union = labelled + predicted - hit
        total = float(labelled.sum())
        iou = [float(100 * h / u) if u > 0 else None for h, u in zip(hit, union, strict=True)]
        rows = [float(100 * h / s) if s > 0 else None for h, s in zip(hit, labelled, strict=True)]
        present = [v for v in iou if v is not None]
        return {
            "mean_iou": sum(present) / len(present) if present else 0.0,
            "pixel_accuracy": 100 * float(hit.sum()) / total if total else 0.0,
            "iou": iou,
            "row_correct": rows,
            "absent_classes": [i for i, v in enumerate(iou) if v is None],
        }

    def lines(self, values: Mapping[str, Any]) -> list[str]:
        """Return the published `mean IoU: …` line, and one that names absent classes."""

        def shown(numbers: list[float | None]) -> list[str]:
            return ["nan" if v is None else f"{v:.1f}" for v in numbers]

        lines = [
            f"mean IoU: {values['mean_iou']:.1f}, IoU: {shown(values['iou'])}, "
            f"Global pixelwise acc: {values['pixel_accuracy']:.1f}, "
            f"Average row correct: {shown(values['row_correct'])}"
        ]
        if values["absent_classes"]:
            lines.append(f"Left out of the mean, no pixel has them: {values['absent_classes']}")
        return lines
