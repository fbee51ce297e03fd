"""Part `codec`: `LatentCoder` against CompressAI's coder, and its threads against one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from compressai.entropy_models import EntropyBottleneck
from torch import Tensor

from ladon.benchmark.machine import intraop_threads
from ladon.benchmark.pairing import alternate
from ladon.benchmark.parts import Bench
from ladon.benchmark.results import Measurement, PartResult
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
        """Everything follows from the arguments."""
        generator = torch.Generator().manual_seed(0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            bottleneck = EntropyBottleneck(CHANNELS, init_scale=scale).eval()
        bottleneck.update(force=True, update_quantiles=True)
        latents = scale * torch.randn(batch, CHANNELS, side, side, generator=generator)
        return cls(bottleneck, latents + bottleneck._get_medians().detach().reshape(1, -1, 1, 1))


def check_payloads(ours: Sequence[bytes], theirs: Sequence[bytes]) -> None:
    """Raises LadonError unless the payloads are equal, byte for byte."""
    if list(ours) != list(theirs):
        raise LadonError("the payloads of the two ways differ: timings of them mean nothing")


def check_latents(ours: Tensor, theirs: Tensor) -> None:
    """Raises LadonError unless the decoded latents are equal, bit for bit."""
    # not torch.equal: its threads spin for milliseconds, on the cores that are timed next
    if not np.array_equal(ours.numpy(), theirs.numpy()):
        raise LadonError("the decoded latents of the two ways differ: timings mean nothing")


@torch.inference_mode()
def measure(bench: Bench) -> PartResult:
    """Times encoding and decoding at five rates; the first calls (compilation) are not timed."""
    side, batch = (QUICK_SIDE, QUICK_BATCH) if bench.quick else (SIDE, BATCH)
    found = PartResult(
        facts={"latent": f"{CHANNELS}x{side}x{side}", "batch for all cores": batch, "payloads": {}}
    )
    for scale in SCALES:
        with torch.inference_mode(False):
            rate = Rate.make(scale, batch, side)
        with intraop_threads(1):
            pair, payload = _against_compressai(rate, bench.repeats)
        label = f"{8 * len(payload) / rate.latents[0].numel():.2f} bit/symbol"
        found.facts["payloads"][label] = f"{len(payload)} bytes"
        found.measurements += [_named(m, f"{label}, one thread against CompressAI") for m in pair]
        threads = _all_cores_against_one(rate, bench.repeats)
        cores = f"{label}, {batch} images, {usable_cores()} cores against one"
        found.measurements += [_named(m, cores) for m in threads]
    return found


def _named(measurement: Measurement, suffix: str) -> Measurement:
    return Measurement(
        f"{measurement.name}: {suffix}",
        measurement.unit,
        measurement.ours,
        measurement.reference,
        measurement.ratio,
    )


def _against_compressai(rate: Rate, repeats: int) -> tuple[list[Measurement], bytes]:
    """One image at a time; returns encode, decode, and the payload."""
    latent, bottleneck = rate.latents[:1], rate.bottleneck
    shape = latent.shape[-2:]
    coder = LatentCoder(bottleneck, parallel=False)
    encoding = alternate(
        lambda: coder.encode(latent),
        lambda: bottleneck.compress(latent),
        repeats,
        check=check_payloads,
    )
    payloads = coder.encode(latent)
    decoding = alternate(
        lambda: coder.decode(payloads, shape),
        lambda: bottleneck.decompress(payloads, shape),
        repeats,
        check=check_latents,
    )
    return [encoding.duration("encode"), decoding.duration("decode")], payloads[0]


def _all_cores_against_one(rate: Rate, repeats: int) -> list[Measurement]:
    """A batch of images, on the thread pool and one after the other on one thread."""
    many = LatentCoder(rate.bottleneck, parallel=True)
    one = LatentCoder(rate.bottleneck, parallel=False)
    latents, shape = rate.latents, rate.latents.shape[-2:]
    payloads = one.encode(latents)

    def encode_on_one() -> list[bytes]:
        with intraop_threads(1):
            return one.encode(latents)

    def decode_on_one() -> Tensor:
        with intraop_threads(1):
            return one.decode(payloads, shape)

    encoding = alternate(lambda: many.encode(latents), encode_on_one, repeats, check=check_payloads)
    decoding = alternate(
        lambda: many.decode(payloads, shape), decode_on_one, repeats, check=check_latents
    )
    return [encoding.duration("encode"), decoding.duration("decode")]
