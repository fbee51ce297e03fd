"""Semantic segmentation: mean IoU and pixel accuracy over the whole set's confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ladon.errors import DataError
from ladon.tasks.base import Metric, Task

IGNORED = 255
DEFAULT_NUM_CLASSES = 21


class ConfusionMatrix(Metric):
    """Pixel counts [label, prediction]; pixels labelled 255 don't count.

    A class that neither labels nor predictions contain has no IoU: it is left out of the mean and
    named (the published code printed ``nan`` for the whole mean).
    """

    def __init__(self, num_classes: int) -> None:
        self._num_classes = num_classes
        self._counts: Tensor | None = None

    def update(self, outputs: Mapping[str, Tensor] | Tensor, targets: Tensor) -> None:
        """Takes logits [N, K, H, W] (or a dict with them under 'out') and labels [N, H, W].

        Raises:
            DataError: for a label outside the classes.
        """
        logits = outputs["out"] if isinstance(outputs, Mapping) else outputs
        predicted, labels = logits.argmax(dim=1).flatten(), targets.flatten()
        kept = labels != IGNORED
        predicted, labels = predicted[kept], labels[kept]
        n = self._num_classes
        highest = int(labels.max()) if labels.numel() else 0
        if highest >= n or (labels.numel() and int(labels.min()) < 0):
            raise DataError(f"a mask holds class {highest}, but the task has {n} classes")
        if logits.shape[1] > n:
            raise DataError(f"the model predicts {logits.shape[1]} classes, but the task has {n}")
        counts = torch.bincount(labels * n + predicted, minlength=n * n).reshape(n, n)
        self._counts = counts if self._counts is None else self._counts + counts

    def state(self) -> list[list[int]]:
        """Returns the confusion matrix."""
        n = self._num_classes
        return [[0] * n for _ in range(n)] if self._counts is None else self._counts.tolist()

    def compute(self, states: Sequence[list[list[int]]]) -> dict[str, Any]:
        """Returns ``mean_iou``, ``pixel_accuracy`` in percent, ``iou`` and ``row_correct`` lists.

        Classes without a pixel have None in the lists.
        """
        counts = sum(torch.tensor(s, dtype=torch.float64) for s in states)
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
        """Returns the published ``mean IoU: …`` line, and one that names absent classes."""

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


class SemanticSegmentation(Task):
    """Images and label maps of one size; the model returns logits under 'out'."""

    name = "semantic_segmentation"
    head = "segmentation"
    key_metric = "mean_iou"

    def metric(self, dataset: Any, options: Mapping[str, Any]) -> ConfusionMatrix:
        """Returns a confusion matrix over the task's classes."""
        return ConfusionMatrix(options.get("num_classes") or DEFAULT_NUM_CLASSES)
