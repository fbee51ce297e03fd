"""The paper's kind of student, small: a ResNet that begins with a bottleneck."""

from __future__ import annotations

from typing import Any


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
