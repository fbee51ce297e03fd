"""Part `validation`: the cost of a validation after `update()`, when latents are really coded.

In the published runs entropy coding made it 8 to 21 times as long.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from ladon.benchmark.evaluation import evaluate_ours
from ladon.benchmark.pairing import alternate
from ladon.benchmark.parts import Bench
from ladon.benchmark.workload import CLASSIFICATION, make_workload
from ladon.bottlenecks import set_updated
from ladon.bottlenecks.entropy import set_tables, tables
from ladon.modules import moved


def measure(bench: Bench) -> None:
    """Time the validation of one classifier with its CDF tables, and without."""
    work = make_workload(CLASSIFICATION, bench.folder, quick=bench.quick)
    device = torch.device(bench.device)
    after = moved(work.model, device, torch.channels_last)
    before = _without_tables(after)
    pairs = alternate(  # in the mode in which ladon.engine.train validates
        lambda: evaluate_ours(work, after, work.task, device, mode="encode"),
        lambda: evaluate_ours(work, before, work.task, device, mode="encode"),
        bench.repeats,
    )
    bench.found.facts["images"] = len(work.dataset)
    title = "validation: after update() against before"
    bench.found.add(pairs.duration(title, "s"))


def _without_tables(model: nn.Module) -> nn.Module:
    """Return a copy of the model as it was before `update()`."""
    copied = copy.deepcopy(model)
    set_tables(copied, {n: table.new_empty(0) for n, table in tables(copied).items()})
    set_updated(copied, False)
    return copied
