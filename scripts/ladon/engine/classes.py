"""Meaning of a run's labels: the classes of its model, to which every dataset is held.

A label is a number, and a dataset that numbers its classes by itself may number them otherwise than
the one that the model has learnt from.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torchvision.datasets import DatasetFolder

from ladon.config import Config
from ladon.data.class_names import (
    base_dataset,
    categories_of,
    check_num_classes,
    match_class_names,
)
from ladon.data.folder import folder_class_names
from ladon.engine.plan import TRAIN_LOADER, StagePlan
from ladon.errors import UsageError

logger = logging.getLogger(__name__)

_FOLDERS = ("ImageFolder", "DatasetFolder")  # whose subfolders are the classes


class Classes:
    """The classes of a run's model.

    Attributes:
        names: their names by label ('' where one has none), None while unknown.
        source: whose names they are, for messages; '' until labels have a meaning.
        number: how many the model has, a detector's and segmenter's background included; None if
            unknown.
        number_from: the config's key that says how many, with file and line.
        teacher: the names in the teacher's checkpoint, None if unknown.
    """

    def __init__(self) -> None:
        self.names: list[str] | None = None
        self.source = ""
        self.number: int | None = None
        self.number_from = "the model's num_classes"
        self.teacher: list[str] | None = None

    def take(self, names: Sequence[str] | None, source: str) -> None:
        """Take the names in a checkpoint or a training set.

        Args:
            names: by label; None if they are not known.
            source: whose they are; '' where labels have no meaning yet, so that the next dataset
                gives it to them.
        """
        self.names, self.source = None if names is None else list(names), source

    def take_from_training(self, config: Config, stage: StagePlan) -> None:
        """Take the names of the folder that a stage trains on, if it is one and is there.

        For a checkpoint that knows no names. The folder's images are not looked at.
        """
        dataset = f"datasets.{config.get(f'{stage.key}.{TRAIN_LOADER}.dataset_id')}"
        if str(config.get(f"{dataset}.key")).rpartition(".")[2] not in _FOLDERS:
            return
        root = config.get(f"{dataset}.init.kwargs.root")
        if isinstance(root, str) and Path(root).expanduser().is_dir():
            self.take(folder_class_names(root), f"the training set {root}")

    def hold(self, dataset: Any) -> None:
        """Make a dataset's labels mean what they mean to the model.

        Args:
            dataset: the labels of a folder of images and of COCO's categories may change, in place.

        Raises:
            DataError: the dataset has classes that the model has not.
        """
        categories = categories_of(dataset)
        if categories is not None:
            categories.number_from = self.number_from
            categories.assign(self.number, self.names, self.source)
            return
        if self.names is not None:
            match_class_names(dataset, self.names, self.source)
        if self.number is not None:
            check_num_classes(dataset, self.number, self.number_from)

    def doubt(self, dataset: Any) -> None:
        """Warn where nothing tells whether a test set's labels are the model's."""
        folder = base_dataset(dataset)
        if self.names is None and self.number is not None and isinstance(folder, DatasetFolder):
            found = len(folder.classes)
            if found < self.number:
                logger.warning(
                    "%s has %d class folders, the model has %d classes, and its checkpoint does "
                    "not tell their names: the folders count as the first %d in the order of "
                    "their names; give the dataset class_names if they are others",
                    folder.root,
                    found,
                    self.number,
                    found,
                )
        if self.teacher is None or self.names is None:
            return
        for label, (ours, theirs) in enumerate(zip(self.names, self.teacher, strict=False)):
            if ours and theirs and ours != theirs:
                logger.warning(
                    "class %d is '%s' in %s, but '%s' to the teacher: its own scores mean nothing",
                    label,
                    ours,
                    self.source,
                    theirs,
                )
                return


def common_classes(runs: Sequence[Classes]) -> Classes:
    """Return the classes that runs share which are tested on the same images.

    Raises:
        UsageError: their checkpoints name them differently.
    """
    for other in runs[1:]:
        if None not in (runs[0].names, other.names) and runs[0].names != other.names:
            raise UsageError(
                f"--fused: {runs[0].source} and {other.source} name their classes differently: "
                "test them separately"
            )
    return next((run for run in runs if run.names is not None), runs[0])
