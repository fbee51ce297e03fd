"""What became of a sweep: outcomes, exit code, tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from rich.table import Table

from ladon.sweeps.jobs import Job, State
from ladon.sweeps.scheduler import Outcome


@dataclass(frozen=True)
class SweepResult:
    """The outcomes in the order of the jobs, and the signal that stopped the sweep, if one did."""

    outcomes: Sequence[Outcome]
    signum: int | None = None

    @classmethod
    def of(
        cls, jobs: Sequence[Job], outcomes: Sequence[Outcome], signum: int | None
    ) -> SweepResult:
        """Put outcomes in the order of the jobs."""
        return cls(sorted(outcomes, key=lambda o: jobs.index(o.job)), signum)

    def betas(self, *statuses: str) -> list[str]:
        """Return the β with one of these statuses."""
        return [str(o.job.beta) for o in self.outcomes if o.status in statuses]

    @property
    def finished_folders(self) -> list[Path]:
        """Run folders that hold a result."""
        return [o.job.folder for o in self.outcomes if o.status in {"done", "skipped"}]

    @property
    def left_out(self) -> list[Outcome]:
        """Those that were not run because what they stand on failed."""
        return [o for o in self.outcomes if o.status == "not run" and o.detail]

    @property
    def failures(self) -> str:
        """What failed, and what was not run because of it; '' if nothing did."""
        failed = [o.job for o in self.outcomes if o.status == "failed"]
        parts = [f"failed: {_names(failed)}"] if failed else []
        if self.left_out and failed:
            parts.append(f"not run: {_names([o.job for o in self.left_out])}")
        return "; ".join(parts)

    @property
    def exit_code(self) -> int:
        """0 all done, 1 some failed, 128 + N stopped by signal N."""
        if self.signum is not None:
            return 128 + self.signum
        return 1 if self.failures else 0


def summary_table(result: SweepResult) -> Table:
    """One row per job: what it is, status, wall time, log file."""
    table = _table("Sweep", [o.job for o in result.outcomes])
    table.add_column("status", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column("run log", overflow="fold")
    for outcome in result.outcomes:
        status = f"{outcome.status} ({outcome.detail})" if outcome.detail else outcome.status
        table.add_row(*_cells(outcome.job), status, duration(outcome.seconds), str(outcome.job.log))
    return table


def plan_table(jobs: Sequence[Job], states: Sequence[State]) -> Table:
    """One row per job: what it is, how far it is, what it stands on, its config."""
    table = _table("Plan", jobs)
    for column in ("state", "stands on"):
        table.add_column(column, no_wrap=True)
    table.add_column("config", overflow="fold")
    for job, state in zip(jobs, states, strict=True):
        needs = ", ".join(need.title for need in job.needs) or "–"
        table.add_row(*_cells(job), state, needs, str(job.config))
    return table


def duration(seconds: float | None) -> str:
    """Return a time as a table shows it, '–' for none."""
    return "–" if seconds is None else str(timedelta(seconds=round(seconds)))


def _table(title: str, jobs: Sequence[Job]) -> Table:
    table = Table(title=title, title_justify="left")
    if any(job.role for job in jobs):
        table.add_column("run", no_wrap=True)
    else:
        table.add_column("β", justify="right", no_wrap=True)
    return table


def _cells(job: Job) -> list[str]:
    return [job.title if job.role else str(job.beta)]


def _names(jobs: Sequence[Job]) -> str:
    """Name jobs; several β without a role by one β."""
    if any(job.role for job in jobs):
        return ", ".join(job.title for job in jobs)
    return f"β {', '.join(str(job.beta) for job in jobs)}"
