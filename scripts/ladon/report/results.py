"""Results as reports take them: one `RunResult` per scored model, whichever way it was read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ladon.backbones import shown_name
from ladon.tasks import TASKS, Score, TaskView

_BETA = re.compile(r"[-_.]?beta[-_=]?(\d+(?:\.\d+)?)")
# old logs and configs also say `splitable_…` and `…resnet50fp-beta…`
_LADON = re.compile(r"split+able_(?P<backbone>\w+?)-?(?:fp[-_.]?beta|vr(?![a-z]))")


def beta_in(name: str) -> float | None:
    """Return the β in an experiment's name, None if it holds none."""
    match = _BETA.search(name)
    return float(match[1]) if match else None


def backbone_in(name: str) -> str | None:
    """Return the backbone in the name of a Ladon experiment, None in any other name."""
    match = _LADON.search(name)
    return match["backbone"] if match else None


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over n images."""

    mean: float
    std: float
    n: int


@dataclass(frozen=True)
class PictureCodec:
    """A picture codec in the place of a learnt payload.

    Args:
        format: such as 'JPEG'.
        quality: as the codec counts it.
        before: the model that sees its pictures.
    """

    format: str
    quality: float
    before: str


@dataclass(frozen=True)
class RunResult:
    """One model's score in one run.

    Args:
        run: the run folder or log file.
        role: 'student' or 'teacher'.
        task: name of the task.
        view: how its task is shown.
        mode: 'train' (scored after training) or 'test'.
        name: the experiment's name, β included.
        config: the config file the run was started with.
        dataset: what it was scored on, such as 'ilsvrc2012/val'.
        backbone: such as 'resnet50', of a baseline the model; None if the run names none.
        beta: weight of the rate term; None for a model without one.
        metrics: all metrics by the keys of metrics.json; empty if the result is missing.
        data_size_kb: the published data size in KB of 1024 bytes per image; None if nothing is
            sent.
        payload_bytes: the entropy coder's own bytes per image; None if nothing is sent.
        num_images: how many images were scored.
        images_per_s: throughput of the evaluation.
        classes: names of the classes that it tells apart; None if the run does not tell.
        note: why the result is missing.
        logged: True if its numbers were read from a log, which rounds the metrics.
        shown_as: the model in a word or two, if not to be derived from the rest.
        codec: what the pictures went through before the model saw them.
    """

    run: Path
    role: str
    task: str
    view: TaskView
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
    classes: tuple[str, ...] | None = None
    note: str = ""
    logged: bool = False
    shown_as: str | None = None
    codec: PictureCodec | None = None

    @property
    def family(self) -> str:
        """The experiment's name without β: runs that differ in β, or quality, only share it."""
        if self.codec is not None:
            return f"{self.codec.format} before {self.codec.before}"
        return _BETA.sub("", self.name) or self.name

    @property
    def label(self) -> str:
        """The model in a word or two."""
        if self.shown_as:
            return self.shown_as
        if self.role == "teacher":
            shown = shown_name(self.backbone) if self.backbone else self.family
            return f"{shown} (teacher)"
        if self.codec is not None:
            return f"{self.family}, {self.setting_text}"
        if self.beta is None or self.backbone is None:
            return self.family
        return shown_name(self.backbone)

    @property
    def shown_beta(self) -> float | None:
        """β, None for a teacher: it has none, though the run has."""
        return None if self.role == "teacher" else self.beta

    @property
    def setting(self) -> float | None:
        """What a sweep goes through: β, or a codec's quality."""
        return self.beta if self.codec is None else self.codec.quality

    @property
    def setting_text(self) -> str:
        """The setting as it stands beside a point; '' where there is none."""
        if self.setting is None:
            return ""
        return f"{'' if self.codec is None else 'q'}{self.setting:g}"

    @property
    def data(self) -> str:
        """The dataset without its split."""
        return self.dataset.split("/")[0]

    @property
    def key(self) -> tuple[object, ...]:
        """The key that two results share if they score the same model on the same data."""
        codec = () if self.codec is None else (self.codec,)
        return self.task, self.data, self.role, self.backbone, self.shown_beta, *codec

    @property
    def missing(self) -> bool:
        """True if the decisive metric was not measured."""
        return self.score(self.view.first) is None

    def score(self, score: Score | None) -> float | None:
        """Return a score's value, None if the run did not measure it."""
        value = None if score is None else self.metrics.get(score.key)
        return None if value is None else float(value)

    def digits(self, score: Score) -> int:
        """Decimals of a score that this result has to offer."""
        return score.logged_digits if self.logged else score.digits


@dataclass(frozen=True)
class RunCollection:
    """Results in the order of report, and the runs that have none yet."""

    results: list[RunResult]
    unfinished: list[Path]

    def by_task(self) -> dict[str, list[RunResult]]:
        """Results per task: the known ones in their order, then a user's own."""
        names = in_order(r.task for r in self.results)
        return {task: [r for r in self.results if r.task == task] for task in names}

    def by_dataset(self) -> dict[tuple[str, str], list[RunResult]]:
        """Results per task and dataset (without its split)."""
        groups: dict[tuple[str, str], list[RunResult]] = {}
        for task, results in self.by_task().items():
            for result in results:
                groups.setdefault((task, result.data), []).append(result)
        return groups


def in_order(tasks: Iterable[str]) -> list[str]:
    """Names of tasks, each once: the known ones in their order, then a user's own."""
    found = dict.fromkeys(tasks)
    return [*(task for task in TASKS if task in found), *(t for t in found if t not in TASKS)]


def datasets(results: Sequence[RunResult]) -> list[str]:
    """Return the datasets of some results, each once."""
    return list(dict.fromkeys(result.dataset for result in results))
