"""ResNet, ResNeXt and Wide ResNet of torchvision (He et al., 2016, "Deep Residual Learning")."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ladon.backbones.base import Family, Member, register

if TYPE_CHECKING:
    from torch import Tensor, nn

_NARROW, _WIDE = (64, 128, 256, 512), (256, 512, 1024, 2048)


@register
class ResNet(Family):
    """sc2bench's `splittable_resnet`: a bottleneck instead of stem and layer 1."""

    name = "resnet"
    key = "splittable_resnet"
    argument = "resnet_name"
    default = "resnet50"
    library = "torchvision.models"
    split = "layer1"
    stages = ("layer2", "layer3", "layer4")
    shown_by_key = True  # as its reports always did
    # of those whose tensors have the same names, the first one is recognised
    members = {
        "resnet18": Member("ResNet-18", _NARROW, (2, 2, 2)),
        "resnet34": Member("ResNet-34", _NARROW, (4, 6, 3)),
        "resnet50": Member("ResNet-50", _WIDE, (4, 6, 3)),
        "resnet101": Member("ResNet-101", _WIDE, (4, 23, 3)),
        "resnet152": Member("ResNet-152", _WIDE, (8, 36, 3)),
        "resnext50_32x4d": Member("ResNeXt-50 32x4d", _WIDE, (4, 6, 3)),
        "resnext101_32x8d": Member("ResNeXt-101 32x8d", _WIDE, (4, 23, 3)),
        "resnext101_64x4d": Member("ResNeXt-101 64x4d", _WIDE, (4, 23, 3)),
        "wide_resnet50_2": Member("Wide ResNet-50-2", _WIDE, (4, 6, 3)),
        "wide_resnet101_2": Member("Wide ResNet-101-2", _WIDE, (4, 23, 3)),
    }

    def width(self, state: Mapping[str, Tensor], stage: str) -> int | None:
        """Return the channels that a stage's first block delivers."""
        if f"{stage}.0.conv2.fc1.weight" in state:  # ResNeSt's
            return None
        weights = (state.get(f"{stage}.0.{conv}.weight") for conv in ("conv3", "conv2"))
        return next((weight.shape[0] for weight in weights if weight is not None), None)

    def folds(self) -> Mapping[type[nn.Module], tuple[tuple[str, str], ...]]:
        """Return the pairs of torchvision's stem and blocks."""
        from torchvision.models import resnet

        return {
            resnet.ResNet: (("conv1", "bn1"),),
            resnet.BasicBlock: (("conv1", "bn1"), ("conv2", "bn2")),
            resnet.Bottleneck: (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3")),
        }
