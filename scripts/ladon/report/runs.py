"""Reads the results of finished runs: one `RunResult` per scored model of a run's metrics.json."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ladon.errors import UsageError

FORMAT = 1
METRICS_FILE = "metrics.json"
RUN_MARKERS = ("run.json", "metrics.jsonl")
"""Files that a run writes from its start on."""


@dataclass(frozen=True)
class Metric:
    """How a metric is shown: its key in metrics.json, its label, and its decimals."""

    key: str
    label: str
    digits: int


@dataclass(frozen=True)
class TaskView:
    """What a report shows of a task: its title and its two metrics, the first one decisive."""

    title: str
    first: Metric
    second: Metric


TASKS = {
    "image_classification": TaskView(
        "Image classification", Metric("acc1", "Acc@1 [%]", 3), Metric("acc5", "Acc@5 [%]", 3)
    ),
    "object_detection": TaskView(
        "Object detection", Metric("AP", "AP@[.50:.95]", 3), Metric("AP50", "AP@.50", 3)
    ),
    "semantic_segmentation": TaskView(
        "Semantic segmentation",
        Metric("mean_iou", "mean IoU [%]", 2),
        Metric("pixel_accuracy", "pixel acc. [%]", 2),
    ),
}


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over n images."""

    mean: float
    std: float
    n: int


@dataclass(frozen=True)
class RunResult:
    """One model's score in one run.

    Args:
        run: the run folder.
        role: 'student' or 'teacher'.
        task: a key of `TASKS`.
        mode: 'train' (scored after training) or 'test'.
        name: the experiment's name, β included.
        config: the config file the run was started with.
        dataset: what it was scored on, such as 'ilsvrc2012/val'.
        backbone: such as 'resnet50'; None if the run names none.
        beta: weight of the rate term; None for a model without one.
        metrics: all metrics of metrics.json by their keys.
        data_size_kb: the published data size in KiB per image; None if nothing is sent.
        payload_bytes: the entropy coder's own bytes per image; None if nothing is sent.
        num_images: how many images were scored.
        images_per_s: throughput of the evaluation.
    """

    run: Path
    role: str
    task: str
    mode: str
    name: str
    config: str | None
    dataset: str
    backbone: str | None
    beta: float | None
    metrics: dict[str, Any]
    data_size_kb: Spread | None
    payload_bytes: Spread | None
    num_images: int | None
    images_per_s: float | None

    @property
    def view(self) -> TaskView:
        """How the run's task is shown."""
        return TASKS[self.task]

    @property
    def family(self) -> str:
        """The experiment's name without β: runs that differ in β only share it."""
        return re.sub(r"[-_.]?beta[-_=]?\d+(\.\d+)?", "", self.name) or self.name

    @property
    def label(self) -> str:
        """The model in a word or two."""
        if self.role == "teacher":
            return f"{self.backbone or self.family} (teacher)"
        if self.beta is None or self.backbone is None:
            return self.family
        return self.backbone

    def score(self, metric: Metric) -> float | None:
        """A metric's value, None if the run did not measure it."""
        value = self.metrics.get(metric.key)
        return None if value is None else float(value)


@dataclass(frozen=True)
class RunCollection:
    """Results in the order of report (`sort_key`), and the run folders that have none yet."""

    results: list[RunResult]
    unfinished: list[Path]

    def by_task(self) -> dict[str, list[RunResult]]:
        """Results per task, tasks in the order of `TASKS`, tasks without results left out."""
        groups = {task: [r for r in self.results if r.task == task] for task in TASKS}
        return {task: results for task, results in groups.items() if results}


def collect_runs(paths: Sequence[str | Path]) -> RunCollection:
    """Reads run folders, metrics.json files, and all runs below parent folders.

    A teacher that several runs scored alike is kept once; a student's runs are all kept.

    Raises:
        UsageError: a path does not exist, a file is broken, or no run is finished.
    """
    files: dict[Path, Path] = {}  # by real path: the same run may be given twice
    unfinished: dict[Path, Path] = {}
    for path in map(Path, paths):
        found, open_runs = _find(path)
        files.update((file.resolve(), file) for file in found)
        unfinished.update((folder.resolve(), folder) for folder in open_runs)
    results: list[RunResult] = []
    for file in files.values():
        results += read_metrics(file)
    if not results:
        where = ", ".join(str(folder) for folder in unfinished.values())
        raise UsageError(f"no finished run (no {METRICS_FILE}) in {where}")
    results.sort(key=sort_key)
    return RunCollection(_without_repeated_teachers(results), sorted(unfinished.values()))


def sort_key(result: RunResult) -> tuple[object, ...]:
    """Backbone, then β as a number with teachers and baselines before the first, then the path."""
    has_beta = result.role == "student" and result.beta is not None
    beta = result.beta if has_beta else 0.0
    return (result.backbone or result.family, has_beta, beta, str(result.run))


def read_metrics(path: Path) -> list[RunResult]:
    """Reads one metrics.json.

    Returns:
        One result per model in it.

    Raises:
        UsageError: the file cannot be read, or a key is missing or of the wrong type.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise UsageError(f"{path}: not a metrics file of format {FORMAT}")
    if data.get("task") not in TASKS:
        raise UsageError(f"{path}: task: '{data.get('task')}' is none of {', '.join(TASKS)}")
    if not data.get("models"):
        raise UsageError(f"{path}: models: no model in it")
    try:
        return [_result(path, data, role, model) for role, model in data["models"].items()]
    except KeyError as error:
        raise UsageError(f"{path}: the key {error} is missing") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"{path}: a value has the wrong type: {error}") from error


def _result(path: Path, data: dict[str, Any], role: str, model: dict[str, Any]) -> RunResult:
    beta, num_images = data.get("beta"), data.get("num_images")
    speed = model.get("images_per_s")
    view = TASKS[data["task"]]
    metrics = dict(model["metrics"])
    for metric in (view.first, view.second):
        if metrics.get(metric.key) is not None:
            metrics[metric.key] = float(metrics[metric.key])
    return RunResult(
        run=path.parent,
        role=role,
        task=data["task"],
        mode=data["mode"],
        name=str(data.get("name") or path.parent.resolve().name),
        config=data.get("config"),
        dataset=str(data["dataset"]),
        backbone=data.get("backbone"),
        beta=None if beta is None else float(beta),
        metrics=metrics,
        data_size_kb=_spread(model.get("data_size_kb")),
        payload_bytes=_spread(model.get("payload_bytes")),
        num_images=None if num_images is None else int(num_images),
        images_per_s=None if speed is None else float(speed),
    )


def _spread(data: dict[str, Any] | None) -> Spread | None:
    if data is None:
        return None
    return Spread(float(data["mean"]), float(data["std"]), int(data["n"]))


def _find(path: Path) -> tuple[list[Path], list[Path]]:
    """The metrics files at or below a path, and the run folders without one."""
    if path.is_file():
        return [path], []
    if not path.is_dir():
        raise UsageError(f"no such run: {path}")
    found: list[Path] = []
    unfinished: list[Path] = []
    for folder, subfolders, names in os.walk(path):
        subfolders.sort()
        if METRICS_FILE in names:
            found.append(Path(folder, METRICS_FILE))
        elif any(marker in names for marker in RUN_MARKERS):
            unfinished.append(Path(folder))
    # a folder given by name that holds no run at all has at best just been started
    return found, unfinished if found or unfinished else [path]


def _without_repeated_teachers(results: list[RunResult]) -> list[RunResult]:
    kept: list[RunResult] = []
    seen: set[str] = set()
    for result in results:
        if result.role == "teacher":
            key = json.dumps([result.task, result.dataset, result.label, result.metrics])
            if key in seen:
                continue
            seen.add(key)
        kept.append(result)
    return kept
