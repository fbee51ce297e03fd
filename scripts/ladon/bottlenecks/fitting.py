"""Sides of images that a hyperprior's transforms take: not every size comes back from them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Protocol

import torch
from torch import nn

_SEARCHED = 128  # pixels on both sides
_LEAST, _OTHER_SIDE = 32, 64


class HasTransforms(Protocol):
    """A bottleneck that the sides of images are found for."""

    @property
    def transforms(self) -> tuple[nn.Module, ...]:
        """Encoder, `h_a` and `h_s`."""


class _Sides:
    """A bottleneck's transforms without memory, to see what they make of a side."""

    def __init__(self, bottleneck: HasTransforms) -> None:
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


def fitting_sides(bottleneck: HasTransforms, latent_side: int) -> str:
    """Return in words which sides of an image fit, next to those that give a latent's side.

    Args:
        bottleneck: with `g_a`, `h_a` and `h_s`.
        latent_side: h or w of its latent.
    """
    sides = _Sides(bottleneck)
    low, high = _LEAST, 2 * _LEAST
    while sides.of_latent(high) < latent_side:
        low, high = high, 2 * high
    while high - low > 1:  # the least side of such a latent: between low and high
        middle = (low + high) // 2
        low, high = (middle, high) if sides.of_latent(middle) < latent_side else (low, middle)
    below = range(high - 1, max(_LEAST, high - _SEARCHED), -1)
    runs = _first_run(below, sides.fits), _first_run(range(high, high + _SEARCHED), sides.fits)
    return " or ".join(f"{min(run)} to {max(run)}" for run in runs if run) or "another one"


def _first_run(sides: Iterable[int], fits: Callable[[int], bool]) -> list[int]:
    """Return the first sides that fit, up to one that does not."""
    found: list[int] = []
    for side in sides:
        if fits(side):
            found.append(side)
        elif found:
            break
    return found
