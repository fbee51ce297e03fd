"""Small students with a hyperprior, whose latents and hyper latents differ in their channels."""

from __future__ import annotations

import torch
from students import splittable_section
from torch import nn

from ladon.bottlenecks import find_bottleneck, update_bottleneck
from ladon.models import build_model

KINDS = ("SHPBasedResNetBottleneck", "MSHPBasedResNetBottleneck")
WIDTHS = {"num_latent_channels": 4, "num_bottleneck_channels": 6}


def student(kind: str, *, updated: bool = False, spread: float = 40.0) -> nn.Module:
    """A student in eval mode and channels_last; its latent is spread over many symbols."""
    torch.manual_seed(3)
    section = {"key": kind, "kwargs": {**WIDTHS, "num_target_channels": 64}}
    model = build_model(splittable_section(bottleneck=section), "classification", "models.x").eval()
    bottleneck = find_bottleneck(model)
    with torch.no_grad():
        bottleneck.g_a[-1].weight.mul_(spread)
        # scales from narrow to wide
        bottleneck.h_s[-1].weight.mul_(spread)
        bottleneck.entropy_bottleneck.quantiles[:, :, 1].add_(torch.randn(4, 1))
    if updated:
        update_bottleneck(model)
    return model.to(memory_format=torch.channels_last)
