"""What the final test finds of each class and of each image: the folder of `--analyse`."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from ladon.data.samples import sample_path
from ladon.engine.evaluation import Evaluation
from ladon.engine.model_evaluator import Analyst
from ladon.engine.run import Run
from ladon.errors import UsageError, cannot_write
from ladon.predictions import namer
from ladon.tasks import Task


def analysis_folder(run: Run) -> Path | None:
    """Return the folder that `--analyse` names, or the run's own; None without it."""
    path = getattr(run.args, "analyse", None)
    if path is None:
        return None
    return Path(path).expanduser() if path else run.folder / "analysis"


def check_analysis(run: Run) -> None:
    """See before any work that an analysis can be written; make its folder.

    Raises:
        UsageError: the task has none, or the folder cannot be written.
    """
    folder = analysis_folder(run)
    if folder is None:
        return
    if type(run.task).analysis is Task.analysis:
        raise UsageError(
            f"--analyse: {run.task.name} does not say what its analysis is; give its task a method "
            "'analysis', or leave the flag out"
        )
    if not run.world.is_main:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise cannot_write(f"--analyse {folder}", error) from error


def analyst(run: Run, dataset: Any) -> Analyst | None:
    """Return what makes an analysis for a model; None where none is wanted.

    Args:
        run: the run.
        dataset: the samples, held to the model's classes.
    """
    if analysis_folder(run) is None:
        return None
    return partial(run.task.analysis, dataset, run.options, namer(run, dataset))


def write_analysis(run: Run, dataset: Any, found: Evaluation) -> None:
    """Write the folder; for the main process.

    Raises:
        LadonError: if it cannot be written.
    """
    folder = analysis_folder(run)
    if folder is None or found.analysed is None:
        return
    from ladon.analysis.files import write_files

    write_files(folder, found.analysed, dataset, namer(run, dataset), partial(sample_path, dataset))
