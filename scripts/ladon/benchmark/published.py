"""An evaluation as the paper's code does it, with sc2bench's own model and coder."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torchvision.datasets  # noqa: F401  (torchdistill registers what is in it)
from compressai.entropy_models import EntropyModel
from sc2bench.analysis import AnalyzableModule
from sc2bench.models.layer import BaseBottleneck
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchdistill.datasets.registry import get_collate_func

from ladon.benchmark.machine import intraop_threads
from ladon.benchmark.workload import Workload
from ladon.metrics.confusion import ConfusionMatrix
from ladon.process import usable_cores
from ladon.tasks import Task


@dataclass
class PublishedEvaluation:
    """Scores and sizes.

    Attributes:
        metrics: metric values by name.
        sizes: data size of each image in KiB, in the data set's order.
    """

    metrics: dict[str, Any]
    sizes: list[float]


def as_published(model: nn.Module) -> nn.Module:
    """Return a copy of a model with the libraries' own bottleneck and entropy models in it.

    Args:
        model: built by this library, whose classes stand on theirs.
    """
    copied = copy.deepcopy(model)
    for parent in list(copied.modules()):
        for name, child in parent.named_children():
            if isinstance(child, BaseBottleneck | EntropyModel):
                classes = type(child).__mro__
                theirs: Any = next(c for c in classes if not c.__module__.startswith("ladon."))
                made = theirs.__new__(theirs)
                vars(made).update(vars(child))
                parent._modules[name] = made
    return copied


class PublishedConfusionMatrix(ConfusionMatrix):
    """The matrix, counted by the operators that the published script's evaluator uses.

    `argmax` over the classes of contiguous logits takes a CPU ten times as long as `max` does.
    """

    def update(self, outputs: Mapping[str, Tensor] | Tensor, targets: Tensor) -> None:
        """Take a dict with logits [N, K, H, W] under 'out' and labels [N, H, W]."""
        assert isinstance(outputs, Mapping)  # sc2bench's models return nothing else
        n, labels = self.num_classes, targets.flatten()
        predictions = outputs["out"].argmax(1).flatten()
        counted = (labels >= 0) & (labels < n)
        cells = n * labels[counted].to(torch.int64) + predictions[counted]
        counts = torch.bincount(cells, minlength=n**2).reshape(n, n)
        self._counts = counts if self._counts is None else self._counts + counts


def scored_as_published(task: Task) -> Task:
    """Return a task that scores as the published script does, where that takes its time.

    Other tasks' scores are computed by our metrics: a classifier's take next to nothing, and COCO's
    take less than the published way's.
    """
    scored = copy.copy(task)

    def matrix(dataset: Any, options: Mapping[str, Any]) -> ConfusionMatrix:
        own = task.metric(dataset, options)
        assert isinstance(own, ConfusionMatrix)
        return PublishedConfusionMatrix(own.num_classes)

    if task.model_kind == "segmentation":
        scored.metric = matrix  # type: ignore[method-assign]
    return scored


@torch.inference_mode()
def evaluate_published(
    work: Workload, model: Any, task: Task, device: torch.device
) -> PublishedEvaluation:
    """Evaluate image by image, contiguous, float32, coded by CompressAI on the way.

    The images come through a plain loader with the config's transform and as many of its workers
    as there are cores; the task says how they are scored. Detection computes on one thread, as
    torchvision's reference evaluation does on which the published script stands.

    Args:
        work: dataset and loader section; its own model is not used.
        model: from `as_published`, in eval mode, contiguous, on the device, with CDF tables.
        task: whose metric scores; the published way's is `scored_as_published`'s.
        device: where it runs.
    """
    loader = DataLoader(
        work.dataset,
        batch_size=1,
        num_workers=min((work.loader.get("kwargs") or {}).get("num_workers") or 0, usable_cores()),
        collate_fn=get_collate_func(work.loader.get("collate_fn")),
    )
    metric = task.metric(work.dataset, work.options)
    model.activate_analysis()
    one_thread = task.model_kind == "detection"
    try:
        with intraop_threads(1) if one_thread else nullcontext():
            for images, targets, *_ in loader:
                images, targets = task.move(images, targets, device)
                metric.update(model(images), targets)
        return PublishedEvaluation(metric.compute([metric.state()]), _sizes(model))
    finally:
        model.deactivate_analysis()
        model.clear_analysis()


def _sizes(model: nn.Module) -> list[float]:
    """Read sc2bench's FileSizeAnalyzer; of a detector both it and its body may have one."""
    for module in model.modules():
        if isinstance(module, AnalyzableModule):
            for analyzer in module.analyzers:
                if analyzer.file_size_list:
                    return list(analyzer.file_size_list)
    return []
