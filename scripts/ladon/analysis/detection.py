"""Of a detector: average precision of each class, and the images in which it finds the least."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_iou

from ladon.analysis.base import Analysis, ByClass, Judged, NameOf
from ladon.metrics.coco import CocoMetric
from ladon.split.answers import Answers, Found

_IOU, _SURE = 0.5, 0.5


class DetectionAnalysis(Analysis):
    """The metric's own values by class; an image is as bad as its AP at an IoU of 0.5 is small.

    Args:
        name_of: names labels.
        metric: a fresh one of the data set.
    """

    def __init__(self, name_of: NameOf, metric: CocoMetric) -> None:
        super().__init__(name_of)
        self._metric = metric

    def update(
        self, outputs: Sequence[Mapping[str, Tensor]], targets: Sequence[Any]
    ) -> list[float]:
        """Take what the metric takes; return what each image's AP lacks to 1.

        Of images with the same AP the one with more missed objects is a little worse.
        """
        self._metric.update(outputs, targets)
        pairs = zip(outputs, targets, strict=True)
        found = (average_precision(output, target) for output, target in pairs)
        return [1.0 - precision + 1e-6 * (there - hit) for precision, hit, there in found]

    def judge(
        self, outputs: Sequence[Mapping[str, Tensor]], targets: Sequence[Any], number: int
    ) -> Judged:
        """Return the objects that are there, and those that were found with some certainty."""
        output, target = outputs[number], targets[number]
        precision, hit, there = average_precision(output, target)
        truth = self._objects(target["boxes"], target["labels"], [1.0] * len(target["boxes"]))
        found = self._objects(output["boxes"], output["labels"], output["scores"].tolist())
        ranked = sorted(found, key=lambda one: -one.score)
        # of a detector that is sure of nothing, as many as are there: nothing shown would mislead
        found = tuple(one for one in ranked if one.score >= _SURE) or tuple(ranked[:there])
        words = f"AP@.50 {precision:.3f}, {hit} of {there} objects found"
        return Judged(words, Answers(objects=truth), Answers(objects=found))

    def _objects(self, boxes: Tensor, labels: Tensor, scores: list[float]) -> tuple[Found, ...]:
        triples = zip(labels.tolist(), scores, boxes.tolist(), strict=True)
        return tuple(
            Found(n, self.name_of(n), score, (box[0], box[1], box[2], box[3]))
            for n, score, box in triples
        )

    def state(self) -> Any:
        """Return the metric's state."""
        return self._metric.state()

    def compute(self, states: Sequence[Any]) -> ByClass:
        """Return objects, AP, AP at 0.5 and AR by label, as COCO's metric averages them."""
        values = self._metric.compute(states)
        by_class = self._metric.by_class()
        overall = {
            "objects": float(sum(count or 0 for count in by_class["objects"])),
            **{name: values[name] for name in ("AP", "AP50", "AR100")},
        }
        return ByClass(by_class, overall)


def average_precision(
    found: Mapping[str, Tensor], target: Mapping[str, Tensor]
) -> tuple[float, int, int]:
    """Rate an image alone: all classes together, by the objects' scores.

    Args:
        found: `boxes` [N, 4] (xyxy), `labels` [N] and `scores` [N].
        target: `boxes` [M, 4] and `labels` [M] of what is there. Crowds are not among them: what is
            found of one counts as a mistake here, other than in the metric.

    Returns:
        Average precision at an IoU of 0.5 (1 where nothing is there and nothing was found), objects
        found, and objects that are there.
    """
    boxes, labels = target["boxes"].float().cpu(), target["labels"].cpu()
    order = found["scores"].cpu().argsort(descending=True, stable=True)
    own, own_labels = found["boxes"].float().cpu()[order], found["labels"].cpu()[order]
    if not len(own) or not len(boxes):
        return float(len(own) == len(boxes)), 0, len(boxes)
    overlaps = box_iou(own, boxes)
    overlaps[own_labels[:, None] != labels] = 0.0
    taken, hits = torch.zeros(len(boxes), dtype=torch.bool), []
    for row in overlaps:
        free = row.masked_fill(taken, 0.0)
        is_hit = float(free.max()) >= _IOU
        if is_hit:
            taken[free.argmax()] = True
        hits.append(float(is_hit))
    return _area(hits, len(taken)), int(taken.sum()), len(taken)


def _area(hits: Sequence[float], there: int) -> float:
    """Return the area under precision over recall, precision never rising."""
    ranked = torch.tensor(hits, dtype=torch.float64)
    precision = ranked.cumsum(0) / torch.arange(1, len(ranked) + 1)
    best = precision.flip(0).cummax(0).values.flip(0)
    return float((best * ranked).sum()) / there
