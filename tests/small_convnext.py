"""A ConvNeXt of a user's own, small: a config names this module under `dependencies`."""

from __future__ import annotations

from typing import Any

from torchdistill.models.registry import register_model
from torchvision.models.convnext import CNBlockConfig, ConvNeXt

from ladon.backbones import FAMILIES, Member

WIDTHS = (16, 24, 32, 40)
BLOCKS = (1, 1, 2, 1)


@register_model
def convnext_small_digits(**kwargs: Any) -> ConvNeXt:
    """torchvision's network with fewer and narrower blocks, which scale as much as they like."""
    stages = zip(WIDTHS, (*WIDTHS[1:], None), BLOCKS, strict=True)
    return ConvNeXt([CNBlockConfig(*stage) for stage in stages], layer_scale=1.0, **kwargs)


# in a stage behind the first, a downsampling and its blocks
FAMILIES["convnext"].members["convnext_small_digits"] = Member(
    "ConvNeXt-D", WIDTHS, tuple(n + 1 for n in BLOCKS[1:])
)
