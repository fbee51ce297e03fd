"""Part `evaluation`: `-test_only` of each task against the published way, in images/s."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ladon.benchmark.pairing import alternate
from ladon.benchmark.parts import Bench
from ladon.benchmark.published import (
    PublishedEvaluation,
    as_published,
    evaluate_published,
    scored_as_published,
)
from ladon.benchmark.workload import SOURCES, Workload, make_workload
from ladon.choices import PRECISIONS
from ladon.data.fast_input import use_fast_input
from ladon.engine.distributed import World
from ladon.engine.evaluate import evaluate
from ladon.engine.evaluation import Evaluation
from ladon.engine.interrupt import StopRequest
from ladon.metrics.base import Metric
from ladon.modules import moved
from ladon.tasks import Task

# on a GPU the published way takes seconds for so many; of ours, see `Source.gpu_images`
_GPU_REFERENCE_IMAGES = 128


def evaluate_ours(
    work: Workload,
    model: nn.Module,
    task: Task,
    device: torch.device,
    precision: str = "float32",
    mode: str = "full",
) -> Evaluation:
    """Run the library's evaluation, as a task script calls it with `-test_only`.

    Args:
        work: dataset and loader section; its own model is not used.
        model: channels_last, on the device.
        task: the task's adapter.
        device: where it runs.
        precision: one of `ladon.choices.PRECISIONS`.
        mode: one of `ladon.choices.MODES`.
    """
    found = evaluate(
        model,
        work.dataset,
        work.loader,
        task,
        World(device),
        StopRequest(),
        options=work.options,
        precision=precision,
        mode=mode,
    )
    assert found is not None  # nothing here asks it to stop
    return found


def measure(bench: Bench) -> None:
    """Time each task's evaluation, and compare what both ways found."""
    for name in bench.tasks or SOURCES:
        _measure_task(bench, make_workload(name, bench.folder / name, quick=bench.quick))


def _measure_task(bench: Bench, work: Workload) -> None:
    device, found = torch.device(bench.device), bench.found
    reference = as_published(work.model).to(device)
    ours = moved(work.model, device, torch.channels_last)
    published_task = scored_as_published(work.task)
    noting, published_notes = watched(published_task)
    published = evaluate_published(work, reference, noting, device)
    ways = {precision: (work, precision) for precision in PRECISIONS}
    fast = replace(work, dataset=copy.deepcopy(work.dataset))
    if work.task.model_kind == "classification" and use_fast_input(fast.dataset):
        ways["bf16, input fast"] = fast, "bf16"
    num_ours = num_theirs = len(work.dataset)
    if device.type == "cuda" and not bench.quick:  # so many that starting workers hardly counts
        num_ours, num_theirs = SOURCES[work.task.name].gpu_images, _GPU_REFERENCE_IMAGES
    repeated = work.repeated(num_theirs)
    for name, (own, precision) in ways.items():
        noting, notes = watched(work.task)
        evaluation = evaluate_ours(own, ours, noting, device, precision)
        facts = _compare(work.task, evaluation, published)
        if notes:
            equal = torch.cat(notes) == torch.cat(published_notes)
            facts["equal predictions"] = float(equal.double().mean())
        found.facts[f"{work.task.name}, {name}"] = facts
        pairs = alternate(
            partial(evaluate_ours, own.repeated(num_ours), ours, work.task, device, precision),
            partial(evaluate_published, repeated, reference, published_task, device),
            bench.repeats,
            warm_up=False,  # the comparison was it
        )
        title = f"{work.task.name}: {name} against published"
        found.add(pairs.rate(title, num_ours, num_theirs))


def _compare(task: Task, ours: Evaluation, published: PublishedEvaluation) -> dict[str, Any]:
    """Compare scores and sizes, as facts; equal latents give equal sizes."""
    key = task.decisive.key
    sizes = [kib for _, _, kib in ours.sizes]
    equal = sum(a == b for a, b in zip(sizes, published.sizes, strict=True))
    return {
        "images": ours.num_images,
        key: f"{ours.metrics[key]:.4f} and {published.metrics[key]:.4f}",
        "equal payload sizes": f"{equal} of {len(sizes)}",
        "payload bytes": sum(nbytes for _, nbytes, _ in ours.sizes),
        "data size ratio": sum(sizes) / sum(published.sizes),
    }


def watched(task: Task) -> tuple[Task, list[Tensor]]:
    """Return a copy of the task whose metric notes the labels that it is given, and the notes.

    They are those of images or of pixels, [N], in the data set's order. Of detections nothing is
    noted: an untrained detector's boxes score nearly the same, and rounding decides which pass.
    """
    copied, notes = copy.copy(task), []

    def metric(dataset: Any, options: Mapping[str, Any]) -> Metric:
        made = task.metric(dataset, options)
        update = made.update

        def noting(outputs: Any, targets: Any) -> None:
            logits = outputs["out"] if isinstance(outputs, Mapping) else outputs
            if isinstance(logits, Tensor):
                notes.append(logits.argmax(dim=1).flatten().to(torch.int16).cpu())
            update(outputs, targets)

        made.update = noting  # type: ignore[method-assign]
        return made

    copied.metric = metric  # type: ignore[method-assign]
    return copied, notes
