"""Part `codec`: `LatentCoder` against CompressAI's coder, and its threads against one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from compressai.entropy_models import EntropyBottleneck
from torch import Tensor

from ladon.benchmark.machine import intraop_threads
from ladon.benchmark.pairing import alternate
from ladon.benchmark.parts import Bench
from ladon.benchmark.results import Row
from ladon.codec import LatentCoder
from ladon.errors import LadonError
from ladon.process import usable_cores

# of the latent: from rates far below the published ones to far above
SCALES = (0.1, 0.4, 1.5, 6.0, 24.0)
CHANNELS = 24
SIDE, QUICK_SIDE = 103, 13  # of the latent of a 416x416 image: 103
BATCH, QUICK_BATCH = 8, 2


@dataclass
class Rate:
    """A bottleneck and latents that it codes at one rate.

    Attributes:
        bottleneck: with CDF tables made for latents of the scale.
        latents: [N, 24, side, side] float32.
    """

    bottleneck: EntropyBottleneck
    latents: Tensor

    @classmethod
    def make(cls, scale: float, batch: int, side: int) -> Rate:
        """Build from the arguments alone: seeds are fixed."""
        generator = torch.Generator().manual_seed(0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            bottleneck = EntropyBottleneck(CHANNELS, init_scale=scale).eval()
        bottleneck.update(force=True, update_quantiles=True)
        latents = scale * torch.randn(batch, CHANNELS, side, side, generator=generator)
        return cls(bottleneck, latents + bottleneck._get_medians().detach().reshape(1, -1, 1, 1))


def check_payloads(ours: Sequence[bytes], theirs: Sequence[bytes]) -> None:
    """Raise LadonError unless the payloads are equal, byte for byte."""
    if list(ours) != list(theirs):
        raise LadonError("the payloads of the two ways differ: timings of them mean nothing")


def check_latents(ours: Tensor, theirs: Tensor) -> None:
    """Raise LadonError unless the decoded latents are equal, bit for bit."""
    # not torch.equal: its threads spin for milliseconds, on the cores that are timed next
    if not np.array_equal(ours.numpy(), theirs.numpy()):
        raise LadonError("the decoded latents of the two ways differ: timings mean nothing")


@dataclass(frozen=True)
class OneThread:
    """A coder whose calls compute on one thread."""

    encoder: Callable[[Tensor], list[bytes]]
    decoder: Callable[[Sequence[bytes], torch.Size], Tensor]

    def encode(self, latents: Tensor) -> list[bytes]:
        """Return a payload of each latent."""
        with intraop_threads(1):
            return self.encoder(latents)

    def decode(self, payloads: Sequence[bytes], shape: torch.Size) -> Tensor:
        """Return the latents of the payloads."""
        with intraop_threads(1):
            return self.decoder(payloads, shape)


@torch.inference_mode()
def measure(bench: Bench) -> None:
    """Time encoding and decoding at five rates; the first calls (compilation) are not timed."""
    side, batch = (QUICK_SIDE, QUICK_BATCH) if bench.quick else (SIDE, BATCH)
    found, sizes = bench.found, dict[str, Any]()
    found.facts |= {"latent": f"{CHANNELS}x{side}x{side}", "batch for all cores": batch}
    found.facts["payloads"] = sizes
    for scale in SCALES:
        with torch.inference_mode(False):
            rate = Rate.make(scale, batch, side)
        many, alone = (
            LatentCoder(rate.bottleneck, parallel=parallel) for parallel in (True, False)
        )
        one = OneThread(alone.encode, alone.decode)
        published = OneThread(rate.bottleneck.compress, rate.bottleneck.decompress)
        (payload,) = one.encode(rate.latents[:1])
        label = f"{8 * len(payload) / rate.latents[0].numel():.2f} bit/symbol"
        sizes[label] = f"{len(payload)} bytes"
        title = f"{label}, one thread against CompressAI"
        found.add(*_rows(title, one, published, rate.latents[:1], bench.repeats))
        title = f"{label}, {batch} images, {usable_cores()} cores against one"
        found.add(*_rows(title, many, one, rate.latents, bench.repeats))


def _rows(
    title: str, ours: LatentCoder | OneThread, reference: OneThread, latents: Tensor, repeats: int
) -> list[Row]:
    """Time both coders at the same latents; what they find must be the same."""
    payloads, shape = reference.encode(latents), latents.shape[-2:]
    encoding = alternate(
        lambda: ours.encode(latents),
        lambda: reference.encode(latents),
        repeats,
        check=check_payloads,
    )
    decoding = alternate(
        lambda: ours.decode(payloads, shape),
        lambda: reference.decode(payloads, shape),
        repeats,
        check=check_latents,
    )
    return [encoding.duration(f"encode: {title}"), decoding.duration(f"decode: {title}")]
