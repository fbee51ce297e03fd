"""A kind of bottleneck of a user's own: a plain strided convolution, and its payload in halves."""

from __future__ import annotations

import torch
from torch import nn

from ladon.bottlenecks import Bottleneck, Coder, register
from ladon.codec import LatentCoder, quantize


@register
class ThinBottleneck(Bottleneck):
    """The latent's upper and lower half are two parts of the payload."""

    parts = ("upper", "lower")

    def __init__(self, channels=5, targets=64):
        super().__init__(channels)
        self.down = nn.Sequential(nn.Conv2d(3, channels, 8, stride=8), nn.BatchNorm2d(channels))
        self.up = nn.ConvTranspose2d(channels, targets, 2, stride=2)

    @property
    def analysis(self):
        return self.down

    @property
    def synthesis(self):
        return self.up

    def noisy(self, latent):
        return self.entropy_bottleneck(latent)[0]

    def quantized(self, latent, apply):
        return quantize(
            latent, self.entropy_bottleneck._get_medians().detach().reshape(1, -1, 1, 1)
        )

    def coder(self, apply):
        return HalvesCoder(LatentCoder(self.entropy_bottleneck))


class HalvesCoder(Coder):
    def __init__(self, coder):
        self._coder = coder

    def quantize(self, prepared):
        return self._coder.quantize(prepared)

    def encode(self, prepared):
        return [self._coder.encode(half) for half in prepared.chunk(2, 2)]

    def estimate(self, prepared):
        return [self._coder.estimate(half) for half in prepared.chunk(2, 2)]

    def shape(self, prepared):
        return prepared.shape[-2:]

    def decode(self, strings, shape):
        height, width = shape
        heights = -(-height // 2), height // 2
        pairs = zip(strings, heights, strict=True)
        return torch.cat([self._coder.decode(part, (h, width)) for part, h in pairs], dim=2)
