"""Part `validation`: what a validation costs after `update()`, when latents are really coded.

In the published runs entropy coding made it 8 to 21 times as long.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from ladon.benchmark.machine import clock_of
from ladon.benchmark.pairing import alternate
from ladon.benchmark.parts import Bench
from ladon.benchmark.results import PartResult
from ladon.benchmark.workload import make_workload
from ladon.bottlenecks import set_updated
from ladon.bottlenecks.entropy import set_tables, tables
from ladon.engine.distributed import World
from ladon.engine.evaluate import Evaluation, evaluate
from ladon.engine.interrupt import StopRequest
from ladon.models import find_bottleneck

_TASK = "image_classification"
_NUM_IMAGES, _QUICK_IMAGES = 32, 2


def measure(bench: Bench) -> PartResult:
    """Times the validation of one classifier with its CDF tables, and without."""
    num_images = _QUICK_IMAGES if bench.quick else _NUM_IMAGES
    work = make_workload(_TASK, bench.folder, num_images)
    device = torch.device(bench.device)
    after = work.model.to(device, memory_format=torch.channels_last)
    before = _without_tables(after)

    def validate(model: nn.Module) -> Evaluation:
        return evaluate(
            *(model, work.dataset, work.loader, work.task, World(device), StopRequest()),
            options=work.options,
            mode="encode",  # as ladon.engine.train validates
        )

    clock = clock_of(device)
    pairs = alternate(lambda: validate(after), lambda: validate(before), bench.repeats, clock=clock)
    found = PartResult(facts={"images": num_images})
    title = "validation: after update() against before"
    found.measurements.append(pairs.duration(title, "s", 1.0))
    return found


def _without_tables(model: nn.Module) -> nn.Module:
    """A copy of the model as it was before `update()`."""
    copied = copy.deepcopy(model)
    bottleneck = find_bottleneck(copied)
    set_tables(bottleneck, {n: table.new_empty(0) for n, table in tables(bottleneck).items()})
    set_updated(copied, False)
    return copied
