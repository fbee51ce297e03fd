"""Evaluation of any task: scores after real entropy coding, and the size of every payload."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence, Sized
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from operator import itemgetter
from typing import Any, NamedTuple, cast

import numpy as np
from torch import Tensor, nn

from ladon.analysis import Analysed, Analysis, Worst
from ladon.bottlenecks import PayloadSizes, at_level, encode_once, levels_of, rate_of
from ladon.data.batching import batch_by_size, collate
from ladon.data.device_input import split_input
from ladon.data.loaders import build_eval_loader
from ladon.engine.distributed import World
from ladon.engine.finite import FiniteRecord, Watch, watching_detections
from ladon.engine.forwarding import batch_names, naming_images
from ladon.engine.interrupt import StopRequest
from ladon.engine.pipeline import Stopwatch, pipelined_map, prefetch
from ladon.errors import LadonError
from ladon.logs import progress
from ladon.metrics.base import Metric
from ladon.models.inference import inference
from ladon.models.input_size import encoder_input_size
from ladon.models.precision import forward_only
from ladon.tasks import Task

logger = logging.getLogger(__name__)

# Batches under way on a GPU, one for each part of the machine that a batch goes through: copies and
# encoder, coding, decoder to heads, and one that waits. Each has a thread, whose few operations on
# the CPU (stacking images) must not take the cores from loaders and coder.
GPU_AHEAD, GPU_THREAD_CORES = 4, 1
# What a CPU's caches hold of a batch: on two cores with 32 MiB of them, 4 images of 416x416 at
# once took 267 ms each, 16 took 290 ms. Small images go together in larger numbers.
CPU_PIXELS = 4 * 416 * 416


Describe = Callable[[Any], list[dict[str, Any]]]
"""Says in plain values what a batch's outputs tell of each image."""

Analyst = Callable[[], Analysis]
"""Makes what looks at each class and each image of an evaluation."""


@dataclass
class Evaluation:
    """The findings of an evaluation.

    Attributes:
        metrics: metric values by name.
        lines: the published result lines.
        num_images: images evaluated, each once.
        seconds: wall time, shared by models that are evaluated together.
        loading_seconds: the part of it in which nothing was there to do for lack of data.
        network_seconds: time inside the model's own passes, coding included; None on a GPU, where
            several batches are under way and a pass only asks for work that is done later.
        data_size_kb: published data size in KiB, mean, std and n; None where nothing was coded.
        payload_bytes: the payloads' own bytes, mean, std and n.
        part_bytes: the same of each part of the payload, where it has several.
        analysed: what was found of each class, and the worst images, in the main process; None
            unless it was asked for.
        payload_sha256: of the payloads' SHA-256s in the order of the data; None if none was made.
        predictions: what was found in each image, with its index, in the order of the data; empty
            unless it was asked for.
        beta: the rate that the model was evaluated at, where it has several.
        by_rate: the findings at each of several rates, of which this is the first.
    """

    metrics: dict[str, Any]
    lines: list[str]
    num_images: int
    seconds: float
    data_size_kb: dict[str, float] | None = None
    payload_bytes: dict[str, float] | None = None
    part_bytes: dict[str, dict[str, float]] | None = None
    payload_sha256: str | None = None
    loading_seconds: float = 0.0
    network_seconds: float | None = 0.0
    sizes: list[tuple[int, int, float]] = field(default_factory=list)
    predictions: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    analysed: Analysed | None = None
    beta: float | None = None
    by_rate: list[Evaluation] = field(default_factory=list, repr=False)

    def summary(self) -> dict[str, Any]:
        """Return what `metrics.json` holds of it."""
        found = {
            "beta": self.beta,
            "metrics": self.metrics,
            "data_size_kb": self.data_size_kb,
            "payload_bytes": self.payload_bytes,
            "part_bytes": self.part_bytes,
            "payload_sha256": self.payload_sha256,
            "num_images": self.num_images,
            "wall_time_s": round(self.seconds, 3),
            "loading_s": round(self.loading_seconds, 3),
            "network_s": None if self.network_seconds is None else round(self.network_seconds, 3),
            "images_per_s": round(self.num_images / self.seconds, 3) if self.seconds else None,
            "rates": [one.summary() for one in self.by_rate if one is not self] or None,
        }
        return {key: value for key, value in found.items() if value is not None}

    def record(self) -> dict[str, Any]:
        """Return what an epoch's line holds of a validation."""
        found: dict[str, Any] = {"val": self.metrics, "val_seconds": round(self.seconds, 3)}
        if self.payload_bytes is not None:
            found["val_payload_bytes"] = self.payload_bytes["mean"]
        return found

    def log(self) -> None:
        """Log the published result lines, and the payloads' own bytes; of each rate."""
        if self.beta is not None:
            logger.info("[Rate: β %g]", self.beta)
        for line in self.lines:
            logger.info(line)
        if self.data_size_kb is not None and self.payload_bytes is not None:
            kib, payload = self.data_size_kb, self.payload_bytes
            logger.info(
                "Bottleneck size [KB]: mean %s std %s for %s samples",
                kib["mean"],
                kib["std"],
                kib["n"],
            )
            logger.info("Payload [bytes]: mean %s std %s", payload["mean"], payload["std"])
            logger.info(
                "That is %.1f ± %.1f bytes of payload, %.3f ± %.3f KB as published, an image",
                payload["mean"],
                payload["std"],
                kib["mean"],
                kib["std"],
            )
        if self.part_bytes is not None:
            parts = (f"{part} {found['mean']:.1f}" for part, found in self.part_bytes.items())
            logger.info("Of the payload's bytes an image: %s", ", ".join(parts))
        for other in self.by_rate:
            if other is not self:
                other.log()


def _statistics(values: list[float]) -> dict[str, float]:
    array = np.array(values)
    return {"mean": float(array.mean()), "std": float(array.std()), "n": len(values)}


class Sizes(NamedTuple):
    """Sizes of a batch's payloads, as `PayloadSizes` has them."""

    by_part: list[dict[str, int]]
    digests: list[bytes]
    nbytes: list[int]
    published_kib: list[float]


class ModelEvaluator:
    """One model's part of an evaluation, at one rate.

    Args:
        model: the model.
        task: the task's adapter.
        dataset: what it is evaluated on.
        options: for the task's metric.
        describe: makes `predictions`.
        level: of rate; None: the model's own.
    """

    payloads: PayloadSizes
    watch: Watch

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        dataset: Any,
        options: Mapping[str, Any],
        describe: Describe | None = None,
        level: int | None = None,
        analyst: Analyst | None = None,
    ) -> None:
        self.model, self._level = model.eval(), level
        self._task, self._dataset = task, dataset
        self._metric: Metric = task.metric(dataset, options)
        self._finite = FiniteRecord()
        self._sizes: list[tuple[int, int, float]] = []
        self._digests: list[tuple[int, bytes]] = []
        self._parts: dict[str, list[tuple[int, int]]] = {}
        self._seen, self._seconds = 0, 0.0
        self._describe = describe
        self._analysis, self._worst = None if analyst is None else analyst(), Worst()
        self._predictions: list[tuple[int, dict[str, Any]]] = []

    def predict(self, images: Any) -> tuple[Any, Sizes, Any, float]:
        """Return a batch's outputs, its payloads' sizes, what was finite, and the seconds."""
        start = time.perf_counter()
        with at_level(self.model, self._level):
            outputs = self._task.predict(self.model, images)
        self.watch.note("the model's outputs", _ranked(outputs))
        flags = self.watch.pop()
        pop_finite = getattr(self.payloads, "pop_finite", None)
        coded = None if pop_finite is None else pop_finite()
        if coded is not None:
            flags = {"the latent that is to be coded": coded} | flags
        payloads = self.payloads
        sizes = Sizes(payloads.by_part, payloads.digests, *payloads.pop())
        return outputs, sizes, flags, time.perf_counter() - start

    def take(
        self,
        indices: list[int],
        targets: Any,
        outputs: Any,
        sizes: Sizes,
        flags: Mapping[str, Tensor],
        seconds: float,
    ) -> None:
        """Score what `predict` returned.

        Raises:
            LadonError: for what is not finite, and what the metric cannot take.
        """
        self._finite.add(flags, indices[0])
        if not any(flag.is_cuda for flag in flags.values()):  # nothing to wait for
            self._check_finite()
        with naming_images(
            lambda: batch_names(self._dataset, indices), "the outputs cannot be scored for"
        ):
            self._metric.update(outputs, targets)
            if self._describe is not None:
                self._predictions += zip(indices, self._describe(outputs), strict=True)
            if (analysis := self._analysis) is not None:
                badness = analysis.update(outputs, targets)
                judge = partial(analysis.judge, outputs, targets)
                self._worst.add(indices, badness, judge)
        if sizes.nbytes:
            self._sizes += zip(indices, sizes.nbytes, sizes.published_kib, strict=True)
            self._digests += zip(indices, sizes.digests, strict=False)  # none of an estimate
            for index, parts in zip(indices, sizes.by_part, strict=True):
                for part, nbytes in parts.items() if len(parts) > 1 else ():
                    self._parts.setdefault(part, []).append((index, nbytes))
        self._seen += len(indices)
        self._seconds += seconds

    def _check_finite(self) -> None:
        """End an evaluation whose numbers would mean nothing.

        Raises:
            LadonError: something was not finite.
        """
        found = self._finite.read()
        if found is not None:
            what, index = found
            raise LadonError(
                f"{what} are not finite (NaN or infinite), first in the batch that begins with "
                f"{batch_names(self._dataset, [index])}: look at the checkpoint's weights and at "
                "this data"
            )

    def finish(self, world: World, start: float, loading_seconds: float) -> Evaluation:
        """Bring the processes' parts together.

        Raises:
            LadonError: something was not finite.
        """
        self._check_finite()
        own = self._metric.state(), self._sizes, self._seen, self._parts, self._predictions
        parts = world.gather((*own, self._digests))
        seconds = time.perf_counter() - start
        states, sizes, seen, by_part, rows, digests = zip(*parts, strict=True)
        values = self._metric.compute(states)
        found = Evaluation(values, self._metric.lines(values), sum(seen), seconds)
        if self._analysis is not None:
            found.analysed = self._analysed(self._analysis, world)
        found.loading_seconds = loading_seconds
        found.network_seconds = None if world.device.type == "cuda" else self._seconds
        found.sizes = sorted(chain.from_iterable(sizes))
        if found.sizes:
            found.payload_bytes = _statistics([nbytes for _, nbytes, _ in found.sizes])
            found.data_size_kb = _statistics([kib for _, _, kib in found.sizes])
        found.beta = rate_of(self.model, self._level)
        if coded := sorted(chain.from_iterable(digests)):
            joined = b"".join(digest for _, digest in coded)
            found.payload_sha256 = hashlib.sha256(joined).hexdigest()
        found.predictions = sorted(chain.from_iterable(rows), key=itemgetter(0))
        if names := dict.fromkeys(chain.from_iterable(by_part)):
            of = {n: sorted(chain.from_iterable(p.get(n, ()) for p in by_part)) for n in names}
            found.part_bytes = {n: _statistics([b for _, b in pairs]) for n, pairs in of.items()}
        return found

    def _analysed(self, analysis: Analysis, world: World) -> Analysed | None:
        looked = world.gather((analysis.state(), self._worst.kept))
        if not world.is_main:
            return None
        worst = Worst.of(chain.from_iterable(kept for _, kept in looked))
        return Analysed(analysis.compute([state for state, _ in looked]), worst)


def _ranked(outputs: Any) -> Any:
    """Return the scored part of a model's outputs: a segmenter's auxiliary head is none."""
    return outputs["out"] if isinstance(outputs, Mapping) and "out" in outputs else outputs


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
    jobs = [
        ModelEvaluator(model, task, dataset, options or {}, describe, level, analyst)
        for model in models
        for level in levels_of(model, rates)
    ]
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
        for model in models:
            how = inference(model, mode, precision=precision, compiled=compiled)
            payloads, watch = stack.enter_context(how), Watch()
            stack.enter_context(watching_detections(model, watch))
            for job in jobs:
                if job.model is model:
                    job.payloads, job.watch = payloads, watch
            if len(levels_of(model, rates)) > 1:
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
    found = world.broadcast([job.finish(world, start, waiting.seconds) for job in jobs])
    first = [found[[job.model is model for job in jobs].index(True)] for model in models]
    for model, evaluation in zip(models, first, strict=True):
        if rates and evaluation.beta is not None:
            of_model = zip(jobs, found, strict=True)
            evaluation.by_rate = [one for job, one in of_model if job.model is model]
    return first
