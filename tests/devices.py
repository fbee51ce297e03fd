"""Tests that say the same on a CPU and on a GPU, and what they share.

On a machine without a GPU only the CPU's half runs, in `make test`; `make gpu` runs the other one.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# cuBLAS reads it when it is first used; without it no matrix product is deterministic
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import pytest
import torch
from torch import nn

from ladon.bottlenecks.variable_rate import LevelDraw
from ladon.codec import LatentCoder
from ladon.models import find_bottleneck, use_own_noise

GPU = (
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device"),
)
DEVICES = ("cpu", pytest.param("cuda", marks=GPU))
FAMILIES = ("classification", "detection", "segmentation")
on_each_device = pytest.mark.parametrize("device", DEVICES)
# on a CPU the other families are tested elsewhere
each_family = pytest.mark.parametrize(
    ("family", "device"),
    [("classification", "cpu"), *(pytest.param(name, "cuda", marks=GPU) for name in FAMILIES)],
)
# a GPU's rounding may send an image of twelve, or a box, to another class
TOLERANCE = {"acc1": 100 / 12 + 0.01, "AP": 0.02, "mean_iou": 1.0}


def trained(lab, family: str) -> None:
    """Train a family's checkpoint on the CPU, unless it is there."""
    if not lab.checkpoint(family).exists():
        assert lab.run(family) == 0


def scored(lab, family: str, name: str, device: str, *flags: str, **values) -> dict[str, Any]:
    """Tests a family's checkpoint on a device; returns what it found of the student."""
    trained(lab, family)
    config = lab.config(family, name, **values)
    words = ("-test_only", "-student_only", "--device", device, *flags)
    assert lab.run(family, *words, config=config) == 0
    return lab.metrics(name)["models"]["student"]


def assert_same_scores(found: dict, expected: dict, device: str) -> None:
    """Equal on a CPU; on a GPU, where libraries choose algorithms by batch size, nearly so."""
    if device == "cpu":
        assert found["metrics"] == expected["metrics"]
        return
    for key, tolerance in TOLERANCE.items():
        if key in expected["metrics"]:
            assert found["metrics"][key] == pytest.approx(expected["metrics"][key], abs=tolerance)


class Recorder:
    """What the coder was given and what it made of it, call by call.

    Attributes:
        payloads: of all images, in the order of the calls.
        shapes: (h, w) of each image's latent.
        coder: the last one.
    """

    coder: LatentCoder

    def __init__(self) -> None:
        self.payloads: list[bytes] = []
        self.shapes: list[tuple[int, int]] = []

    def symbols(self, coder: LatentCoder) -> list[torch.Tensor]:
        """Decode every payload, all with one coder."""
        pairs = zip(self.payloads, self.shapes, strict=True)
        return [coder.decode([payload], shape).cpu() for payload, shape in pairs]


@contextmanager
def recorded(monkeypatch) -> Iterator[Recorder]:
    """Keep every payload while it is open."""
    kept, original = Recorder(), LatentCoder.encode

    def encode(self: LatentCoder, latent: torch.Tensor) -> list[bytes]:
        payloads = original(self, latent)
        kept.payloads += payloads
        kept.shapes += [tuple(latent.shape[-2:])] * len(payloads)
        kept.coder = self
        return payloads

    with monkeypatch.context() as patched:
        patched.setattr(LatentCoder, "encode", encode)
        yield kept


def differing(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> tuple[int, int, int]:
    """Number of symbols that differ, of all symbols, and by how much at most."""
    steps = [(a - b).abs().round() for a, b in zip(ours, theirs, strict=True)]
    count = sum(int((step > 0).sum()) for step in steps)
    return count, sum(step.numel() for step in steps), max(int(step.max()) for step in steps)


def nothing_random(monkeypatch) -> None:
    """Take what devices draw differently out of training: noise, samples, dropout, TF32."""

    def silent(model: nn.Module, seed: int, device: torch.device) -> torch.Generator | None:
        generator = use_own_noise(model, seed, device)
        bottleneck = find_bottleneck(model)
        if bottleneck is not None:
            coder = bottleneck.entropy_bottleneck
            noisy = coder.quantize

            def quantize(inputs: torch.Tensor, mode: str, means: Any = None) -> torch.Tensor:
                return inputs if mode == "noise" else noisy(inputs, mode, means)

            coder.quantize = quantize
        return generator

    def all_levels(self: LevelDraw, like: torch.Tensor) -> tuple[torch.Tensor, ...]:
        levels = torch.arange(len(like), device=like.device) % self.rates.levels
        return levels, self.rates.positions(levels), self.rates.betas(levels)

    monkeypatch.setattr("ladon.engine.student_trainer.use_own_noise", silent)
    monkeypatch.setattr(LevelDraw, "forward", all_levels)
    monkeypatch.setattr(nn.Dropout, "forward", lambda self, x: x)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    randperm = torch.randperm

    def in_order(n: int, **kwargs: Any) -> torch.Tensor:
        # the detector's samples; a loader's order comes with a generator, or from the CPU's
        device = kwargs.get("device")
        if device is None or "generator" in kwargs:
            return randperm(n, **kwargs)
        return torch.arange(n, device=device)

    monkeypatch.setattr(torch, "randperm", in_order)


SYNCHRONISED = "called a synchronizing CUDA operation"


@contextmanager
def waits(device: str, mode: str = "warn") -> Iterator[Callable[[], list[str]]]:
    """Watch for what makes the host wait for a GPU; yield what returns the places.

    Args:
        device: on a CPU nothing is watched.
        mode: with error, the first place raises.
    """
    if device == "cpu":
        yield list
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode(mode)
        try:
            yield lambda: [
                f"{w.filename.rpartition('/')[2]}:{w.lineno}"
                for w in caught
                if SYNCHRONISED in str(w.message)
            ]
        finally:
            torch.cuda.set_sync_debug_mode("default")
