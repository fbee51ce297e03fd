"""One model's part of an evaluation: its passes, scores and payload sizes."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from functools import partial
from itertools import chain
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from ladon.analysis import Analysed, Analysis, Worst
from ladon.bottlenecks import PayloadSizes, at_level, rate_of
from ladon.engine.distributed import World
from ladon.engine.evaluation import Evaluation
from ladon.engine.finite import FiniteRecord, Watch
from ladon.engine.forwarding import batch_names, naming_images
from ladon.errors import LadonError
from ladon.metrics.base import Metric
from ladon.tasks import Task

Describe = Callable[[Any], list[dict[str, Any]]]
"""Says in plain values what a batch's outputs tell of each image."""

Analyst = Callable[[], Analysis]
"""Makes what looks at each class and each image of an evaluation."""


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


def _statistics(values: list[float]) -> dict[str, float]:
    array = np.array(values)
    return {"mean": float(array.mean()), "std": float(array.std()), "n": len(values)}


def _ranked(outputs: Any) -> Any:
    """Return the scored part of a model's outputs: a segmenter's auxiliary head is none."""
    return outputs["out"] if isinstance(outputs, Mapping) and "out" in outputs else outputs
