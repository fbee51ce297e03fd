"""What a person reads of a run on a GPU."""

from __future__ import annotations

import io

from rich.console import Console

from ladon.benchmark.suite_report import Case, Report
from ladon.benchmark.table import fact_text, part_sheet
from ladon.report.render import print_sheet

_WIDTH = 150


def report_text(report: Report) -> str:
    """Returns machine, steps, failing tests, what the tests recorded, and the parts' tables."""
    blocks = [_head(report), _steps(report)]
    if report.tests:
        blocks.append(_tests(report.tests))
    console = Console(width=_WIDTH, file=io.StringIO(), highlight=False)
    for name, part in report.parts.items():
        print_sheet(console, part_sheet(name, part))
    text = console.file.getvalue()
    tables = "\n".join(line.rstrip() for line in text.splitlines())
    return "\n\n".join([*blocks, *([tables] if tables else [])]) + "\n"


def _head(report: Report) -> str:
    state = ("all green" if report.is_green else "red") if report.finished else "not finished"
    machine = (f"{key}: {fact_text(value)}" for key, value in report.machine.items())
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    return "\n".join(
        [f"GPU run of {report.date}: {state}, {report.seconds:.0f} s", *machine, versions]
    )


def _steps(report: Report) -> str:
    lines = [
        f"{step.outcome:9} {step.seconds:5.0f} s  {name}{f': {step.error}' if step.error else ''}"
        for name, step in report.steps.items()
    ]
    return "\n".join(["Steps", *(lines or ["none yet"])])


def _tests(cases: list[Case]) -> str:
    counts = dict.fromkeys(("passed", "failed", "error", "skipped"), 0)
    for case in cases:
        counts[case.outcome] += 1
    lines = ["Tests: " + ", ".join(f"{n} {outcome}" for outcome, n in counts.items() if n)]
    for case in cases:
        if case.outcome in ("failed", "error"):
            lines.append(f"{case.outcome.upper()} {case.name} ({case.seconds:.1f} s): {case.error}")
    for case in cases:
        if case.properties and case.outcome == "passed":
            lines.append(f"{case.name}: {fact_text(dict(case.properties))}")
    slowest = sorted(cases, key=lambda case: -case.seconds)[:5]
    lines.append("slowest: " + ", ".join(f"{c.name} {c.seconds:.1f} s" for c in slowest))
    return "\n".join(lines)
