"""The results of the paper's repository, shipped as ladon/published/results.csv."""

from __future__ import annotations

import csv
from pathlib import Path

from ladon.backbones import FAMILIES, label_of
from ladon.errors import UsageError
from ladon.launch import PACKAGE
from ladon.report.logs import NO_TEST
from ladon.report.results import RunCollection, RunResult, Spread
from ladon.tasks import TASKS

PUBLISHED = PACKAGE / "published" / "results.csv"


def read_published(path: Path = PUBLISHED) -> RunCollection:
    """Read the published results: per task the backbones, each its teacher and its βs, then the
    baselines. A missing result keeps its line, without metrics, its note saying why.

    Raises:
        UsageError: the file cannot be read, or a line holds something else than it should.
    """
    results: list[RunResult] = []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for row in (reader := csv.DictReader(file)):
                try:
                    results.append(_result(row))
                except (KeyError, ValueError) as error:
                    what = f"{type(error).__name__} {error}"
                    raise UsageError(f"{path}, line {reader.line_num}: {what}") from error
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    results.sort(key=_order)
    return RunCollection(results, [])


def _order(result: RunResult) -> tuple[int, int, float]:
    backbones = [*(name for f in FAMILIES.values() for name in f.members), result.backbone]
    beta = -1.0 if result.shown_beta is None else result.shown_beta
    return list(TASKS).index(result.task), backbones.index(result.backbone), beta


def _result(row: dict[str, str]) -> RunResult:
    view = TASKS[row["task"]].view
    keys = {score.published: score.key for score in view.scores}
    metrics = {
        keys[row[f"{which}_name"]]: float(row[f"{which}_value"])
        for which in ("metric", "second_metric")
        if row[f"{which}_value"]
    }
    expected = set(keys.values()) if row["status"] == "ok" else set()
    if metrics.keys() != expected:
        raise ValueError(f"status {row['status']} with the metrics {sorted(metrics) or 'none'}")
    count = int(row["num_samples"]) if row["num_samples"] else None
    size = None
    if row["data_size_kb_mean"]:
        size = Spread(float(row["data_size_kb_mean"]), float(row["data_size_kb_std"]), count or 0)
    kind = row["model"].rpartition("(")[2].rstrip(")")
    pretty = label_of(row["backbone"])
    return RunResult(
        run=Path(row["source_log"]),
        role="teacher" if kind == "teacher" else "student",
        task=row["task"],
        view=view,
        mode="test",
        name=row["model"],
        config=None,
        dataset=row["dataset"],
        backbone=row["backbone"],
        beta=float(row["beta"]) if row["beta"] else None,
        metrics=metrics,
        data_size_kb=size,
        payload_bytes=None,
        num_images=count,
        images_per_s=None,
        note=_missing_note(row) if row["status"] == "missing" else "",
        logged=True,
        shown_as=f"{pretty} ({kind})" if kind in ("teacher", "baseline") else f"Ladon {pretty}",
    )


def _missing_note(row: dict[str, str]) -> str:
    best = f"best validation {row['best_val_metric']}, stage {row['best_val_stage']}"
    return f"{NO_TEST}; {best}"
