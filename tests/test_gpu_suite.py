"""The suite on a GPU: what it runs, and what is left of it when a step fails or hangs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import ROOT

from ladon.benchmark import suite
from ladon.benchmark.parts import PARTS
from ladon.benchmark.results import PartResult, Results, Row
from ladon.benchmark.suite import Step, _pytest, plan, read_junit, run_plan, run_step
from ladon.benchmark.suite_report import Outcome, Report
from ladon.commands import gpu

TESTS_OF_ALL_KINDS = """
import pytest
def test_good(record_property): record_property("symbols", 7)
@pytest.mark.parametrize("x", ["a::b"])
def test_bad(x):
    assert x == 1, "why"
def test_left_out(): pytest.skip("no reason")
@pytest.fixture
def broken(): raise OSError("no luck")
def test_never_run(broken): pass
"""


def python(name: str, code: str, result: Path, seconds: float = 60.0, part: str = "") -> Step:
    return Step(name, [sys.executable, "-c", code], seconds, result, part)


def new_report() -> Report:
    return Report({"device": "a GPU", "cores": 2}, {"torch": "1"})


@pytest.fixture
def junit(tmp_path):
    """JUnit's file of tests with every outcome."""
    (tmp_path / "test_it.py").write_text(TESTS_OF_ALL_KINDS)
    result = tmp_path / "tests.xml"
    command = [sys.executable, "-m", "pytest", "-q", str(tmp_path), f"--junitxml={result}"]
    command += ["-p", "no:cacheprovider", f"--rootdir={tmp_path}", "--tb=short"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout
    return result


def test_junit_names_every_test_and_its_first_error_line(junit):
    cases = {case.name.partition("::")[2]: case for case in read_junit(junit)}
    assert {name: case.outcome for name, case in cases.items()} == {
        "test_good": "passed",
        "test_bad[a::b]": "failed",
        "test_left_out": "skipped",
        "test_never_run": "error",
    }
    assert cases["test_good"].properties == {"symbols": "7"}
    assert cases["test_bad[a::b]"].error == "AssertionError: why"
    assert cases["test_never_run"].error == "OSError: no luck"


@pytest.mark.slow
@pytest.mark.parametrize("processes", [0, 2])
def test_what_pytest_found_before_its_time_was_over(tmp_path, processes):
    (tmp_path / "test_it.py").write_text(
        "import time\ndef test_a(): pass\ndef test_b(): assert 1 == 2\n"
        "def test_slow(): open('slow', 'w').close(); time.sleep(1000)\n"
    )
    result, report = tmp_path / "tests.xml", new_report()
    command = [sys.executable, "-m", "pytest", "-vv", str(tmp_path), f"--junitxml={result}"]
    command += ["-p", "no:cacheprovider", f"--rootdir={tmp_path}", f"-n{processes}"]
    with result.with_suffix(".log").open("wb") as output:
        process = suite._start(command, tmp_path, output, os.environ)
        while not (tmp_path / "slow").exists():  # however busy the machine is
            assert process.poll() is None
            time.sleep(0.1)
        # of two processes the other one's result must have come to the first
        while b"FAILED" not in result.with_suffix(".log").read_bytes():
            assert process.poll() is None
            time.sleep(0.1)
        suite._end(process)
    outcome = Outcome("timed out", 20.0, "it takes more than 20 s")
    suite._collect(Step("tests", command, 20, result), outcome, report)
    assert outcome.error == "1 of 2 tests failed; it takes more than 20 s"
    found = {case.name: (case.outcome, case.error) for case in report.tests}
    assert found == {
        "test_it::test_a": ("passed", None),
        "test_it::test_b": ("failed", "assert 1 == 2"),
    }


def test_no_gpu_is_one_line(monkeypatch, capsys):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "error: this machine has no CUDA device that torch can use\n"


@pytest.mark.parametrize("flags", [["--only", "x"], ["--minutes", "0"], ["--minutes", "nan"]])
def test_wrong_usage(flags, capsys):
    with pytest.raises(SystemExit) as stop:
        gpu.main(flags)
    assert stop.value.code == 2


def test_plan_holds_tests_and_parts(tmp_path):
    steps = plan(tmp_path)
    assert steps[0].name == "tests"
    assert {step.part for step in steps[1:]} <= set(PARTS)
    names = [step.name for step in steps]
    assert len(set(names)) == len({step.result for step in steps}) == len(names)
    assert [step.name for step in plan(tmp_path, ["tests"])] == ["tests"]
    parts = [step.name for step in plan(tmp_path, ["codec", "evaluation"])]
    assert [name.split()[0] for name in parts] == ["evaluation"] * 3 + ["codec"]


def test_only_files_with_gpu_tests_are_collected(tmp_path):
    files = {Path(word).name for word in _pytest(tmp_path / "x.xml") if word.endswith(".py")}
    assert {"test_gpu.py", "test_gpu_coding.py", "test_gpu_training.py"} <= files
    assert "test_config_loader.py" not in files


def write_part(folder: Path, name: str) -> str:
    """Code that writes a part's result."""
    part = PartResult("d", 1.0, [Row.of("fast", "images/s", [3.0])], {"n": 1})
    source = folder / f"source-{name}.json"
    Results({"cpu": "x"}, False, "d", {name: part}).write(source)
    return f"import shutil; shutil.copy({str(source)!r}, {str(folder / (name + '.json'))!r})"


def test_one_step_that_fails_costs_no_other(tmp_path, junit):
    report, said = new_report(), []
    steps = [
        python("tests", "import sys; print('1 failed'); sys.exit(1)", junit),
        python("codec", write_part(tmp_path, "codec"), tmp_path / "codec.json", part="codec"),
        python("slow", "import time; time.sleep(60)", tmp_path / "slow.json", 1.0, "training"),
        python("dead", "raise SystemExit('no luck')", tmp_path / "dead.json", part="memory"),
        python("empty", "pass", tmp_path / "empty.json", part="startup"),
    ]
    run_plan(steps, report, tmp_path, 300, said.append)
    outcomes = {name: step.outcome for name, step in report.steps.items()}
    assert outcomes == {
        "tests": "failed",
        "codec": "ok",
        "slow": "timed out",
        "dead": "failed",
        "empty": "failed",
    }
    assert report.steps["tests"].error == "2 of 4 tests failed"
    assert report.steps["dead"].error == "exit code 1; last: no luck"
    assert report.steps["slow"].seconds < 20
    content = json.loads((tmp_path / "gpu.json").read_text())
    assert content["finished"]
    assert content["parts"]["codec"]["measurements"][0]["ours"]["median"] == 3.0
    assert content["tests"][1]["error"] == "AssertionError: why"
    text = (tmp_path / "gpu.txt").read_text()
    for part in ("red", "device: a GPU", "FAILED", "why", "symbols 7", "codec: median", "images/s"):
        assert part in text, part
    assert len(said) == 2 * len(steps)


def test_all_green(tmp_path):
    report = new_report()
    step = python("codec", write_part(tmp_path, "codec"), tmp_path / "codec.json", part="codec")
    run_plan([step], report, tmp_path, 300, lambda line: None)
    assert report.is_green
    assert "all green" in (tmp_path / "gpu.txt").read_text()


def test_what_does_not_fit_is_left_out_and_said(tmp_path):
    report = new_report()
    step = python("codec", "pass", tmp_path / "codec.json", part="codec")
    run_plan([step], report, tmp_path, 5, lambda line: None)
    assert report.steps["codec"].outcome == "left out"
    assert not report.is_green
    assert "--minutes" in (tmp_path / "gpu.txt").read_text()


def test_files_are_there_while_a_step_runs(tmp_path):
    """A run that is killed leaves what was done."""
    report, seen = new_report(), []

    def announce(line: str) -> None:
        seen.append(json.loads((tmp_path / "gpu.json").read_text()))

    steps = [
        python("codec", write_part(tmp_path, "codec"), tmp_path / "codec.json", part="codec"),
        python("codec again", "pass", tmp_path / "codec.json", part="codec"),
    ]
    run_plan(steps, report, tmp_path, 300, announce)
    assert [list(content["steps"]) for content in seen] == [
        [],
        ["codec"],
        ["codec"],
        ["codec", "codec again"],
    ]
    assert not any(content["finished"] for content in seen)


def test_a_step_that_ignores_being_asked_is_ended_with_its_children(tmp_path, monkeypatch):
    monkeypatch.setattr("ladon.benchmark.suite._PATIENCE", 1.0)
    code = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    step = python("deaf", code, tmp_path / "deaf.json", part="codec")
    assert run_step(step, 4.0).outcome == "timed out"
    child = int((tmp_path / "deaf.log").read_text())

    def is_over() -> bool:
        try:
            return Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            return True

    end = time.monotonic() + 20  # it was killed; the system may take a moment over it
    while not is_over() and time.monotonic() < end:
        time.sleep(0.1)
    assert is_over()


def test_make_gpu_takes_a_python_of_ones_own():
    done = subprocess.run(
        ["make", "-n", "gpu", "PYTHON=some-python", "OUT=/tmp/x"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        # `make test` runs this test: its make tells another one that it is not the first
        env={name: value for name, value in os.environ.items() if not name.startswith("MAKE")},
    )
    assert done.stdout.strip() == "some-python scripts/gpu.py --out /tmp/x"
