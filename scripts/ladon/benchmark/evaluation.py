"""Part `evaluation`: `-test_only` of each task against the published way, in images/s."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ladon.benchmark.agreement import agreement, share, watched
from ladon.benchmark.pairing import alternate
from ladon.benchmark.parts import Bench
from ladon.benchmark.published import evaluate_published, keep_latents
from ladon.benchmark.results import PartResult
from ladon.benchmark.workload import CONFIGS, Workload, make_workload
from ladon.choices import PRECISIONS
from ladon.codec import LatentCoder
from ladon.engine.distributed import World
from ladon.engine.evaluate import Evaluation, evaluate
from ladon.engine.interrupt import StopRequest
from ladon.errors import LadonError
from ladon.models import find_bottleneck
from ladon.tasks import Task

# enough that starting the loaders does not count for much
NUM_IMAGES = {"image_classification": 64, "object_detection": 16, "semantic_segmentation": 40}
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
    found = PartResult()
    for name in bench.tasks or CONFIGS:
        num_images = QUICK_IMAGES if bench.quick else NUM_IMAGES[name]
        work = make_workload(name, bench.folder / name, num_images)
        _measure_task(bench, work, found)
    return found


def _measure_task(bench: Bench, work: Workload, found: PartResult) -> None:
    device, name = torch.device(bench.device), work.task.name
    reference = copy.deepcopy(work.model).to(device)
    ours = work.model.to(device, memory_format=torch.channels_last)
    for precision in PRECISIONS:
        found.facts[f"{name}, {precision}"] = _compare(work, ours, reference, device, precision)
        pairs = alternate(
            lambda precision=precision: evaluate_ours(work, ours, work.task, device, precision),
            lambda: evaluate_published(work, reference, work.task, device),
            bench.repeats,
            warm_up=False,  # the comparison was it
        )
        title = f"{name}: {precision} against published"
        found.measurements.append(pairs.rate(title, len(work.dataset), "images/s"))


def _compare(
    work: Workload, ours: nn.Module, reference: nn.Module, device: torch.device, precision: str
) -> dict[str, Any]:
    """Evaluates both ways once and says how far they agree.

    Raises:
        LadonError: if the same latents give other payloads.
    """
    bottleneck = find_bottleneck(reference)
    our_task, our_notes = watched(work.task)
    their_task, their_notes = watched(work.task)
    latents, let_go = keep_latents(bottleneck.encoder, _LATENTS_COMPARED)
    try:
        theirs = evaluate_published(work, reference, their_task, device)
    finally:
        let_go()
    own_latents, let_go = keep_latents(find_bottleneck(ours).encoder, _LATENTS_COMPARED)
    try:
        mine = evaluate_ours(work, ours, our_task, device, precision)
    finally:
        let_go()
    _check_coder(bottleneck.entropy_bottleneck, latents)
    key = work.task.key_metric
    sizes = [kib for _, _, kib in mine.sizes]
    return {
        "images": mine.num_images,
        key: f"{mine.metrics[key]:.4f} and {theirs.metrics[key]:.4f}",
        "equal predictions": agreement(our_notes, their_notes),
        "equal payload sizes": share([a == b for a, b in zip(sizes, theirs.sizes, strict=True)]),
        "payload bytes": sum(nbytes for _, nbytes, _ in mine.sizes),
        "data size ratio": sum(sizes) / sum(theirs.sizes),
        "differing symbols": _differing(bottleneck.entropy_bottleneck, own_latents, latents),
        "byte-equal payloads of equal latents": f"{len(latents)} of {len(latents)}",
    }


def _differing(
    entropy_bottleneck: nn.Module, ours: list[Tensor], theirs: list[Tensor]
) -> str | None:
    """How many symbols rounding sent elsewhere; None where images come in another order."""
    if len({latent.shape for latent in (*ours, *theirs)}) > 1:
        return None
    medians = entropy_bottleneck._get_medians().detach().reshape(1, -1, 1, 1)
    first, second = (torch.round(torch.cat(latents) - medians) for latents in (ours, theirs))
    steps = (first - second).abs()
    return f"{int((steps > 0).sum())} of {steps.numel()}, by at most {int(steps.max())}"


@torch.inference_mode()
def _check_coder(entropy_bottleneck: nn.Module, latents: list[Tensor]) -> None:
    coder = LatentCoder(entropy_bottleneck)
    for latent in latents:
        if coder.encode(latent) != entropy_bottleneck.compress(latent):
            raise LadonError("the same latent gives other bytes than CompressAI's coder")
