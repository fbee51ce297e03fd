"""Fused training: students that share data and teacher learn what they learn alone, to the bit."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from fusing import BETAS, comparable, config_for, fused, result_lines, separately
from tiny import TinyExperiment
from training_runs import Killed, interrupt_after, killed_when

from ladon.data.loaders import IndexedDataset, SeededDataset
from ladon.engine.hooked import HookedModel
from ladon.engine.last_file import LastFile
from ladon.engine.stage import Stage
from ladon.models.checkpoint import load_safely

VALIDATION = {"dataset_id": "digit_scenes/val", "kwargs": {"batch_size": 32}}
# two steps an epoch, validated in both stages: 6 steps in 3 epochs
PLAN = {
    "train__stage1": {"num_epochs": 2, "val_data_loader": VALIDATION},
    "train__log_freq": 1,
}
TIMES = {"train_seconds", "val_seconds", "images_per_s"}


@pytest.fixture(autouse=True)
def _drawing(monkeypatch):
    """Let every step draw from the global generators, as dropout does."""
    original = Stage.student_loss

    def student_loss(self, *args):
        return original(self, *args) * (1 + 0.1 * torch.rand(()))

    monkeypatch.setattr(Stage, "student_loss", student_loss)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, lab):
    """A lab where each β was trained separately, without interruption; logs 'one-beta…'."""
    made = TinyExperiment(tmp_path_factory.mktemp("fused"), lab.data_root)
    (made.folder / "ckpt").mkdir()
    made.checkpoint("teacher").symlink_to(lab.checkpoint("teacher"))
    with pytest.MonkeyPatch.context() as patched:
        original = Stage.student_loss
        patched.setattr(
            Stage, "student_loss", lambda *args: original(*args) * (1 + 0.1 * torch.rand(()))
        )
        prepare(made, "one")
        assert separately(made, "classification", "one", "one") == [0, 0]
    return made


def prepare(lab: TinyExperiment, group: str, **values) -> None:
    for beta in BETAS:
        config_for(lab, "classification", beta, group, **PLAN, **values)


def folder(lab: TinyExperiment, log: str, beta: str) -> Path:
    return lab.folder / "logs" / f"{log}-beta{beta}"


def curve(lab: TinyExperiment, log: str, beta: str) -> list[dict]:
    lines = (folder(lab, log, beta) / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def assert_same_state(ours, theirs, where="") -> None:
    """Equal to the bit, however deep the tensors lie."""
    if isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs), where
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), where
        for key in ours:
            assert_same_state(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(ours, (list, tuple)):
        assert len(ours) == len(theirs), where
        for number, pair in enumerate(zip(ours, theirs, strict=True)):
            assert_same_state(*pair, f"{where}.{number}")
    elif not isinstance(ours, float) or where.split(".")[-1] != "seconds":
        assert ours == theirs, where


def assert_as_separate(lab: TinyExperiment, group: str, betas=BETAS) -> None:
    """Weights, optimizers, generators, best checkpoints, curves and results of 'one-beta…'."""
    for beta in betas:
        ours, theirs = (load_safely(folder(lab, g, beta) / "last.pt") for g in (group, "one"))
        assert_same_state(ours, theirs, "last")
        ours, theirs = (
            load_safely(lab.folder / "ckpt" / f"{g}-beta{beta}.pt") for g in (group, "one")
        )
        for content in (ours, theirs):
            content.pop("args")  # names of files
        assert_same_state(ours, theirs, "best")
        assert curve(lab, group, beta) == curve(lab, "one", beta)
        ours, theirs = (comparable(lab, f"{g}-beta{beta}") for g in (group, "one"))
        for content in (ours, theirs):
            content.pop("config")
        assert ours == theirs


def counted(monkeypatch, cls, name, count):
    original = getattr(cls, name)

    def method(self, *args):
        count(self, *args)
        return original(self, *args)

    monkeypatch.setattr(cls, name, method)


def test_fused_training_equals_separate_training(whole, monkeypatch, capfd):
    trained_on, evaluated_on, runs = [], [], {"teacher": 0, "student": 0}
    counted(monkeypatch, SeededDataset, "__getitem__", lambda _, pair: trained_on.append(pair))
    counted(monkeypatch, IndexedDataset, "__getitem__", lambda _, i: evaluated_on.append(i))

    def count(name):
        return lambda *_: runs.update({name: runs[name] + 1})

    counted(monkeypatch, HookedModel, "__call__", count("teacher"))
    counted(monkeypatch, Stage, "student_loss", count("student"))
    prepare(whole, "all")
    assert fused(whole, "classification", "all", "all") == 0
    assert_as_separate(whole, "all")
    assert len(trained_on) == len(set(trained_on)) == 3 * 32, "a batch was loaded twice"
    assert len(evaluated_on) == 12 * (3 + 1), "three validations and the test, for all at once"
    assert runs == {"teacher": 6, "student": 12}
    best = [load_safely(whole.folder / "ckpt" / f"all-beta{b}.pt")["model"] for b in BETAS]
    assert any(not torch.equal(best[0][name], best[1][name]) for name in best[0])
    shown = capfd.readouterr().err
    for beta, other in (BETAS, BETAS[::-1]):
        log = whole.log(f"all-beta{beta}")
        assert log.count("\tEpoch: [") == 6
        assert log.count("Updating entropy bottleneck") == 1
        assert f"beta{other}" not in log
        assert result_lines(whole, f"all-beta{beta}") == result_lines(whole, f"one-beta{beta}")
        assert f"[β {beta}] Epoch: [2]\t[1/2]" in shown
        assert whole.metrics(f"all-beta{beta}")["fused_with"] == [other]


# in the first student's step within an epoch, in the second's at the end of stage 1
@pytest.mark.parametrize("calls", [pytest.param(1, marks=pytest.mark.slow), 8])
def test_interrupted_and_resumed_equals_separate_training(whole, monkeypatch, calls):
    group = f"parts{calls}"
    prepare(whole, group)
    with monkeypatch.context() as patched:
        interrupt_after(patched, calls)
        assert fused(whole, "classification", group, group) == 130
    places = []
    for beta in BETAS:
        progress = load_safely(folder(whole, group, beta) / "last.pt")["progress"]
        places.append((progress["epoch"], progress["step"]))
        assert "SIGINT: stopping after this step" in whole.log(f"{group}-beta{beta}")
        assert "are saved: add --resume" in whole.log(f"{group}-beta{beta}")
    step = (calls + 1) // 2
    assert places == [((step - 1) // 2, (step - 1) % 2 + 1)] * 2
    assert fused(whole, "classification", group, group, "--resume") == 0
    assert_as_separate(whole, group)


@pytest.mark.slow
def test_a_kill_between_two_students_saves_needs_no_manual_step(whole, monkeypatch):
    """One student's last.pt is a step ahead of the other's: both go on from where both were."""
    prepare(whole, "between", train__checkpoint_steps=1)
    with monkeypatch.context() as patched:
        killed_when(patched, LastFile, "write_behind", call=4)  # after the first one's second
        with pytest.raises(Killed):
            fused(whole, "classification", "between", "between")
    progress = [load_safely(folder(whole, "between", b) / "last.pt")["progress"] for b in BETAS]
    assert [at["step"] for at in progress] == [2, 1]
    assert fused(whole, "classification", "between", "between", "--resume") == 0
    assert "epoch 0, step 1" in whole.log(f"between-beta{BETAS[0]}")
    assert_as_separate(whole, "between")


@pytest.mark.slow
def test_runs_at_different_places_are_resumed_separately(whole, monkeypatch, capfd):
    prepare(whole, "apart")
    with monkeypatch.context() as patched:
        interrupt_after(patched, 2)
        assert fused(whole, "classification", "apart", "apart") == 130
    last = folder(whole, "apart", BETAS[0]) / "last.pt"
    last.unlink()
    capfd.readouterr()
    assert fused(whole, "classification", "apart", "apart", "--resume") == 2
    shown = capfd.readouterr().err
    assert f"β {BETAS[0]} at epoch 0, step 0; β {BETAS[1]} at epoch 0, step 1" in shown
    assert "resume them separately, without --fused" in shown
    assert separately(whole, "classification", "apart", "apart", "--resume") == [0, 0]
    assert_as_separate(whole, "apart")


@pytest.mark.slow
def test_a_finished_beta_is_skipped_and_the_rest_goes_on(whole, monkeypatch, capfd):
    prepare(whole, "rest")
    with monkeypatch.context() as patched:
        interrupt_after(patched, 5)
        assert fused(whole, "classification", "rest", "rest") == 130
    config = whole.folder / "configs" / f"rest-beta{BETAS[0]}.yaml"
    log = f"rest-beta{BETAS[0]}"
    assert whole.run("classification", "--resume", config=config, log=log) == 0
    before = whole.log(log)
    assert fused(whole, "classification", "rest", "rest", "--resume") == 0
    assert f"β {BETAS[0]}: already finished, skipped" in capfd.readouterr().out
    assert whole.log(log) == before
    assert_as_separate(whole, "rest")


@pytest.mark.parametrize("number", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_loss_that_is_not_finite_stops_its_student_alone(whole, monkeypatch, capfd, number):
    group, bad, good = f"nan{number}", BETAS[number], BETAS[1 - number]
    prepare(whole, group)
    original, calls = Stage.student_loss, []

    def student_loss(self, *args):
        calls.append(self)
        loss = original(self, *args)
        # the third step, the first one of the second epoch
        return loss * math.nan if len(calls) == 5 + number else loss

    monkeypatch.setattr(Stage, "student_loss", student_loss)
    assert fused(whole, "classification", group, group) == 1
    assert len(calls) == 2 * 3 + 3, "the other one goes on alone"
    shown = capfd.readouterr()
    assert f"│ {bad} │ failed (exit code 1) │" in shown.out
    assert f"│ {good} │ done " in shown.out
    log = whole.log(f"{group}-beta{bad}")
    assert "loss is nan in stage1, epoch 1, step 0" in log
    assert "keeps the last good state" in log
    assert "Epoch: [2]" not in log
    progress = load_safely(folder(whole, group, bad) / "last.pt")["progress"]
    assert (progress["epoch"], progress["step"]) == (1, 0)
    assert not (folder(whole, group, bad) / "metrics.json").exists()
    assert "loss is" not in whole.log(f"{group}-beta{good}")
    assert_as_separate(whole, group, betas=[good])


@pytest.mark.parametrize("number", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_student_that_cannot_be_set_up_fails_alone(whole, capfd, number):
    group, bad = f"setup{number}", BETAS[number]
    prepare(whole, group)
    wrong = {"key": "SGD", "kwargs": {"lr": 0.1, "nesterov": True}}
    stage = {**PLAN["train__stage1"], "optimizer": wrong}
    config_for(whole, "classification", bad, group, **{**PLAN, "train__stage1": stage})
    assert fused(whole, "classification", group, group) == 1
    assert f"│ {bad} │ failed (exit code 2) │" in capfd.readouterr().out
    log = whole.log(f"{group}-beta{bad}")
    assert ": cannot set up: ValueError: Nesterov momentum requires" in log
    assert_as_separate(whole, group, betas=[BETAS[1 - number]])
