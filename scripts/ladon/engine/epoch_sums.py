"""What an epoch's record is averaged from: loss terms, rate and images, summed over its steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ladon.bottlenecks import find_bottleneck
from ladon.bottlenecks.entropy import entropy_models
from ladon.engine.distributed import World
from ladon.engine.resume import BITS, IMAGES, PIXELS, Progress

TERM, AUXILIARY = "terms.", "aux_loss"
"""Names of further sums: a loss term's begins with the first."""


class EpochSums:
    """Sums of scalars by name, kept on the device: reading one would make the host wait for it.

    Args:
        sums: of the epoch's steps so far.
        device: where the scalars are.
    """

    def __init__(self, sums: Mapping[str, float], device: torch.device) -> None:
        self._before, self._device = dict(sums), device
        # by the names that come together; those of a stage's steps are nearly always the same
        self._groups: dict[tuple[str, ...], Tensor] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Take a step's scalars."""
        names = tuple(values)
        if not names:
            return
        # a term that is a constant may lie on the host
        here = (v.detach().to(self._device, non_blocking=True) for v in values.values())
        new = torch.stack([value.reshape(()) for value in here]).double()
        so_far = self._groups.get(names)
        if so_far is None:  # goes on where the sums stand, so that a resumed run adds up to the bit
            starts = (self._before.pop(name, 0.0) for name in names)
            # full, not tensor: no copy that the host would wait for
            full = (torch.full((), x, dtype=torch.float64, device=self._device) for x in starts)
            so_far = torch.stack(list(full))
        self._groups[names] = so_far + new

    def count(self, name: str, number: int) -> None:
        """Add to a sum of what the host knows."""
        self._before[name] = self._before.get(name, 0) + number

    def read(self) -> dict[str, float]:
        """Wait for the device; return the sums."""
        found = dict(self._before)
        if self._groups:
            values = torch.cat(list(self._groups.values())).tolist()
            names = (name for group in self._groups for name in group)
            for name, value in zip(names, values, strict=True):
                found[name] = found.get(name, 0.0) + value
        return found


class EpochMeter:
    """Sums up the steps of a student's epochs; nothing in it waits for the device but `read`.

    The rate is what the latent would take in bits by the likelihoods that the bottleneck computes:
    there are none once entropy coding has begun.
    """

    _sums: EpochSums

    def __init__(self) -> None:
        self._bits: Tensor | None = None

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Look at the likelihoods that a model's bottleneck computes in training."""
        bottleneck = find_bottleneck(model)
        handles = [
            module.register_forward_hook(self._look)
            for module in ({} if bottleneck is None else entropy_models(bottleneck)).values()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _look(self, module: nn.Module, _inputs: Any, output: Any) -> None:
        if not module.training or not isinstance(output, tuple) or len(output) != 2:
            return
        with torch.no_grad():
            bits = -output[1].detach().float().log2().sum()
        self._bits = bits if self._bits is None else self._bits + bits

    def begin(self, progress: Progress, device: torch.device) -> None:
        """Begin an epoch, or go on with one."""
        self._sums, self._bits = EpochSums(progress.sums, device), None

    def add(self, images: Any, terms: Mapping[str, Tensor], auxiliary: Tensor | None) -> None:
        """Take a step.

        Args:
            images: [N, C, H, W], or a sequence of N images [C, H, W].
            terms: of the criterion by name, weighted, scalars.
            auxiliary: the auxiliary loss, if there is one.
        """
        values = {f"{TERM}{name}": term for name, term in terms.items()}
        if auxiliary is not None:
            values[AUXILIARY] = auxiliary
        if self._bits is not None:
            values[BITS], self._bits = self._bits, None
            self._sums.count(PIXELS, _pixels(images))
        self._sums.count(IMAGES, len(images))
        self._sums.add(values)

    def read(self) -> dict[str, float]:
        """Wait for the device; return the epoch's sums so far."""
        return self._sums.read()


def _pixels(images: Any) -> int:
    if isinstance(images, Tensor):
        return len(images) * images.shape[-2] * images.shape[-1]
    return sum(image.shape[-2] * image.shape[-1] for image in images)


@dataclass(frozen=True)
class EpochMeans:
    """An epoch's means over its steps and all processes.

    Attributes:
        loss: what is learnt from.
        terms: of the criterion by name, weighted as they are summed; only the terms of a weighted
            sum are known.
        auxiliary: the entropy model's auxiliary loss, None where nothing learns from it.
        bits_per_pixel: of the images as they are trained on, by the likelihoods; None where no rate
            is learnt.
        images: number of images, over all processes.
    """

    loss: float
    terms: dict[str, float]
    auxiliary: float | None
    bits_per_pixel: float | None
    images: int

    @classmethod
    def of(cls, progress: Progress, world: World) -> EpochMeans:
        """Average what the processes have summed; every process must call it."""
        parts = world.gather((progress.loss_sum, progress.sums))
        steps = max(1, progress.step) * len(parts)
        sums: dict[str, float] = {}
        for name, value in (pair for _, own in parts for pair in own.items()):
            sums[name] = sums.get(name, 0.0) + value
        return cls(
            sum(loss for loss, _ in parts) / steps,
            {n.removeprefix(TERM): v / steps for n, v in sums.items() if n.startswith(TERM)},
            sums[AUXILIARY] / steps if AUXILIARY in sums else None,
            sums[BITS] / sums[PIXELS] if BITS in sums else None,
            round(sums.get(IMAGES, 0)),
        )

    def record(self, seconds: float) -> dict[str, Any]:
        """Return what an epoch's line holds of it.

        Args:
            seconds: that the epoch's steps took.
        """
        found = {
            "train_loss": self.loss,
            "terms": self.terms,
            "aux_loss": self.auxiliary,
            "bpp": self.bits_per_pixel,
            "images": self.images,
            "train_seconds": round(seconds, 3),
            "images_per_s": round(self.images / seconds, 3) if seconds else None,
        }
        return {name: value for name, value in found.items() if value not in (None, {})}
