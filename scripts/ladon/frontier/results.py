"""Results of the comparison's trainings: a table that grows, and that can be committed in parts."""

from __future__ import annotations

import csv
import json
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ladon.errors import DataError
from ladon.frontier.runs import Trial
from ladon.replacing import replacing
from ladon.sweeps.jobs import Job
from ladon.tasks import find_task

COLUMNS = (
    "task", "recipe", "budget", "seed", "trained_beta", "beta", "metric", "payload_bytes",
    "num_images", "train_seconds",
)  # fmt: skip


@dataclass(frozen=True)
class Point:
    """One model's result at one rate.

    Attributes:
        trial: the training.
        beta: rate.
        metric: the task's decisive metric.
        payload_bytes: mean of an image.
        num_images: that were scored.
        train_seconds: of the training's epochs, on a machine that did other things, too.
    """

    trial: Trial
    beta: float
    metric: float
    payload_bytes: float
    num_images: int
    train_seconds: float


class Results:
    """The table, in a file; threads may add to it.

    Args:
        path: a CSV file, which need not be there.

    Raises:
        DataError: it is no such table.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, threading.Lock()
        self.points: list[Point] = []
        if path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                rows = csv.DictReader(file)
                try:
                    self.points = [_point(row) for row in rows]
                except (KeyError, TypeError, ValueError) as error:
                    raise DataError(f"{path}:{rows.line_num}: no result: {error!r}") from error

    @property
    def trials(self) -> set[Trial]:
        """The trainings that have results."""
        return {point.trial for point in self.points}

    def take(self, trial: Trial, job: Job) -> None:
        """Read what a run has found, and write the table anew.

        Raises:
            OSError: it cannot be written.
        """
        found = json.loads((job.folder / "metrics.json").read_text(encoding="utf-8"))
        epochs = (job.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        seconds = sum(json.loads(line)["train_seconds"] for line in epochs)
        student = found["models"]["student"]
        key = find_task(trial.task).decisive.key
        points = [
            Point(
                trial,
                one.get("beta") or found["beta"],
                one["metrics"][key],
                one["payload_bytes"]["mean"],
                one["num_images"],
                seconds,
            )
            for one in (student, *student.get("rates", ()))
        ]
        with self._lock:
            kept = [point for point in self.points if point.trial != trial]
            self.points = sorted(
                [*kept, *points], key=lambda p: (_row(p)[:3], p.trial.seed, p.beta)
            )
            self._write()

    def of(self, trials: Iterable[Trial]) -> list[Point]:
        """Return the points of some trainings."""
        wanted = set(trials)
        return [point for point in self.points if point.trial in wanted]

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with (
            replacing(self.path) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows(map(_row, self.points))


def _place(point: Point) -> tuple[str, str, int, int, float]:
    trial = point.trial
    return trial.task, trial.recipe, trial.budget, trial.seed, point.beta


def _row(point: Point) -> list[str]:
    trial = point.trial
    return [
        trial.task,
        trial.recipe,
        str(trial.budget),
        str(trial.seed),
        trial.beta,
        f"{point.beta:.6g}",
        f"{point.metric:.6g}",
        f"{point.payload_bytes:.6g}",
        str(point.num_images),
        f"{point.train_seconds:.0f}",
    ]


def _point(row: dict[str, str]) -> Point:
    return Point(
        Trial(
            row["task"], row["recipe"], int(row["budget"]), int(row["seed"]), row["trained_beta"]
        ),
        float(row["beta"]),
        float(row["metric"]),
        float(row["payload_bytes"]),
        int(row["num_images"]),
        float(row["train_seconds"]),
    )
