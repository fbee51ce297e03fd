"""Work that fails although the input is sound: exit code 1, and nothing lost."""

from __future__ import annotations

import contextlib
import errno
import io
import multiprocessing
import os
import resource
import signal
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from training_runs import epochs, fresh

from ladon.engine import earlier
from ladon.engine.joining import joined_world
from ladon.errors import LadonError, UsageError
from ladon.models.checkpoint import write_checkpoint
from ladon.tracking import open_journal
from ladon.tracking.files import drop_epochs_from
from ladon.tracking.tensorboard import Events

FULL = "No space left on device; make room on that disk"
needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")


@contextlib.contextmanager
def disk_for(nbytes: int):
    """Let this process write no file longer than this, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_names_the_checkpoint(refused, own_lab):
    path = own_lab.folder / "ckpt" / "best.pt"
    with disk_for(1_000_000):
        message = refused("small", "--set", f"models.model.dst_ckpt={path}", code=1)
    # torch says of it: [enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0
    assert message == f"cannot write checkpoint {path}: File too large"
    assert list(path.parent.glob("*best*")) == [], "nothing half-written stays"


def test_a_full_disk_leaves_the_old_checkpoint_whole(tmp_path):
    path = tmp_path / "a.pt"
    model = torch.nn.Linear(300, 300)
    write_checkpoint(path, model)
    before = path.read_bytes()
    with disk_for(10_000), pytest.raises(LadonError, match=f"{path}: File too large$"):
        write_checkpoint(path, model)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["a.pt"]


def test_a_kill_in_the_middle_of_writing_leaves_the_old_checkpoint_whole(tmp_path):
    """The system kills who writes beyond a limit, within that write; random kills miss it."""
    path, model = tmp_path / "a.pt", torch.nn.Linear(300, 300)
    write_checkpoint(path, model)
    before = path.read_bytes()

    def write_and_be_killed():
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with disk_for(100_000):
            write_checkpoint(path, model)

    child = multiprocessing.get_context("fork").Process(target=write_and_be_killed)
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGXFSZ
    assert path.read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == {"a.pt", f".a.pt.{child.pid}.tmp"}
    earlier.remove_orphans(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


@pytest.mark.parametrize("what", ["parent is a file", "is a folder"])
def test_an_unwritable_checkpoint_path_is_found_before_training(refused, own_lab, what):
    path = own_lab.folder / "x" / "best.pt"
    if what == "is a folder":
        path.mkdir(parents=True)
    else:
        path.parent.write_text("a file")
    message = refused("small", "--set", f"models.model.dst_ckpt={path}")
    assert str(path) in message
    assert "models.model.dst_ckpt" in message
    assert "Epoch: [0]" not in own_lab.log("refused")


def test_a_run_folder_that_goes_away_is_named(refused, own_lab, monkeypatch):
    """The disk under the logs fails after the first epoch."""
    from ladon.engine.run import Run

    original = Run.log_epoch

    def log_epoch(self, record):
        (self.folder / "metrics.jsonl").mkdir()
        original(self, record)

    monkeypatch.setattr(Run, "log_epoch", log_epoch)
    message = refused("small", code=1)
    assert message.startswith(f"cannot write {own_lab.folder}/logs/refused/metrics.jsonl: ")


@needs_full
@pytest.mark.parametrize("name", ["config.yaml", "../full.txt"])
def test_a_disk_that_is_full_from_the_start_is_one_line(own_lab, capsys, name):
    folder = own_lab.folder / "logs" / "full"
    folder.mkdir(parents=True)
    (folder / name).symlink_to("/dev/full")
    assert own_lab.run("small", "--overwrite", log="full") == 1
    said = [line for line in capsys.readouterr().err.splitlines() if "\tINFO\t" not in line]
    assert len(said) == 1, said
    where = f"--run_log {folder}.txt" if name.endswith("txt") else folder
    assert said[0].endswith(f"\tERROR\tladon.cli\t{where}: cannot be written: {FULL}")


# what a run writes, in its order
WRITTEN = ("run.json", "best.pt", "metrics.jsonl", "last.pt", "metrics.json", "boxes.jsonl")


@contextlib.contextmanager
def full_disk_at(name: str, monkeypatch: pytest.MonkeyPatch):
    """Let a full device take what is written to a file, also where that is renamed to it."""
    original, opened, names = io.open, [], (name, f".{name}.{os.getpid()}.tmp")

    def open_it(file, mode="r", *args, **kwargs):
        if isinstance(file, Path) and file.name in names and mode[0] in "wax":
            opened.append(file)
            file = "/dev/full"
        return original(file, mode, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(io, "open", open_it)  # what pathlib opens with
        yield
    assert opened, f"{name} is not written"


@pytest.mark.slow
@needs_full
def test_a_disk_that_is_full_at_any_file_is_one_line_and_the_run_goes_on(
    own_lab, monkeypatch, capsys
):
    """At one file after the other: whatever was written is whole, and the next run goes on."""
    config = fresh(own_lab, "small", "best", train__train_data_loader__kwargs={"batch_size": 20})
    flags = ("--predictions", str(own_lab.folder / "boxes.jsonl"), "--resume")
    for name in WRITTEN:
        capsys.readouterr()
        with full_disk_at(name, monkeypatch):
            assert own_lab.run("small", *flags, config=config) == 1, name
        said = [line for line in capsys.readouterr().err.splitlines() if "\tERROR\t" in line]
        assert len(said) == 1, said
        assert said[0].endswith(f"{name}: {FULL}")
        assert [p for p in own_lab.folder.rglob(".*") if p.suffix in (".tmp", ".lock")] == []
    assert own_lab.run("small", *flags, config=config) == 0
    for name in WRITTEN:
        assert len([p for p in own_lab.folder.rglob(name) if p.stat().st_size]) == 1, name
    assert [line["epoch"] for line in epochs(own_lab, "best")] == [0]


@pytest.mark.parametrize("name", ["file/x/log.txt", "file/log.txt", "file"])
def test_a_place_where_nothing_can_be_written_is_one_line(own_lab, capsys, name):
    """Nor is it said first that it cannot be locked."""
    (own_lab.folder / "file").write_text("x")
    flags = ("--run_log", str(own_lab.folder / name))
    assert own_lab.run("small", *flags) == 2
    assert capsys.readouterr().err.count("cannot be") == 1


def test_events_that_cannot_be_written_are_one_error(tmp_path, monkeypatch, capsys):
    pytest.importorskip("tensorboard")
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match=rf"^--tensorboard: {tmp_path}/file: cannot be written: "):
        Events(tmp_path / "file")
    with disk_for(10), pytest.raises(LadonError, match=r"cannot be written: File too large$") as e:
        Events(tmp_path / "full")
    assert e.value.exit_code == 1
    events = Events(tmp_path / "later")

    def write():
        for step in range(100):
            events.step({"loss": 1.0}, step)
        events.close()

    with disk_for(100), pytest.raises(LadonError, match=r"cannot be written: File too large$"):
        write()
    assert "Traceback" not in capsys.readouterr().err, "its thread says nothing by itself"


def test_nothing_is_asked_of_tensorboard_without_the_flag(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    flags = SimpleNamespace(test_only=False, tensorboard=False)
    open_journal(tmp_path, flags, dict).step({"loss": 1.0}, 0)
    flags.tensorboard = True
    with pytest.raises(LadonError, match="needs the package tensorboard"):
        open_journal(tmp_path, flags, dict)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x"), f"x: cannot be written: {FULL}"),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), "a file: cannot be written: Disk quota"),
        (
            RuntimeError(
                "Caught RuntimeError in DataLoader worker process 0.\nTraceback …\nRuntimeError: "
                "unable to write to file </torch_7_1_0>: No space left on device (28)\n"
            ),
            "the loader's workers have too little shared memory (/dev/shm",
        ),
    ],
)
def test_a_full_disk_that_nobody_foresaw_is_one_line(error, message):
    args = SimpleNamespace(device="cpu", world_size=1, dist_url="env://")
    with pytest.raises(LadonError) as caught, joined_world(args):
        raise error
    assert (caught.value.exit_code, type(caught.value)) == (1, LadonError)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_what_an_earlier_run_left_stays_whole_on_a_full_disk(tmp_path, monkeypatch):
    best, metrics = tmp_path / "best.pt", tmp_path / "metrics.jsonl"
    best.write_bytes(b"x" * 1000)
    metrics.write_text('{"epoch": 0, "x": "' + "y" * 1000 + '"}\n{"epoch": 1}\n')
    before = metrics.read_bytes()

    def link(*_):
        raise OSError(errno.EOPNOTSUPP, "no links here")

    monkeypatch.setattr(earlier.os, "link", link)
    with disk_for(100):
        for work in (
            lambda: earlier.keep_best(best),
            lambda: earlier.bring_best(best, tmp_path / "moved.pt"),
            lambda: drop_epochs_from(metrics, 1),
        ):
            with pytest.raises(LadonError, match="File too large") as caught:
                work()
            assert caught.value.exit_code == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.pt", "metrics.jsonl"]
    assert (len(best.read_bytes()), metrics.read_bytes()) == (1000, before)
