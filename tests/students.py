"""The paper's kind of student, small: a ResNet that begins with a bottleneck, and a detector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ladon.models import build_model, update_bottleneck


def splittable_section(
    channels: int = 4,
    name: str = "resnet18",
    classes: int = 3,
    bottleneck: dict | None = None,
    **more: Any,
) -> dict:
    """A config's section of it; `more` are further arguments of the model."""
    target = 64 if name in ("resnet18", "resnet34") else 256
    widths = {"num_bottleneck_channels": channels, "num_target_channels": target}
    return {
        "key": "splittable_resnet",
        "kwargs": {
            "resnet_name": name,
            "num_classes": classes,
            "skips_avgpool": False,
            "skips_fc": False,
            "bottleneck_config": bottleneck or {"key": "FPBasedResNetBottleneck", "kwargs": widths},
            **more,
        },
    }


def splittable(*args: Any, **kwargs: Any) -> nn.Module:
    """A student of `splittable_section`'s arguments, with the same weights each time."""
    section = splittable_section(*args, **kwargs)
    torch.manual_seed(0)
    return build_model(section, "classification", "models.student_model")


def coded(channels: int = 4) -> nn.Module:
    """A student that encodes: updated, in eval mode and channels_last."""
    torch.manual_seed(5)
    model = splittable(channels).eval()
    update_bottleneck(model)
    return model.to(memory_format=torch.channels_last)


def detector_section(backbone: dict, widths: Sequence[int] = (64, 128, 256, 512)) -> dict:
    """A config's section of a Faster R-CNN of four classes that answers with all boxes.

    Args:
        backbone: the section of its backbone.
        widths: channels of the bottleneck's output and of layers 2 to 4.
    """
    levels = {"bottleneck_layer": "1", "layer2": "2", "layer3": "3", "layer4": "4"}
    return {
        "key": "faster_rcnn_model",
        "kwargs": {
            "num_classes": 4,
            "min_size": 96,
            "max_size": 96,
            "box_score_thresh": 0.0,
            "backbone_fpn_kwargs": {
                "return_layer_dict": levels,
                "in_channels_list": list(widths),
                "out_channels": 32,
                "analyzable_layer_key": "bottleneck_layer",
            },
            "backbone_config": backbone,
        },
    }


def detector() -> nn.Module:
    """A detector around a student, with the same weights each time."""
    torch.manual_seed(0)
    section = detector_section(splittable_section(channels=6, classes=10))
    return build_model(section, "detection", "models.model")
