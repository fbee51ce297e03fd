"""A fourth task, as a stranger would add it: one file, named by a config's `dependencies`.

Depth of each pixel; the scenes' masks stand in for it (the digit's class, a tenth of a metre each).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor, to_tensor

from ladon.data.voc import VOCSegmentation
from ladon.metrics.base import Metric
from ladon.tasks import Score, Task, register

METRES = 0.1


class DepthScenes(VOCSegmentation):
    """Pairs of an image [3, H, W] in 0..1 and its depth [1, H, W] in metres."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, mask = super().__getitem__(index)
        return to_tensor(image), pil_to_tensor(mask).float() * METRES


class RootMeanSquare(Metric):
    """Root of the mean squared error over all pixels, in metres."""

    def __init__(self) -> None:
        self._sum, self._count = 0.0, 0

    def update(self, outputs: Mapping[str, Tensor], targets: Tensor) -> None:
        self._sum += float((outputs["out"].double() - targets).square().sum())
        self._count += targets.numel()

    def state(self) -> tuple[float, int]:
        return self._sum, self._count

    def compute(self, states: Sequence[tuple[float, int]]) -> dict[str, Any]:
        total, count = (sum(part) for part in zip(*states, strict=True))
        return {"rmse": math.sqrt(total / count)}

    def lines(self, values: Mapping[str, Any]) -> list[str]:
        return [f"RMSE: {values['rmse']:.6f} m"]


@register
class DepthEstimation(Task):
    """Images and depth maps of one size; the model returns depths under 'out'."""

    name = "depth_estimation"
    short_name = "depth"
    title = "Depth estimation"
    scores = (Score("rmse", "RMSE [m]", 4, 6, greater_is_better=False),)
    model_kind = "segmentation"

    def example(self, device: torch.device) -> tuple[Tensor, Tensor]:
        depths = torch.zeros(2, 1, 128, 128, device=device)
        return torch.zeros(2, 3, 128, 128, device=device), depths

    def metric(self, dataset: Any, options: Mapping[str, Any]) -> RootMeanSquare:
        return RootMeanSquare()

    def read_scores(self, text: str) -> dict[str, Any] | None:
        found = re.findall(r"^RMSE: (\S+) m$", text, re.M)
        return {"rmse": float(found[-1])} if found else None
