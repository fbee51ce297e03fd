"""A family of a user's own in one file: torchvision's RegNet (Radosavovic et al., 2020).

A config names this module under `dependencies`; it is the recipe of `ladon.backbones`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ladon.backbones import CutFamily, Member, register

if TYPE_CHECKING:
    from torch import Tensor, nn


@register
class RegNet(CutFamily):
    """A bottleneck instead of stem and first stage."""

    name = "regnet"
    key = "splittable_torchvision_regnet"
    argument = "regnet_name"
    default = "regnet_y_400mf"
    library = "torchvision.models"
    split = "stage1"
    stages = ("stage2", "stage3", "stage4")
    members = {
        "regnet_y_400mf": Member("RegNetY-400MF", (48, 104, 208, 440), (3, 6, 6)),
        "regnet_x_400mf": Member("RegNetX-400MF", (32, 64, 160, 400), (2, 7, 12)),
    }

    def cut(self, plain: nn.Module) -> Mapping[str, nn.Module]:
        trunk = plain.trunk_output
        stages = {f"stage{n}": getattr(trunk, f"block{n}") for n in (1, 2, 3, 4)}
        return {"stem": plain.stem, **stages, "avgpool": plain.avgpool, "fc": plain.fc}

    def width(self, state: Mapping[str, Tensor], stage: str) -> int | None:
        weight = state.get(f"{stage}.block{stage[-1]}-0.proj.0.weight")
        return None if weight is None else weight.shape[0]
