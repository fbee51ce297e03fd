"""How a run is: read from its folder, which another process writes at the same time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ladon.engine.locking import LockState, look_at
from ladon.paths import METRICS_FILE, RUN_MARKERS
from ladon.tasks import Score, TaskView
from ladon.tracking.files import read_epochs
from ladon.watch.log_tail import LogTail, Step, read_log_tail

State = Literal[
    "waiting",  # not there yet
    "starting",  # its process runs, and has not trained a step yet that was logged
    "running",
    "testing",
    "finished",
    "interrupted",  # by a signal: it has saved its state
    "failed",  # it said why
    "died",  # killed: its process is gone without a word
    "stopped",  # it is not running, and nothing tells why
    "silent",  # on a machine that cannot be looked at, and nothing was written for long
    "removed",
]
_SILENCE = 15 * 60.0  # seconds after which nothing is expected of such a run any more


@dataclass(frozen=True)
class RunState:
    """A run at a moment.

    Attributes:
        folder: its folder.
        state: how it is.
        detail: why, where it failed or was interrupted.
        epochs: records of the epochs that are done.
        stages: name and number of epochs of each stage; empty where that is not known.
        step: the last step that was logged, None where there was none or its epoch is done.
        score: the decisive one of its task, None where that is not known.
        seconds_left: of all its stages, from the epochs that were measured; None: not known.
        saved: seconds since `last.pt` was written; None: it is not there.
    """

    folder: Path
    state: State
    detail: str = ""
    epochs: Sequence[Mapping[str, Any]] = ()
    stages: tuple[tuple[str, int], ...] = ()
    step: Step | None = None
    score: Score | None = None
    seconds_left: float | None = None
    saved: float | None = None

    @property
    def num_epochs(self) -> int:
        """Epochs of all stages; 0 if that is not known."""
        return sum(epochs for _, epochs in self.stages)

    @property
    def epoch(self) -> int:
        """The epoch that is being trained, or the number of epochs where all are done."""
        return self.step.epoch if self.step is not None else _next_epoch(self.epochs)

    @property
    def stage(self) -> int | None:
        """Number of its stage, from 1."""
        end = 0
        for number, (_, epochs) in enumerate(self.stages, start=1):
            end += epochs
            if self.epoch < end or number == len(self.stages):
                return number
        return int(self.epochs[-1].get("stage", 1)) if self.epochs else None

    @property
    def best(self) -> tuple[float, int] | None:
        """The best validation value and its epoch."""
        key = None if self.score is None else self.score.key
        for record in reversed(self.epochs):
            value = (record.get("val") or {}).get(key)
            if record.get("best") and isinstance(value, int | float):
                return float(value), record["epoch"]
        return None


def read_run(folder: Path, now: float) -> RunState:
    """Read how a run is.

    Args:
        folder: its folder, which may be missing or go away meanwhile.
        now: the time, in seconds since the epoch.
    """
    log = read_log_tail(folder)
    if not any((folder / name).exists() for name in (METRICS_FILE, *RUN_MARKERS)):
        return RunState(folder, "waiting")
    origin = _read_json(folder / "run.json")
    epochs = [record for record in read_epochs(folder / "metrics.jsonl") if _is_usable(record)]
    stages = _stages(origin)
    step = log.step if log.step and log.step.epoch >= _next_epoch(epochs) else None
    saved = _written(folder / "last.pt")
    state = _state(folder, log, bool(epochs) or step is not None, now)
    left = None
    if state in ("running", "starting", "interrupted", "died"):
        left = seconds_left(stages, epochs, step)
        if left is not None and state == "running" and step is not None and log.written:
            left = max(left - max(0.0, now - log.written), left - step.seconds_left)
    detail = log.error if log.error and state in ("failed", "interrupted") else ""
    age = None if saved is None else max(0.0, now - saved)
    return RunState(folder, state, detail, epochs, stages, step, _score(origin), left, age)


def _state(folder: Path, log: LogTail, has_trained: bool, now: float) -> State:
    lock: LockState = look_at(folder / ".lock")
    result = _written(folder / METRICS_FILE)
    if lock == "unknown":
        signs = (log.written, _written(folder / "last.pt"), _written(folder / "metrics.jsonl"))
        if result is not None and result >= max(sign for sign in (*signs, 0.0) if sign is not None):
            return "finished"
        if log.error is None:
            fresh = any(sign is not None and now - sign < _SILENCE for sign in signs)
            lock = "held" if fresh else lock
    if lock == "held":
        if log.is_testing:
            return "testing"
        return "running" if has_trained else "starting"
    if lock == "left":  # a test writes its results last: they may be an earlier run's
        started = _written(folder / ".lock")
        return "finished" if result and started and result >= started else "died"
    if log.error is not None:
        return "interrupted" if log.error.startswith("interrupted") else "failed"
    if result is not None:
        return "finished"
    return "silent" if lock == "unknown" else "stopped"


def seconds_left(
    stages: Sequence[tuple[str, int]], epochs: Sequence[Mapping[str, Any]], step: Step | None
) -> float | None:
    """Return what the rest of a training takes, over all its stages.

    An epoch takes what its stage's epochs took so far, validation included; before the first one,
    what the steps' pace says, or else what an epoch of the stage before took.

    Args:
        stages: name and number of epochs of each.
        epochs: the records of those that are done.
        step: the last one of the epoch that is under way, if one was logged.

    Returns:
        Seconds; None where nothing was measured, or the stages are not known.
    """
    current = step.epoch if step is not None else _next_epoch(epochs)
    total, first, an_epoch = 0.0, 0, None
    for number, (_, num_epochs) in enumerate(stages, start=1):
        times = [
            float(record.get("train_seconds") or 0) + float(record.get("val_seconds") or 0)
            for record in epochs
            if record.get("stage", 1) == number
        ]
        here = step is not None and first <= step.epoch < first + num_epochs
        pace = step.epoch_seconds if here and step is not None else None
        if times:
            an_epoch = sum(times) / len(times)
        elif pace is not None:
            an_epoch = pace
        to_go = max(0, first + num_epochs - max(first, current))
        if to_go and an_epoch is None:
            return None
        total += to_go * (an_epoch or 0.0)
        if here and step is not None:
            total -= (an_epoch or 0.0) * step.step / max(1, step.steps)
        first += num_epochs
    return max(0.0, total) if stages else None


def _is_usable(record: Mapping[str, Any]) -> bool:
    """Whether a line is an epoch's as a run writes it; a file may hold anything."""
    numbers = (record.get(name) or 0.0 for name in ("train_seconds", "val_seconds", "train_loss"))
    return (
        all(isinstance(number, int | float) for number in numbers)
        and isinstance(record.get("stage", 1), int)
        and all(isinstance(record.get(name) or {}, dict) for name in ("val", "terms"))
    )


def _next_epoch(epochs: Sequence[Mapping[str, Any]]) -> int:
    return epochs[-1]["epoch"] + 1 if epochs else 0


def _stages(origin: Mapping[str, Any]) -> tuple[tuple[str, int], ...]:
    try:
        return tuple((str(s["name"]), int(s["epochs"])) for s in origin.get("stages") or ())
    except (TypeError, KeyError, ValueError):
        return ()


def _score(origin: Mapping[str, Any]) -> Score | None:
    try:
        return TaskView.from_plain(origin["shown"]).first
    except (TypeError, KeyError, ValueError):
        return None


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _written(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None
