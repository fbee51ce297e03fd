"""Object detection: COCO's average precision with pycocotools' numbers."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pycocotools.cocoeval import COCOeval
from torch import Tensor
from torch.utils.data import Subset

from ladon.errors import DataError, UsageError
from ladon.tasks.base import Metric, Task

logger = logging.getLogger(__name__)

STAT_NAMES = (
    *("AP", "AP50", "AP75", "APs", "APm", "APl"),
    *("AR1", "AR10", "AR100", "ARs", "ARm", "ARl"),
)


class CocoMetric(Metric):
    """Collects detections and evaluates them once over all evaluated images.

    Args:
        coco: pycocotools' COCO of the dataset.
    """

    def __init__(self, coco: Any) -> None:
        self._coco = coco
        self._detections: list[dict[str, Any]] = []
        self._image_ids: list[int] = []
        self._summary: list[str] = []

    def update(self, outputs: Sequence[Mapping[str, Tensor]], targets: Sequence[Mapping]) -> None:
        """Takes per image boxes [N, 4] (xyxy, pixels), scores [N], labels [N], and its target."""
        for output, target in zip(outputs, targets, strict=True):
            image_id = int(target["image_id"])
            self._image_ids.append(image_id)
            corners = output["boxes"].double().cpu()
            boxes = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], dim=1).tolist()
            scores, labels = output["scores"].double().tolist(), output["labels"].tolist()
            self._detections += [
                {"image_id": image_id, "category_id": c, "bbox": b, "score": s}
                for b, s, c in zip(boxes, scores, labels, strict=True)
            ]

    def state(self) -> tuple[list[dict[str, Any]], list[int]]:
        """Returns the detections in COCO's result format, and the ids of evaluated images."""
        return self._detections, self._image_ids

    def compute(self, states: Sequence[tuple[list[dict], list[int]]]) -> dict[str, Any]:
        """Returns COCO's twelve numbers (fractions; -1 where the set has no such objects)."""
        # in the order of the images, so that equal scores rank the same in every split of the work
        image_ids = sorted({i for _, ids in states for i in ids})
        detections = [d for found, _ in states for d in found]
        detections.sort(key=lambda d: d["image_id"])
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            stats = self._evaluate(detections, image_ids)
        self._summary = [line for line in printed.getvalue().splitlines() if " @[ IoU=" in line]
        return dict(zip(STAT_NAMES, (float(s) for s in stats), strict=True))

    def _evaluate(self, detections: list[dict], image_ids: list[int]) -> np.ndarray:
        # pycocotools raises on an empty result list: give it one box that matches nothing
        found = detections or [
            {
                "image_id": image_ids[0],
                "category_id": self._coco.getCatIds()[0],
                "bbox": [0.0, 0.0, 0.0, 0.0],
                "score": 0.0,
            }
        ]
        evaluation = COCOeval(self._coco, self._coco.loadRes(found), iouType="bbox")
        evaluation.params.imgIds = image_ids
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        return evaluation.stats

    def lines(self, values: Mapping[str, Any]) -> list[str]:
        """Returns ``IoU metric: bbox`` and pycocotools' twelve lines."""
        return ["IoU metric: bbox", *self._summary]


class ObjectDetection(Task):
    """Lists of images of any size with COCO targets; the model resizes and pads them itself."""

    name = "object_detection"
    head = "detection"
    key_metric = "AP"

    def move(self, images: Any, targets: Any, device: torch.device) -> tuple[list, list]:
        """Moves a list of images [3, H, W] and of targets."""
        return super().move(list(images), [dict(t) for t in targets], device)

    def metric(self, dataset: Any, options: Mapping[str, Any]) -> CocoMetric:
        """Returns COCO's bounding-box metric.

        Raises:
            UsageError: for an IoU type other than bbox.
            DataError: for a dataset without COCO annotations.
        """
        iou_types = options.get("iou_types") or ["bbox"]
        if list(iou_types) != ["bbox"]:
            raise UsageError(f"--iou_types {' '.join(iou_types)}: only bbox can be evaluated")
        while isinstance(dataset, Subset):
            dataset = dataset.dataset
        if not hasattr(dataset, "coco"):
            raise DataError(f"{type(dataset).__name__} has no COCO annotations ('coco')")
        return CocoMetric(dataset.coco)
