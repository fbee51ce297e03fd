"""Jobs that stand on one another: order, failures, lost machines (on an engine that runs none)."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest
import yaml

from ladon.sweeps.engines import Ended, Engine, NodeLost
from ladon.sweeps.jobs import Job, always_new, by_results
from ladon.sweeps.results import SweepResult, plan_table, summary_table
from ladon.sweeps.scheduler import Scheduler, Watcher
from ladon.sweeps.watchers import Lines, LiveTable, last_progress


class FakeEngine(Engine):
    """Finishes each job at once; `codes` and `losses` say what becomes of some, by title."""

    slots = None

    def __init__(self, jobs: list[Job], codes: dict | None = None, losses: dict | None = None):
        super().__init__()
        self.calls: list[str] = []
        self.alone: set[str] = set()
        self._titles = {tuple(job.command(resume=r)): job for job in jobs for r in (False, True)}
        self._codes, self._losses = codes or {}, dict(losses or {})

    def run(self, command, say=None, *, alone=False) -> Ended:
        job = self._titles[tuple(command)]
        self.calls.append(job.title + (" --resume" if "--resume" in command else ""))
        if alone:
            self.alone.add(job.title)
        if self._losses.get(job.title, 0):
            self._losses[job.title] -= 1
            raise NodeLost("its node is lost")
        code = self._codes.get(job.title, 0)
        if code == 0:
            finish(job)
        return Ended(code, ("no more memory",) if code else ())

    def _send(self, signum: int) -> None:
        pass


class Diary(Watcher):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def lost(self, job, why) -> None:
        self.told.append(f"{job.title}: {why}")


_clock = iter(range(10_000_000, 20_000_000))


def finish(job: Job) -> None:
    """Leave behind what a run does; newer than all before, whatever the file system's clock."""
    for path, text in (
        (job.checkpoint, ""),
        (job.folder / "last.pt", ""),
        (job.folder / "metrics.json", json.dumps({"mode": "train"})),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        moment = next(_clock)
        os.utime(path, (moment, moment))


@pytest.fixture
def jobs(tmp_path, monkeypatch) -> list[Job]:
    """A teacher, a student on it for each of two β, and two heads on each student."""
    monkeypatch.chdir(tmp_path)

    def job(name: str, beta: str | None, *needs: Job) -> Job:
        path = Path(f"configs/{name}-beta{beta}.yaml")
        path.parent.mkdir(exist_ok=True)
        model = {"dst_ckpt": f"ckpt/{path.stem}.pt"}
        path.write_text(yaml.safe_dump({"models": {"model": model}}))
        return Job(name, "classification", path, needs, beta)

    teacher = job("teacher", None)
    students = [job("student", beta, teacher) for beta in "12"]
    heads = [job(name, s.beta, s) for name in ("detection", "segmentation") for s in students]
    return [teacher, *students, *heads]


def work(jobs, engine, watcher=None, state_of=always_new) -> SweepResult:
    outcomes = Scheduler(jobs, engine, watcher or Watcher(), state_of).work()
    return SweepResult.of(jobs, outcomes, engine.received)


def test_each_job_waits_for_what_it_stands_on(jobs):
    engine = FakeEngine(jobs)
    result = work(jobs, engine)
    assert sorted(engine.calls) == sorted(job.title for job in jobs)
    for job in jobs:
        for need in job.needs:
            assert engine.calls.index(need.title) < engine.calls.index(job.title)
    assert [o.status for o in result.outcomes] == ["done"] * 7
    assert [o.job for o in result.outcomes] == jobs
    assert result.exit_code == 0
    assert engine.alone == {"teacher"}  # nothing else can use the cores meanwhile


def test_what_stands_on_a_failed_one_is_not_run_and_named(jobs):
    engine = FakeEngine(jobs, codes={"student β 1": 3})
    result = work(jobs, engine)
    assert set(engine.calls) == {
        "teacher",
        "student β 1",
        "student β 2",
        "detection β 2",
        "segmentation β 2",
    }
    statuses = {o.job.title: (o.status, o.detail) for o in result.outcomes}
    assert statuses["student β 1"] == ("failed", "exit code 3")
    assert statuses["detection β 1"] == ("not run", "stands on student β 1")
    assert result.failures == "failed: student β 1; not run: detection β 1, segmentation β 1"
    assert result.exit_code == 1


def test_failures_go_down_all_the_way(jobs):
    result = work(jobs, FakeEngine(jobs, codes={"teacher": -9}))
    assert result.outcomes[0].detail == "killed by signal 9"
    assert [o.status for o in result.outcomes[1:]] == ["not run"] * 6


def test_a_job_whose_machine_is_lost_goes_on_from_its_last_checkpoint(jobs):
    engine, diary = FakeEngine(jobs, losses={"student β 2": 2}), Diary()
    result = work(jobs, engine, diary)
    tries = [call for call in engine.calls if call.startswith("student β 2")]
    assert tries == ["student β 2", "student β 2 --resume", "student β 2 --resume"]
    assert diary.told == ["student β 2: its node is lost"] * 2
    assert result.exit_code == 0


def test_a_job_whose_machines_are_always_lost_fails(jobs):
    engine = FakeEngine(jobs, losses={"detection β 1": 99})
    result = work(jobs, engine)
    assert engine.calls.count("detection β 1 --resume") == 3
    assert result.failures == "failed: detection β 1"
    assert result.outcomes[3].ended.said == ("its node is lost",)


def test_a_lost_machine_is_no_failure_once_the_sweep_is_told_to_stop(jobs):
    class Stopped(FakeEngine):
        def run(self, command, say=None, *, alone=False):
            self.received = 15
            self.stop()
            return super().run(command, say)

    engine = Stopped(jobs, losses={"teacher": 1})
    result = work(jobs, engine)
    assert engine.calls == ["teacher"]
    assert [o.status for o in result.outcomes] == ["interrupted"] + ["not run"] * 6
    assert (result.failures, result.exit_code) == ("", 143)


def test_finished_ones_are_skipped_and_others_go_on(jobs):
    for job in jobs[:3]:
        finish(job)
    engine = FakeEngine(jobs)
    result = work(jobs, engine, state_of=by_results)
    assert [o.status for o in result.outcomes] == ["skipped"] * 3 + ["done"] * 4
    assert all(call.endswith(" --resume") for call in engine.calls)
    assert work(jobs, FakeEngine(jobs), state_of=by_results).betas("done") == []


def test_what_stands_on_a_checkpoint_that_was_made_anew_is_made_anew(jobs):
    for job in jobs:
        finish(job)
    finish(jobs[1])
    engine = FakeEngine(jobs)
    work(jobs, engine, state_of=by_results)
    assert sorted(engine.calls) == ["detection β 1", "segmentation β 1"]  # without --resume


def test_no_more_run_at_a_time_than_the_engine_takes(jobs):
    most, now, lock = 0, 0, threading.Lock()
    both = threading.Barrier(2, timeout=20)

    class Counting(FakeEngine):
        slots = 2

        def run(self, command, say=None, *, alone=False):
            nonlocal most, now
            with lock:
                now += 1
                most = max(most, now)
            if "configs/teacher" not in " ".join(command):
                both.wait()  # six jobs, always two of them at a time
            ended = super().run(command, say)
            with lock:
                now -= 1
            return ended

    assert work(jobs, Counting(jobs)).exit_code == 0
    assert most == 2


def test_lines_name_what_happened(jobs):
    said: list[str] = []
    lines = Lines(jobs, said.append, side_by_side=True)
    engine = FakeEngine(jobs, codes={"student β 1": 3}, losses={"student β 2": 1})
    finish(jobs[0])
    work(jobs, engine, lines, by_results)
    assert "[1/7] teacher: already finished, skipped" in said
    assert "[3/7] student β 2: configs/student-beta2.yaml" in said
    assert "[3/7] student β 2: its node is lost; goes on from its last checkpoint" in said
    assert "  no more memory\n[2/7] student β 1: failed (exit code 3) after 0:00:00" in said
    assert "[4/7] detection β 1: not run (stands on student β 1)" in said


def text(table) -> str:
    from ladon.report.tables import make_console

    console = make_console()
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def test_tables(jobs):
    plan = text(plan_table(jobs, [by_results(job) for job in jobs]))
    assert "│ segmentation β 2 │ begun │ student β 2 │ configs/segmentation-beta2.yaml │" in plan
    result = work(jobs, FakeEngine(jobs, codes={"detection β 2": 1}))
    assert "│ detection β 2    │ failed (exit code 1) │ 0:00:00 │" in text(summary_table(result))


def test_the_live_table_follows_the_logs(jobs):
    from ladon.report.tables import make_console

    teacher, student = jobs[:2]
    live = LiveTable(jobs, make_console())
    live.skipped(teacher)
    live.started(student, resumed=True)
    student.log.parent.mkdir(exist_ok=True)
    line = "2026-01-01\tINFO\tladon.engine.train\tEpoch: [3]\t[0/9]\tloss: 1.5\n"
    student.log.write_text(line + "2026-01-01\tINFO\tladon.engine\tsomething else\n")
    shown = text(live.table())
    assert "│ teacher          │ finished before │       – │" in shown
    assert "│ student β 1      │ going on        │ 0:00:00 │ Epoch: [3]  [0/9]" in shown
    assert "│ detection β 1    │ waiting         │       – │" in shown


def test_a_log_of_before_is_not_taken_for_this_run_s(tmp_path):
    log = tmp_path / "log.txt"
    assert last_progress(log, 0) is None
    log.write_text("2026\tINFO\tladon.engine.train\tEpoch: [3]\n")
    os.utime(log, (100, 100))
    assert last_progress(log, 101) is None
    assert last_progress(log, 100) == "Epoch: [3]"
    assert last_progress(log, 100.01) == "Epoch: [3]"  # written in the same tick of the kernel


def test_an_error_of_the_scheduler_s_own_stops_the_others(jobs, monkeypatch):
    def broken(job):
        raise ValueError("a bug")

    engine = FakeEngine(jobs)
    with pytest.raises(ValueError, match="a bug"):
        work(jobs, engine, state_of=broken)
    assert engine.stopping is not None
