"""How far two evaluations of the same images predict the same."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_iou

from ladon.metrics.base import Metric
from ladon.tasks import Task

# detections are the same if they have one label and overlap by this
_SAME_IOU = 0.9


def watched(task: Task) -> tuple[Task, list[Any]]:
    """Returns a copy of the task whose metric notes what it is given, and the notes.

    They are labels [N] (classification, segmentation: of images or pixels, in the data set's
    order, as all test images have one size there) or pairs (image id, detections).
    """
    copied, notes = copy.copy(task), []
    make_metric = task.metric

    def metric(dataset: Any, options: Mapping[str, Any]) -> Metric:
        made = make_metric(dataset, options)
        update = made.update

        def noting(outputs: Any, targets: Any) -> None:
            notes.extend(_notes(outputs, targets))
            update(outputs, targets)

        made.update = noting
        return made

    copied.metric = metric
    return copied, notes


def _notes(outputs: Any, targets: Any) -> list[Any]:
    if isinstance(outputs, Tensor):
        return [outputs.argmax(dim=1).cpu()]
    if isinstance(outputs, Mapping):
        return [outputs["out"].argmax(dim=1).flatten().to(torch.uint8).cpu()]
    return [
        (int(target["image_id"]), {name: tensor.cpu() for name, tensor in output.items()})
        for output, target in zip(outputs, targets, strict=True)
    ]


def agreement(ours: Sequence[Any], theirs: Sequence[Any]) -> float:
    """Returns the share of equal predictions, from 0 to 1.

    Of detections: of the larger number of boxes, those that the other side found as well.
    """
    if isinstance(ours[0], Tensor):
        return float((torch.cat(list(ours)) == torch.cat(list(theirs))).double().mean())
    by_image, matched, total = dict(theirs), 0, 0
    for image_id, found in ours:
        other = by_image[image_id]
        total += max(len(found["labels"]), len(other["labels"]))
        matched += _matches(found, other)
    return matched / total if total else 1.0


def _matches(found: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> int:
    """Number of boxes that have a partner, each of another."""
    same = box_iou(found["boxes"].float(), other["boxes"].float()) >= _SAME_IOU
    same &= found["labels"][:, None] == other["labels"][None]
    count = 0
    for row in same:
        if row.any():
            count += 1
            same[:, int(row.int().argmax())] = False
    return count


def share(flags: Sequence[bool]) -> str:
    """Returns 'k of n'."""
    return f"{sum(flags)} of {len(flags)}"
