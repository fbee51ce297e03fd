"""COCO's average precision of boxes, with pycocotools' numbers."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from faster_coco_eval import COCO, COCOeval_faster
from torch import Tensor

from ladon.data.coco_annotations import Annotations
from ladon.errors import DataError
from ladon.metrics.base import Metric
from ladon.metrics.names import COCO_STATS

logger = logging.getLogger(__name__)


class CocoMetric(Metric):
    """Collects detections and evaluates them once over all evaluated images.

    faster-coco-eval computes what pycocotools does, with one difference: pycocotools' precision is
    TP / (TP + FP + 2^-52), which makes a lone true positive's 2^-52 smaller than 1. Recalls are
    equal to the bit, average precisions within 2^-52.

    The evaluator never sees the file's own ids: an annotation of id 0 would count as not matched,
    and float64 does not hold every image id. Images and objects are numbered from 1, and an
    object's category is its label.

    Args:
        coco: the dataset's annotations, or pycocotools' COCO of it; it is only read.
        labels: a model's label of each category id; by default, they are the ids.
    """

    def __init__(self, coco: Any, labels: Mapping[int, int] | None = None) -> None:
        self._coco = coco
        self._is_flat = isinstance(coco, Annotations)
        if labels is None:
            labels = {i: i for i in (coco.category_ids if self._is_flat else coco.getCatIds())}
        self._labels = labels
        self._detections: list[np.ndarray] = []
        self._image_ids: list[np.ndarray] = []
        self._counts: list[np.ndarray] = []
        self._summary: list[str] = []
        self._evaluation: COCOeval_faster | None = None

    def update(self, outputs: Sequence[Mapping[str, Tensor]], targets: Sequence[Mapping]) -> None:
        """Take per image boxes [N, 4] (xyxy, pixels), scores [N], labels [N], and its target."""
        counts = [len(output["boxes"]) for output, _ in zip(outputs, targets, strict=True)]
        columns = [
            torch.cat([output[key] for output in outputs]).double()
            for key in ("boxes", "scores", "labels")
        ]
        # joined on the device, so that it is waited for once per batch and not once per image
        found = torch.column_stack(columns).cpu().numpy()
        found[:, 2:4] -= found[:, :2]
        ids = torch.stack([torch.as_tensor(t["image_id"]).reshape(()) for t in targets])
        self._detections.append(found)
        self._image_ids.append(ids.cpu().numpy().astype(np.int64))
        self._counts.append(np.array(counts, dtype=np.int64))

    def state(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the detections of this process and the images they were looked for in.

        Returns:
            Detections float64 [N, 6] (x, y, width and height in pixels, score, label), image
            after image; image ids int64 [M]; and the number of detections of each int64 [M].
        """
        none = np.empty(0, dtype=np.int64)
        return (
            np.concatenate([np.empty((0, 6)), *self._detections]),
            np.concatenate([none, *self._image_ids]),
            np.concatenate([none, *self._counts]),
        )

    def compute(
        self, states: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]
    ) -> dict[str, Any]:
        """Return COCO's twelve numbers (fractions; -1 where the set has no such objects).

        Raises:
            DataError: the targets hold ids of images that the annotations do not list.
        """
        detections, image_ids, counts = (
            np.concatenate(parts) for parts in zip(*states, strict=True)
        )
        image_ids, numbers = np.unique(image_ids, return_inverse=True)
        numbers = np.repeat(numbers + 1, counts)
        invalid = np.isnan(detections).any(axis=1)
        if invalid.any():  # no place in a ranking by score, and no overlap with anything
            logger.warning(
                "%d of %d detections are left out: their box or score is not a number",
                invalid.sum(),
                len(invalid),
            )
        printed: list[str] = []
        evaluation = COCOeval_faster(
            self._truth(image_ids.tolist()),
            _detected(numbers[~invalid], detections[~invalid]),
            iouType="bbox",
            print_function=printed.append,
        )
        evaluation.run()
        # faster-coco-eval adds AR50 and AR75 at the end
        summary = [line for line in printed if " @[ IoU=" in line]
        self._summary = summary[: len(COCO_STATS)]
        stats = evaluation.all_stats[: len(COCO_STATS)]
        self._evaluation = evaluation
        return dict(zip(COCO_STATS, (float(s) for s in stats), strict=True))

    def by_class(self) -> dict[str, list[float | None]]:
        """Return what the last `compute` averaged, by label.

        Returns:
            `objects`, `AP`, `AP50` and `AR100`; None for a label without objects, which the means
            leave out.
        """
        assert self._evaluation is not None, "compute comes first"
        return _by_class(self._evaluation)

    def _truth(self, image_ids: list[int]) -> COCO:
        """Copy the objects of some images, numbered: the evaluation writes into what it gets."""
        known = self._coco if self._is_flat else self._coco.imgs
        unknown = [i for i in image_ids if i not in known]
        if unknown:
            raise DataError(
                f"image_id {unknown[0]} ({len(unknown)} in all) is in the dataset's targets but "
                "not among the images of its COCO annotations; make them agree"
            )
        objects = [
            (number, annotation)
            for number, image_id in enumerate(image_ids, start=1)
            for annotation in self._objects(image_id)
        ]
        keys, labels = ("bbox", "area", "iscrowd"), self._labels
        return COCO(
            {
                "images": [{"id": number} for number in range(1, len(image_ids) + 1)],
                "annotations": [
                    {
                        "id": n,
                        "image_id": number,
                        "category_id": labels[annotation["category_id"]],
                        **{key: annotation[key] for key in keys},
                    }
                    for n, (number, annotation) in enumerate(objects, start=1)
                ],
                "categories": [{"id": label} for label in sorted(labels.values())],
            }
        )

    def _objects(self, image_id: int) -> Sequence[Mapping[str, Any]]:
        if self._is_flat:
            return self._coco.objects(image_id)
        return self._coco.imgToAnns.get(image_id, ())

    def lines(self, values: Mapping[str, Any]) -> list[str]:
        """Return `IoU metric: bbox` and pycocotools' twelve lines."""
        return ["IoU metric: bbox", *self._summary]


def _by_class(evaluation: COCOeval_faster) -> dict[str, list[float | None]]:
    """Read values of each label from an evaluation: of all sizes, and 100 detections an image."""
    labels = list(evaluation.params.catIds)
    precision = np.asarray(evaluation.eval["precision"])[:, :, :, 0, -1]  # [IoU, recall, label]
    recall = np.asarray(evaluation.eval["recall"])[:, :, 0, -1]  # [IoU, label]
    columns = ("objects", "AP", "AP50", "AR100")
    objects = Counter(
        annotation["category_id"]
        for annotation in evaluation.cocoGt.anns.values()
        if not annotation["iscrowd"]
    )
    number = max(labels, default=-1) + 1
    found: dict[str, list[float | None]] = {name: [None] * number for name in columns}
    for place, label in enumerate(labels):
        found["objects"][label] = objects[label]
        values = (precision[:, :, place], precision[0, :, place], recall[:, place])
        for name, value in zip(columns[1:], values, strict=True):
            there = value[value > -1]
            found[name][label] = float(there.mean()) if there.size else None
    return found


def _detected(image_numbers: np.ndarray, detections: np.ndarray) -> COCO:
    """Make faster-coco-eval's object of detections float64 [N, 6] and their images int64 [N].

    Its own `loadRes` would add to each a polygon, which only masks need, and print.
    """
    areas = detections[:, 2] * detections[:, 3]
    columns = (image_numbers.tolist(), detections.tolist(), areas.tolist())
    annotations = [
        {
            "id": number,
            "image_id": image_number,
            "category_id": int(label),
            "bbox": box,
            "score": score,
            "area": area,
        }
        for number, (image_number, (*box, score, label), area) in enumerate(
            zip(*columns, strict=True), start=1
        )
    ]
    return COCO({"images": [], "annotations": annotations, "categories": []})
