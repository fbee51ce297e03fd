"""Training in which nothing depends on which of a batch's images share a process.

BatchNorm is frozen, dropout off, the detector's samples are the first ones, and each image has
noise of its own, that follows from its pixels. A latent that is decoded after its encoder has
learnt is not rounded: that would make a step of a difference in its last bit.
"""

from __future__ import annotations

import os
import zlib
from typing import Any

import torch
from torch import Tensor, nn

from ladon.bottlenecks.entropy import OwnEntropyBottleneck
from ladon.bottlenecks.factorized import FPBasedResNetBottleneck
from ladon.engine.stage import Stage
from ladon.models import find_bottleneck


def nothing_depends_on_the_split(start: str) -> None:
    """Make it so, in this process and for good.

    Args:
        start: the file to which the first process saves the student as it is before training.
    """
    nn.Dropout.forward = lambda self, x: x
    torch.randperm = _in_order(torch.randperm)
    original, seeds = Stage.begin_epoch, []

    def begin_epoch(self: Stage) -> None:
        original(self)
        if os.environ["RANK"] == "0" and not seeds:
            torch.save(self.student.model.state_dict(), start)
        for module in self.student.model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        bottleneck = find_bottleneck(self.student.model)
        if bottleneck is not None:
            bottleneck.register_forward_pre_hook(remember)

    def remember(_module: nn.Module, args: tuple) -> None:
        seeds[:] = [zlib.crc32(image.contiguous().numpy().tobytes()) for image in args[0]]

    rounded = OwnEntropyBottleneck.quantize

    def quantize(self: Any, inputs: Tensor, mode: str, means: Tensor | None = None) -> Tensor:
        if mode != "noise":
            return rounded(self, inputs, mode, means)
        channels, pixels = inputs.shape[0], inputs.shape[-1] // len(seeds)
        generators = (torch.Generator().manual_seed(seed) for seed in seeds)
        noise = [torch.rand(channels, 1, pixels, generator=g) - 0.5 for g in generators]
        return inputs + torch.cat(noise, dim=-1)

    Stage.begin_epoch = begin_epoch
    OwnEntropyBottleneck.quantize = quantize
    FPBasedResNetBottleneck.quantized = lambda self, latent, apply: latent


def _in_order(randperm: Any) -> Any:
    def arranged(n: int, **kwargs: Any) -> Tensor:
        # the detector's; a loader's order comes without a device
        device = kwargs.get("device")
        return randperm(n, **kwargs) if device is None else torch.arange(n, device=device)

    return arranged
