"""The base of tasks: a task's name, its scores, how its batches move, and how they are scored.

A task is one file with a `Task`, registered by `register`: the three of the paper stand beside this
one, others in modules that a config names under `dependencies`. Nothing here or in them loads
torch before it is needed: reports and sweeps ask tasks, too.
"""

from __future__ import annotations

import argparse
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ladon.errors import UsageError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ladon.analysis import Analysis
    from ladon.metrics.base import Metric


@dataclass(frozen=True)
class Score:
    """One number of a metric, and how it is shown.

    Attributes:
        key: its name in `metrics.json`, and among the values that the metric computes.
        label: in tables and plots, with its unit.
        digits: decimals of a value from `metrics.json`.
        logged_digits: decimals that a log in the published wording holds (of Acc, all that count:
            50,000 images give multiples of 0.002).
        point: one percentage point in the score's own unit.
        greater_is_better: its direction.
        published: its name in the table of published results.
    """

    key: str
    label: str
    digits: int = 3
    logged_digits: int = 3
    point: float = 1.0
    greater_is_better: bool = True
    published: str = ""

    @property
    def axis_label(self) -> str:
        """The label at an axis, where nothing else tells the direction."""
        return self.label if self.greater_is_better else f"{self.label} (smaller is better)"

    def is_better(self, value: float, than: float) -> bool:
        """Whether one value is better than another one."""
        return value > than if self.greater_is_better else value < than

    def gain(self, value: float) -> float:
        """Return a value such that greater is better."""
        return value if self.greater_is_better else -value


@dataclass(frozen=True)
class TaskView:
    """A task as reports show it: its title and its scores, the first one decisive."""

    title: str
    scores: tuple[Score, ...]

    @property
    def first(self) -> Score:
        """The decisive score."""
        return self.scores[0]

    @property
    def second(self) -> Score | None:
        """The score shown beside it, if there is one."""
        return self.scores[1] if len(self.scores) > 1 else None

    def as_plain(self) -> dict[str, Any]:
        """Return the view as `metrics.json` holds it."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> TaskView:
        """Read what `as_plain` gave.

        Raises:
            KeyError, TypeError, ValueError: it holds something else.
        """
        scores = tuple(Score(**score) for score in plain["scores"])
        if not scores:
            raise ValueError("no scores")
        return cls(str(plain["title"]), scores)


class Task(ABC):
    """A task's adapter; everything else is the engine's.

    Attributes:
        name: of the task, and of its script.
        short_name: what the sweep's `--task` takes as well.
        title: headline in reports.
        scores: what its metric computes and reports show; the first chooses the best checkpoint.
        model_kind: which of the libraries' registries its models come from, and which head of a
            three-headed model answers it: 'classification', 'detection' or 'segmentation'.
        student_sections: config sections that may hold the model to be trained or tested.
        data_folders: of the published data, by which a log's path tells its task.
        can_share_teacher: whether several students can learn in one process (`--fused`).
    """

    name: ClassVar[str]
    short_name: ClassVar[str]
    title: ClassVar[str]
    scores: ClassVar[tuple[Score, ...]]
    model_kind: ClassVar[str]
    student_sections: ClassVar[tuple[str, ...]] = ("student_model", "model")
    data_folders: ClassVar[tuple[str, ...]] = ()
    can_share_teacher: ClassVar[bool] = False

    @property
    def view(self) -> TaskView:
        """The task as reports show it."""
        return TaskView(self.title, self.scores)

    @property
    def decisive(self) -> Score:
        """The score that chooses the best checkpoint."""
        return self.scores[0]

    def add_flags(self, parser: argparse.ArgumentParser) -> None:  # noqa: B027  (none by default)
        """Add the flags that only its script has."""

    def move(self, images: Any, targets: Any, device: torch.device) -> tuple[Any, Any]:
        """Move a collated batch to the device."""
        from ladon.tensors import to_device

        return to_device(images, device), to_device(targets, device)

    def predict(self, model: nn.Module, images: Any) -> Any:
        """Run the model in evaluation."""
        return model(images)

    def example(self, device: torch.device) -> tuple[Any, Any] | None:
        """Return a small collated batch of nothing in particular, to see whether models fit.

        None where a model looks at what is in its images before it goes on.
        """
        return None

    @abstractmethod
    def metric(self, dataset: Any, options: Mapping[str, Any]) -> Metric:
        """Return a fresh metric for a dataset.

        Args:
            dataset: the dataset that is evaluated.
            options: `num_classes` and `iou_types` as far as known.
        """

    def scored_by(self, make: Callable[[], Metric], scores: tuple[Score, ...]) -> Task:
        """Return the same task with another metric; in reports it stands by itself.

        Args:
            make: returns a fresh metric.
            scores: what the metric computes; the first chooses the best checkpoint.
        """
        changes = {
            "name": f"{self.name}-{scores[0].key}",
            "title": f"{self.title}: {scores[0].label}",
            "scores": scores,
            "metric": lambda _task, _dataset, _options: make(),
            "read_scores": Task.read_scores,
        }
        return type(type(self).__name__, (type(self),), changes)()

    def predictions(
        self, outputs: Any, dataset: Any, name_of: Callable[[int], str | None]
    ) -> list[dict[str, Any]]:
        """Return what `--predictions` writes of each image of a batch, in plain values.

        Args:
            outputs: the model's, of the batch.
            dataset: the dataset that is tested on.
            name_of: returns the name of a label, None where it has none.
        """
        raise UsageError(f"--predictions: {self.name} does not say what its predictions are")

    def analysis(
        self, dataset: Any, options: Mapping[str, Any], name_of: Callable[[int], str | None]
    ) -> Analysis:
        """Return a fresh part of what `--analyse` writes.

        Args:
            dataset: the dataset that is tested on.
            options: as for `metric`.
            name_of: returns the name of a label, None where it has none.
        """
        raise UsageError(f"--analyse: {self.name} does not say what its analysis is")

    def read_scores(self, text: str) -> dict[str, Any] | None:
        """Read the values back from the result lines that its metric wrote into a log.

        Args:
            text: messages of a test, one in a line.

        Returns:
            The last result's values by name; None if the text holds none.
        """
        return None


TASKS: dict[str, Task] = {}
"""The known tasks by name, the paper's first."""


def register(task: type[Task]) -> type[Task]:
    """Make a task known; a class decorator."""
    TASKS[task.name] = task()
    return task


def find_task(name: str) -> Task:
    """Return a task by its name or short name.

    Raises:
        UsageError: there is none; the known ones are named.
    """
    for task in TASKS.values():
        if name in (task.name, task.short_name):
            return task
    raise UsageError(
        f"no task is called '{name}' (known are {', '.join(TASKS)}): name the module that "
        "registers it under the config's dependencies"
    )
