"""Object detection: where objects are, and of which classes."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ladon.errors import DataError, UsageError
from ladon.lazy import lazy_names
from ladon.metrics.names import COCO_STATS
from ladon.tasks.base import Score, Task, register
from ladon.tasks.text import NUMBER

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ladon.analysis.detection import DetectionAnalysis
    from ladon.metrics.coco import CocoMetric

_HEADLINE = "IoU metric: bbox"
_LINE = re.compile(rf"Average (?:Precision|Recall)\s+\(A[PR]\) @\[ IoU=[^\]]*\] = {NUMBER}")


@register
class ObjectDetection(Task):
    """Lists of images of any size with COCO targets; the model resizes and pads them itself."""

    name = "object_detection"
    short_name = "detection"
    title = "Object detection"
    scores = (
        Score("AP", "AP@[.50:.95]", point=0.01, published="AP@[.50:.95] bbox"),
        Score("AP50", "AP@.50", point=0.01, published="AP@.50 bbox"),
    )
    model_kind = "detection"
    data_folders = ("coco2017",)

    def add_flags(self, parser: argparse.ArgumentParser) -> None:
        """Add `--iou_types`."""
        parser.add_argument(
            "--iou_types", nargs="+", choices=["bbox"], default=["bbox"], help="bbox"
        )

    def move(self, images: Any, targets: Any, device: torch.device) -> tuple[list, list]:
        """Move a list of images [3, H, W] and of targets."""
        return super().move(list(images), [dict(t) for t in targets], device)

    def metric(self, dataset: Any, options: Mapping[str, Any]) -> CocoMetric:
        """Return COCO's bounding-box metric.

        Raises:
            UsageError: for an IoU type other than bbox.
            DataError: for a dataset without COCO annotations.
        """
        from ladon.data.class_names import base_dataset, categories_of
        from ladon.data.coco_annotations import Annotations, annotations_of
        from ladon.metrics.coco import CocoMetric

        iou_types = options.get("iou_types") or ["bbox"]
        if list(iou_types) != ["bbox"]:
            raise UsageError(f"--iou_types {' '.join(iou_types)}: only bbox can be evaluated")
        dataset = base_dataset(dataset)
        annotations = annotations_of(dataset)
        if annotations is None:
            raise DataError(f"{type(dataset).__name__} has no COCO annotations ('coco')")
        if not (annotations if isinstance(annotations, Annotations) else annotations.anns):
            source = getattr(dataset, "annotation_file", type(dataset).__name__)
            raise DataError(f"{source} has no annotations: there is nothing to compare with")
        categories = categories_of(dataset)
        return CocoMetric(annotations, None if categories is None else categories.labels)

    def predictions(
        self,
        outputs: Sequence[Mapping[str, Tensor]],
        dataset: Any,
        name_of: Callable[[int], str | None],
    ) -> list[dict[str, Any]]:
        """Return per image the objects that are found in it.

        `boxes` are x1, y1, x2, y2 in pixels of the image, `category_ids` the annotation file's own,
        None where it lists no such class.
        """
        from ladon.data.class_names import categories_of

        categories = categories_of(dataset)
        rows = []
        for found in outputs:
            labels = found["labels"].tolist()
            ids = labels if categories is None else list(map(categories.ids.get, labels))
            rows.append(
                {
                    "boxes": found["boxes"].tolist(),
                    "scores": found["scores"].tolist(),
                    "category_ids": ids,
                    "classes": list(map(name_of, labels)),
                }
            )
        return rows

    def analysis(
        self, dataset: Any, options: Mapping[str, Any], name_of: Callable[[int], str | None]
    ) -> DetectionAnalysis:
        """Return average precision by class, and the images of the smallest."""
        from ladon.analysis.detection import DetectionAnalysis

        return DetectionAnalysis(name_of, self.metric(dataset, options))

    def read_scores(self, text: str) -> dict[str, Any] | None:
        """Read pycocotools' last summary in a log, if all of it is there."""
        if _HEADLINE not in text:
            return None
        summary = text.rpartition(_HEADLINE)[2].partition("IoU metric: ")[0]
        values = [float(value) for value in _LINE.findall(summary)]
        if len(values) != len(COCO_STATS):  # the log breaks off in the middle
            return None
        return dict(zip(COCO_STATS, values, strict=True))


__getattr__ = lazy_names(__name__, CocoMetric="ladon.metrics.coco")
