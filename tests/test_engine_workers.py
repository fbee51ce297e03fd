"""A loader's workers that die, and signals that reach the whole process group."""

from __future__ import annotations

import multiprocessing
import signal
import subprocess

import pytest
import torch
from training_runs import fresh

from ladon.data.loaders import build_eval_loader
from ladon.engine.failures import worker_failure
from ladon.engine.stage import Stage
from ladon.models.checkpoint import load_safely

PLAN = {"train__train_data_loader__kwargs": {"batch_size": 8, "num_workers": 1}}


def send_in_second_step(monkeypatch, signum: int, *, to_all: bool) -> None:
    """Send the workers a signal during the second step, and this process, too."""
    original, calls = Stage.step, []

    def step(self, loss):
        calls.append(0)
        if len(calls) == 2:
            workers = [p for p in multiprocessing.active_children() if p.daemon]
            assert workers
            subprocess.run(["kill", f"-{signum:d}", *(str(p.pid) for p in workers)], check=True)
            if to_all:
                signal.raise_signal(signum)
        return original(self, loss)

    monkeypatch.setattr(Stage, "step", step)


def test_a_worker_that_dies_ends_the_run_in_one_line(own_lab, monkeypatch, refused):
    config = fresh(own_lab, "small", "dies", **PLAN, train__checkpoint_steps=1)
    with monkeypatch.context() as patched:
        send_in_second_step(patched, signal.SIGKILL, to_all=False)
        message = refused("small", config=config, code=1)
    assert message.startswith("DataLoader worker (pid")
    assert "is killed by signal: Killed: usually the machine's memory did not suffice" in message
    assert "add --resume" in message
    assert own_lab.run("small", "--resume", config=config, log="refused") == 0


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_the_whole_group_leaves_the_workers_to_the_end(own_lab, monkeypatch, signum):
    config = fresh(own_lab, "small", "group", **PLAN)
    with monkeypatch.context() as patched:
        send_in_second_step(patched, signum, to_all=True)
        assert own_lab.run("small", config=config) == 128 + signum
    last = load_safely(own_lab.folder / "logs" / "group" / "last.pt")
    assert last["progress"]["step"] == 2


def test_a_worker_ends_when_its_loader_wants_it_to():
    """Python waits without end, when it leaves, for a worker that it has told to end."""
    loader = build_eval_loader([(torch.zeros(1), 0)] * 50, {"kwargs": {"num_workers": 1}})
    batches = iter(loader)
    next(batches)
    (worker,) = batches._workers
    subprocess.run(["kill", str(worker.pid)], check=True)
    next(batches)
    assert worker.is_alive()
    worker.terminate()
    worker.join(60)
    assert worker.exitcode == 0


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that …",
         "DataLoader worker (pid 7) is killed by signal: Bus error: usually"),
        ("DataLoader worker (pid(s) 7, 8) exited unexpectedly",
         "DataLoader worker (pid(s) 7, 8) exited unexpectedly: usually"),
        ("DataLoader worker (pid 7) exited unexpectedly with exit code 1. Details are lost",
         "DataLoader worker (pid 7) exited unexpectedly: usually"),
        ("shape of DataLoader worker", None),
    ],
)  # fmt: skip
def test_what_torch_says_of_a_worker(said, found):
    text = worker_failure(RuntimeError(said))
    assert text is None if found is None else text.startswith(found)
    assert worker_failure(ValueError(said)) is None


def test_the_first_cause_knows_the_signal():
    killed = RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
    error = RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly")
    error.__cause__ = killed
    assert "killed by signal: Killed: " in worker_failure(error)
