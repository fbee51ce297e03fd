"""Opens the journal of a run, with the sinks that its flags ask for."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ladon.errors import UsageError, in_one_line
from ladon.tracking.clients import Tracked, id_file
from ladon.tracking.files import EpochFiles
from ladon.tracking.journal import Journal, Sink

_CLIENTS = {
    "wandb": ("ladon.tracking.wandb_client", "WandbTracker"),
    "mlflow": ("ladon.tracking.mlflow_client", "MlflowTracker"),
}
TRAINING_FILES = (
    "metrics.jsonl",
    "metrics.csv",
    *(id_file(Path(), name).name for name in _CLIENTS),
)
"""Files of a run's folder that a training which starts anew must not go on with."""


def open_journal(
    folder: Path, flags: argparse.Namespace, parameters: Callable[[], Mapping[str, Any]]
) -> Journal:
    """Return the journal of a run.

    Args:
        folder: the run's.
        flags: those of the task script.
        parameters: returns what clients are told first.

    Raises:
        UsageError: a client's package is not installed.
        LadonError: something cannot be written.
    """
    trains = not flags.test_only
    sinks: list[Sink] = [EpochFiles(folder)]
    asked = {name: project for name in _CLIENTS if (project := getattr(flags, name, None))}
    trackers = {name: _tracker_of(name) for name in asked}
    if trains and flags.tensorboard:
        from ladon.tracking.tensorboard import Events

        sinks.append(Events(folder / "tensorboard"))
    for name, tracker in trackers.items():
        sinks.append(tracker(Tracked(folder, asked[name], parameters())))
    return Journal(sinks)


def _tracker_of(name: str) -> Callable[[Tracked], Sink]:
    """Return the class that logs to a client.

    Raises:
        UsageError: its package is missing or broken.
    """
    module, kind = _CLIENTS[name]
    try:
        return getattr(importlib.import_module(module), kind)
    except Exception as error:
        package = "mlflow-skinny (or mlflow)" if name == "mlflow" else name
        raise UsageError(
            f"--{name} needs the package {package}, which cannot be imported "
            f"({in_one_line(error)[:200]}): pip install '.[tracking]', or leave out --{name}"
        ) from error
