"""`last.pt` within an epoch, in the background, and torn; signals that ask for it to be written."""

from __future__ import annotations

import errno
import json
import os
import signal
import threading

import pytest
import torch
from training_runs import Killed, assert_same_run, fresh, interrupt_after, killed_when

from ladon.children import Children
from ladon.config import load_config
from ladon.engine import last_file
from ladon.engine import train as train_module
from ladon.engine.earlier import keep_best, previous_of, put_last_away
from ladon.engine.interrupt import STOPPING, catch_signals
from ladon.engine.last_file import LastFile
from ladon.engine.plan import read_plan
from ladon.engine.stage import Stage
from ladon.engine.train import SavingTimes
from ladon.errors import CheckpointError, LadonError
from ladon.models.checkpoint import load_safely


def content(value: float) -> dict:
    return {"format": last_file.FORMAT, "x": torch.full((3,), value)}


@pytest.fixture
def last(tmp_path):
    """A file that was written twice: 2, and 1 before it."""
    made = LastFile(tmp_path / "last.pt")
    made.write(content(1.0))
    made.write(content(2.0))
    return made


@pytest.fixture
def gate(monkeypatch):
    """Writes wait for it; `done` lists them, `waiting` is how many have begun."""
    event, original = threading.Event(), last_file.replacing_on_disk
    event.done, event.waiting = [], 0

    def replacing_on_disk(path, kept=None):
        event.waiting += 1
        assert event.wait(60)
        assert event.waiting == len(event.done) + 1, "two at once"
        event.done.append(threading.current_thread().name)
        return original(path, kept)

    monkeypatch.setattr(last_file, "replacing_on_disk", replacing_on_disk)
    yield event
    event.set()


def full_disk(monkeypatch):
    def replacing_on_disk(path, kept=None):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(last_file, "replacing_on_disk", replacing_on_disk)


def test_what_is_written_is_what_was_there_when_it_was_asked_for(tmp_path, gate):
    last, state = LastFile(tmp_path / "last.pt"), content(1.0)
    last.write_behind(state)
    assert last.is_writing
    state["x"] += 5  # the training goes on
    gate.set()
    last.wait()
    assert not last.is_writing
    assert last.read()["x"].tolist() == [1.0] * 3


def test_writes_come_one_after_the_other(tmp_path, gate):
    last = LastFile(tmp_path / "last.pt")
    last.write_behind(content(1.0))
    threading.Timer(0.05, gate.set).start()
    last.write_behind(content(2.0))
    last.write(content(3.0))
    assert gate.done == ["ladon-last", "ladon-last", threading.current_thread().name]
    assert last.read()["x"][0] == 3
    assert load_safely(last.backup)["x"][0] == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last.backup.pt", "last.pt"]


def test_a_write_behind_that_fails_is_said_and_one_at_an_epochs_end_raises(
    last, monkeypatch, caplog
):
    full_disk(monkeypatch)
    said = f"cannot write checkpoint {last.path}: No space left on device; make room on that disk"
    last.write_behind(content(3.0))
    last.wait()
    assert caplog.messages == [f"{said}; the training goes on and tries again later"]
    with pytest.raises(LadonError, match="No space left on device") as caught:
        last.write(content(3.0))
    assert (str(caught.value), caught.value.exit_code) == (said, 1)
    assert last.read()["x"][0] == 2


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b[::-1]])
def test_a_torn_file_falls_back_to_the_one_before(last, caplog, damage):
    last.path.write_bytes(damage(last.path.read_bytes()))
    assert last.read()["x"][0] == 1
    (said,) = caplog.messages
    assert said.startswith(f"{last.path}: ")
    assert said.endswith("; going on with the one before it, last.backup.pt")
    last.mend()
    assert LastFile(last.path).read()["x"][0] == 1
    last.write(content(3.0))
    assert (last.read()["x"][0], load_safely(last.backup)["x"][0]) == (3, 1)


def test_without_a_whole_one_before_it_the_torn_file_is_refused(last):
    last.path.write_bytes(b"torn")
    for _ in range(2):
        last.backup.write_bytes(b"torn, too")
        with pytest.raises(CheckpointError, match=f"^{last.path}: "):
            last.read()
        last.backup.unlink()
        with pytest.raises(CheckpointError, match=f"^{last.path}: "):
            last.read()
        last.backup.write_bytes(b"")


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_new_beginning_leaves_nothing_to_fall_back_to(last, overwrite):
    put_last_away(last.path, overwrite=overwrite)
    names = {p.name for p in last.path.parent.iterdir()}
    assert names == (set() if overwrite else {"last.previous.pt"})


def test_a_run_killed_before_its_first_save_does_not_cost_a_finished_ones_checkpoint(tmp_path):
    """What lies at `best` is the first epoch's of the killed run."""
    best, folder = tmp_path / "best.pt", tmp_path / "run"
    folder.mkdir()
    best.write_text("half-trained")
    previous_of(best).write_text("finished")
    (folder / "run.json").write_text(json.dumps({"dst_ckpt": str(best)}))
    keep_best(best, folder / "last.pt")
    assert previous_of(best).read_text() == "finished"
    (folder / "metrics.json").write_text("{}")  # it was finished, and its last.pt removed
    keep_best(best, folder / "last.pt")
    assert previous_of(best).read_text() == "half-trained"


@pytest.mark.parametrize(
    ("minutes", "steps", "due"),
    [(1, None, [60, 61]), (0, None, []), (0, 2, [2, 3, 59, 60, 61]), (1, 60, [60, 61])],
)
def test_when_a_save_is_due(monkeypatch, minutes, steps, due):
    now = [100.0]
    monkeypatch.setattr(train_module.time, "monotonic", lambda: now[0])
    times, found = SavingTimes(minutes, steps), []
    for second in range(1, 62):
        now[0] += 1
        times.count_step()
        if times.is_due and second in (1, 2, 3, 59, 60, 61):
            found.append(second)
    assert found == due
    times.restart()
    assert not times.is_due


@pytest.mark.parametrize(("value", "minutes"), [(None, 10), (0, 0), (2.5, 2.5)])
def test_minutes_between_saves_are_ten_unless_the_config_says(lab, value, minutes):
    config = load_config(lab.config("small", "minutes", train__checkpoint_every=value))
    assert read_plan(config).checkpoint_minutes == minutes


@pytest.mark.parametrize("value", ["-1", "often", "true", ".nan"])
def test_minutes_that_are_no_minutes_are_refused(refused, value):
    message = refused("small", "--set", f"train.checkpoint_every={value}")
    assert "train.checkpoint_every: must be a number of at least 0" in message


def test_signals_that_stop_a_run(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("ladon.engine.interrupt.time.monotonic", lambda: now[0])
    before = [signal.getsignal(s) for s in STOPPING]
    with catch_signals() as stop:
        signal.raise_signal(signal.SIGUSR1)
        assert stop.signum == signal.SIGUSR1
        now[0] += 60  # the cluster's own order: a warning, then the end; no person's impatience
        signal.raise_signal(signal.SIGTERM)
        assert stop.signum == signal.SIGTERM
        now[0] += 60
        signal.raise_signal(signal.SIGUSR1)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    assert [signal.getsignal(s) for s in STOPPING] == before


def test_a_sweep_passes_the_warning_on():
    with Children() as children:
        signal.raise_signal(signal.SIGUSR1)
        assert (children.received, children.stopping) == (signal.SIGUSR1, signal.SIGUSR1)


PLAN = {"train__train_data_loader__kwargs": {"batch_size": 8}, "train__checkpoint_steps": 1}


# a save that is due by the clock: at every step, as the one of `PLAN` by their number
DUE = {"killed": {"train__checkpoint_every": 1e-9, "train__checkpoint_steps": None}}


@pytest.fixture(scope="module")
def uninterrupted(lab):
    """A teacher of an epoch of five steps; its log is 'whole'."""
    whole = PLAN | {"train__checkpoint_every": 0, "train__checkpoint_steps": None}
    assert lab.run("small", config=fresh(lab, "small", "whole", **whole)) == 0
    return lab


@pytest.fixture
def quick_disk(monkeypatch):
    """A save in the background is done before the next step: none is left out for a slow disk."""
    original = LastFile.write_behind

    def write_behind(self, content):
        original(self, content)
        self.wait()

    monkeypatch.setattr(LastFile, "write_behind", write_behind)


@pytest.mark.usefixtures("quick_disk")
@pytest.mark.parametrize("end", ["killed", "torn", "warned"])
def test_a_run_goes_on_from_within_an_epoch_to_the_same_end(uninterrupted, monkeypatch, end):
    lab, config = uninterrupted, fresh(uninterrupted, "small", end, **PLAN | DUE.get(end, {}))
    path = lab.folder / "logs" / end / "last.pt"
    with monkeypatch.context() as patched:
        if end == "warned":
            interrupt_after(patched, 4, signal.SIGUSR1)
            assert lab.run("small", config=config) == 128 + signal.SIGUSR1
        else:
            killed_when(patched, Stage, "step", call=4)
            with pytest.raises(Killed):
                lab.run("small", config=config)
    if end == "torn":
        path.write_bytes(path.read_bytes()[:-1000])
    assert lab.run("small", "--resume", config=config) == 0
    step = {"killed": 3, "torn": 2, "warned": 4}[end]
    assert f"epoch 0, step {step}" in lab.log(end)
    assert ("going on with the one before it" in lab.log(end)) == (end == "torn")
    assert_same_run(lab, "whole", end)
    assert [p.name for p in path.parent.glob(".*")] == []


@pytest.mark.usefixtures("quick_disk")
def test_spoilt_weights_are_not_saved_within_an_epoch(lab, monkeypatch):
    config = fresh(lab, "small", "spoilt", **PLAN)
    original, calls = Stage.step, []

    def step(self, loss):
        original(self, loss)
        calls.append(0)
        if len(calls) == 3:
            with torch.no_grad():
                next(self.student.stage_model.parameters()).fill_(float("nan"))

    monkeypatch.setattr(Stage, "step", step)
    assert lab.run("small", config=config) == 1
    path = lab.folder / "logs" / "spoilt" / "last.pt"
    assert f"they are not saved, {path} keeps the last good state" in lab.log("spoilt")
    assert load_safely(path)["progress"]["step"] == 2


@pytest.mark.usefixtures("quick_disk")
def test_a_full_disk_within_an_epoch_does_not_end_the_training(lab, monkeypatch):
    config = fresh(lab, "small", "full", **PLAN)
    original = last_file.replacing_on_disk

    def replacing_on_disk(path, kept=None):
        if threading.current_thread().name == "ladon-last":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return original(path, kept)

    monkeypatch.setattr(last_file, "replacing_on_disk", replacing_on_disk)
    assert lab.run("small", config=config) == 0
    assert lab.log("full").count("the training goes on and tries again later") == 5
    assert load_safely(lab.folder / "logs" / "full" / "last.pt")["progress"]["finished"]
