"""The size at which a model's encoder sees an image."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform


def encoder_input_size(sample: Any, model: nn.Module) -> tuple[int, ...]:
    """Return the size [H, W] at which the encoder sees a sample; a batch holds one size only.

    That is the sample's own size, or what the model's own transform resizes and pads it to.

    Args:
        sample: a tensor [3, H, W] or a PIL image.
        model: the model.
    """
    size = tuple(sample.shape[-2:]) if isinstance(sample, Tensor) else tuple(sample.size)
    transform = getattr(model, "transform", None)
    if not isinstance(transform, GeneralizedRCNNTransform):
        return size
    return _padded(*size, tuple(transform.min_size), transform.max_size, transform.size_divisible)


@functools.lru_cache(maxsize=100_000)
def _padded(
    height: int, width: int, min_size: tuple[int, ...], max_size: int, step: int
) -> tuple[int, ...]:
    transform = GeneralizedRCNNTransform(min_size, max_size, [0.0], [1.0], size_divisible=step)
    resized, _ = transform.eval().resize(torch.zeros(3, height, width), None)
    return tuple(-(-side // step) * step for side in resized.shape[-2:])
