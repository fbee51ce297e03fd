"""Part `evaluation`: `-test_only` of each task against the published way, in images/s."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from ladon.benchmark.agreement import agreement, share, watched
from ladon.benchmark.machine import clock_of
from ladon.benchmark.pairing import alternate
from ladon.benchmark.parts import Bench
from ladon.benchmark.published import (
    PublishedEvaluation,
    as_published,
    evaluate_published,
    keep_latents,
)
from ladon.benchmark.results import PartResult
from ladon.benchmark.workload import SOURCES, Workload, make_workload
from ladon.choices import PRECISIONS
from ladon.codec import LatentCoder, quantize
from ladon.engine.distributed import World
from ladon.engine.evaluate import Evaluation, evaluate
from ladon.engine.interrupt import StopRequest
from ladon.errors import LadonError
from ladon.models import find_bottleneck
from ladon.tasks import Task

QUICK_IMAGES = 2
_LATENTS_COMPARED = 4


def evaluate_ours(
    work: Workload, model: nn.Module, task: Task, device: torch.device, precision: str
) -> Evaluation:
    """The library's evaluation, as a task script calls it with `-test_only`.

    Args:
        work: dataset and loader section; its own model is not used.
        model: channels_last, on the device.
        task: the task's adapter.
        device: where it runs.
        precision: one of ``ladon.choices.PRECISIONS``.
    """
    return evaluate(
        *(model, work.dataset, work.loader, task, World(device), StopRequest()),
        options=work.options,
        precision=precision,
    )


def measure(bench: Bench) -> PartResult:
    """Times each task's evaluation, and compares what both ways found."""
    found = bench.begin()
    for name in bench.tasks or SOURCES:
        num_images = QUICK_IMAGES if bench.quick else SOURCES[name].num_images
        work = make_workload(name, bench.folder / name, num_images)
        _measure_task(bench, work, found)
    return found


def _measure_task(bench: Bench, work: Workload, found: PartResult) -> None:
    device, name = torch.device(bench.device), work.task.name
    reference = Reference.of(work, as_published(work.model).to(device), device)
    ours = work.model.to(device, memory_format=torch.channels_last)
    for precision in PRECISIONS:
        found.facts[f"{name}, {precision}"] = _compare(work, ours, reference, device, precision)
        pairs = alternate(
            lambda precision=precision: evaluate_ours(work, ours, work.task, device, precision),
            lambda: evaluate_published(work, reference.model, work.task, device),
            bench.repeats,
            warm_up=False,  # the comparison was it
            clock=clock_of(device),
        )
        title = f"{name}: {precision} against published"
        found.measurements.append(pairs.rate(title, len(work.dataset), "images/s"))


@dataclass
class Reference:
    """The published way's model, and what it found of the images.

    Attributes:
        model: on its device.
        notes: its predictions, as ``agreement.watched`` notes them.
        evaluation: its scores and sizes.
        latents: of the first images, in the data set's order.
    """

    model: nn.Module
    notes: list[Any]
    evaluation: PublishedEvaluation
    latents: list[Tensor]

    @classmethod
    def of(cls, work: Workload, model: nn.Module, device: torch.device) -> Reference:
        """Evaluates once.

        Raises:
            LadonError: if the same latents give other payloads by our coder.
        """
        task, notes = watched(work.task)
        bottleneck = find_bottleneck(model)
        latents, let_go = keep_latents(bottleneck.encoder, _LATENTS_COMPARED)
        try:
            evaluation = evaluate_published(work, model, task, device)
        finally:
            let_go()
        _check_coder(bottleneck.entropy_bottleneck, latents)
        return cls(model, notes, evaluation, latents)


def latents_by_image(
    work: Workload, model: nn.Module, device: torch.device, precision: str, count: int
) -> list[Tensor]:
    """Returns the latents of the first images as our evaluation makes them, in their order.

    Each image is an evaluation of its own: of several, batches under way at once would leave
    theirs in the order in which their threads happened to run.

    Args:
        work: as for ``evaluate_ours``.
        model: as there.
        device: as there.
        precision: as there.
        count: number of images.
    """
    kwargs = (work.loader.get("kwargs") or {}) | {"num_workers": 0}
    latents, let_go = keep_latents(find_bottleneck(model).encoder, count)
    try:
        for n in range(min(count, len(work.dataset))):
            one = Subset(work.dataset, [n])
            alone = replace(work, dataset=one, loader=dict(work.loader) | {"kwargs": kwargs})
            evaluate_ours(alone, model, work.task, device, precision)
    finally:
        let_go()
    return latents


def _compare(
    work: Workload, ours: nn.Module, reference: Reference, device: torch.device, precision: str
) -> dict[str, Any]:
    """Evaluates ours once and says how far both agree."""
    task, notes = watched(work.task)
    mine, theirs = evaluate_ours(work, ours, task, device, precision), reference.evaluation
    latents = latents_by_image(work, ours, device, precision, _LATENTS_COMPARED)
    key = work.task.decisive.key
    sizes = [kib for _, _, kib in mine.sizes]
    same = f"{len(reference.latents)} of {len(reference.latents)}"
    return {
        "images": mine.num_images,
        key: f"{mine.metrics[key]:.4f} and {theirs.metrics[key]:.4f}",
        "equal predictions": agreement(notes, reference.notes),
        "equal payload sizes": share([a == b for a, b in zip(sizes, theirs.sizes, strict=True)]),
        "payload bytes": sum(nbytes for _, nbytes, _ in mine.sizes),
        "data size ratio": sum(sizes) / sum(theirs.sizes),
        "differing symbols": _differing(
            find_bottleneck(reference.model).entropy_bottleneck, latents, reference.latents
        ),
        "byte-equal payloads of equal latents": same,
    }


def _differing(entropy_bottleneck: nn.Module, ours: list[Tensor], theirs: list[Tensor]) -> str:
    """How many symbols rounding sent elsewhere."""
    medians = entropy_bottleneck._get_medians().detach().reshape(1, -1, 1, 1)
    steps = torch.cat(
        [
            (quantize(mine, medians) - quantize(other, medians)).abs().round().flatten()
            for mine, other in zip(ours, theirs, strict=True)
        ]
    )
    return f"{int((steps > 0).sum())} of {steps.numel()}, by at most {int(steps.max())}"


@torch.inference_mode()
def _check_coder(entropy_bottleneck: nn.Module, latents: list[Tensor]) -> None:
    coder = LatentCoder(entropy_bottleneck)
    for latent in latents:
        if coder.encode(latent) != entropy_bottleneck.compress(latent):
            raise LadonError("the same latent gives other bytes than CompressAI's coder")
