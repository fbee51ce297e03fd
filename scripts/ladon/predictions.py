"""What a model found in each image of its final test: the file of `--predictions`.

One JSON object a line, in the order of the data: `image` (its file, where the dataset tells it, or
else null), then what the task says of it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ladon.data.class_names import class_names
from ladon.data.samples import sample_path
from ladon.engine.evaluation import Evaluation
from ladon.engine.model_evaluator import Describe
from ladon.engine.run import Run
from ladon.errors import LadonError, UsageError, cannot_write, why_not_written
from ladon.replacing import replacing
from ladon.tasks import Task


def predictions_file(run: Run) -> Path | None:
    """Return the file that `--predictions` names, None without it."""
    path = getattr(run.args, "predictions", None)
    return None if path is None else Path(path).expanduser()


def check_predictions(run: Run) -> None:
    """See before any work that predictions can be written; make the file's folder.

    Raises:
        UsageError: the task has none, or the file cannot be written.
    """
    path = predictions_file(run)
    if path is None:
        return
    if type(run.task).predictions is Task.predictions:
        raise UsageError(
            f"--predictions: {run.task.name} does not say what its predictions are; give its "
            "task a method 'predictions', or leave the flag out"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise UsageError(f"--predictions {path}: is a folder; name a file")
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise cannot_write(f"--predictions {path}", error) from error


def predictor(run: Run, dataset: Any) -> Describe | None:
    """Return what makes rows of a batch's outputs; None where no predictions are wanted.

    Args:
        run: the run.
        dataset: the samples, held to the model's classes.
    """
    if predictions_file(run) is None:
        return None
    return partial(run.task.predictions, dataset=dataset, name_of=namer(run, dataset))


def namer(run: Run, dataset: Any) -> Callable[[int], str | None]:
    """Return what names labels: by the model's classes, or else the dataset's.

    Args:
        run: the run.
        dataset: the samples, held to the model's classes.
    """
    names = run.classes.names or class_names(dataset) or []

    def name_of(label: int) -> str | None:
        return (names[label] or None) if 0 <= label < len(names) else None

    return name_of


def write_predictions(run: Run, dataset: Any, found: Evaluation) -> None:
    """Write the file; for the main process.

    Raises:
        LadonError: if it cannot be written.
    """
    path = predictions_file(run)
    if path is None:
        return
    try:
        with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
            for index, row in found.predictions:
                image = sample_path(dataset, index)
                file.write(json.dumps({"image": image, **row}) + "\n")
    except OSError as error:
        raise LadonError(f"cannot write {path}: {why_not_written(error)}") from error
