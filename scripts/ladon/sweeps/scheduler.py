"""Jobs that stand on one another, brought to their end on an engine, each only if it is needed.

A finished job is skipped, one that has begun goes on with `--resume`, one whose machine is lost
goes on elsewhere, and what stands on a failed one is not run.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from ladon.sweeps.engines import Ended, Engine, NodeLost
from ladon.sweeps.jobs import Job, StateOf

RETRIES = 3
"""How often a job starts again after its machine was lost."""


@dataclass(frozen=True)
class Outcome:
    """The end of one job.

    Args:
        job: the job.
        status: 'done', 'failed', 'skipped' (already finished), 'interrupted' or 'not run'.
        detail: why, for 'failed', 'skipped' and 'not run'.
        seconds: wall time; None if nothing ran.
        ended: of its process, if there was one.
    """

    job: Job
    status: str
    detail: str = ""
    seconds: float | None = None
    ended: Ended | None = None


def exit_code(outcomes: Iterable[Outcome]) -> int:
    """Return 0, or the exit code of the first job that failed or was interrupted."""
    codes = (outcome.ended.code for outcome in outcomes if outcome.ended is not None)
    code = next(filter(None, codes), 0)
    return code if code >= 0 else 128 - code


class Watcher:
    """Is told what becomes of jobs, by several threads; this one does nothing with it.

    Attributes:
        wants_lines: whether it shows the jobs' output; else it goes where this process's goes, if
            the engine can do that.
    """

    wants_lines = False

    def skipped(self, job: Job) -> None:
        """Hear of a job that is finished already."""

    def started(self, job: Job, *, resumed: bool) -> None:
        """Hear of a job that the engine has been given."""

    def line(self, job: Job, line: str) -> None:
        """Hear a line of a job's output."""

    def lost(self, job: Job, why: str) -> None:
        """Hear of a job that starts again because its machine is gone."""

    def ended(self, outcome: Outcome) -> None:
        """Hear of the end of a job that was started, or of one that will not be."""


class Scheduler:
    """Brings jobs to their end, in their order as far as their needs and the engine allow.

    Args:
        jobs: what to run; a job stands behind those it needs.
        engine: runs them; its signals are being caught.
        watcher: is told.
        state_of: says how far a job is.
        goes_on: whether the others go on past a failed one; else they save their state and stop.
        retries: how often a job starts again after its machine was lost.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        engine: Engine,
        watcher: Watcher,
        state_of: StateOf,
        *,
        goes_on: bool = True,
        retries: int = RETRIES,
    ) -> None:
        self._jobs, self._engine, self._watcher = list(jobs), engine, watcher
        self._state_of, self._goes_on, self._retries = state_of, goes_on, retries
        self._outcomes: dict[Job, Outcome] = {}

    def work(self) -> list[Outcome]:
        """Run all jobs.

        Returns:
            The outcomes, in the order in which the jobs ended.
        """
        slots = self._engine.slots or max(1, len(self._jobs))
        running: dict[Future[Outcome], Job] = {}
        with ThreadPoolExecutor(slots) as pool:
            while True:
                for job in self._ready(running.values())[: slots - len(running)]:
                    running[pool.submit(self._run, job, self._all_wait_for(job))] = job
                if not running:
                    break
                ended, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in ended:
                    self._take(running.pop(future), future)
        for job in self._jobs:
            if job not in self._outcomes:
                self._leave_out(job, "")
        return list(self._outcomes.values())

    def _ready(self, running: Iterable[Job]) -> list[Job]:
        """Return the jobs that can start now; leave out those that never can."""
        if self._engine.stopping is not None:
            return []
        taken, ready = set(running), []
        for job in self._jobs:
            if job in self._outcomes or job in taken:
                continue
            ends = [self._outcomes[need] for need in job.needs if need in self._outcomes]
            missing = [o.job.title for o in ends if o.status not in {"done", "skipped"}]
            if missing:
                self._leave_out(job, f"stands on {', '.join(missing)}")
            elif len(ends) == len(job.needs):
                ready.append(job)
        return ready

    def _all_wait_for(self, job: Job) -> bool:
        """Whether all others stand on a job, done or not: its threads, and so results, follow."""
        on_it = {job}
        for other in self._jobs:  # what one stands on is in front of it
            if on_it.intersection(other.needs):
                on_it.add(other)
        return len(on_it) == len(self._jobs)

    def _leave_out(self, job: Job, why: str) -> None:
        self._outcomes[job] = Outcome(job, "not run", why)
        self._watcher.ended(self._outcomes[job])

    def _take(self, job: Job, future: Future[Outcome]) -> None:
        try:
            outcome = future.result()
        except BaseException:
            self._engine.stop()
            raise
        self._outcomes[job] = outcome
        if not self._goes_on and outcome.status not in {"done", "skipped"}:
            self._engine.stop()

    def _run(self, job: Job, alone: bool) -> Outcome:
        state = self._state_of(job)
        if state == "finished":
            self._watcher.skipped(job)
            return Outcome(job, "skipped", "already finished")
        self._watcher.started(job, resumed=state == "begun")
        start = time.monotonic()
        ended = self._run_to_its_end(job, resume=state == "begun", alone=alone)
        status, detail = ended.judge(interrupted=self._engine.stopping is not None)
        outcome = Outcome(job, status, detail, time.monotonic() - start, ended)
        self._watcher.ended(outcome)
        return outcome

    def _run_to_its_end(self, job: Job, *, resume: bool, alone: bool) -> Ended:
        """Run a job, again from its last checkpoint whenever its machine is lost."""
        watcher = self._watcher
        say = (lambda line: watcher.line(job, line)) if watcher.wants_lines else None
        for left in range(self._retries, -1, -1):
            try:
                return self._engine.run(job.command(resume=resume), say, alone=alone)
            except NodeLost as error:
                if self._engine.stopping is not None:
                    return Ended(128 + self._engine.stopping, (str(error),))
                if not left:
                    return Ended(NodeLost.exit_code, (str(error),))
                watcher.lost(job, str(error))
                resume = True
        raise AssertionError("every way out is above")
