"""A part's measurements as a table for the terminal."""

from __future__ import annotations

from typing import Any

from ladon.benchmark.results import PartResult, Row
from ladon.report.render import MISSING, Column, Table


def fact_text(value: Any) -> str:
    """Return a fact in short: numbers rounded, names and values in pairs."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {fact_text(inner)}" for key, inner in value.items())
    return str(value)


def _column(name: str, header: str = "") -> Column:
    """Return a column of an attribute of the rows."""

    def text(row: Row) -> str:
        value = getattr(row, name)
        return MISSING if value is None else str(value)

    is_text = name in ("name", "unit")
    return Column(
        name, lambda row: getattr(row, name), lambda _: header or name, text, left=is_text
    )


COLUMNS = [
    _column("name", "what"),
    _column("unit"),
    *(_column(name) for name in ("ours", "reference", "ratio")),
    Column("n", lambda row: row.ours.n, lambda _: "n", lambda row: str(row.ours.n)),
]


def part_table(name: str, result: PartResult) -> Table:
    """Return the table of one part; its facts stand below it."""
    title = f"{name}: failed: {result.error}" if result.error else f"{name}: median (min–max)"
    facts = [f"{key}: {fact_text(value)}" for key, value in result.facts.items()]
    return Table(title, None, COLUMNS, result.measurements, "\n".join(facts))
