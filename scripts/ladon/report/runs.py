"""Finds and reads finished runs: metrics.json of a run folder, or a log file alone."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ladon.backbones import is_member
from ladon.errors import UsageError
from ladon.paths import METRICS_FILE, RUN_MARKERS
from ladon.report.logs import LOG_SUFFIXES, is_log, read_log
from ladon.report.results import PictureCodec, RunCollection, RunResult, Spread, backbone_in
from ladon.tasks import TASKS, TaskView

FORMAT = 1


def collect_runs(paths: Sequence[str | Path]) -> RunCollection:
    """Read run folders, metrics.json files, logs, and all runs below parent folders.

    A teacher that several runs scored alike is kept once; a student's runs are all kept. Of a run
    that left both a folder and a log, the folder counts.

    Raises:
        UsageError: a path does not exist, a file is broken, or no run is finished.
    """
    files: dict[Path, Path] = {}  # by real path: the same run may be given twice
    unfinished: dict[Path, Path] = {}
    for path in map(Path, paths):
        found, open_runs = _find(path)
        files.update((file.resolve(), file) for file in found)
        unfinished.update((folder.resolve(), folder) for folder in open_runs)
    # the log of a run folder stands beside it; given by name (DIR/*), the run would count twice
    folders = {file.parent for file in files if file.name == METRICS_FILE} | set(unfinished)
    results: list[RunResult] = []
    for place, file in files.items():
        if file.suffix in LOG_SUFFIXES and place.with_suffix("") in folders:
            continue
        results += read_log(file) if file.suffix in LOG_SUFFIXES else read_metrics(file)
    if all(result.missing and result.note for result in results):
        stopped = list(dict.fromkeys(f"{result.run}: {result.note}" for result in results))
        where = ", ".join(str(folder) for folder in unfinished.values())
        none = [f"no finished run (no {METRICS_FILE}) in {where}"] if where else []
        raise UsageError("; ".join(stopped + none))
    results.sort(key=sort_key)
    return RunCollection(_without_repeated_teachers(results), sorted(unfinished.values()))


def sort_key(result: RunResult) -> tuple[object, ...]:
    """Backbone, then β as a number with teachers and baselines before the first, then the path."""
    has_setting = result.role == "student" and result.setting is not None
    setting = result.setting if has_setting else 0.0
    return (result.backbone or result.family, has_setting, setting, str(result.run))


def read_metrics(path: Path) -> list[RunResult]:
    """Read one metrics.json.

    Returns:
        One result per model in it, and of a model for every rate one per rate.

    Raises:
        UsageError: the file cannot be read, or a key is missing or of the wrong type.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise UsageError(f"{path}: not a metrics file of format {FORMAT}")
    if data.get("task") not in TASKS and "shown" not in data:
        raise UsageError(f"{path}: task: '{data.get('task')}' is none of {', '.join(TASKS)}")
    if not data.get("models"):
        raise UsageError(f"{path}: models: no model in it")
    try:
        return [
            _result(path, data, role, at_rate)
            for role, model in data["models"].items()
            for at_rate in (model, *model.get("rates", ()))
        ]
    except KeyError as error:
        raise UsageError(f"{path}: the key {error} is missing") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"{path}: a value has the wrong type: {error}") from error


def _result(path: Path, data: dict[str, Any], role: str, model: dict[str, Any]) -> RunResult:
    beta, num_images = model.get("beta", data.get("beta")), data.get("num_images")
    speed = model.get("images_per_s")
    # a task of a user's own is not known here: its run tells how it is shown
    known = TASKS.get(data["task"])
    view = TaskView.from_plain(data["shown"]) if known is None else known.view
    metrics = dict(model["metrics"])
    for score in view.scores:
        if metrics.get(score.key) is not None:
            metrics[score.key] = float(metrics[score.key])
    name = str(data.get("name") or path.parent.resolve().name)
    told = data.get("backbone")
    return RunResult(
        run=path.parent,
        role=role,
        task=data["task"],
        view=view,
        mode=data["mode"],
        name=name,
        config=data.get("config"),
        dataset=str(data["dataset"]),
        # a user's own network is not known here, and older files hold the three-headed model's key
        backbone=told if is_member(told) else backbone_in(name) or told,
        beta=None if beta is None else float(beta),
        metrics=metrics,
        data_size_kb=_spread(model.get("data_size_kb")),
        payload_bytes=_spread(model.get("payload_bytes")),
        num_images=None if num_images is None else int(num_images),
        images_per_s=None if speed is None else float(speed),
        classes=_classes(data.get("classes")),
        codec=_codec(data.get("codec")),
    )


def _classes(names: list[str] | None) -> tuple[str, ...] | None:
    """Return the names of those labels that have one."""
    if names is None:
        return None
    if not isinstance(names, list):
        raise TypeError("classes are no list of names")
    return tuple(str(name) for name in names if name)


def _codec(data: dict[str, Any] | None) -> PictureCodec | None:
    if data is None:
        return None
    return PictureCodec(str(data["format"]), float(data["quality"]), str(data["before"]))


def _spread(data: dict[str, Any] | None) -> Spread | None:
    if data is None:
        return None
    return Spread(float(data["mean"]), float(data["std"]), int(data["n"]))


def _find(path: Path) -> tuple[list[Path], list[Path]]:
    """Return the files with results at or below a path, and the run folders without one."""
    if path.is_file():
        return [path], []
    if not path.is_dir():
        raise UsageError(f"no such run: {path}")
    found: list[Path] = []
    unfinished: list[Path] = []
    for folder, subfolders, names in os.walk(path):
        subfolders.sort()
        if METRICS_FILE in names:
            found.append(Path(folder, METRICS_FILE))
        elif any(marker in names for marker in RUN_MARKERS):
            unfinished.append(Path(folder))
        else:
            logs = [Path(folder, name) for name in sorted(names)]
            # the log of a run folder stands beside it, under the same name
            found += [log for log in logs if log.stem not in subfolders and is_log(log)]
    # a folder given by name that holds no run at all has at best just been started
    return found, unfinished if found or unfinished else [path]


def _without_repeated_teachers(results: list[RunResult]) -> list[RunResult]:
    kept: list[RunResult] = []
    seen: set[str] = set()
    for result in results:
        if result.role == "teacher":
            key = json.dumps([result.task, result.dataset, result.label, result.metrics])
            if key in seen:
                continue
            seen.add(key)
        kept.append(result)
    return kept
