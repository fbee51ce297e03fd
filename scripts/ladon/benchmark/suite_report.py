"""The report on a run on a GPU: its steps, its tests, the benchmark's parts."""

from __future__ import annotations

import io
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ladon.benchmark.results import PartResult
from ladon.errors import cannot_write
from ladon.replacing import write_json

SCHEMA = 1
_WIDTH = 150  # of the tables


@dataclass
class Outcome:
    """The end of a step: `ok`, `failed`, `timed out` or `left out`."""

    outcome: str
    seconds: float = 0.0
    error: str | None = None


@dataclass
class Case:
    """One test: `passed`, `failed`, `error` or `skipped`.

    Attributes:
        error: its first line.
        properties: what the test recorded.
    """

    name: str
    outcome: str
    seconds: float
    error: str | None = None
    properties: dict[str, str] = field(default_factory=dict)


@dataclass
class Report:
    """Everything in one.

    Attributes:
        machine: what it ran on.
        versions: of the packages.
        steps: what became of each.
        tests: all that ran.
        parts: of the benchmark, by the steps' names.
        finished: nothing more will come.
    """

    machine: Mapping[str, Any]
    versions: Mapping[str, Any]
    date: str = ""
    seconds: float = 0.0
    finished: bool = False
    steps: dict[str, Outcome] = field(default_factory=dict)
    tests: list[Case] = field(default_factory=list)
    parts: dict[str, PartResult] = field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def is_green(self) -> bool:
        """Whether everything that was asked for was done, and nothing failed."""
        return self.finished and all(step.outcome == "ok" for step in self.steps.values())


def write(report: Report, folder: Path) -> None:
    """Write `gpu.json` and `gpu.txt`.

    Raises:
        LadonError: if one cannot be written.
    """
    report.date = time.strftime("%Y-%m-%d %H:%M:%S")
    write_json(folder / "gpu.json", asdict(report))
    path = folder / "gpu.txt"
    try:
        path.write_text(report_text(report), encoding="utf-8")
    except OSError as error:
        raise cannot_write(path, error) from error


def report_text(report: Report) -> str:
    """Return machine, steps, failing tests, what the tests recorded, and the parts' tables."""
    # heavy: not before it is sure that there is a GPU
    from rich.console import Console

    from ladon.benchmark.table import fact_text, part_table
    from ladon.report.render import show_table

    state = ("all green" if report.is_green else "red") if report.finished else "not finished"
    lines = [f"GPU run of {report.date}: {state}, {report.seconds:.0f} s"]
    lines += [f"{key}: {fact_text(value)}" for key, value in report.machine.items()]
    lines += [
        fact_text(dict(report.versions)),
        "",
        "Steps",
        *([] if report.steps else ["none yet"]),
    ]
    for name, step in report.steps.items():
        why = f": {step.error}" if step.error else ""
        lines.append(f"{step.outcome:9} {step.seconds:5.0f} s  {name}{why}")
    counts = Counter(case.outcome for case in report.tests)
    lines += ["", "Tests: " + (", ".join(f"{n} {what}" for what, n in counts.items()) or "none")]
    bad = [case for case in report.tests if case.outcome in ("failed", "error")]
    lines += [f"{c.outcome.upper()} {c.name} ({c.seconds:.1f} s): {c.error}" for c in bad]
    noted = [case for case in report.tests if case.properties and case.outcome == "passed"]
    lines += [f"{case.name}: {fact_text(case.properties)}" for case in noted]
    slowest = sorted(report.tests, key=lambda case: -case.seconds)[:5]
    lines += ["slowest: " + ", ".join(f"{c.name} {c.seconds:.1f} s" for c in slowest), ""]
    text = io.StringIO()
    console = Console(width=_WIDTH, file=text, highlight=False)
    for name, part in report.parts.items():
        show_table(console, part_table(name, part))
    lines += [line.rstrip() for line in text.getvalue().splitlines()]
    return "\n".join(lines).rstrip() + "\n"
