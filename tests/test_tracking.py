"""What is logged of a run's epochs, and where: files, TensorBoard, tracking clients."""

from __future__ import annotations

import csv
import io
import json
import logging
import sys
import threading
from types import ModuleType, SimpleNamespace

import pytest
from tracking_clients import StandIn
from training_runs import epochs, fresh, interrupt_after

from ladon.errors import LadonError, UsageError
from ladon.tracking import TRAINING_FILES, Journal, Sink, clients, open_journal, scalars
from ladon.tracking.files import EpochFiles, csv_of, drop_epochs_from, read_epochs
from ladon.tracking.journal import stage_curves
from ladon.tracking.parameters import HIDDEN, parameters

RECORD = {
    "stage": 2,
    "epoch": 3,
    "lr": [0.1, 0.01],
    "terms": {"a": 1.5, "b": 2.5},
    "best": True,
    "val": {"acc1": 50.0, "iou": [1.0, None]},
}


def rows_of(folder):
    return list(csv.DictReader(io.StringIO((folder / "metrics.csv").read_text())))


@pytest.fixture
def stand_ins(monkeypatch):
    """Both clients' packages, as far as they are used; what they are told is kept."""
    made = StandIn()
    for name, module in made.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    for name in ("wandb", "mlflow"):  # imported anew, with the stand-ins
        monkeypatch.delitem(sys.modules, f"ladon.tracking.{name}_client", raising=False)
    return made


def test_a_training_of_two_stages_is_logged_by_terms(own_lab, stand_ins, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "hunter2")
    kind = "tensorboard.backend.event_processing.event_accumulator"
    EventAccumulator = pytest.importorskip(kind).EventAccumulator
    config = fresh(own_lab, "classification", "logged")
    flags = ("-student_only", "--wandb", "--mlflow", "mine", "--tensorboard", "--seed", "5")
    assert own_lab.run("classification", *flags, config=config) == 0
    folder = own_lab.folder / "logs" / "logged"
    first, second = epochs(own_lab, "logged")
    assert sum(first["terms"].values()) == pytest.approx(first["train_loss"], rel=1e-5)
    assert {"layer1", "layer4", "bpp"} <= set(first["terms"])
    assert first["aux_loss"] > 0
    assert first["bpp"] > 0
    assert first["images"] == 32  # of 40, in whole batches of 16
    assert first["images_per_s"] == pytest.approx(32 / first["train_seconds"], rel=0.01)
    assert "val" not in first
    assert not {"bpp", "aux_loss"} & set(second)
    assert second["val_payload_bytes"] > 0
    rows = rows_of(folder)
    assert [(row["stage"], row["epoch"]) for row in rows] == [("1", "0"), ("2", "1")]
    for row, record in zip(rows, (first, second), strict=True):
        assert {name: float(cell) for name, cell in row.items() if cell} == scalars(record)
    assert rows[1]["aux_loss"] == ""
    # the clients heard the same, and no secret
    for name in ("wandb", "mlflow"):
        told = stand_ins.runs[name]
        assert len(told) == 1
        (run,) = told
        assert run.parameters["seed"] in (5, "5")
        assert run.parameters["config.models.student_model.key"] == "splittable_resnet"
        assert "hunter2" not in repr(vars(run))
        assert [step for _, step in run.logged[:2]] == [0, 1]
        for (values, _), record in zip(run.logged, (first, second), strict=False):
            assert {n: v for n, v in values.items() if n != "epoch"} == stage_curves(record)
        assert (
            run.finals["test/student/acc1"]
            == (own_lab.metrics("logged")["models"]["student"]["metrics"]["acc1"])
        )
        assert run.ended == "done"
    assert stand_ins.runs["wandb"][0].project == "ladon"
    assert stand_ins.runs["mlflow"][0].project == "mine"
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {"train/loss", "train/lr", "val/acc1"} <= tags
    assert {*stage_curves(first), *stage_curves(second)} <= tags
    (point,) = events.Scalars("stage2/val/acc1")
    assert (point.step, point.value) == (1, pytest.approx(second["val"]["acc1"]))


@pytest.mark.slow
def test_an_interrupted_run_goes_on_in_the_clients_run(own_lab, stand_ins, monkeypatch):
    plan = {"train__train_data_loader__kwargs": {"batch_size": 20}, "train__num_epochs": 2}
    config = fresh(own_lab, "small", "parts", **plan)
    flags = ("--wandb", "--mlflow")
    with monkeypatch.context() as patched:
        interrupt_after(patched, 3)
        assert own_lab.run("small", *flags, config=config) == 130
    for name in ("wandb", "mlflow"):
        assert [run.ended for run in stand_ins.runs[name]] == ["stopped"]
    csv_before = rows_of(own_lab.folder / "logs" / "parts")
    assert own_lab.run("small", "--resume", *flags, config=config) == 0
    whole = fresh(own_lab, "small", "whole", **plan)
    assert own_lab.run("small", config=whole) == 0
    times = ("train_seconds", "val_seconds", "images_per_s")
    curves = [
        [{k: v for k, v in record.items() if k not in times} for record in epochs(own_lab, name)]
        for name in ("parts", "whole")
    ]
    assert curves[0] == curves[1], "sums go on within the epoch"
    assert rows_of(own_lab.folder / "logs" / "parts")[:1] == csv_before
    for name in ("wandb", "mlflow"):
        before, after = stand_ins.runs[name]
        assert before.id == after.id
        assert [step for _, step in after.logged if step is not None][:1] == [1]
    assert {"wandb.json", "mlflow.json"} <= set(TRAINING_FILES), (
        "or one that starts anew would, too"
    )


def test_a_client_that_fails_is_said_once_and_ends_nothing(own_lab, stand_ins):
    stand_ins.fails_at = "log"
    config = fresh(own_lab, "small", "failing", train__num_epochs=2)
    assert own_lab.run("small", "--wandb", "--mlflow", config=config) == 0
    log = own_lab.log("failing")
    for name in ("wandb", "mlflow"):
        assert log.count(f"--{name}: ConnectionError: no network; the run goes on without it") == 1
    assert len(epochs(own_lab, "failing")) == 2


def test_a_client_that_hangs_is_left_behind(tmp_path, stand_ins, monkeypatch, caplog):
    monkeypatch.setattr(clients, "PATIENCE", 0.05)
    stand_ins.hangs = threading.Event()
    flags = SimpleNamespace(test_only=True, wandb="p", mlflow=None)
    journal = open_journal(tmp_path, flags, dict)
    with caplog.at_level(logging.WARNING):
        journal.close()
    assert "has not taken everything in 0 s" in caplog.text
    stand_ins.hangs.set()


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_client_that_is_not_installed_is_named_before_any_work(refused, name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"ladon.tracking.{name}_client", raising=False)
    message = refused("small", f"--{name}")
    assert message.startswith(f"--{name} needs the package {name}")
    assert "pip install '.[tracking]'" in message


def test_wandb_itself_offline(tmp_path, monkeypatch):
    if isinstance(sys.modules.get("wandb"), ModuleType):
        monkeypatch.delitem(sys.modules, "ladon.tracking.wandb_client", raising=False)
    pytest.importorskip("wandb", reason="wandb is not installed: pip install '.[tracking]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    flags = SimpleNamespace(test_only=False, tensorboard=False, wandb="ladon", mlflow=None)
    for epoch in (0, 1):
        journal = open_journal(tmp_path, flags, lambda: {"seed": 5})
        journal.begin(epoch)
        journal.epoch(RECORD | {"epoch": epoch})
        journal.close()
    found = sorted((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))
    assert found
    run_id = json.loads((tmp_path / "wandb.json").read_text())["run"]
    assert {path.name for path in found} == {f"run-{run_id}.wandb"}


def test_mlflow_itself_in_a_folder(tmp_path, monkeypatch):
    if isinstance(sys.modules.get("mlflow"), ModuleType):
        monkeypatch.delitem(sys.modules, "ladon.tracking.mlflow_client", raising=False)
    reason = "mlflow is not installed: pip install '.[tracking]'"
    tracking = pytest.importorskip("mlflow.tracking", reason=reason)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'store'}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    flags = SimpleNamespace(test_only=False, tensorboard=False, wandb=None, mlflow="mine")
    many = {f"config.values.{n}": "x" * 1000 for n in range(150)} | {"config.a[0]": "first"}
    for epoch in (0, 1):
        journal = open_journal(tmp_path, flags, lambda: many | {"seed": 5})
        journal.begin(epoch)
        journal.epoch(RECORD | {"epoch": epoch})
        if epoch:
            journal.results({"models": {"student": {"metrics": {"acc1": 51.0}}}})
        journal.close()
    client = tracking.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("mine").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["seed"] == "5"
    assert run.data.params["config.a_0_"] == "first"
    assert len(run.data.params) == 152
    history = client.get_metric_history(run.info.run_id, "stage2/terms/a")
    assert [(point.step, point.value) for point in history] == [(0, 1.5), (1, 1.5)]
    assert run.data.metrics["test/student/acc1"] == 51.0


def test_numbers_of_a_record_are_columns():
    assert scalars(RECORD) == {
        "stage": 2,
        "epoch": 3,
        "lr.0": 0.1,
        "lr.1": 0.01,
        "terms.a": 1.5,
        "terms.b": 2.5,
        "best": True,
        "val.acc1": 50.0,
    }
    assert "stage2/terms/a" in stage_curves(RECORD)


def test_columns_of_later_stages_stand_beside_their_kind():
    first = {"stage": 1, "epoch": 0, "terms": {"a": 1.0}, "train_loss": float("nan")}
    assert csv_of([first, RECORD]).splitlines() == [
        "stage,epoch,terms.a,terms.b,train_loss,lr.0,lr.1,best,val.acc1",
        "1,0,1.0,,nan,,,,",
        "2,3,1.5,2.5,,0.1,0.01,1,50.0",
    ]
    assert csv_of([]) == "stage,epoch\n"


def test_lines_that_are_written_again_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"epoch": e, "stage": 1}) for e in (0, 1, 2, 2)]
    path.write_text("\n".join([*lines, '{"epoch": 1, "cut', "7", "null"]))
    drop_epochs_from(path, 2)
    assert path.read_text() == f"{lines[0]}\n{lines[1]}\n"
    drop_epochs_from(tmp_path / "missing.jsonl", 2)
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_resumed_run_drops_the_rows_that_come_again(tmp_path):
    files = EpochFiles(tmp_path)
    files.begin(0)
    for epoch in range(3):
        files.epoch({"stage": 1, "epoch": epoch, "train_loss": epoch / 2})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "tr')  # a kill while it was written
    (tmp_path / "metrics.csv").write_text("stage,epo")
    again = EpochFiles(tmp_path)
    again.begin(2)
    assert [row["epoch"] for row in rows_of(tmp_path)] == ["0", "1"]
    again.epoch({"stage": 2, "epoch": 2, "terms": {"new": 1.0}})
    assert [r["epoch"] for r in read_epochs(tmp_path / "metrics.jsonl")] == [0, 1, 2]
    assert [row["terms.new"] for row in rows_of(tmp_path)] == ["", "", "1.0"]


def test_a_csv_file_that_cannot_be_written_is_said_before_the_training(refused, own_lab):
    (own_lab.folder / "logs" / "refused" / "metrics.csv").mkdir(parents=True)
    (own_lab.folder / "logs" / "refused" / "metrics.csv" / "x").write_text("")
    message = refused("small", code=2)
    assert message.startswith(f"{own_lab.folder}/logs/refused: cannot be written: ")
    files = EpochFiles(own_lab.folder / "logs" / "refused")
    with pytest.raises(LadonError, match=r"^cannot write .*/metrics\.csv: Is a directory$"):
        files.begin(0)


def test_a_csv_file_that_cannot_be_written_later_ends_nothing(tmp_path, caplog):
    files = EpochFiles(tmp_path)
    files.begin(0)
    (tmp_path / "metrics.csv").unlink()
    (tmp_path / "metrics.csv").mkdir()
    with caplog.at_level(logging.WARNING):
        files.epoch({"stage": 1, "epoch": 0})
    assert "metrics.csv: Is a directory; the next epoch will try again" in caplog.text
    (tmp_path / "metrics.csv").rmdir()
    files.epoch({"stage": 1, "epoch": 1})
    assert [row["epoch"] for row in rows_of(tmp_path)] == ["0", "1"]


def test_every_sink_is_closed_although_one_fails():
    heard = []

    class Failing(Sink):
        def close(self):
            heard.append(self)
            raise UsageError("full")

    journal = Journal([Failing(), Failing()])
    with pytest.raises(UsageError, match="full"):
        journal.close()
    journal.close()
    assert len(heard) == 2


def test_parameters_are_plain_and_hold_no_secrets():
    text = """
name: mine
datasets: {x/train: !import_call {key: a.B, init: {kwargs: {root: /data, sizes: [1, 2]}}}}
wandb: {api_key: hunter2, Password: [hunter2]}
list: [{a: 1}, {b: true}]
url: https://user:hunter2@host/file.pt?signature=hunter2#hunter2
nothing: null
num_tokens: 7
"""
    found = parameters(text, {"seed": 5})
    assert found == {
        "seed": 5,
        "config.name": "mine",
        "config.datasets.x/train.key": "a.B",
        "config.datasets.x/train.init.kwargs.root": "/data",
        "config.datasets.x/train.init.kwargs.sizes": "[1, 2]",
        "config.wandb.api_key": HIDDEN,
        "config.wandb.Password": HIDDEN,
        "config.list.0.a": 1,
        "config.list.1.b": True,
        "config.url": "https://host/file.pt",
        "config.num_tokens": 7,
    }
