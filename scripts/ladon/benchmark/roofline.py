"""Part `roofline`: what the network alone could reach on this machine, and how much of it is.

The bound is the rate of large matrix products; a part's share is its own rate over that. A share
above 1 is possible where an algorithm needs fewer products than the counted ones.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ladon.benchmark.evaluation import NUM_IMAGES, PRECISIONS, QUICK_IMAGES, evaluate_ours
from ladon.benchmark.parts import Bench
from ladon.benchmark.results import Measurement, PartResult, Spread
from ladon.benchmark.workload import CONFIGS, Workload, make_workload
from ladon.models.bottleneck import entropy_coding, find_bottleneck

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}
MATRIX_SIDE, QUICK_SIDE = 2048, 128
_BODY = ("layer2", "layer3", "layer4")
_HEADS = (*("fc", "backbone.fpn", "rpn", "roi_heads", "classifier", "aux_classifier"),)


def matrix_rate(dtype: torch.dtype, device: torch.device, side: int, repeats: int) -> Spread:
    """Returns GFLOP/s of products of two square matrices of a side."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(side, side, generator=generator).to(device, dtype) for _ in range(2))
    rates = []
    for repeat in range(repeats + 1):
        start = time.perf_counter()
        product = a @ b
        product[0, 0].item()  # a GPU is done then, too
        if repeat:  # the first is the warm-up
            rates.append(2e-9 * side**3 / (time.perf_counter() - start))
    return Spread.of(rates)


def model_parts(model: nn.Module) -> dict[str, nn.Module]:
    """Returns encoder, decoder, layers and heads of a task's model, by name."""
    bottleneck = find_bottleneck(model)
    parts: dict[str, nn.Module] = {"encoder": bottleneck.encoder, "decoder": bottleneck.decoder}
    named = dict(model.named_modules())
    for layer in _BODY:
        parts[layer] = next(m for n, m in named.items() if n.split(".")[-1] == layer)
    return parts | {name.split(".")[-1]: named[name] for name in _HEADS if name in named}


def gflop_per_image(work: Workload, model: nn.Module, parts: dict[str, nn.Module]) -> dict:
    """Counts the products of each part for the first test image, in GFLOP."""
    counts: dict[str, float] = {}
    counter = FlopCounterMode(display=False)

    def before(name: str) -> None:
        counts[name] = counts.get(name, 0) - counter.get_total_flops()

    def after(name: str) -> None:
        counts[name] += counter.get_total_flops()

    image = work.dataset[0][0].to(next(model.parameters()).device)
    images = [image] if work.task.name == "object_detection" else image[None]
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

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    def before(name: str) -> None:
        seconds[name] -= clock()

    def after(name: str) -> None:
        seconds[name] += clock()

    with _around(parts, before, after):
        evaluate()
    return dict(seconds)


def measure(bench: Bench) -> PartResult:
    """Measures the machine's bound and each task's shares of it."""
    device = torch.device(bench.device)
    side = QUICK_SIDE if bench.quick else MATRIX_SIDE
    bounds = {
        name: matrix_rate(dtype, device, side, max(5, bench.repeats))
        for name, dtype in DTYPES.items()
    }
    found = PartResult(facts={"matrices": f"{side}x{side}"})
    found.measurements += [
        Measurement(f"matrix product: {name}", "GFLOP/s", rate) for name, rate in bounds.items()
    ]
    for name in bench.tasks or CONFIGS:
        num_images = QUICK_IMAGES if bench.quick else min(NUM_IMAGES[name], 16)
        _measure_task(bench, make_workload(name, bench.folder / name, num_images), bounds, found)
    return found


def _measure_task(
    bench: Bench, work: Workload, bounds: dict[str, Spread], found: PartResult
) -> None:
    device, name, count = torch.device(bench.device), work.task.name, len(work.dataset)
    model = work.model.to(device, memory_format=torch.channels_last)
    parts = model_parts(model)
    gflop = gflop_per_image(work, model, parts)
    found.facts[f"{name}, GFLOP per image"] = {
        **{part: round(value, 2) for part, value in gflop.items()},
        "all": round(sum(gflop.values()), 2),
    }
    # no loader workers: nothing else computes while a part does
    kwargs = (work.loader.get("kwargs") or {}) | {"num_workers": 0}
    alone = replace(work, loader=dict(work.loader) | {"kwargs": kwargs})
    for precision in PRECISIONS:

        def evaluate(precision: str = precision) -> None:
            evaluate_ours(alone, model, work.task, device, precision)

        evaluate()  # warm-up
        runs = [seconds_by_part(parts, evaluate, device) for _ in range(bench.repeats)]
        for part in parts:
            # the encoder computes in float32 whatever the rest does
            bound = bounds["float32" if part == "encoder" else precision]
            found.measurements.append(
                _share(
                    f"{name}, {precision}: {part}",
                    [count * gflop[part] / run[part] for run in runs],
                    bound,
                )
            )
        found.measurements.append(_whole(bench, work, precision, gflop, bounds))


def _share(name: str, rates: list[float], bound: Spread) -> Measurement:
    shares = Spread.of(rate / bound.median for rate in rates)
    return Measurement(name, "GFLOP/s", Spread.of(rates), bound, shares)


def _whole(
    bench: Bench, work: Workload, precision: str, gflop: dict, bounds: dict[str, Spread]
) -> Measurement:
    """The images/s of the part `evaluation`, if it ran, against what the network could reach."""
    encoder = gflop["encoder"] / bounds["float32"].median
    rest = (sum(gflop.values()) - gflop["encoder"]) / bounds[precision].median
    bound = 1 / (encoder + rest)
    title = f"{work.task.name}: {precision}"
    earlier = bench.results.parts.get("evaluation", PartResult()).measurements
    rate = next((m.ours for m in earlier if m.name.startswith(title)), None)
    name = f"{work.task.name}, {precision}: whole evaluation, bound by products alone"
    if rate is None:
        return Measurement(name, "images/s", Spread(bound, bound, bound, 1))
    share = Spread(rate.median / bound, rate.min / bound, rate.max / bound, rate.n)
    return Measurement(name, "images/s", rate, Spread(bound, bound, bound, 1), share)
