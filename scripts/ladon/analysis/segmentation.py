"""Of a segmenter: IoU of each class, what it takes for what, and the images of the least IoU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ladon.analysis.base import Analysis, ByClass, Judged, NameOf
from ladon.metrics.confusion import IGNORED, ConfusionMatrix
from ladon.split.answers import Answers, Mask


class SegmentationAnalysis(Analysis):
    """The metric's own values by class; an image is as bad as its mean IoU is small.

    Args:
        name_of: names labels.
        num_classes: of the task.
    """

    def __init__(self, name_of: NameOf, num_classes: int) -> None:
        super().__init__(name_of)
        self._num_classes, self._metric = num_classes, ConfusionMatrix(num_classes)
        names = [name_of(label) or "" for label in range(num_classes)]
        self._names = tuple(names) if any(names) else None

    def update(self, outputs: Mapping[str, Tensor] | Tensor, targets: Tensor) -> list[float]:
        """Take what the metric takes; return what each image's mean IoU lacks, in percent."""
        self._metric.update(outputs, targets)
        return [100.0 - self._mean_iou(outputs, targets, n) for n in range(len(targets))]

    def _mean_iou(self, outputs: Any, targets: Tensor, number: int) -> float:
        """Mean IoU of one image in percent, over the classes that it or its answer has.

        100 where nothing of it counts.
        """
        own = ConfusionMatrix(self._num_classes)
        own.update(_logits(outputs)[number : number + 1], targets[number : number + 1])
        values = own.compute([own.state()])
        some = any(value is not None for value in values["iou"])
        return float(values["mean_iou"]) if some else 100.0

    def judge(self, outputs: Mapping[str, Tensor] | Tensor, targets: Tensor, number: int) -> Judged:
        """Return both masks, pixels that do not count left out."""
        truth = targets[number].cpu().numpy()
        found = _logits(outputs)[number].max(dim=0).indices.cpu().numpy()
        found = np.where(truth == IGNORED, IGNORED, found)
        masks = (Answers(mask=Mask(one.astype(np.uint8), self._names)) for one in (truth, found))
        iou = self._mean_iou(outputs, targets, number)
        return Judged(f"mean IoU {iou:.1f} %", *masks)

    def state(self) -> list[list[int]]:
        """Return the confusion matrix."""
        return self._metric.state()

    def compute(self, states: Sequence[list[list[int]]]) -> ByClass:
        """Return pixels, IoU and the share of right pixels, in percent."""
        values = self._metric.compute(states)
        counts = torch.tensor(states, dtype=torch.int64).sum(dim=0).numpy()
        columns = {
            "pixels": counts.sum(axis=1).tolist(),
            "iou": values["iou"],
            "row_correct": values["row_correct"],
        }
        overall = {
            "pixels": int(counts.sum()),
            "iou": values["mean_iou"],
            "row_correct": values["pixel_accuracy"],
        }
        return ByClass(columns, overall, counts, "pixels")


def _logits(outputs: Mapping[str, Tensor] | Tensor) -> Tensor:
    return outputs["out"] if isinstance(outputs, Mapping) else outputs
