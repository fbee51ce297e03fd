"""ConvNeXt of torchvision (Liu et al., 2022, "A ConvNet for the 2020s")."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ladon.backbones.base import CutFamily, Member, register

if TYPE_CHECKING:
    from torch import Tensor, nn


@register
class ConvNeXt(CutFamily):
    """`splittable_convnext`: a bottleneck instead of stem and first stage, at a stride of 4.

    torchvision's `features` hold the stem, stage 1, and then in turn a downsampling and a stage:
    the stages' outputs in a teacher are `features.1`, `features.3`, `features.5`, `features.7`.
    """

    name = "convnext"
    key = "splittable_convnext"
    argument = "convnext_name"
    default = "convnext_tiny"
    library = "torchvision.models"
    split = "stage1"
    stages = ("stage2", "stage3", "stage4")
    # in a stage, a downsampling and its blocks
    members = {
        "convnext_tiny": Member("ConvNeXt-T", (96, 192, 384, 768), (4, 10, 4)),
        "convnext_small": Member("ConvNeXt-S", (96, 192, 384, 768), (4, 28, 4)),
        "convnext_base": Member("ConvNeXt-B", (128, 256, 512, 1024), (4, 28, 4)),
        "convnext_large": Member("ConvNeXt-L", (192, 384, 768, 1536), (4, 28, 4)),
    }

    def cut(self, plain: Any) -> Mapping[str, nn.Module]:
        """Return stem, four stages, pooling, and as `fc` the classifier with its LayerNorm."""
        from torch import nn

        features = plain.features
        stages = {
            f"stage{n}": nn.Sequential(features[2 * n - 2], *features[2 * n - 1]) for n in (2, 3, 4)
        }
        front = {"stem": features[0], self.split: features[1]}
        return front | stages | {"avgpool": plain.avgpool, "fc": plain.classifier}

    def recognise(self, state: Mapping[str, Tensor], body: str) -> str | None:
        """Return the member that a splittable or a plain model's tensors are of, or None."""
        return super().recognise({_in_stages(name): t for name, t in state.items()}, body)

    def width(self, state: Mapping[str, Tensor], stage: str) -> int | None:
        """Return the channels that a stage's first block delivers."""
        scale = state.get(f"{stage}.1.layer_scale")
        return None if scale is None else scale.shape[0]


def _in_stages(name: str) -> str:
    """Return a tensor's name in the stages, if it is one of torchvision's."""
    found = re.match(r"features\.(\d+)\.(\d+)\.", name)
    if found is None:
        return name
    part, block = int(found[1]), int(found[2])
    place = f"stage{part // 2 + 1}.{'0.' * (1 - part % 2)}{block + part % 2}."
    return place + name[found.end() :]
