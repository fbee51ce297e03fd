"""The process itself: exit codes and messages from outside, and Ctrl-C while it starts."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from refusals import TEST_STUDENT, message_of
from tiny import ROOT


def script(*args: str, cwd: Path, code: str | None = None) -> subprocess.CompletedProcess:
    start = ["-c", code] if code else [str(ROOT / "scripts" / "image_classification.py")]
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
    done = script(*flags, *TEST_STUDENT, cwd=own_lab.folder)
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
