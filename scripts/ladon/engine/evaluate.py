"""Evaluation of any task: scores after real entropy coding, and the size of every payload."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence, Sized
from contextlib import ExitStack
from itertools import chain
from typing import Any, cast

from torch import nn

from ladon.bottlenecks import encode_once, levels_of
from ladon.data.batching import batch_by_size, collate
from ladon.data.device_input import split_input
from ladon.data.loaders import build_eval_loader
from ladon.engine.distributed import World
from ladon.engine.evaluation import Evaluation
from ladon.engine.finite import Watch, watching_detections
from ladon.engine.forwarding import batch_names, naming_images
from ladon.engine.interrupt import StopRequest
from ladon.engine.model_evaluator import Analyst, Describe, ModelEvaluator
from ladon.engine.pipeline import Stopwatch, pipelined_map, prefetch
from ladon.logs import progress
from ladon.models.inference import inference
from ladon.models.input_size import encoder_input_size
from ladon.models.precision import forward_only
from ladon.tasks import Task

# Batches under way on a GPU, one for each part of the machine that a batch goes through: copies and
# encoder, coding, decoder to heads, and one that waits. Each has a thread, whose few operations on
# the CPU (stacking images) must not take the cores from loaders and coder.
GPU_AHEAD, GPU_THREAD_CORES = 4, 1
# What a CPU's caches hold of a batch: on two cores with 32 MiB of them, 4 images of 416x416 at
# once took 267 ms each, 16 took 290 ms. Small images go together in larger numbers.
CPU_PIXELS = 4 * 416 * 416


def _images_at_once(loader_section: Mapping[str, Any], world: World) -> Callable[[Any], int]:
    """How many images of a size make a batch: the config's number, on a CPU what its caches hold.

    Results don't depend on it.
    """
    asked = int((loader_section.get("kwargs") or {}).get("batch_size") or 1)

    def number(sizes: tuple[tuple[int, ...], ...]) -> int:
        if world.device.type == "cuda":
            return asked
        return max(1, min(asked, CPU_PIXELS // max(1, math.prod(sizes[0]))))

    return number


def evaluate(
    model: nn.Module,
    dataset: Any,
    loader_section: Mapping[str, Any],
    task: Task,
    world: World,
    stop: StopRequest,
    **how: Any,
) -> Evaluation | None:
    """Evaluate one model; see `evaluate_all`, whose keyword arguments it takes."""
    found = evaluate_all([model], dataset, loader_section, task, world, stop, **how)
    return None if found is None else found[0]


def evaluate_all(
    models: Sequence[nn.Module],
    dataset: Any,
    loader_section: Mapping[str, Any],
    task: Task,
    world: World,
    stop: StopRequest,
    *,
    options: Mapping[str, Any] | None = None,
    mode: str = "full",
    precision: str = "float32",
    compiled: bool = False,
    title: str = "Test",
    describe: Describe | None = None,
    analyst: Analyst | None = None,
    rates: Sequence[float] = (),
) -> list[Evaluation] | None:
    """Evaluate models on a dataset, each image loaded and decoded once for all of them.

    Results depend on neither batch size nor processes. On a GPU several batches are under way: one
    runs through the network while another's payloads are coded and a third is loaded.

    Args:
        models: on their device, channels_last; put into eval mode here.
        dataset: map-style dataset of (sample, target).
        loader_section: the config's data loader: sampler, collate_fn, batch size, workers.
        task: the task's adapter.
        world: device and processes; each image is evaluated by one process.
        stop: asked between batches.
        options: for the task's metric.
        mode: how latents are coded, one of `ladon.choices.MODES`; equal scores in all.
        precision: of decoder, body and heads, one of `ladon.choices.PRECISIONS`.
        compiled: use `torch.compile` on them.
        title: what the progress bar and the log call it.
        describe: makes the evaluations' `predictions`.
        analyst: makes what their `analysed` comes from, for each model.
        rates: β, at each of which models of several rates are evaluated; each image is encoded
            once for all of them.

    Returns:
        One evaluation per model, with those at several rates in its `by_rate`, the same on every
        process; None if a signal stopped it.
    """
    is_cuda = world.device.type == "cuda"
    as_bytes, finish_input = split_input(dataset)
    loader = build_eval_loader(
        as_bytes, loader_section, world.rank, world.size, network_on_cpu=not is_cuda
    )
    workers_asked = (loader_section.get("kwargs") or {}).get("num_workers")
    by_model: list[list[ModelEvaluator]] = []
    for model in models:
        first, *others = levels_of(model, rates)
        own = [ModelEvaluator(model, task, dataset, options or {}, describe, first, analyst)]
        # predictions and analysis are the first rate's
        own += [ModelEvaluator(model, task, dataset, options or {}, level=n) for n in others]
        by_model.append(own)
    jobs = list(chain.from_iterable(by_model))
    collate_fn, waiting, stopped = loader_section.get("collate_fn"), Stopwatch(), False

    def sizes(sample: Any) -> tuple[tuple[int, ...], ...]:
        try:
            return tuple(encoder_input_size(sample, model) for model in models)
        except Exception:  # a size that a model cannot resize: it says so itself, with the name
            return (tuple(getattr(sample, "shape", ())),)

    def predict(samples: list[tuple]) -> list[tuple]:
        with forward_only(world.device, precision):
            indices, samples_together, targets_together = collate(
                samples, collate_fn, pin_memory=is_cuda
            )
            with naming_images(lambda: batch_names(dataset, indices), "the model cannot take"):
                images, targets = task.move(samples_together, targets_together, world.device)
                if finish_input is not None:
                    images = finish_input(images)
                return [(indices, targets, *job.predict(images)) for job in jobs]

    with ExitStack() as stack:
        for model, own in zip(models, by_model, strict=True):
            how = inference(model, mode, precision=precision, compiled=compiled)
            payloads, watch = stack.enter_context(how), Watch()
            stack.enter_context(watching_detections(model, watch))
            for job in own:
                job.payloads, job.watch = payloads, watch
            if len(own) > 1:
                encode_once(model)
        advance = stack.enter_context(progress(title, len(cast(Sized, loader.sampler))))
        start = time.perf_counter()
        # its workers start now, in this thread: a process that is forked by a thread which others
        # wait for ends by waiting for itself
        loaded = iter(loader)
        batches = batch_by_size(loaded, sizes, _images_at_once(loader_section, world))
        if workers_asked:  # 0 means that the main thread loads
            batches = prefetch(batches)
        under_way, cores = (GPU_AHEAD, GPU_THREAD_CORES) if is_cuda else (1, None)
        for results in pipelined_map(predict, waiting.around(batches), under_way, cores=cores):
            if stop:
                stopped = True
                break
            with forward_only(world.device):
                for job, result in zip(jobs, results, strict=True):
                    job.take(*result)
            advance(len(results[0][0]))
            del results, result  # a batch's outputs must not wait for the next one's
    if world.maximum(int(stopped)):
        return None
    # decisions follow from it: not a bit may differ by machine
    found: list[list[Evaluation]] = world.broadcast(
        [[job.finish(world, start, waiting.seconds) for job in own] for own in by_model]
    )
    for evaluations in found:
        if rates and evaluations[0].beta is not None:
            evaluations[0].by_rate = evaluations
    return [evaluations[0] for evaluations in found]
