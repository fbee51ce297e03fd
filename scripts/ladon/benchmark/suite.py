"""Tests and benchmark parts on a GPU, one after the other, each a process with a time limit.

What is done is in two files after each of them, so that a run that is killed leaves it: `gpu.json`
for programs, `gpu.txt` for people. `scripts/gpu.py` runs it.
"""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET  # nosec B405 # as below
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ladon.benchmark.parts import root
from ladon.benchmark.results import read_results
from ladon.benchmark.suite_report import Case, Outcome, Report, write
from ladon.errors import LadonError
from ladon.launch import child_command
from ladon.process import usable_cores

TESTS = "tests"
# (part, tasks or none, repeats, most seconds), in order of what is missed most
_PARTS = (
    ("evaluation", "image_classification", 1, 140),
    ("training", "", 1, 80),
    ("evaluation", "object_detection", 1, 100),
    ("evaluation", "semantic_segmentation", 1, 100),
    ("codec", "", 2, 45),
)
STEPS = (TESTS, *dict.fromkeys(part for part, *_ in _PARTS))
_TESTS_SECONDS, _ONE_TEST_SECONDS = 180, 100
_LEAST_SECONDS = 20  # a process begins with its imports
_PATIENCE = 10.0  # between asking a process to end and ending it
_PROCESSES = 8


@dataclass(frozen=True)
class Step:
    """One process.

    Attributes:
        name: like `tests` or `evaluation object_detection`.
        command: what it runs.
        seconds: what it may take at most.
        result: the file that it writes: JUnit's XML of the tests, JSON of a part.
        part: of the benchmark; empty for tests.
    """

    name: str
    command: Sequence[str]
    seconds: float
    result: Path
    part: str = ""


def plan(
    folder: Path, names: Sequence[str] = STEPS, *, device: str = "cuda", quick: bool = False
) -> list[Step]:
    """Return the steps.

    Args:
        folder: for the processes' own files and output.
        names: of `STEPS`.
        device: of the benchmark.
        quick: with the benchmark's smallest sizes.
    """
    steps = []
    if TESTS in names:
        result = folder / "tests.xml"
        steps.append(Step(TESTS, _pytest(result), _TESTS_SECONDS, result))
    for part, task, repeats, seconds in _PARTS:
        if part not in names:
            continue
        name = f"{part} {task}".strip()
        result = folder / f"{name.replace(' ', '-')}.json"
        command = [
            *child_command("benchmark"),
            "--only",
            part,
            "--device",
            device,
            "--repeats",
            str(repeats),
            "--out",
            str(result),
            *(["--tasks", task] if task else []),
            *(["--quick"] if quick else []),
        ]
        steps.append(Step(name, command, seconds, result, part))
    return steps


def _pytest(result: Path) -> list[str]:
    """Return the command of the tests that need a GPU; others are not even imported."""
    tests = sorted((root() / "tests").glob("test_*.py"))
    text = re.compile(r"mark\.gpu\b|^from devices import", re.MULTILINE)
    files = [str(path) for path in tests if text.search(path.read_text(encoding="utf-8"))]
    command = [sys.executable, "-m", "pytest", "-vv", "-m", "gpu", *files]
    command += ["-p", "no:cacheprovider", "--continue-on-collection-errors"]
    command += ["--show-capture=no", "--tb=short", f"--junitxml={result}"]
    if importlib.util.find_spec("xdist") and usable_cores() >= 2 * _PROCESSES:
        command += ["-n", str(_PROCESSES)]
    if importlib.util.find_spec("pytest_timeout"):
        command.append(f"--timeout={_ONE_TEST_SECONDS}")
    return command


def run_plan(
    steps: Sequence[Step],
    report: Report,
    folder: Path,
    seconds: float,
    announce: Callable[[str], None],
) -> None:
    """Run the steps; write the report before the first and after each.

    Args:
        steps: from `plan`.
        report: is filled.
        folder: for the report.
        seconds: what all of it may take; what does not fit is left out.
        announce: is given a line before and after each step.

    Raises:
        LadonError: if the folder cannot be written.
    """
    start = time.monotonic()
    write(report, folder)
    for step in steps:
        left = seconds - (time.monotonic() - start)
        if left < min(_LEAST_SECONDS, step.seconds):
            outcome = Outcome("left out", 0.0, "no time is left: give more --minutes")
        else:
            announce(f"{step.name} ...")
            outcome = run_step(step, min(left, step.seconds))
            _collect(step, outcome, report)
        report.steps[step.name] = outcome
        report.seconds = round(time.monotonic() - start, 1)
        write(report, folder)
        why = f": {outcome.error}" if outcome.error else ""
        announce(f"{step.name}: {outcome.outcome} after {outcome.seconds:.0f} s{why}")
    report.finished = True
    write(report, folder)


def run_step(step: Step, seconds: float) -> Outcome:
    """Run one process to its end or to its time's; its output goes beside its result.

    A process that takes too long is asked to end first: pytest then still says what it found.
    """
    log = step.result.with_suffix(".log")
    environment = os.environ | {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "PYTHONUNBUFFERED": "1"}
    start = time.monotonic()
    with log.open("wb") as output:
        process = _start(step.command, root(), output, environment)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(process)
    spent = round(time.monotonic() - start, 1)
    if code == 0:
        return Outcome("ok", spent)
    last = _last_line(log)
    if code is None:
        return Outcome("timed out", spent, f"it takes more than {seconds:.0f} s; last: {last}")
    return Outcome("failed", spent, f"exit code {code}; last: {last}")


def _start(
    command: Sequence[str], folder: Path, output: IO[bytes], environment: Mapping[str, str]
) -> subprocess.Popen:
    """Start a process that can be asked to end, together with those that it starts."""
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        # `nohup … &` lets all below it ignore SIGINT
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def _end(process: subprocess.Popen) -> None:
    """End a process that still runs, and those that it started."""
    for signum in (signal.SIGINT, signal.SIGKILL):
        if process.poll() is None:
            try:
                os.killpg(process.pid, signum)
                process.wait(_PATIENCE)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue
    try:
        os.killpg(process.pid, signal.SIGKILL)  # workers that outlived it
    except (ProcessLookupError, PermissionError):
        return


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "nothing")


def _collect(step: Step, outcome: Outcome, report: Report) -> None:
    """Take over the findings of a step, however it ended."""
    try:
        if step.part:
            found = read_results(step.result).parts[step.part]
            report.parts[step.name] = found
            outcome.error = outcome.error if outcome.outcome == "timed out" else found.error
        else:
            report.tests = read_junit(step.result)
            bad = [case for case in report.tests if case.outcome in ("failed", "error")]
            if bad:
                what = f"{len(bad)} of {len(report.tests)} tests failed"
                late = outcome.outcome == "timed out"
                outcome.error = f"{what}; {outcome.error}" if late else what
            elif not any(case.outcome == "passed" for case in report.tests):
                outcome.outcome = "failed" if outcome.outcome == "ok" else outcome.outcome
                outcome.error = outcome.error or "no test ran"
    except (LadonError, OSError, KeyError, ET.ParseError) as error:
        if outcome.outcome == "ok":
            outcome.outcome, outcome.error = "failed", f"left no result: {error}"


def read_junit(path: Path) -> list[Case]:
    """Read pytest's JUnit file.

    Raises:
        OSError: if there is none.
        ET.ParseError: if it is not XML.
    """
    cases = []
    root = ET.parse(path).getroot()  # nosec B314 # pytest has written it, for this process
    for element in root.iterfind(".//testcase[@name!='']"):
        name = f"{element.get('classname', '')}::{element.get('name')}".removeprefix("tests.")
        case = Case(name, "passed", round(float(element.get("time") or 0), 2))
        case.properties = {p.get("name", ""): p.get("value", "") for p in element.iter("property")}
        for kind, outcome in (("skipped", "skipped"), ("failure", "failed"), ("error", "error")):
            found = element.find(kind)
            if found is not None:
                # pytest marks the error with an E in the margin
                marked = re.search(r"^E\s+(\S.*)", found.text or "", re.MULTILINE)
                message = marked[1] if marked else found.get("message") or kind
                case.outcome, case.error = outcome, message.strip().splitlines()[0][:300]
        cases.append(case)
    return cases
