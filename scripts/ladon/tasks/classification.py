"""Image classification: which of K classes an image is of."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ladon.lazy import lazy_names
from ladon.tasks.base import Score, Task, register
from ladon.tasks.text import NUMBER

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ladon.analysis.classification import ClassificationAnalysis
    from ladon.metrics.accuracy import Accuracy

_LINE = re.compile(rf"^ \* Acc@1 {NUMBER}\tAcc@5 {NUMBER}", re.M)


@register
class ImageClassification(Task):
    """ImageFolder-like data, logits out."""

    name = "image_classification"
    short_name = "classification"
    title = "Image classification"
    scores = (
        Score("acc1", "Acc@1 [%]", published="Acc@1"),
        Score("acc5", "Acc@5 [%]", published="Acc@5"),
    )
    model_kind = "classification"
    data_folders = ("ilsvrc2012",)
    can_share_teacher = True

    def example(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return two images [2, 3, 128, 128] and their labels [2]."""
        import torch

        labels = torch.zeros(2, dtype=torch.int64, device=device)
        return torch.zeros(2, 3, 128, 128, device=device), labels

    def metric(self, dataset: Any, options: Mapping[str, Any]) -> Accuracy:
        """Return top-1 and top-5 accuracy."""
        from ladon.metrics.accuracy import Accuracy

        return Accuracy()

    def predictions(
        self, outputs: Tensor, dataset: Any, name_of: Callable[[int], str | None]
    ) -> list[dict[str, Any]]:
        """Return per image the five best labels with their softmax scores, under `best`."""
        shares = outputs.float().softmax(dim=1)
        scores, labels = (t.tolist() for t in shares.topk(min(5, shares.shape[1]), dim=1))
        return [
            {
                "best": [
                    {"label": label, "class": name_of(label), "score": score}
                    for label, score in zip(*best, strict=True)
                ]
            }
            for best in zip(labels, scores, strict=True)
        ]

    def analysis(
        self, dataset: Any, options: Mapping[str, Any], name_of: Callable[[int], str | None]
    ) -> ClassificationAnalysis:
        """Return accuracy by class, and the images of the largest loss."""
        from ladon.analysis.classification import ClassificationAnalysis

        return ClassificationAnalysis(name_of)

    def read_scores(self, text: str) -> dict[str, Any] | None:
        """Read the last `* Acc@1 …` line of a log."""
        found = _LINE.findall(text)
        return dict(zip(("acc1", "acc5"), map(float, found[-1]), strict=True)) if found else None


__getattr__ = lazy_names(__name__, Accuracy="ladon.metrics.accuracy")
