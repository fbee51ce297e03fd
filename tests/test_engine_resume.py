"""What a resumed run goes on with, and what a run that starts anew makes of an earlier one's."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
import yaml
from training_runs import Killed, killed_when

from ladon.config import load_config
from ladon.engine.earlier import keep_best, previous_of, remove_orphans
from ladon.engine.identity import differences, fingerprint, in_words
from ladon.engine.plan import read_plan
from ladon.engine.run import Run
from ladon.engine.stage import Stage
from ladon.engine.student_trainer import StudentTrainer
from ladon.models.checkpoint import load_safely


def small(lab, **values):
    loader = {"kwargs": {"batch_size": 16, "num_workers": 0}}
    values = {"train__num_epochs": 2, "train__train_data_loader": loader, **values}
    values.setdefault("models__model__dst_ckpt", str(lab.folder / "best.pt"))
    return lab.config("small", "resumed", **values)


@pytest.fixture
def interrupted(own_lab, monkeypatch):
    """A run that was killed in its second epoch; its log is 'refused'."""
    with monkeypatch.context() as patched:
        killed_when(patched, Stage, "step", call=4)
        with pytest.raises(Killed):
            own_lab.run("small", config=small(own_lab), log="refused")
    return own_lab.folder / "logs" / "refused"


ANOTHER = [
    (["--set", "train.num_epochs=4"], "train.num_epochs is 4 here and was 2 (a schedule"),
    (
        ["--set", "train.train_data_loader.kwargs.batch_size=4"],
        "train.train_data_loader.kwargs.batch_size is 4 here and was 16 (a schedule",
    ),
    (["--seed", "1"], "--seed is 1 here and was 0;"),
    (["--set", "train.optimizer.kwargs.lr=0.5"], "train.optimizer.kwargs.lr is 0.5 here"),
    (["--set", "models.model.key=resnet34"], "models.model.key is resnet34 here and was"),
    (["--adjust_lr"], "--adjust_lr is true here and was not set"),
]


def test_another_training_is_not_gone_on_with(interrupted, refused, own_lab):
    before = {p.name: p.read_bytes() for p in interrupted.iterdir()}
    for flags, said in ANOTHER:
        message = refused("small", "--resume", *flags, config=small(own_lab))
        assert message.startswith(f"--resume: {interrupted / 'last.pt'} is of another training: ")
        assert said in message
        assert "choose another --run_log, or leave out --resume to start anew" in message
        now = {p.name: p.read_bytes() for p in interrupted.iterdir()}
        assert now == before, "nothing was written"


def test_what_does_not_matter_may_change(interrupted, own_lab, monkeypatch):
    free = [
        "train.log_freq=1",
        "train.train_data_loader.kwargs.num_workers=1",
        "train.val_data_loader.kwargs.batch_size=3",
        "test.test_data_loader.kwargs.batch_size=5",
        f"models.model.dst_ckpt={own_lab.folder / 'elsewhere.pt'}",
    ]
    flags = [text for value in free for text in ("--set", value)]
    config = small(own_lab)
    other = own_lab.folder / "elsewhere.pt"
    other.write_text("of another run")
    with monkeypatch.context() as patched:
        patched.setattr(StudentTrainer, "_keep_best", lambda *_: False)  # no later epoch is better
        assert own_lab.run("small", "--resume", *flags, config=config, log="refused") == 0
    assert "Resuming from" in own_lab.log("refused")
    assert other.read_bytes() == (own_lab.folder / "best.pt").read_bytes()
    assert previous_of(other).read_text() == "of another run"


def test_a_best_checkpoint_that_is_gone_is_written_anew(interrupted, own_lab):
    (own_lab.folder / "best.pt").unlink()
    assert own_lab.run("small", "--resume", config=small(own_lab), log="refused") == 0
    assert "best.pt is gone: the next epoch's is kept as the best" in own_lab.log("refused")
    assert (own_lab.folder / "best.pt").is_file()


def test_a_killed_new_beginning_is_not_resumed_as_the_old_run(own_lab, monkeypatch):
    """The case that reported one β's weights under another's name."""
    assert own_lab.run("small", config=small(own_lab), log="r") == 0
    changed = small(own_lab, train__optimizer={"kwargs": {"lr": 0.01}})
    with monkeypatch.context() as patched:
        killed_when(patched, Stage, "step", call=2)
        with pytest.raises(Killed):
            own_lab.run("small", config=changed, log="r")
    folder = own_lab.folder / "logs" / "r"
    assert not (folder / "last.pt").exists()
    assert load_safely(folder / "last.previous.pt")["progress"]["finished"]
    assert own_lab.run("small", "--resume", config=changed, log="r") == 0
    assert "Nothing to resume" in own_lab.log("r")
    identity = load_safely(folder / "last.pt")["identity"]
    assert identity["train.optimizer.kwargs.lr"] == "0.01"


def test_last_of_an_older_version_is_resumed_with_a_warning(interrupted, own_lab):
    content = load_safely(interrupted / "last.pt")
    del content["identity"], content["steps"]
    torch.save(content, interrupted / "last.pt")
    assert own_lab.run("small", "--resume", config=small(own_lab), log="refused") == 0
    assert own_lab.log("refused").count("does not say which training it is of") == 1


def test_epochs_of_another_length_are_not_gone_on_with(own_lab, own_data, monkeypatch, refused):
    """Images were added since: the place in the epoch and in the schedule means nothing."""
    with monkeypatch.context() as patched:
        killed_when(patched, Stage, "step", call=4)
        with pytest.raises(Killed):
            own_lab.run("small", config=small(own_lab), log="refused")
    image = next((own_data / "train" / "0").glob("*.png"))
    for number in range(20):
        (image.parent / f"more{number}.png").write_bytes(image.read_bytes())
    message = refused("small", "--resume", config=small(own_lab), code=2)
    assert "an epoch of stage1 has 3 batches here and had 2 when" in message
    assert "resume with as many images as before" in message


@pytest.mark.parametrize("epoch", [2, 7])
@pytest.mark.parametrize("flags", [(), ("--resume",), ("--dry_run",)])
def test_a_start_beyond_the_end_is_refused(refused, own_lab, epoch, flags):
    message = refused("small", "--start_epoch", str(epoch), *flags, config=small(own_lab))
    assert f"--start_epoch {epoch}: " in message
    assert "trains 2 epochs, 0 to 1" in message


def test_the_best_checkpoint_of_an_earlier_run_is_kept(own_lab):
    best = own_lab.folder / "best.pt"
    assert own_lab.run("small", config=small(own_lab), log="r") == 0
    before = best.read_bytes()
    assert own_lab.run("small", "--seed", "3", config=small(own_lab), log="r") == 0
    assert previous_of(best).read_bytes() == before
    assert best.read_bytes() != before
    log = own_lab.log("r")
    assert log.count(f"{best} exists: it is kept as best.previous.pt (--overwrite") == 1


def test_a_started_run_does_not_cost_a_finished_ones_checkpoint(own_lab, monkeypatch):
    """The slip, twice: the second time, what lies there is a half-trained one."""
    best = own_lab.folder / "best.pt"
    assert own_lab.run("small", config=small(own_lab), log="r") == 0
    finished = best.read_bytes()
    for _ in range(2):
        with monkeypatch.context() as patched:
            killed_when(patched, Stage, "step", call=4)
            with pytest.raises(Killed):
                own_lab.run("small", "--seed", "5", config=small(own_lab), log="r")
    assert best.read_bytes() != finished
    assert previous_of(best).read_bytes() == finished
    assert "of a run that was not finished; best.previous.pt stays" in own_lab.log("r")


def test_keeping_works_without_links_and_through_one(tmp_path, monkeypatch):
    real, best = tmp_path / "real.pt", tmp_path / "ckpt" / "x-beta0.32.pt"
    best.parent.mkdir()
    real.write_bytes(b"weights")
    best.symlink_to(real)
    keep_best(best, tmp_path / "last.pt")
    kept = best.parent / "x-beta0.32.previous.pt"
    assert kept.read_bytes() == b"weights"
    assert not kept.is_symlink()
    keep_best(best, tmp_path / "last.pt")  # both are one file already
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("no links here")))
    real.write_bytes(b"others")
    keep_best(best, tmp_path / "last.pt")
    assert kept.read_bytes() == b"others"
    assert sorted(p.name for p in best.parent.iterdir()) == [kept.name, best.name]


def test_overwrite_keeps_nothing(tmp_path):
    from argparse import Namespace

    best = tmp_path / "best.pt"
    best.write_bytes(b"old")
    (tmp_path / "last.pt").write_bytes(b"old")
    run = Run.__new__(Run)
    run.folder, run.args = tmp_path, Namespace(overwrite=True)
    run._start_anew(best)
    assert [p.name for p in tmp_path.iterdir()] == ["best.pt"]


@pytest.mark.parametrize("call", [1, 2])
def test_no_epoch_is_written_twice_after_a_kill(own_lab, monkeypatch, call):
    config = small(own_lab)
    with monkeypatch.context() as patched:
        # between an epoch's line and last.pt
        killed_when(patched, Run, "log_epoch", after=True, call=call)
        with pytest.raises(Killed):
            own_lab.run("small", config=config, log="r")
    path = own_lab.folder / "logs" / "r" / "metrics.jsonl"
    assert len(path.read_text().splitlines()) == call
    assert own_lab.run("small", "--resume", config=config, log="r") == 0
    assert [json.loads(line)["epoch"] for line in path.read_text().splitlines()] == [0, 1]


def test_temporary_files_of_dead_processes_go(own_lab):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    folder, ckpt = own_lab.folder / "logs" / "r", own_lab.folder
    folder.mkdir(parents=True)
    orphans = [
        folder / f".last.pt.{dead.pid}.tmp",
        folder / f".metrics.json.{os.getpid()}.tmp",
        ckpt / f".best.pt.{dead.pid}.tmp",
    ]
    others = [
        folder / f".last.pt.{os.getppid()}.tmp",
        folder / "notes.tmp",
        ckpt / f".other.pt.{dead.pid}.tmp",
    ]
    for path in orphans + others:
        path.write_text("x")
    assert own_lab.run("small", config=small(own_lab), log="r") == 0
    assert [p for p in orphans if p.exists()] == []
    assert [p for p in others if not p.exists()] == []


@pytest.mark.parametrize("pid", [10**30, 0])
def test_a_number_that_is_no_process_does_no_harm(tmp_path, pid):
    (tmp_path / f".last.pt.{pid}.tmp").write_text("x")
    remove_orphans(tmp_path)
    remove_orphans(tmp_path / "missing")


def identity_of(path, text, seed=0):
    path.write_text(text)
    config = load_config(path)
    return fingerprint(config, read_plan(config), seed)


TEXT = """
data_root: /data
beta: 0.32
datasets:
  a/train: &a !import_call
    key: torchvision.datasets.FakeData
    init: {kwargs: {root: "${data_root}/a", size: 8}}
  a/test: !import_call {key: torchvision.datasets.FakeData, init: {kwargs: {size: 4}}}
models: {model: {key: x, dst_ckpt: a.pt, experiment: one, kwargs: {sizes: [1, 2]}}}
train:
  num_epochs: 2
  train_data_loader: {dataset_id: a/train, kwargs: {batch_size: 2, num_workers: 1}}
  criterion: {kwargs: {weight: "${beta}"}, terms: [{a: 1.0}, {b: null}]}
test: {test_data_loader: {dataset_id: a/test}}
"""


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("beta: 0.32", "beta: 0.64", ["beta", "train.criterion.kwargs.weight"]),
        ("size: 8", "size: 9", ["datasets.a/train.init.kwargs.size"]),
        ("[1, 2]", "[1, 3]", ["models.model.kwargs.sizes"]),
        ("{a: 1.0}", "{a: 2.0}", ["train.criterion.terms.0.a"]),
        ("key: x", "key: x, freeze: true", ["models.model.freeze"]),
        ("FakeData\n", "CIFAR10\n", ["datasets.a/train.key"]),
        # equal: where data and results are, another spelling, what is empty, what is not trained on
        ("data_root: /data", "data_root: /elsewhere/", []),
        ("a.pt, experiment: one", "b.pt, experiment: two", []),
        ("{a: 1.0}", "{a: 1}", []),
        ("{b: null}", "{b: {}}", []),
        ("size: 4", "size: 5", []),
        ("num_workers: 1", "num_workers: 0, pin_memory: true", []),
    ],
)
def test_identity_is_what_the_weights_depend_on(tmp_path, old, new, changed):
    assert old in TEXT
    before = identity_of(tmp_path / "a.yaml", TEXT)
    now = identity_of(tmp_path / "b.yaml", TEXT.replace(old, new))
    assert differences(before, now) == changed


def test_identity_survives_its_own_dump_and_last_pt(tmp_path):
    (tmp_path / "a.yaml").write_text(TEXT)
    config = load_config(tmp_path / "a.yaml")
    again = identity_of(tmp_path / "b.yaml", config.dump())
    assert again == fingerprint(config, read_plan(config), 0)
    assert all(isinstance(k, str) and isinstance(v, str) for k, v in again.items())
    assert yaml.safe_load(yaml.safe_dump(again)) == again


def test_many_differences_are_listed_in_short():
    before = {f"train.k{n}": "x" * 100 for n in range(6)}
    text = in_words(list(before), before, {})
    assert text.count(" is not set here and was ") == 3
    assert text.endswith("; and 3 more")
    assert len(text) < 400
