"""A part's measurements as a table for the terminal."""

from __future__ import annotations

from typing import Any

from ladon.benchmark.results import Measurement, PartResult, Spread
from ladon.report.render import MISSING, Column, Sheet


def _shown(value: float) -> str:
    """Three significant digits, or the whole number."""
    digits = 3 - len(str(int(abs(value)))) if abs(value) >= 1 else 3
    return f"{value:.{max(0, digits)}f}"


def spread_text(spread: Spread | None) -> str:
    """Median and, of several repeats, the range."""
    if spread is None:
        return MISSING
    median = _shown(spread.median)
    return median if spread.n == 1 else f"{median} ({_shown(spread.min)}–{_shown(spread.max)})"


def fact_text(value: Any) -> str:
    """A fact in short: numbers rounded, names and values in pairs."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {fact_text(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return ", ".join(map(fact_text, value))
    return str(value)


def _repeats(measurement: Measurement) -> str:
    return str(measurement.ours.n)


COLUMNS = [
    Column("name", lambda m: m.name, lambda v: "what", lambda m: m.name, left=True),
    Column("unit", lambda m: m.unit, lambda v: "unit", lambda m: m.unit, left=True),
    Column("ours", lambda m: m.ours.median, lambda v: "ours", lambda m: spread_text(m.ours)),
    Column(
        "reference",
        lambda m: m.reference and m.reference.median,
        lambda v: "reference",
        lambda m: spread_text(m.reference),
    ),
    Column(
        "ratio",
        lambda m: m.ratio and m.ratio.median,
        lambda v: "ratio",
        lambda m: spread_text(m.ratio),
    ),
    Column("n", lambda m: m.ours.n, lambda v: "n", _repeats),
]


def part_sheet(name: str, result: PartResult) -> Sheet:
    """The table of one part; its facts stand below it."""
    title = f"{name}: failed: {result.error}" if result.error else f"{name}: median (min–max)"
    facts = [f"{key}: {fact_text(value)}" for key, value in result.facts.items()]
    return Sheet(title, None, COLUMNS, result.measurements, "\n".join(facts))
