r"""Reads results out of a run's log: this project's, or one of the paper's repository.

Both word their results alike, after a line that names the model::

    [Teacher: resnet50]
     * Acc@1 78.1580\tAcc@5 94.1920
    [Student: splittable_resnet]
     * Acc@1 77.3760\tAcc@5 93.9620
    Bottleneck size [KB]: mean 85.94058953125 std 6.450615805028002 for 50000 samples
    Payload [bytes]: mean 87894.3 std 6605.4                  (only this project's)

Detection logs hold COCO's summary instead, segmentation logs a `mean IoU: …` line. Only the last
run's final test counts; validations between epochs use the same words before any model is named.
"""

from __future__ import annotations

import re
from itertools import zip_longest
from pathlib import Path
from typing import Any

from ladon.errors import UsageError
from ladon.report.results import RunResult, Spread, backbone_in, beta_in
from ladon.tasks import TASKS

LOG_SUFFIXES = (".txt", ".log")
DATASETS = {folder: task.name for task in TASKS.values() for folder in task.data_folders}
NO_TEST = "the log stops before the final test"

# "2023-02-16 18:25:14,754\tINFO\tlogger.name\tmessage", or slashes and no milliseconds
_PREFIX = re.compile(r"^\d{4}[-/]\d\d[-/]\d\d \d\d:\d\d:\d\d(?:,\d+)?\t[A-Z]+\t[\w.]+\t", re.M)
_MODEL = re.compile(r"^\[(Teacher|Student): (.*)\]$", re.M)
# what a new run, or a training taken up again, makes of the results before it: out of date
_START = re.compile(r"^(?:Start training|Started stage\S*: epochs .*)$", re.M)
_CONFIG = re.compile(
    r"^(?:Config (?P<new>\S+), device |Namespace\(.*?config='(?P<old>[^']+)')", re.M
)

_SIZE = re.compile(
    r"^Bottleneck size \[KB\]: mean (\S+)\s+std (\S+)\s+for (\d+) samples",
    re.M,
)
_PAYLOAD = re.compile(r"^Payload \[bytes\]: mean (\S+)\s+std (\S+)", re.M)


def is_log(path: Path) -> bool:
    """Tell whether a file is a run's log, by its name and first line."""
    if path.suffix not in LOG_SUFFIXES:
        return False
    with path.open(encoding="utf-8", errors="replace") as file:
        return _PREFIX.match(file.readline()) is not None


def read_log(path: Path) -> list[RunResult]:
    """Read the results of the last run in a log.

    Returns:
        The teacher's (if it was tested) and the student's; the student's is marked missing, with
        the reason as its note, if log stops before its final test.

    Raises:
        UsageError: the file cannot be read, is no run's log, or does not say what was run.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    if _PREFIX.match(text) is None:
        raise UsageError(f"{path}: not a run's log (no 'time, level, logger, message' lines)")
    text = _PREFIX.sub("", text.replace("\r\n", "\n"))
    configs = [match["new"] or match["old"] for match in _CONFIG.finditer(text)]
    config = configs[-1] if configs else None
    tests = _final_tests(text)
    models = {role: _metrics(body) for role, (_, body) in tests.items()}
    tasks = {task for task, _ in models.values() if task}
    dataset = _dataset(path, config)
    task = next(iter(tasks), None) or DATASETS.get(dataset)
    if task is None or len(tasks) > 1:
        reason = "results of several tasks" if tasks else NO_TEST
        raise UsageError(f"{path}: {reason}")
    name = _experiment(path, config)
    common: dict[str, Any] = {
        "run": path,
        "task": task,
        "view": TASKS[task].view,
        "mode": "train" if _START.search(text) else "test",
        "name": name,
        "config": config,
        "dataset": dataset,
        "backbone": backbone_in(name) or tests.get("student", (name, ""))[0],
        "beta": beta_in(name),
        "images_per_s": None,
        "logged": True,
    }
    bodies = {"student": "", **{role: body for role, (_, body) in tests.items()}}
    return [
        RunResult(
            role=role,
            metrics=models[role][1] if body else {},
            note="" if body else NO_TEST,
            **_sizes(body),
            **common,
        )
        for role, body in sorted(bodies.items(), reverse=True)  # the teacher first
    ]


def _final_tests(text: str) -> dict[str, tuple[str, str]]:
    """Model name and text of the last run's tests, by role; of those that came to an end."""
    starts = list(_START.finditer(text))
    text = text[starts[-1].end() :] if starts else text
    marks = list(_MODEL.finditer(text))
    tests: dict[str, tuple[str, str]] = {}
    for mark, following in zip_longest(marks, marks[1:]):
        body = text[mark.end() : following.start() if following else len(text)]
        if _metrics(body)[0] is not None:
            tests[mark[1].lower()] = (mark[2], body)
    return tests


def _metrics(text: str) -> tuple[str | None, dict[str, Any]]:
    """Task and metrics of the last test in a text; None and nothing if it holds none."""
    for name, task in TASKS.items():
        if (values := task.read_scores(text)) is not None:
            return name, values
    return None, {}


def _sizes(text: str) -> dict[str, Any]:
    """Return data size, payload and number of images of a test."""
    size, payload = _SIZE.search(text), _PAYLOAD.search(text)
    count = int(size[3]) if size else 0
    return {
        "data_size_kb": Spread(float(size[1]), float(size[2]), count) if size else None,
        "payload_bytes": Spread(float(payload[1]), float(payload[2]), count) if payload else None,
        "num_images": count or None,
    }


def _experiment(path: Path, config: str | None) -> str:
    """Return the experiment's name: the log's own, unless only its config's says β."""
    stem = path.name.removesuffix(path.suffix)
    if config is not None and beta_in(stem) is None:
        config_stem = Path(config).name.removesuffix(Path(config).suffix)
        return config_stem if beta_in(config_stem) is not None else stem
    return stem


def _dataset(path: Path, config: str | None) -> str:
    """Return the dataset that the path of the log, or of the config it names, goes through."""
    places = [path.resolve().parts[:-1], Path(config).parts[:-1] if config else ()]
    for parts in places:
        for part in reversed(parts):
            if part in DATASETS:
                return part
    for parts, root in zip(places, ("logs", "configs"), strict=True):
        if root in parts[:-1]:
            return parts[len(parts) - parts[::-1].index(root)]
    raise UsageError(
        f"{path}: cannot tell the dataset: keep the log in a folder named after it, "
        f"such as logs/{next(iter(DATASETS))}/ladon/"
    )
