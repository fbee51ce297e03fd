"""`ladon verify`: the final test of a run again, from its folder."""

from __future__ import annotations

import argparse
import json
import shutil

import pytest
import warm

from ladon.children import Children
from ladon.commands import verify
from ladon.metrics.base import Metric
from ladon.replay import changed_around, compare, sha256_of
from ladon.replay import test_flags as flags_of_test
from ladon.tasks import TASKS


@pytest.fixture
def forked(monkeypatch):
    """Children are forked from a process that has imported everything; returns their commands."""
    commands = []

    def run(self, command, env, say, cwd=None):
        commands.append((command, env))
        done = warm.run(command[1:], env=None, cwd=cwd)
        for line in (done.stdout + done.stderr).splitlines():
            say(line)
        return done.returncode

    monkeypatch.setattr(Children, "__call__", run)
    return commands


@pytest.fixture
def tested(own_lab):
    """The folder of a run that tested the lab's classifier, whose checkpoint is its own."""
    checkpoint = own_lab.checkpoint("classification")
    content = checkpoint.read_bytes()
    checkpoint.unlink()
    checkpoint.write_bytes(content)
    flags = ("-test_only", "-student_only", "--evaluation", "encode")
    assert own_lab.run("classification", *flags, log="tested") == 0
    return own_lab.folder / "logs" / "tested"


def edit(folder, change):
    path = folder / "metrics.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_an_equal_result_is_one_line(tested, forked, capsys):
    before = {path.name: path.read_bytes() for path in tested.iterdir()}
    assert verify.main([str(tested)]) == 0
    shown = capsys.readouterr()
    assert shown.out.count("\n") == 1
    assert shown.out.startswith(f"{tested}: acc1 ")
    assert shown.out.endswith(" bytes of payload an image on 12 images, as before\n")
    assert {path.name: path.read_bytes() for path in tested.iterdir()} == before
    ((command, env),) = forked
    assert "-student_only" in command
    assert command[command.index("--evaluation") + 1] == "encode"
    assert env == {"OMP_NUM_THREADS": str(json.loads(before["metrics.json"])["replay"]["threads"])}


def test_a_trained_run_is_verified_with_its_teacher(lab, forked, capsys):
    """Of its best checkpoint, as its test was."""
    folder = lab.folder / "logs" / "classification"
    assert set(json.loads((folder / "metrics.json").read_text())["models"]) == {
        "teacher",
        "student",
    }
    assert verify.main([str(folder)]) == 0
    assert "as before" in capsys.readouterr().out
    assert "-student_only" not in forked[0][0]


@pytest.mark.slow
def test_what_differs_is_a_table(tested, forked, capsys):
    def change(content):
        student = content["models"]["student"]
        student["metrics"]["acc1"] += 0.5
        student["payload_sha256"] = "0" * 64
        content["replay"]["packages"]["torch"] = "1.0"

    edit(tested, change)
    missing = tested.parent / "nowhere"
    assert verify.main([str(tested), str(missing)]) == 2, "the worst of all"
    shown = capsys.readouterr()
    assert "metrics.acc1" in shown.out
    assert "-0.5" in shown.out
    assert "payload_sha256" in shown.out
    assert "2 values differ; what else has changed: torch 1.0, now " in shown.out
    assert shown.err == f"error: {missing}: is no run's folder: there is no such folder\n"
    assert verify.main([str(tested)]) == 1


def test_another_checkpoint_is_not_tested(tested, own_lab, forked, capsys):
    checkpoint = own_lab.checkpoint("classification")
    before = sha256_of(checkpoint)
    checkpoint.write_bytes(checkpoint.read_bytes() + b"\0")
    assert verify.main([str(tested)]) == 2
    message = capsys.readouterr().err
    assert f"its checkpoint {checkpoint} has changed since the test" in message
    assert f"(SHA-256 was {before[:12]}…, is {sha256_of(checkpoint)[:12]}…)" in message
    checkpoint.unlink()
    assert verify.main([str(tested)]) == 2
    assert f"its checkpoint {checkpoint} is gone: put it back" in capsys.readouterr().err
    assert forked == []


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda run: (run / "metrics.json").unlink(), "has no final test (no metrics.json): "),
        (lambda run: (run / "config.yaml").unlink(), "is no run's folder: has no config.yaml"),
        (lambda run: edit(run, lambda found: found.pop("replay")), "it is of an older version"),
        (lambda run: edit(run, lambda f: f["replay"].pop("task")), "it is of an older version"),
        (lambda run: edit(run, lambda f: f["replay"].update(task="../x")), "of an older version"),
        (lambda run: edit(run, lambda f: f["replay"].update(flags=[1])), "of an older version"),
        (lambda run: edit(run, lambda found: found.pop("models")), "cannot be read as a run's"),
        (lambda run: (run / "config.yaml").write_text("{}"), "config.yaml is not the one of"),
    ],
)
def test_no_finished_run_is_refused(tested, forked, capsys, damage, said):
    damage(tested)
    assert verify.main([str(tested)]) == 2
    assert said in capsys.readouterr().err
    assert forked == []


@pytest.mark.slow
def test_a_test_that_cannot_be_made_says_why(own_data, tested, forked, capsys):
    """The data is gone."""
    shutil.rmtree(own_data)
    assert verify.main([str(tested)]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: {tested}: its test could not be repeated: ")
    assert "does not exist" in message


@pytest.mark.slow
def test_a_child_process_does_it(tested, capfd):
    assert verify.main([str(tested)]) == 0
    assert "as before" in capfd.readouterr().out


def test_flags_of_a_task_are_repeated():
    args = argparse.Namespace(seed=3, num_classes=21, deterministic=True)
    task = TASKS["semantic_segmentation"]
    settings = {"evaluation": "full", "compile": False}
    assert flags_of_test(task, args, settings, "cuda:0") == [
        *("-test_only", "--device", "cuda:0", "--seed", "3", "--deterministic"),
        *("--num_classes", "21", "--evaluation", "full"),
    ]
    args = argparse.Namespace(seed=0, iou_types=["bbox"])
    found = flags_of_test(TASKS["object_detection"], args, {"compile": True}, "cpu")
    assert found == ["-test_only", "--device", "cpu", "--seed", "0", "--compile"]


def test_values_are_compared_to_the_last_bit():
    model = {"metrics": {"a": 0.1 + 0.2, "iou": [1.0, None, float("nan")]}, "images_per_s": 3.0}
    before = {"models": {"student": model}}
    same = json.loads(json.dumps(before))
    same["models"]["student"] |= {"images_per_s": 9.0, "payload_sha256": "new in this version"}
    assert compare(before, same) == []
    same["models"]["student"]["metrics"] = {"a": 0.3, "iou": [1.0, 0.5, float("nan")]}
    found = [(one.name, one.by) for one in compare(before, same)]
    assert found == [("metrics.a", -5.551115123125783e-17), ("metrics.iou.1", None)]
    assert compare(before, {"models": {}})[0].now is None


def test_what_else_has_changed_is_named():
    before = {"threads": 2, "instructions": "AVX2", "packages": {"torch": "1"}, "folder": "/a"}
    now = {"threads": 4, "instructions": "AVX2", "packages": {"torch": "2"}, "folder": "/b"}
    assert changed_around(before, now) == ["threads 2, now 4", "torch 1, now 2"]


def test_a_run_with_a_metric_of_its_own_remembers_its_script(own_lab, monkeypatch):
    """Scored by another metric its task has another name, by which nobody can start it."""
    from ladon.engine.distributed import World
    from ladon.engine.interrupt import StopRequest
    from ladon.engine.run import Run, load_run_config

    task = TASKS["semantic_segmentation"]
    monkeypatch.setattr(
        "ladon.engine.run.entries",
        lambda kind: {"own": type("Own", (Metric,), {"scores": task.scores})},
    )
    args = argparse.Namespace(
        config=str(own_lab.config("segmentation")), json={}, assignments=[], data_root=None
    )
    config = load_run_config(task, args)
    monkeypatch.setattr(type(config), "section", lambda self, key: {"key": "own"})
    run = Run(task, args, config, World("cpu"), StopRequest())
    assert run.task.name == "semantic_segmentation-mean_iou"
    assert run.script == "semantic_segmentation"
