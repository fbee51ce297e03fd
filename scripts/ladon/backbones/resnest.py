"""ResNeSt of timm (Zhang et al., 2022, "ResNeSt: Split-Attention Networks")."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ladon.backbones.base import Family, Member, register

if TYPE_CHECKING:
    from torch import Tensor, nn

_CHANNELS = (256, 512, 1024, 2048)


@register
class ResNeSt(Family):
    """sc2bench's `splittable_resnest`: a bottleneck instead of stem and layer 1."""

    name = "resnest"
    key = "splittable_resnest"
    argument = "resnest_name"
    default = "resnest50d"
    library = "timm.models"
    split = "layer1"
    stages = ("layer2", "layer3", "layer4")
    # timm >= 1.0 asks the Hugging Face hub; these are the same weights as files, as published
    weight_files = {"resnest269e": "resnest269-0cc87c48.pth"}
    freezes_batch_norm = True  # the published detectors' tensors lack `num_batches_tracked`
    shown_by_key = True  # as its reports always did
    # of those whose tensors have the same names, the first one is recognised
    members = {
        "resnest14d": Member("ResNeSt-14d", _CHANNELS, (1, 1, 1)),
        "resnest26d": Member("ResNeSt-26d", _CHANNELS, (2, 2, 2)),
        "resnest50d": Member("ResNeSt-50d", _CHANNELS, (4, 6, 3)),
        "resnest101e": Member("ResNeSt-101e", _CHANNELS, (4, 23, 3)),
        "resnest200e": Member("ResNeSt-200e", _CHANNELS, (24, 36, 3)),
        "resnest269e": Member("ResNeSt-269e", _CHANNELS, (30, 48, 8)),
        "resnest50d_1s4x24d": Member("ResNeSt-50d 1s4x24d", _CHANNELS, (4, 6, 3)),
        "resnest50d_4s2x40d": Member("ResNeSt-50d 4s2x40d", _CHANNELS, (4, 6, 3)),
    }

    def width(self, state: Mapping[str, Tensor], stage: str) -> int | None:
        """Return the channels that a stage's first block delivers."""
        first = f"{stage}.0."
        is_own = f"{first}conv2.fc1.weight" in state and f"{first}conv3.weight" in state
        return state[f"{first}conv3.weight"].shape[0] if is_own else None

    def folds(self) -> Mapping[type[nn.Module], tuple[tuple[str, str], ...]]:
        """Return the pairs of timm's block and its split attention."""
        from timm.layers.split_attn import SplitAttn
        from timm.models.resnest import ResNestBottleneck

        return {
            ResNestBottleneck: (("conv1", "bn1"), ("conv3", "bn3")),
            SplitAttn: (("conv", "bn0"), ("fc1", "bn1")),
        }
