"""Evaluation of any task: scores after real entropy coding, and the size of every payload."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from ladon.data.loaders import bucketed, build_eval_loader, collate
from ladon.engine.distributed import World
from ladon.engine.interrupt import StopRequest
from ladon.logs import progress
from ladon.models.bottleneck import entropy_coding
from ladon.tasks import Task

logger = logging.getLogger(__name__)


@dataclass
class Evaluation:
    """What an evaluation found.

    Attributes:
        metrics: metric values by name.
        lines: the published result lines.
        num_images: images evaluated, each once.
        seconds: wall time.
        data_size_kb: published data size in KiB, mean, std and n; None where nothing was coded.
        payload_bytes: the payloads' own bytes, mean, std and n.
    """

    metrics: dict[str, Any]
    lines: list[str]
    num_images: int
    seconds: float
    data_size_kb: dict[str, float] | None = None
    payload_bytes: dict[str, float] | None = None
    sizes: list[tuple[int, int, float]] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Returns what ``metrics.json`` holds of it."""
        found = {
            "metrics": self.metrics,
            "data_size_kb": self.data_size_kb,
            "payload_bytes": self.payload_bytes,
            "num_images": self.num_images,
            "wall_time_s": round(self.seconds, 3),
            "images_per_s": round(self.num_images / self.seconds, 3) if self.seconds else None,
        }
        return {key: value for key, value in found.items() if value is not None}

    def log(self) -> None:
        """Logs the published result lines, and the payloads' own bytes."""
        for line in self.lines:
            logger.info(line)
        if self.data_size_kb is not None:
            size = self.data_size_kb
            logger.info(
                "Bottleneck size [KB]: mean %s std %s for %s samples",
                *(size["mean"], size["std"], size["n"]),
            )
            size = self.payload_bytes
            logger.info("Payload [bytes]: mean %s std %s", size["mean"], size["std"])


def _statistics(values: list[float]) -> dict[str, float]:
    array = np.array(values)
    return {"mean": float(array.mean()), "std": float(array.std()), "n": len(values)}


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    dataset: Any,
    loader_section: Mapping[str, Any],
    task: Task,
    world: World,
    stop: StopRequest,
    *,
    options: Mapping[str, Any] | None = None,
    mode: str = "full",
    title: str = "Test",
) -> Evaluation | None:
    """Evaluates a model on a dataset; the result depends on neither batch size nor processes.

    Args:
        model: on its device, channels_last; put into eval mode here.
        dataset: map-style dataset of (sample, target).
        loader_section: the config's data loader: sampler, collate_fn, batch size, workers.
        task: the task's adapter.
        world: device and processes; each image is evaluated by one process.
        stop: asked between batches.
        options: for the task's metric.
        mode: how latents are coded, one of ``ladon.models.bottleneck.MODES``; equal scores in all.
        title: what the progress bar and the log call it.

    Returns:
        The evaluation, the same on every process; None if a signal stopped it.
    """
    model.eval()
    loader = build_eval_loader(dataset, loader_section, world.rank, world.size)
    batch_size = int((loader_section.get("kwargs") or {}).get("batch_size") or 1)
    metric = task.metric(dataset, options or {})
    sizes: list[tuple[int, int, float]] = []
    seen, stopped, start = 0, False, time.perf_counter()
    size_of = functools.partial(task.input_size, model=model)
    with entropy_coding(model, mode) as payloads, progress(title, len(loader.sampler)) as advance:
        for bucket in bucketed(loader, size_of, batch_size):
            if stop:
                stopped = True
                break
            indices, images, targets = collate(bucket, loader_section.get("collate_fn"))
            images, targets = task.move(images, targets, world.device)
            metric.update(task.predict(model, images), targets)
            nbytes, kib = payloads.pop()
            if nbytes:
                sizes += zip(indices, nbytes, kib, strict=True)
            seen += len(indices)
            advance(len(indices))
    if world.maximum(int(stopped)):
        return None
    parts = world.gather((metric.state(), sizes, seen))
    seconds = time.perf_counter() - start
    values = metric.compute([state for state, _, _ in parts])
    found = Evaluation(values, metric.lines(values), sum(n for _, _, n in parts), seconds)
    found.sizes = sorted(size for _, part, _ in parts for size in part)
    if found.sizes:
        found.payload_bytes = _statistics([nbytes for _, nbytes, _ in found.sizes])
        found.data_size_kb = _statistics([kib for _, _, kib in found.sizes])
    return found
