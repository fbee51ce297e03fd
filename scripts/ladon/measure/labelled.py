"""Data sets of several tasks that share their images, matched by file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ladon.data.samples import sample_path
from ladon.errors import ConfigError, DataError
from ladon.metrics.base import Metric
from ladon.split.loading import open_run
from ladon.tasks import Task


@dataclass(frozen=True)
class Labelled:
    """One task's test set.

    Attributes:
        task: the task.
        dataset: labels mean what they mean to the models.
        dataset_id: its name in the config.
        name: of the config's experiment.
        num_classes: of the models' head.
    """

    task: Task
    dataset: Any
    dataset_id: str
    name: str
    num_classes: int

    @classmethod
    def open(
        cls,
        source: str,
        names: Sequence[str] | None,
        num_classes: int,
        assignments: Sequence[str],
        data_root: str | None,
    ) -> Labelled:
        """Open the test set of a config.

        Args:
            source: config of a model for one task.
            names: of the model's classes, as far as known.
            num_classes: of the model.
            assignments, data_root: as for `ladon.load`.

        Raises:
            ConfigError: the config names none.
            DataError: it cannot be used, or its classes are not the model's.
        """
        run, _ = open_run(source, assignments=assignments, data_root=data_root)
        dataset_id = run.config.get("test.test_data_loader.dataset_id")
        if dataset_id is None:
            raise ConfigError(
                f"{run.config.path}: has no test.test_data_loader: nothing to test on"
            )
        run.classes.take(names, f"the checkpoint of {source}")
        run.classes.number = num_classes
        dataset = run.dataset(dataset_id)
        name = str(run.config.name or run.config.path.stem)
        return cls(run.task, dataset, dataset_id, name, num_classes)

    @property
    def head(self) -> str:
        """The head that answers it."""
        return self.task.model_kind

    def metric(self) -> Metric:
        """Return a fresh metric."""
        return self.task.metric(self.dataset, {"num_classes": self.num_classes})

    @cached_property
    def by_file(self) -> dict[str, int]:
        """The index of each image by its file's name, less ending and a leading `SPLIT_`."""
        split = self.dataset_id.rpartition("/")[2]
        found: dict[str, int] = {}
        for index in range(len(self.dataset)):
            path = sample_path(self.dataset, index)
            if path is None:
                kind = type(self.dataset).__name__
                raise DataError(f"{self.dataset_id}: {kind} does not tell its images' files")
            found[Path(path).stem.removeprefix(f"{split}_")] = index
        if len(found) < len(self.dataset):
            raise DataError(
                f"{self.dataset_id}: several images have one name, and cannot be told apart from "
                "those of other tasks: give each a name of its own"
            )
        return found

    def path(self, name: str) -> str:
        """Return an image's file."""
        path = sample_path(self.dataset, self.by_file[name])
        assert path is not None  # by_file has looked
        return path

    def target(self, name: str) -> Any:
        """Return an image's target as a batch of one, as the task's metric takes it."""
        target = self.dataset[self.by_file[name]][1]
        if self.head == "classification":
            return torch.tensor([int(target)])
        return [target] if self.head == "detection" else torch.as_tensor(target)[None]


def common_images(sets: Mapping[str, Labelled]) -> list[str]:
    """Return the names of the images that all sets have, in the order of the first.

    Raises:
        DataError: there is none.
    """
    first, *others = sets.values()
    names = [name for name in first.by_file if all(name in other.by_file for other in others)]
    if not names:
        ids = ", ".join(
            f"{s.dataset_id} ({next(iter(s.by_file), 'empty')}, …)" for s in sets.values()
        )
        raise DataError(
            f"no image is in all of {ids}: accuracy of one payload needs labels of all tasks for "
            "the same files"
        )
    return names


def spread(total: int, number: int) -> list[int]:
    """Return so many indices, evenly from 0 to below `total`: sets are often sorted by class."""
    number = min(number, total)
    return [index * total // number for index in range(number)]
