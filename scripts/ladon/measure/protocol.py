"""The tasks' own tests of the single-task models, as their scripts run them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ladon.app import run_task
from ladon.cli import build_parser
from ladon.measure.models import Sources
from ladon.report.runs import METRICS_FILE, read_metrics


def run_tests(sources: Sources, folder: Path) -> list[dict[str, Any]]:
    """Test each single-task model, its teacher beside it, by its task's own protocol.

    Args:
        sources: their configs.
        folder: gets a run for each.

    Returns:
        Scores in the form of `ladon.measure.accuracy.Score.to_plain`; teachers' have no bytes.
    """
    found = []
    for config in sources.single:
        for place in sources.places(config):
            run, _ = sources.open(place)
            folder_of_run = folder / Path(place.path).stem / "-".join(place.assignments)
            flags = ["--config", place.path, "-test_only", "--run_log", f"{folder_of_run}.txt"]
            flags += ["--device", "cpu"]
            for assignment in place.assignments:
                flags += ["--set", assignment]
            if place.rates:
                flags += ["--rate", *map(str, place.rates)]
            if sources.data_root is not None:
                flags += ["--data_root", sources.data_root]
            run_task(run.task, build_parser(run.task).parse_args(flags))
            found += _scores(folder_of_run / METRICS_FILE)
    return found


def _scores(path: Path) -> list[dict[str, Any]]:
    rows = []
    for result in read_metrics(path):
        first, sent = result.view.first, result.payload_bytes
        rows.append(
            {
                "way": f"{result.name}, own test ({result.role})",
                "task": result.task,
                "title": result.view.title,
                "dataset": result.dataset,
                "score": first.key,
                "label": first.label,
                "digits": first.digits,
                "value": result.score(first),
                "metrics": result.metrics,
                "mean_bytes": None if sent is None else sent.mean,
                "n": result.num_images,
            }
        )
    return rows
