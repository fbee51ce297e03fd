"""The demo: what it repeats and what not, and how it stops (with stand-ins for the training)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from unittest import mock

import pytest
import yaml
from tiny import ROOT, TinyExperiment
from warm_engine import WarmEngine

from ladon.commands import demo
from ladon.config import load_config
from ladon.sweeps.engines import LocalEngine
from ladon.sweeps.jobs import Job, by_everything

FLAGS = ("--data_root", "data", "--seed", str(demo.SEED))


@pytest.fixture
def jobs(tmp_path, monkeypatch) -> list[Job]:
    """A teacher, two students on it, and heads on the first one, as tiny configs."""
    monkeypatch.chdir(tmp_path)

    def job(name: str, *needs: Job) -> Job:
        path = Path(f"configs/{name}.yaml")
        path.parent.mkdir(exist_ok=True)
        dst = f"ckpt/{name}.pt"
        path.write_text(
            yaml.safe_dump({"models": {"model": {"dst_ckpt": dst}}, "train": {"lr": 1}})
        )
        return Job(name, "classification", path, needs, flags=FLAGS)

    teacher = job("teacher")
    first, second = job("first", teacher), job("second", teacher)
    return [teacher, first, second, job("heads", first)]


class FakeEngine(LocalEngine):
    """Leaves what a run leaves behind; `fails` and `breaks` name jobs that end early."""

    def __init__(self, jobs: list[Job], fails: str = "", breaks: str = "", cores: int = 1) -> None:
        super().__init__(cores, cores, whole=True)
        self.calls: list[str] = []
        self.env: dict[str, str] = {}
        self._jobs = {str(p.config): p for p in jobs}
        self._fails, self._breaks = fails, breaks

    def __call__(self, command, env, say) -> int:
        job = self._jobs[command[command.index("--config") + 1]]
        self.calls.append(job.title + (" --resume" if "--resume" in command else ""))
        self.env[job.title] = env["OMP_NUM_THREADS"]
        begin(job)
        if job.title == self._breaks:
            return 130
        if job.title == self._fails:
            say("Traceback: no more memory")
            return 3
        finish(job)
        return 0


_clock = iter(range(10_000_000, 20_000_000))


def write(path: Path, text: str) -> None:
    """Write a file that is newer than all before it, whatever the file system's clock."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    moment = next(_clock)
    os.utime(path, (moment, moment))


def begin(job: Job) -> None:
    write(
        job.folder / "config.yaml",
        load_config(job.config, data_root="data").dump(variables=False),
    )
    write(job.folder / "run.json", json.dumps({"seed": demo.SEED}))
    write(job.folder / "last.pt", "")
    (job.folder / "metrics.json").unlink(missing_ok=True)


def finish(job: Job, mode: str = "train") -> None:
    write(job.checkpoint, "")
    write(job.folder / "last.pt", "")
    write(job.folder / "metrics.jsonl", "{}\n")
    write(job.folder / "metrics.json", json.dumps({"mode": mode}))


def work(jobs: list[Job], engine: LocalEngine) -> tuple[int, list[str]]:
    said: list[str] = []
    with mock.patch.object(demo, "say", said.append), engine:
        return demo.work(jobs, engine, first=1), said


def ran(jobs: list[Job]) -> list[str]:
    """What a (successful) run of the demo repeats."""
    children = FakeEngine(jobs)
    assert work(jobs, children)[0] == 0
    return children.calls


EVERYTHING = ["teacher", "first", "second", "heads"]


def test_everything_runs_once_and_nothing_twice(jobs):
    assert ran(jobs) == EVERYTHING
    children = FakeEngine(jobs)
    code, said = work(jobs, children)
    assert (code, children.calls) == (0, [])
    assert said[0] == "[1/4] teacher: already done (logs/teacher)"
    assert len(said) == 4


def test_an_interrupted_part_goes_on(jobs):
    children = FakeEngine(jobs, breaks="first")
    code, said = work(jobs, children)
    assert code == 130
    assert children.calls == ["teacher", "first"]
    assert "stopped after" in said[-1]
    assert ran(jobs) == ["first --resume", "second", "heads"]


def test_a_failed_part_stops_the_demo_with_its_error_and_exit_code(jobs):
    children = FakeEngine(jobs, fails="second")
    code, said = work(jobs, children)
    assert code == 3
    assert children.calls == ["teacher", "first", "second"]
    assert "no more memory" in said[-1]
    assert "[3/4] second: failed with exit code 3 (log: logs/second.txt)" in said[-1]


def test_a_changed_config_repeats_the_part_and_what_stands_on_it(jobs):
    ran(jobs)
    first = jobs[1]
    first.config.write_text(first.config.read_text().replace("lr: 1", "lr: 2"))
    assert ran(jobs) == ["first", "heads"]
    assert ran(jobs) == []


def test_what_stands_on_an_older_teacher_is_repeated_even_after_an_interruption(jobs):
    ran(jobs)
    teacher, first = jobs[:2]
    teacher.checkpoint.unlink()
    assert work(jobs, FakeEngine(jobs, breaks="first"))[0] == 130
    assert by_everything(first) == "begun"
    assert ran(jobs) == ["first --resume", "second", "heads"]


@pytest.mark.parametrize(
    ("spoil", "repeated"),
    [
        (lambda p: (p.folder / "run.json").write_text('{"seed": 1}'), "heads"),
        (lambda p: (p.folder / "run.json").write_text("{"), "heads"),
        (lambda p: p.checkpoint.unlink(), "heads"),
        (lambda p: (p.folder / "last.pt").unlink(), "heads"),
        (lambda p: (p.folder / "metrics.json").unlink(), "heads --resume"),
        (lambda p: finish(p, mode="test"), "heads --resume"),
    ],
    ids=["seed", "broken", "no checkpoint", "no last", "no result", "only tested"],
)
def test_only_the_same_finished_training_counts(jobs, spoil, repeated):
    ran(jobs)
    spoil(jobs[-1])
    assert ran(jobs) == [repeated]


def test_parts_run_side_by_side_with_a_thread_each(jobs):
    both = threading.Barrier(2, timeout=10)

    class Meeting(FakeEngine):
        def __call__(self, command, env, say) -> int:
            code = super().__call__(command, env, say)
            if self._jobs[command[command.index("--config") + 1]] in jobs[1:3]:
                both.wait()  # fails unless the other student runs at the same time
            return code

    children = Meeting(jobs, cores=2)
    assert work(jobs, children)[0] == 0
    assert children.env == {"teacher": "2", "first": "1", "second": "1", "heads": "1"}


def test_the_demo_s_parts_are_the_shipped_configs(monkeypatch):
    monkeypatch.chdir(ROOT)
    made = demo.make_jobs("data")
    assert len(made) == 1 + 3 * len(demo.BETAS)
    others = {"_base_", "ladon-runtime"}  # the three-headed model is made of the demo's
    shipped = {p for p in demo.CONFIGS.rglob("*.yaml") if not others & {*p.parts}}
    shipped = {path for path in shipped if "-vr" not in path.stem}  # one for every rate
    assert {job.config for job in made} == shipped
    for job in made:
        beta = load_config(job.config, data_root="data").beta
        if job.needs:
            assert job.title.endswith(f" β {beta:g}")
            assert f"-beta{beta:g}_" in f"{job.config.stem}_"
            assert len(job.config.read_text().splitlines()) <= 10
        else:
            assert beta is None


# stands in for a task script: says a line of the engine's, then waits for the signal
PATIENT = """\
import signal, sys, time
told = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda signum, frame: told.append(signum))
print("date\\tINFO\\tladon.engine.train\\tEpoch: [0]\\t[0/9]", flush=True)
while not told:
    time.sleep(0.02)
sys.exit(128 + told[0])
"""

MAIN = """\
import sys
from pathlib import Path
import ladon.sweeps.jobs
from ladon.commands import demo
from ladon.sweeps.jobs import Job
demo.draw_scenes = lambda root: None
ladon.sweeps.jobs.child_command = lambda name: [sys.executable, "patient.py"]
demo.CONFIGS = Path("configs")
demo.make_jobs = lambda root: [Job(n, "classification", Path(f"configs/{n}.yaml")) for n in "ab"]
demo.usable_cores = lambda: 2
sys.exit(demo.main([]))
"""


@pytest.mark.slow
def test_a_real_part_is_finished_by_the_same_rules(tmp_path, scenes, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lab = TinyExperiment(Path(), scenes)
    flags = ("--data_root", str(scenes), "--seed", str(demo.SEED))
    teacher = Job("teacher", "classification", lab.config("teacher"), flags=flags)
    student = Job(
        "student", "classification", lab.config("classification"), (teacher,), flags=flags
    )
    jobs = [teacher, student]
    code, said = work(jobs, WarmEngine(1, 1))
    assert code == 0, said
    assert any(line.startswith("      student | * Acc@1 ") for line in said)
    assert [by_everything(job) for job in jobs] == ["finished"] * 2
    (student.folder / "metrics.json").unlink()  # as if interrupted during the test
    code, said = work(jobs, WarmEngine(1, 1))
    assert code == 0, said
    assert any("[2/2] student: going on" in line for line in said)
    assert "Resuming from" in Path("logs/classification.txt").read_text()
    assert by_everything(student) == "finished"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_all_children_and_is_the_exit_code(tmp_path, monkeypatch, signum):
    monkeypatch.chdir(tmp_path)
    Path("configs").mkdir()
    for name in "ab":
        Path(f"configs/{name}.yaml").write_text("lr: 1")
    Path("patient.py").write_text(PATIENT)
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN],
        env={**os.environ, "PYTHONPATH": str(ROOT / "scripts"), "PYTHONIOENCODING": "utf-8"},
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        start_new_session=True,
    )
    timer = threading.Timer(60, process.kill)
    timer.start()
    try:
        waiting, said = {"a", "b"}, []
        while waiting:
            line = process.stdout.readline()
            assert line, said
            said.append(line)
            waiting -= {name for name in "ab" if line == f"      {name} | Epoch: [0]  [0/9]\n"}
        start = time.monotonic()
        process.send_signal(signum)
        out, _ = process.communicate()
        assert time.monotonic() - start < 20
    finally:
        timer.cancel()
        process.kill()
    assert process.returncode == 128 + signum
    assert out.count("stopped after") == 2
