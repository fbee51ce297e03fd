"""Part `roofline`: what the network alone could reach on this machine, and how much of it is.

The bound is the rate of large matrix products, by the faster of the libraries that PyTorch has for
them; a part's share is its own rate over that. A share above 1 is possible where an algorithm needs
fewer products than the counted ones.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from ladon.backbones import family_with, head_names
from ladon.benchmark.evaluation import QUICK_IMAGES, evaluate_ours
from ladon.benchmark.machine import clock_of
from ladon.benchmark.parts import Bench
from ladon.benchmark.results import Measurement, PartResult, Spread
from ladon.benchmark.workload import SOURCES, Workload, make_workload
from ladon.bottlenecks import entropy_coding, find_bottleneck
from ladon.choices import PRECISIONS

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}
MATRIX_SIDE, QUICK_SIDE = 2048, 128
_PRODUCTS = 5
_HEADS = (*("backbone.fpn", "rpn", "roi_heads", "classifier", "aux_classifier"),)


@dataclass(frozen=True)
class Matrices:
    """Large square matrices, whose products are the bound.

    Attributes:
        side: of both.
        device: where they are.
    """

    side: int
    device: torch.device

    def rate(self, precision: str) -> float:
        """Returns GFLOP/s of their product, the median of some, by the faster of two ways.

        On a CPU, PyTorch multiplies by one library and convolves by another, and the first may
        take only half of what the machine can give (MKL on AMD's cores).
        """
        generator = torch.Generator().manual_seed(0)
        a, b = (
            torch.randn(self.side, self.side, generator=generator).to(
                self.device, DTYPES[precision]
            )
            for _ in range(2)
        )
        pixels = a.view(1, self.side, 1, self.side).permute(0, 3, 1, 2)  # channels last
        kernels = b.T.contiguous()[:, :, None, None]
        ways = lambda: a @ b, lambda: functional.conv2d(pixels, kernels)
        rates: list[list[float]] = [[], []]
        clock = clock_of(self.device)
        for _ in range(_PRODUCTS):
            for multiply, found in zip(ways, rates, strict=True):
                start = clock()
                multiply()
                found.append(2e-9 * self.side**3 / (clock() - start))
        return max(map(statistics.median, rates))


def model_parts(model: nn.Module) -> dict[str, nn.Module]:
    """Returns encoder, decoder, layers and heads of a task's model, by name."""
    bottleneck = find_bottleneck(model)
    parts: dict[str, nn.Module] = {"encoder": bottleneck.encoder, "decoder": bottleneck.decoder}
    named = dict(model.named_modules())
    for layer in family_with({name.split(".")[-1] for name in named}).stages:
        parts[layer] = next(m for n, m in named.items() if n.split(".")[-1] == layer)
    heads = (*head_names(), *_HEADS)
    return parts | {name.split(".")[-1]: named[name] for name in heads if name in named}


def gflop_per_image(work: Workload, model: nn.Module, parts: dict[str, nn.Module]) -> dict:
    """Counts the products of each part for the first test image, in GFLOP."""
    counts: dict[str, float] = {}
    counter = FlopCounterMode(display=False)

    def before(name: str) -> None:
        counts[name] = counts.get(name, 0) - counter.get_total_flops()

    def after(name: str) -> None:
        counts[name] += counter.get_total_flops()

    image = work.dataset[0][0].to(next(model.parameters()).device)
    images = [image] if work.task.model_kind == "detection" else image[None]
    with _around(parts, before, after), torch.no_grad(), entropy_coding(model), counter:
        model(images)
    return {name: 1e-9 * count for name, count in counts.items()}


@contextmanager
def _around(
    parts: dict[str, nn.Module], before: Callable[[str], None], after: Callable[[str], None]
) -> Iterator[None]:
    """Calls functions with a part's name before and after each of its forwards."""
    handles = []
    for name, module in parts.items():
        handles += [
            module.register_forward_pre_hook(lambda *_, name=name: before(name)),
            module.register_forward_hook(lambda *_, name=name: after(name)),
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def seconds_by_part(
    parts: dict[str, nn.Module], evaluate: Callable[[], Any], device: torch.device
) -> dict[str, float]:
    """Runs an evaluation and returns the seconds that each part took in it."""
    seconds: dict[str, float] = defaultdict(float)
    clock = clock_of(device)

    def before(name: str) -> None:
        seconds[name] -= clock()

    def after(name: str) -> None:
        seconds[name] += clock()

    with _around(parts, before, after):
        evaluate()
    return dict(seconds)


def measure(bench: Bench) -> PartResult:
    """Measures the machine's bound and each task's shares of it."""
    matrices = Matrices(QUICK_SIDE if bench.quick else MATRIX_SIDE, torch.device(bench.device))
    found = PartResult(facts={"matrices": f"{matrices.side}x{matrices.side}"})
    for precision in DTYPES:
        matrices.rate(precision)  # warm-up
        rates = Spread.of(matrices.rate(precision) for _ in range(bench.repeats))
        found.measurements.append(Measurement(f"matrix product: {precision}", "GFLOP/s", rates))
    for name in bench.tasks or SOURCES:
        num_images = QUICK_IMAGES if bench.quick else min(SOURCES[name].num_images, 16)
        _measure_task(bench, make_workload(name, bench.folder / name, num_images), matrices, found)
    return found


def _measure_task(bench: Bench, work: Workload, matrices: Matrices, found: PartResult) -> None:
    device, name = matrices.device, work.task.name
    model = work.model.to(device, memory_format=torch.channels_last)
    parts = model_parts(model)
    gflop = gflop_per_image(work, model, parts)
    found.facts[f"{name}, GFLOP per image"] = {
        **{part: round(value, 3) for part, value in gflop.items()},
        "all": round(sum(gflop.values()), 2),
    }
    # no loader workers: nothing else computes while a part does
    kwargs = (work.loader.get("kwargs") or {}) | {"num_workers": 0}
    alone = replace(work, loader=dict(work.loader) | {"kwargs": kwargs})
    for precision in PRECISIONS:

        def evaluate(precision: str = precision) -> None:
            evaluate_ours(alone, model, work.task, device, precision)

        evaluate()  # warm-up
        runs: list[dict[str, float]] = []
        bounds: dict[str, list[float]] = defaultdict(list)
        for _ in range(bench.repeats):  # in turn: the bound is the machine's of this very minute
            for dtype in dict.fromkeys(("float32", precision)):
                bounds[dtype].append(matrices.rate(dtype))
            runs.append(seconds_by_part(parts, evaluate, device))
        for part in parts:
            rates = [len(work.dataset) * gflop[part] / run[part] for run in runs]
            bound = bounds[_precision_of(part, precision)]
            found.measurements.append(_share(f"{name}, {precision}: {part}", rates, bound))
        found.measurements.append(_whole(bench, work, precision, gflop, bounds))


def _precision_of(part: str, precision: str) -> str:
    """The encoder computes in float32 whatever the rest does."""
    return "float32" if part == "encoder" else precision


def _share(name: str, rates: list[float], bounds: list[float]) -> Measurement:
    pairs = zip(rates, bounds, strict=True)
    shares = Spread.of(rate / bound for rate, bound in pairs)
    return Measurement(name, "GFLOP/s", Spread.of(rates), Spread.of(bounds), shares)


def _whole(
    bench: Bench,
    work: Workload,
    precision: str,
    gflop: Mapping[str, float],
    bounds: Mapping[str, list[float]],
) -> Measurement:
    """The images/s of the part `evaluation`, if it ran, against what the network could reach."""
    seconds = [
        sum(gflop[part] / bounds[_precision_of(part, precision)][n] for part in gflop)
        for n in range(bench.repeats)
    ]
    bound = Spread.of(1 / s for s in seconds)
    title = f"{work.task.name}: {precision}"
    earlier = bench.results.parts.get("evaluation", PartResult()).measurements
    rate = next((m.ours for m in earlier if m.name.startswith(title)), None)
    name = f"{work.task.name}, {precision}: whole evaluation, bound by products alone"
    if rate is None:
        return Measurement(f"{name}; not evaluated yet", "images/s", bound)
    share = Spread.of([rate.median / bound.median])
    return Measurement(name, "images/s", rate, bound, share)
