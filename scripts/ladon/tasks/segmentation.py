"""Semantic segmentation: of which class each pixel is."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ladon.flags import whole_number
from ladon.lazy import lazy_names
from ladon.tasks.base import Score, Task, register
from ladon.tasks.text import NUMBER

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ladon.analysis.segmentation import SegmentationAnalysis
    from ladon.metrics.confusion import ConfusionMatrix

DEFAULT_NUM_CLASSES = 21
_LINE = re.compile(
    rf"mean IoU: {NUMBER},\s*IoU: \[([^\]]*)\],\s*Global pixelwise acc: {NUMBER},"
    r"\s*Average row correct: \[([^\]]*)\]"
)


def _listed(text: str) -> list[float]:
    return [float(value) for value in re.findall(r"[\d.]+|nan", text)]


@register
class SemanticSegmentation(Task):
    """Images and label maps of one size; the model returns logits under 'out'."""

    name = "semantic_segmentation"
    short_name = "segmentation"
    title = "Semantic segmentation"
    scores = (
        Score("mean_iou", "mean IoU [%]", 2, 1, published="mean IoU"),
        Score("pixel_accuracy", "pixel acc. [%]", 2, 1, published="global pixelwise acc"),
    )
    model_kind = "segmentation"
    data_folders = ("pascal_voc2012",)

    def add_flags(self, parser: argparse.ArgumentParser) -> None:
        """Add `--num_classes`."""
        parser.add_argument(
            "--num_classes",
            type=whole_number(1),
            help="classes with background (default: the model's, or 21)",
        )

    def example(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return two images [2, 3, 128, 128] and their masks [2, 128, 128]."""
        import torch

        masks = torch.zeros(2, 128, 128, dtype=torch.int64, device=device)
        return torch.zeros(2, 3, 128, 128, device=device), masks

    def metric(self, dataset: Any, options: Mapping[str, Any]) -> ConfusionMatrix:
        """Return a confusion matrix over the task's classes."""
        from ladon.metrics.confusion import ConfusionMatrix

        return ConfusionMatrix(options.get("num_classes") or DEFAULT_NUM_CLASSES)

    def predictions(
        self,
        outputs: Mapping[str, Tensor] | Tensor,
        dataset: Any,
        name_of: Callable[[int], str | None],
    ) -> list[dict[str, Any]]:
        """Return per image the classes that are found in it, each with its number of pixels."""
        rows = []
        logits = outputs["out"] if isinstance(outputs, Mapping) else outputs
        for answers in logits.argmax(dim=1).cpu():
            found = zip(*(t.tolist() for t in answers.unique(return_counts=True)), strict=True)
            classes = [{"label": n, "class": name_of(n), "pixels": count} for n, count in found]
            rows.append({"classes": classes})
        return rows

    def analysis(
        self, dataset: Any, options: Mapping[str, Any], name_of: Callable[[int], str | None]
    ) -> SegmentationAnalysis:
        """Return IoU by class, and the images of the smallest."""
        from ladon.analysis.segmentation import SegmentationAnalysis

        return SegmentationAnalysis(name_of, options.get("num_classes") or DEFAULT_NUM_CLASSES)

    def read_scores(self, text: str) -> dict[str, Any] | None:
        """Read the last `mean IoU: …` line of a log."""
        found = _LINE.findall(text)
        if not found:
            return None
        mean_iou, iou, pixel_accuracy, rows = found[-1]
        return {
            "mean_iou": float(mean_iou),
            "pixel_accuracy": float(pixel_accuracy),
            "iou": _listed(iou),
            "row_correct": _listed(rows),
        }


__getattr__ = lazy_names(__name__, ConfusionMatrix="ladon.metrics.confusion")
