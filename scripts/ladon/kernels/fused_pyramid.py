"""A feature pyramid for inference on the CPU: sums with the level above take no pass of their own.

A level's sum is written into the enlarged map of the level above, by the convolution that makes the
other summand: a detector's largest maps are read and written once less.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import FeaturePyramidNetwork

from ladon.kernels.packed_conv import FusedConv2d
from ladon.modules import is_watched


class FusedPyramid(nn.Module):
    """A torchvision `FeaturePyramidNetwork` (Lin et al., CVPR 2017), up to rounding.

    Args:
        pyramid: one that :meth:`can_replace` accepts; its layer blocks and extra blocks are used.
    """

    def __init__(self, pyramid: FeaturePyramidNetwork) -> None:
        super().__init__()
        self.pyramid = pyramid
        self.laterals = nn.ModuleList(FusedConv2d.from_conv(_conv(b)) for b in pyramid.inner_blocks)

    @staticmethod
    def can_replace(module: Any) -> bool:
        """Whether it is such a network, and no hook wants to see a part of it."""
        return (
            type(module) is FeaturePyramidNetwork
            and all(FusedConv2d.can_replace(_conv(block)) for block in module.inner_blocks)
            and not any(map(is_watched, module.modules()))
        )

    def forward(self, x: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
        """Make a pyramid of feature maps [N, C, H, W] by level, the largest first.

        Returns:
            Maps [N, K, H, W] by level, and those of the extra blocks.
        """
        pyramid, names, maps = self.pyramid, list(x), list(x.values())
        results: list[Tensor] = []
        inner = None
        for level in reversed(range(len(maps))):
            if inner is not None:
                inner = functional.interpolate(inner, maps[level].shape[-2:], mode="nearest")
            inner = self.laterals[level](maps[level], inner, owned=True)
            results.insert(0, pyramid.layer_blocks[level](inner))
        if pyramid.extra_blocks is not None:
            results, names = pyramid.extra_blocks(results, maps, names)
        return OrderedDict(zip(names, results, strict=True))


def _conv(block: Any) -> Any:
    """Return the convolution that is all that a lateral block does, its normalisation folded."""
    conv, *rest = block if isinstance(block, nn.Sequential) else [block]
    return conv if all(type(module) is nn.Identity for module in rest) else None
