"""Locks: a second run in one folder is refused, and a killed one leaves nothing locked."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ladon.engine import locking
from ladon.engine.locking import Locks
from ladon.errors import UsageError

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
HOLDER = """
import os, sys, time
from pathlib import Path
from ladon.engine.locking import Locks
Locks().take(Path(sys.argv[1]), "it", "wait")
reading, writing = os.pipe()
child = os.fork() if "fork" in sys.argv else 1
if child == 0:
    os.write(writing, b"x")
    time.sleep(60)
if child > 1:
    os.read(reading, 1)
print(child, flush=True)
time.sleep(60)
"""


@pytest.fixture
def hold():
    """Start a process that has a lock; return it and its child's id (1 for none)."""
    started, children = [], []

    def start(path: Path, *flags: str) -> tuple[subprocess.Popen, int]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(path), *flags],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(SCRIPTS)},
        )
        started.append(process)
        child = int(process.stdout.readline())
        if child > 1:
            children.append(child)
        return process, child

    yield start
    for process in started:
        process.kill()
        process.wait()
    for child in children:
        os.kill(child, signal.SIGKILL)


def test_a_second_run_in_the_folder_is_refused(own_lab, refused, hold):
    folder = own_lab.folder / "logs" / "refused"
    process, _ = hold(folder / ".lock")
    for flags in ((), ("--resume",), ("-test_only",)):
        message = refused("small", *flags)
        assert message == (
            f"the run folder {folder} is in use by another run, process {process.pid}: "
            "wait for its end or stop it, or choose another --run_log"
        )
    assert not (own_lab.folder / "logs" / "refused.txt").exists(), "the log is the other run's"
    assert [p.name for p in folder.iterdir()] == [".lock"]


def test_a_second_run_with_the_same_best_checkpoint_is_refused(own_lab, refused, hold):
    best = own_lab.folder / "best.pt"
    process, _ = hold(own_lab.folder / ".best.pt.lock")
    config = own_lab.config("small", "other", models__model__dst_ckpt=str(best))
    message = refused("small", config=config)
    assert message.startswith(f"the checkpoint {best} is in use by another run, process ")
    assert f"process {process.pid}: " in message
    assert not best.exists()
    assert not (own_lab.folder / "logs" / "refused" / ".lock").exists(), "released again"


def test_a_dry_run_locks_nothing(own_lab, hold):
    hold(own_lab.folder / "logs" / "dry" / ".lock")
    assert own_lab.run("small", "--dry_run", log="dry") == 0


def test_a_run_releases_what_it_locked(own_lab, monkeypatch):
    monkeypatch.setattr("ladon.app._train", lambda *_: (_ for _ in ()).throw(RuntimeError("x")))
    for _ in range(2):
        with pytest.raises(RuntimeError, match="x"):
            own_lab.run("small", log="r")
    monkeypatch.undo()
    assert own_lab.run("small", log="r") == 0
    left = [p for p in own_lab.folder.rglob("*.lock") if p.name.startswith(".")]
    assert left == []
    assert locking._held == set()


@pytest.mark.parametrize("flags", [(), ("fork",)])
def test_a_lock_dies_with_its_process(tmp_path, hold, flags):
    """Also if a child that was forked, as loaders' workers are, lives on for a while."""
    path = tmp_path / ".lock"
    process, child = hold(path, *flags)
    with pytest.raises(UsageError, match=f"process {process.pid}"):
        Locks().take(path, "it", "wait")
    process.kill()
    process.wait()
    locks = Locks()
    locks.take(path, "it", "wait")
    assert path.read_text().split()[0] == str(os.getpid())
    if child > 1:
        os.kill(child, 0)
    locks.release()
    assert not path.exists()


def test_a_lock_holds_within_one_process_too(tmp_path):
    first, second, found = Locks(), Locks(), []
    first.take(tmp_path / "a", "it", "wait")

    def take():
        try:
            second.take(tmp_path / "a", "it", "wait")
        except UsageError as error:
            found.append(str(error))

    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    assert found == [f"it is in use by another run, process {os.getpid()}: wait"]
    first.release()
    take()
    assert len(found) == 1
    second.release()


def test_of_many_that_want_a_lock_one_has_it(tmp_path):
    """Taker and releasers in a race: never two at once, though the file comes and goes."""
    inside, most, done = [], [], []

    def work():
        for _ in range(60):
            locks = Locks()
            try:
                locks.take(tmp_path / "a", "it", "wait")
            except UsageError:
                continue
            inside.append(0)
            most.append(len(inside))
            time.sleep(0.0005)
            inside.pop()
            locks.release()
        done.append(0)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 6
    assert set(most) == {1}


def test_a_lock_is_never_one_on_a_file_that_its_owner_has_just_removed(tmp_path, monkeypatch):
    """Between opening it and locking it: the next one would make a new file and have that."""
    path, original, calls = tmp_path / "a", locking.fcntl.flock, []

    def flock(descriptor, operation):
        calls.append(descriptor)
        if len(calls) == 1:
            path.unlink()
        original(descriptor, operation)

    monkeypatch.setattr(locking.fcntl, "flock", flock)
    first = Locks()
    first.take(path, "it", "wait")
    assert len(calls) == 2
    with pytest.raises(UsageError, match=f"in use by another run, process {os.getpid()}: wait"):
        Locks().take(path, "it", "wait")
    first.release()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_said_once(tmp_path, monkeypatch, caplog, code):
    def flock(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(locking.fcntl, "flock", flock)
    locks = Locks()
    locks.take(tmp_path / "a", "the folder", "wait")
    locks.release()
    assert [r.message for r in caplog.records] == [
        f"the folder cannot be locked ({os.strerror(code)}): no second run may use it at the same "
        "time"
    ]


def test_a_folder_that_cannot_be_made_is_said_by_who_writes_there(tmp_path, caplog):
    (tmp_path / "file").write_text("x")
    Locks().take(tmp_path / "file" / ".lock", "it", "wait")
    assert caplog.messages == []


def test_a_full_disk_locks_without_a_name(tmp_path, monkeypatch, caplog):
    def write(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(locking.os, "write", write)
    first, second = Locks(), Locks()
    first.take(tmp_path / ".lock", "the folder", "wait")
    with pytest.raises(UsageError, match=r"^the folder is in use by another run: wait$"):
        second.take(tmp_path / ".lock", "the folder", "wait")
    first.release()
    assert caplog.messages == []
