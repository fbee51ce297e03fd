"""The shape that a payload has of an input of a size, found without computing anything."""

from __future__ import annotations

import copy
from functools import lru_cache

import torch

from ladon.bottlenecks.base import Bottleneck

_MOST_KEPT = 1024  # sizes


class PayloadShapes:
    """Shapes of a bottleneck's payloads by the size of its input.

    Args:
        bottleneck: with no evaluation open, which exchanges layers of the encoder.
    """

    def __init__(self, bottleneck: Bottleneck) -> None:
        self._parts = [copy.deepcopy(part).to("meta") for part in bottleneck.shaping]
        self._of = lru_cache(_MOST_KEPT)(self._compute)

    def __call__(self, size: tuple[int, int]) -> tuple[int, int] | None:
        """Return the (h, w) of an input's payload; None for an input that is too small.

        Args:
            size: height and width of the input in pixels.
        """
        return self._of(size)

    def _compute(self, size: tuple[int, int]) -> tuple[int, int] | None:
        x = torch.empty(1, 3, *size, device="meta")
        try:
            with torch.inference_mode():
                for part in self._parts:
                    x = part(x)
        except RuntimeError:  # a kernel that is larger than what it runs over
            return None
        return int(x.shape[-2]), int(x.shape[-1])
