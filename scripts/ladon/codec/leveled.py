"""Entropy coding of latents of several rates: each image's with its level's tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from ladon.codec.coder import LatentCoder

_Value = TypeVar("_Value")


class LeveledCoder:
    """Codes latents, each image's at a level of its own.

    Args:
        entropy_bottleneck: updated; of L levels, its tables [L C, W], [L C] and [L C] hold those
            of level l from row l C on, and `_steps` [L, C] the steps that latents are rounded to.
        parallel: code images of a level on a thread pool; else one after the other.

    Raises:
        CheckpointError: if tables, once they are used, are none that rANS can code with.
        UsageError: if numba, which the coder needs, cannot be imported.
    """

    def __init__(self, entropy_bottleneck: Any, *, parallel: bool = True) -> None:
        self._entropy_bottleneck, self._parallel = entropy_bottleneck, parallel
        self._coders: dict[int, LatentCoder] = {}

    def level(self, level: int) -> LatentCoder:
        """Return the coder of a level, which is made when it is first used."""
        coder = self._coders.get(level)
        if coder is None:  # threads that make it at once make equal ones
            coder = LatentCoder(self._entropy_bottleneck, level=level, parallel=self._parallel)
            self._coders[level] = coder
        return coder

    def quantize(self, latent: Tensor, levels: Sequence[int]) -> Tensor:
        """Return a latent [N, C, h, w] as the decoder will see it."""
        return torch.stack(self._each(latent, levels, lambda coder, part: coder.quantize(part)))

    def encode(self, latent: Tensor, levels: Sequence[int]) -> list[bytes]:
        """Return one payload for each image of a latent [N, C, h, w] float32."""
        return self._each(latent, levels, lambda coder, part: coder.encode(part))

    def estimate(self, latent: Tensor, levels: Sequence[int]) -> list[int]:
        """Return each image's payload size in bytes from the tables, without coding."""
        return self._each(latent, levels, lambda coder, part: coder.estimate(part))

    def decode(
        self, payloads: Sequence[bytes], shape: Sequence[int], levels: Sequence[int]
    ) -> Tensor:
        """Decode payloads into a latent [N, C, h, w] float32.

        Args:
            payloads: one per image, from wherever.
            shape: (h, w) of the latent.
            levels: of each image.

        Raises:
            PayloadError: if one is truncated, extended, damaged, or of another level.
        """
        return torch.stack(
            self._each(payloads, levels, lambda coder, part: coder.decode(part, shape))
        )

    def _each(
        self,
        images: Any,
        levels: Sequence[int],
        code: Callable[[LatentCoder, Any], Sequence[_Value] | Tensor],
    ) -> list[Any]:
        """Code the images of each level together; return what comes of them in their order."""
        results: list[Any] = [None] * len(levels)
        for level in dict.fromkeys(levels):
            places = [place for place, own in enumerate(levels) if own == level]
            if len(places) == len(levels):
                part = images
            elif isinstance(images, Tensor):
                part = images[places]
            else:
                part = [images[place] for place in places]
            for place, result in zip(places, code(self.level(level), part), strict=True):
                results[place] = result
        return results
