"""Description of a checkpoint, told from its tensors' names and shapes alone."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ladon.backbones import BOTTLENECK, head_names, recognise
from ladon.models.checkpoint import Checkpoint, read_checkpoint

_LISTED = 5
_BETA = re.compile(r"beta(\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class Description:
    """The findings of `describe`; None where the file does not tell.

    Attributes:
        kind: what sort of file it is.
        task: classification, detection or segmentation.
        num_classes: classes of the head, a detector's and segmenter's background included.
        classes: their names.
        backbone: name of the network behind the bottleneck.
        channels: C, channels of the latent.
        beta: weight of the rate, from the file's name or its arguments.
        updated: whether CDF tables are in it; None without a bottleneck.
        names: the library whose tensor names the file uses.
        best_value: best validation value.
        num_tensors: number of tensors of the model.
        num_parameters: their elements, buffers included.
        num_bytes: size of the file.
    """

    kind: str
    task: str | None
    num_classes: int | None
    classes: list[str] | None
    backbone: str | None
    channels: int | None
    beta: float | None
    updated: bool | None
    names: str
    best_value: float | None
    num_tensors: int
    num_parameters: int
    num_bytes: int

    def lines(self) -> list[str]:
        """Return one line per fact, for people."""

        def known(value: Any) -> str:
            return "not told by the file" if value is None else str(value)

        updated = {True: "yes (CDF tables are in it)", False: "no (no CDF tables)", None: "–"}
        return [
            f"kind        {self.kind}",
            f"task        {known(self.task)}",
            f"classes     {known(self.num_classes)}{self._some_names()}",
            f"backbone    {known(self.backbone)}",
            f"C           {'–' if self.channels is None else self.channels}",
            f"beta        {known(self.beta)}",
            f"updated     {updated[self.updated]}",
            f"best value  {known(self.best_value)}",
            f"names       {self.names}",
            f"tensors     {self.num_tensors} ({self.num_parameters:,} numbers)",
            f"size        {self.num_bytes / 2**20:.1f} MiB",
        ]

    def _some_names(self) -> str:
        names = [name for name in self.classes or () if name]  # not all labels have one
        more = ", …" if len(names) > _LISTED else ""
        return f" ({', '.join(names[:_LISTED])}{more})" if names else ""


def describe(path: str, key: str | None = None) -> Description:
    """Read a checkpoint without executing anything from it, and say what it holds.

    Args:
        path: the file.
        key: the file's key under which its weights are, where there are several.

    Raises:
        CheckpointError: if it is missing, damaged, unsafe, or holds no model.
    """
    return description(read_checkpoint(path, "the command line", key))


def description(checkpoint: Checkpoint) -> Description:
    """Say what a checkpoint holds that was read already."""
    state = checkpoint.model
    quantiles = [n for n in state if n.endswith("entropy_bottleneck.quantiles")]
    prefix = quantiles[0].removesuffix("entropy_bottleneck.quantiles") if quantiles else ""
    body = prefix.removesuffix(f"{BOTTLENECK}.")
    table = f"{prefix}entropy_bottleneck._quantized_cdf"
    return Description(
        kind=_kind(checkpoint, bool(quantiles)),
        task=_told(checkpoint, "task", str) or _task(state),
        num_classes=num_classes_of(state),
        classes=checkpoint.classes,
        backbone=recognise(state, body),
        channels=state[quantiles[0]].shape[0] if quantiles else None,
        beta=_beta(checkpoint),
        updated=bool(state[table].numel()) if table in state else None,
        names="compressai < 1.2.7 (2022)" if checkpoint.has_old_names else "today's",
        best_value=checkpoint.best_value,
        num_tensors=len(state),
        num_parameters=sum(t.numel() for t in state.values()),
        num_bytes=checkpoint.path.stat().st_size,
    )


def _kind(checkpoint: Checkpoint, has_bottleneck: bool) -> str:
    model = "Ladon model" if has_bottleneck else "model without bottleneck"
    if "progress" in checkpoint.extra:
        return f"{model}, state of a training to be resumed"
    if checkpoint.is_bare or checkpoint.args is checkpoint.optimizer is None:
        return f"{model}, weights"
    return f"{model}, best checkpoint of a training"


def _task(state: Mapping[str, Tensor]) -> str | None:
    starts = {name.split(".", 1)[0] for name in state}
    if {"rpn", "roi_heads"} <= starts or {"backbone", "head"} <= starts:
        return "detection"
    if "backbone" in starts and "classifier" in starts:
        return "segmentation"
    return "classification" if starts & {"classifier", *head_names()} else None


# the last layer of each head: what has a row for each class, and nothing else
_LAST = (
    "roi_heads.box_predictor.cls_score.bias",
    "classifier.low_classifier.bias",
)


def num_classes_of(state: Mapping[str, Tensor]) -> int | None:
    """Return how many classes a model's head has; None if it is none of those known here.

    Args:
        state: its tensors by name.
    """
    heads = head_names()
    for name in (*_LAST, *(f"{head}.bias" for head in heads)):
        if name in state:
            return len(state[name])
    of_sequence = re.compile(rf"({'|'.join(map(re.escape, ['classifier', *heads]))})\.(\d+)\.bias")
    layers = [(m[1], int(m[2]), name) for name in state if (m := of_sequence.fullmatch(name))]
    return len(state[max(layers)[2]]) if layers else None


def _told(checkpoint: Checkpoint, name: str, kind: type) -> Any:
    """Return what `convert` wrote beside the weights."""
    value = checkpoint.extra.get(name)
    return value if isinstance(value, kind) and not isinstance(value, bool) else None


def _beta(checkpoint: Checkpoint) -> float | None:
    args = checkpoint.args
    args = vars(args) if isinstance(args, argparse.Namespace) else args
    config = args.get("config") if isinstance(args, Mapping) else None
    found = _BETA.search(checkpoint.path.name) or _BETA.search(str(config or ""))
    return float(found[1]) if found else _told(checkpoint, "beta", float)
