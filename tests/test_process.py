"""The process itself: exit codes and messages from outside, and Ctrl-C while it starts."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import warm
from refusals import TEST_STUDENT, message_of
from tiny import ROOT

from ladon.process import usable_cores

SCRIPT = str(ROOT / "scripts" / "image_classification.py")


def script(*args: str, cwd: Path, code: str | None = None) -> subprocess.CompletedProcess:
    start = ["-c", code] if code else [SCRIPT]
    env = os.environ | {"PYTHONPATH": str(ROOT / "scripts"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *start, *args],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_exit_code_and_message_arrive_outside(tmp_path):
    done = script("--config", "nowhere.yaml", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: config file not found: nowhere.yaml\n"


def test_late_error_arrives_outside_and_in_the_log(own_lab):
    own_lab.checkpoint("classification").unlink()
    config = own_lab.config("classification", "missing")
    log = own_lab.folder / "log.txt"
    flags = ["--config", str(config), "--run_log", str(log), "--device", "cpu"]
    done = warm.run([SCRIPT, *flags, *TEST_STUDENT], cwd=own_lab.folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert message_of(done.stderr, log).startswith("checkpoint not found: ")
    assert done.stderr.splitlines()[-1] == log.read_text().splitlines()[-1]


INTERRUPTED = """
import os, signal, sys

# a test run in the background is started with SIGINT ignored
signal.signal(signal.SIGINT, signal.default_int_handler)

class Interrupt:
    def find_spec(self, name, *rest):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
from ladon.cli import main
sys.exit(main("image_classification", sys.argv[1:]))
"""


@pytest.mark.parametrize("module", ["yaml", "torch", "torchvision"])
def test_interrupt_during_start_up(own_lab, module):
    config = own_lab.config("teacher")
    code = INTERRUPTED.format(module=module)
    done = script("--config", str(config), cwd=own_lab.folder, code=code)
    assert done.returncode == 130, done.stderr
    assert done.stderr == "interrupted\n"


def test_errors_before_and_after_logging_is_set_up(own_lab, capsys):
    config = own_lab.config("teacher")
    assert own_lab.run("teacher", "--set", "beta=0", config=config) == 2
    assert capsys.readouterr().err.startswith("error: --set: beta: must be a number above 0")
    assert not (own_lab.folder / "logs").exists()
    assert own_lab.run("teacher", "--set", "models.model.dst_ckpt=null", config=config) == 2
    shown = capsys.readouterr().err
    assert "error: " not in shown
    assert "\tERROR\tladon.cli\t" in shown.splitlines()[-1]
    assert own_lab.log("teacher").splitlines()[-1] == shown.splitlines()[-1]
    assert not any(isinstance(h, logging.FileHandler) for h in logging.getLogger().handlers)


@pytest.fixture
def machine(monkeypatch):
    """A machine of 16 cores, on which the process may use some; no launcher."""

    def make(usable, **env):
        for name in ("LOCAL_WORLD_SIZE", "SLURM_NTASKS_PER_NODE", "SLURM_STEP_TASKS_PER_NODE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(os, "cpu_count", lambda: 16)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(usable)), raising=False)

    return make


@pytest.mark.parametrize(
    ("usable", "env", "cores"),
    [
        (16, {}, 16),
        (16, {"LOCAL_WORLD_SIZE": "4"}, 4),
        # torchrun's processes share what their container has
        (12, {"LOCAL_WORLD_SIZE": "4"}, 3),
        (2, {"LOCAL_WORLD_SIZE": "8"}, 1),
        (16, {"SLURM_NTASKS_PER_NODE": "8"}, 2),
        (16, {"SLURM_STEP_TASKS_PER_NODE": "4(x2)"}, 4),
        (16, {"SLURM_STEP_TASKS_PER_NODE": "4,3"}, 4),
        # what runs, not what was allocated
        (16, {"SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_NTASKS_PER_NODE": "8"}, 8),
        # bound to its share already
        (4, {"SLURM_STEP_TASKS_PER_NODE": "4(x2)"}, 4),
        (16, {"LOCAL_WORLD_SIZE": "0"}, 16),
        (16, {"LOCAL_WORLD_SIZE": "-2"}, 16),
        (16, {"LOCAL_WORLD_SIZE": "many", "SLURM_NTASKS_PER_NODE": "4x"}, 16),
        (16, {"LOCAL_WORLD_SIZE": ""}, 16),
    ],
)
def test_processes_of_a_run_share_the_cores(machine, usable, env, cores):
    machine(usable, **env)
    assert usable_cores() == cores
