"""Part `input`: `--input fast` against the reference, its time and what it does to accuracy."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch

from ladon.benchmark.agreement import agreement, watched
from ladon.benchmark.evaluation import QUICK_IMAGES, evaluate_ours
from ladon.benchmark.machine import intraop_threads
from ladon.benchmark.pairing import alternate
from ladon.benchmark.parts import Bench
from ladon.benchmark.results import PartResult
from ladon.benchmark.workload import SOURCES, Workload, make_workload, tell_photos_apart
from ladon.data.fast_input import use_fast_input

_TASK = "image_classification"


def measure(bench: Bench) -> PartResult:
    """Times loading on one core both ways, and tests one classifier on what they load."""
    num_images = QUICK_IMAGES if bench.quick else SOURCES[_TASK].num_images
    reference = make_workload(_TASK, bench.folder, num_images)
    tell_photos_apart(reference)
    fast = replace(reference, dataset=copy.deepcopy(reference.dataset))
    use_fast_input(fast.dataset)
    found = PartResult(facts=_compare(fast, reference, torch.device(bench.device)))

    def load(work: Workload) -> None:
        for n in range(num_images):
            work.dataset[n]

    with intraop_threads(1):
        pairs = alternate(lambda: load(fast), lambda: load(reference), bench.repeats)
    title = "loading an image: fast against reference"
    found.measurements.append(pairs.duration(title, "ms", 1e3 / num_images))
    return found


def _compare(fast: Workload, reference: Workload, device: torch.device) -> dict[str, Any]:
    """Says how far pixels and predictions agree, and what the accuracy loses."""
    model = reference.model.to(device, memory_format=torch.channels_last)
    accuracy, notes = [], []
    for work in (fast, reference):
        task, seen = watched(work.task)
        accuracy.append(evaluate_ours(work, model, task, device, "float32").metrics["acc1"])
        notes.append(seen)
    pairs = zip(fast.dataset, reference.dataset, strict=True)
    steps = torch.stack([(ours - theirs).abs() for (ours, _), (theirs, _) in pairs])
    return {
        "images": len(steps),
        "acc1": f"{accuracy[0]:.4f} and {accuracy[1]:.4f}",
        "acc1 difference": f"{accuracy[0] - accuracy[1]:+.4f} points",
        "equal predictions": agreement(*notes),
        # a level is at least 1 / 255 / 0.229; equal levels differ by rounding
        "pixels of another level": f"{100 * float((steps > 0.01).double().mean()):.4f} %",
    }
