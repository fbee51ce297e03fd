"""Losses of a user's own, in every form that a config may name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class HuberDist(nn.Module):
    """A plain loss of (input, target), with a weight of its own."""

    def __init__(self, delta: float = 1.0, weight: float = 1.0) -> None:
        super().__init__()
        self.delta = delta
        self.register_buffer("weight", torch.tensor(weight))

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return self.weight * nn.functional.huber_loss(input, target, delta=self.delta)


class OutputSize(nn.Module):
    """A loss of torchdistill's kind: it takes what it wants by itself."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def forward(
        self,
        student_io_dict: Mapping[str, Any],
        teacher_io_dict: Mapping[str, Any],
        targets: Tensor,
    ) -> Tensor:
        return student_io_dict[self.path]["output"].abs().mean()


class OneArgument(nn.Module):
    """Fits nowhere."""

    def forward(self, values: Tensor) -> Tensor:
        return values.sum()


class Dies(nn.Module):
    """Fails when it is called."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        raise ValueError("no good")


class NoModule:
    """Is called like a loss, but is none."""

    def __call__(self, *given: Any) -> float:
        return 0.0


def half(value: float) -> float:
    """Is a function, no loss."""
    return value / 2


NUMBER = 3
