"""Runs of the task scripts that train: stopped in the middle, and compared."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import CLASSIFIERS, TinyExperiment

from ladon.engine.stage import Stage
from ladon.models.checkpoint import load_safely, read_checkpoint


def fresh(lab: TinyExperiment, family: str, name: str, **values: Any) -> Path:
    """A config whose best checkpoint is its own file."""
    student = "student_model" if family in CLASSIFIERS else "model"
    values = {f"models__{student}__dst_ckpt": str(lab.folder / f"{name}.pt"), **values}
    return lab.config(family, name, **values)


def epochs(lab: TinyExperiment, name: str) -> list[dict]:
    """The records of a run's epochs, in their order."""
    lines = (lab.folder / "logs" / name / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def interrupt_after(
    monkeypatch: pytest.MonkeyPatch, steps: int, signum: int = signal.SIGINT
) -> None:
    """Send this process a signal during the given optimizer step, counted over the run."""
    count = 0
    original = Stage.step

    def step(self, loss):
        nonlocal count
        count += 1
        if count == steps:
            signal.raise_signal(signum)
        return original(self, loss)

    monkeypatch.setattr(Stage, "step", step)


class Killed(BaseException):
    """Stands for a SIGKILL: nobody answers it."""


def killed_when(
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    name: str,
    *,
    after: bool = False,
    call: int = 1,
) -> None:
    """End the process at a call of a method, before it or after it."""
    original, calls = getattr(owner, name), []

    def method(*args, **kwargs):
        calls.append(0)
        if len(calls) == call and not after:
            raise Killed
        found = original(*args, **kwargs)
        if len(calls) == call:
            raise Killed
        return found

    monkeypatch.setattr(owner, name, method)


def assert_same_run(lab: TinyExperiment, first: str, second: str) -> None:
    """Same weights to the bit, same curve, same results."""
    ours, theirs = (
        load_safely(lab.folder / "logs" / name / "last.pt")["model"] for name in (first, second)
    )
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name
    best = [read_checkpoint(lab.folder / f"{name}.pt", "test") for name in (first, second)]
    assert best[0].best_value == best[1].best_value
    for name in best[0].model:
        assert torch.equal(best[0].model[name], best[1].model[name]), name
    losses = [[e["train_loss"] for e in epochs(lab, name)] for name in (first, second)]
    assert losses[0] == losses[1]
    values = [lab.metrics(name)["models"]["student"]["metrics"] for name in (first, second)]
    assert values[0] == values[1]
