"""Sides of images that a hyperprior's transforms take: not every size comes back from them."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from ladon.bottlenecks.hyperprior import SHPBasedResNetBottleneck

_SEARCHED = 128  # pixels on both sides
_OTHER_SIDE = 64


class _Sides:
    """A bottleneck's transforms without memory, to see what they make of a side."""

    def __init__(self, bottleneck: SHPBasedResNetBottleneck) -> None:
        self._analysis, self._h_a, self._h_s = (
            copy.deepcopy(part).to("meta") for part in bottleneck.transforms
        )
        convolutions = (m for m in self._analysis.modules() if isinstance(m, nn.Conv2d))
        self._channels = next(convolutions).in_channels

    @torch.no_grad()
    def of_latent(self, side: int) -> int:
        """Height of the latent of an image of a height."""
        return self._latent(side).shape[-2]

    @torch.no_grad()
    def fits(self, side: int) -> bool:
        """Whether h_s gives a latent's height back."""
        latent = self._latent(side)
        return self._h_s(self._h_a(latent)).shape[-2] == latent.shape[-2]

    def _latent(self, side: int) -> torch.Tensor:
        return self._analysis(torch.empty(1, self._channels, side, _OTHER_SIDE, device="meta"))


def fitting_sides(bottleneck: SHPBasedResNetBottleneck, latent_side: int) -> str:
    """Returns in words which sides of an image fit, next to those that give a latent's side.

    Args:
        bottleneck: with `g_a`, `h_a` and `h_s`.
        latent_side: h or w of its latent.
    """
    sides = _Sides(bottleneck)
    low, high = _OTHER_SIDE // 2, _OTHER_SIDE
    while sides.of_latent(high) < latent_side:
        low, high = high, 2 * high
    while high - low > 1:  # the least side of such a latent: between low and high
        middle = (low + high) // 2
        low, high = (middle, high) if sides.of_latent(middle) < latent_side else (low, middle)
    below = [s for s in range(max(_OTHER_SIDE // 2, high - _SEARCHED), high) if sides.fits(s)]
    above = [s for s in range(high, high + _SEARCHED) if sides.fits(s)]
    runs = [_run(below[::-1], -1)[::-1], _run(above, 1)]
    found = [f"{run[0]} to {run[-1]}" for run in runs if run]
    return " or ".join(found) or "of none near this one"


def _run(sides: list[int], step: int) -> list[int]:
    """The first of some sides, and those that follow it without a gap."""
    return [side for n, side in enumerate(sides) if side == sides[0] + n * step]
