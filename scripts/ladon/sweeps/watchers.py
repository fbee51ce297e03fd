"""What the person who waits is shown of jobs: lines, or a table that is kept up to date."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from ladon.children import Say
from ladon.sweeps.jobs import Job
from ladon.sweeps.results import duration
from ladon.sweeps.scheduler import Outcome, Watcher

_SHOWN = re.compile(r"Epoch:| \* Acc@1|mean IoU:|Payload | Average Precision .*IoU=0.50 .*= +all ")
_TAIL = 8192  # bytes of a log that are looked at: some twenty steps
_TICK = 0.02  # s; a file's time is that of the kernel's last tick, 10 ms before at most


def progress(line: str) -> str | None:
    """Return the message of a log line of the engine's own, less its tabs; None for other lines."""
    fields = line.split("\t", 3)
    if len(fields) < 4 or fields[1] not in ("INFO", "WARNING", "ERROR"):
        return None
    if fields[1] == "INFO" and not _SHOWN.match(fields[3]):
        return None
    return fields[3].strip().expandtabs(2)


class Lines(Watcher):
    """Says a line when something happens.

    Args:
        jobs: all of them.
        say: is given the lines.
        side_by_side: whether jobs' output would be mixed up: then their progress is shown, and of a
            failed one the last lines.
        first: number of the first job.
    """

    def __init__(
        self, jobs: Sequence[Job], say: Say, *, side_by_side: bool, first: int = 1
    ) -> None:
        self.wants_lines = side_by_side
        self._say, self._lock = say, threading.Lock()
        total = first + len(jobs) - 1
        self._labels = {j: f"[{n}/{total}] {j.title}" for n, j in enumerate(jobs, start=first)}

    def skipped(self, job: Job) -> None:
        """Say that it is."""
        self._tell(f"{self._label(job)}: already finished, skipped")

    def started(self, job: Job, *, resumed: bool) -> None:
        """Say that it has."""
        self._tell(f"{self._label(job)}: {job.config}")

    def line(self, job: Job, line: str) -> None:
        """Show it if it tells how far the job is."""
        if (shown := progress(line)) is not None:
            self._tell(f"      {job.title} | {shown}")

    def lost(self, job: Job, why: str) -> None:
        """Say that it goes on."""
        self._tell(f"{self._label(job)}: {why}; goes on from its last checkpoint")

    def ended(self, outcome: Outcome) -> None:
        """Say how, unless its own output ends above."""
        if not self.wants_lines:
            return
        said = outcome.ended.said if outcome.ended and outcome.status == "failed" else ()
        detail = f" ({outcome.detail})" if outcome.detail else ""
        spent = "" if outcome.seconds is None else f" after {duration(outcome.seconds)}"
        text = f"{self._label(outcome.job)}: {outcome.status}{detail}{spent}"
        self._tell("\n".join([*(f"  {line}" for line in said), text]))

    def _label(self, job: Job) -> str:
        return self._labels[job]

    def _tell(self, line: str) -> None:
        with self._lock:
            self._say(line)


class DemoLines(Lines):
    """Says what becomes of the demo's jobs.

    Args:
        jobs: all of them.
        say: is given the lines.
        first: number of the first job.
    """

    def __init__(self, jobs: Sequence[Job], say: Say, *, first: int = 1) -> None:
        super().__init__(jobs, say, side_by_side=True, first=first)

    def skipped(self, job: Job) -> None:
        """Say that it is."""
        self._tell(f"{self._label(job)}: already done ({job.folder})")

    def started(self, job: Job, *, resumed: bool) -> None:
        """Say that it has."""
        how = "going on" if resumed else "started"
        self._tell(f"{self._label(job)}: {how} (log: {job.log})")

    def ended(self, outcome: Outcome) -> None:
        """Say how, and what the job said last if it failed."""
        label, ended = self._label(outcome.job), outcome.ended
        if ended is None:  # it was not run
            return
        if ended.code == 0:
            self._tell(f"{label}: done in {outcome.seconds:.0f} s")
        elif ended.is_stop:
            self._tell(
                f"{label}: stopped after {outcome.seconds:.0f} s; run the demo again to go on"
            )
        else:
            said = "\n".join(f"  {line}" for line in ended.said)
            self._tell(
                f"{said}\n{label}: failed with exit code {ended.code} (log: {outcome.job.log})"
            )


class LiveTable(Watcher):
    """A table of all jobs on a terminal, kept up to date from their logs while it is entered.

    Args:
        jobs: all of them.
        console: the terminal.
    """

    wants_lines = True

    def __init__(self, jobs: Sequence[Job], console: Console) -> None:
        self._jobs, self._status = jobs, dict.fromkeys(jobs, "waiting")
        self._since: dict[Job, tuple[float, float]] = {}  # by both clocks
        self._spent: dict[Job, float] = {}
        self._live = Live(
            console=console, get_renderable=self.table, refresh_per_second=1, transient=True
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._live.stop()

    def skipped(self, job: Job) -> None:
        """Show it."""
        self._status[job] = "finished before"

    def started(self, job: Job, *, resumed: bool) -> None:
        """Show it."""
        self._since[job] = (time.monotonic(), time.time())
        self._status[job] = "going on" if resumed else "started"

    def lost(self, job: Job, why: str) -> None:
        """Show that it goes on, and say why above the table."""
        self._live.console.print(f"{job.title}: {why}; goes on from its last checkpoint")
        self._status[job] = "going on"

    def ended(self, outcome: Outcome) -> None:
        """Show how, and of a failed one its last lines above the table."""
        job = outcome.job
        if outcome.status == "failed" and outcome.ended is not None:
            for line in (f"{job.title}: {outcome.detail}", *outcome.ended.said):
                self._live.console.print(line, markup=False)
        self._spent[job] = outcome.seconds or 0.0
        detail = f" ({outcome.detail})" if outcome.detail else ""
        self._status[job] = f"{outcome.status}{detail}"

    def table(self) -> Table:
        """Return the table as it stands."""
        table = Table()
        for column in ("run", "status"):
            table.add_column(column, no_wrap=True)
        table.add_column("time", justify="right", no_wrap=True)
        table.add_column("last", overflow="ellipsis", no_wrap=True)
        for job in list(self._jobs):
            spent, last, status = self._spent.get(job), "", self._status[job]
            if spent is None and job in self._since:
                monotonic, wall = self._since[job]
                spent, last = time.monotonic() - monotonic, last_progress(job.log, wall) or ""
            table.add_row(job.title, status, duration(spent), last)
        return table


def last_progress(log: Path, since: float) -> str | None:
    """Return the last line of a log that tells how far its run is.

    Args:
        log: the file.
        since: seconds since the epoch; a log that nothing was written to after that is another
            run's.
    """
    try:
        with log.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_mtime < since - _TICK:
                return None
            file.seek(max(0, status.st_size - _TAIL))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return None
    return next(filter(None, map(progress, reversed(lines))), None)
