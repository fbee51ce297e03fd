"""Measurements and their JSON file, which keeps what is done while the rest still runs."""

from __future__ import annotations

import json
import logging
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ladon.errors import UsageError, in_one_line
from ladon.replacing import write_json

logger = logging.getLogger(__name__)

SCHEMA = 1


@dataclass(frozen=True)
class Repeats:
    """Median and range of `n` repeats."""

    median: float
    min: float
    max: float
    n: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Repeats:
        """Sum up some values, one at least."""
        values = list(values)
        return cls(statistics.median(values), min(values), max(values), len(values))

    def __str__(self) -> str:
        """Median and, of several repeats, the range."""
        median = _shown(self.median)
        return median if self.n == 1 else f"{median} ({_shown(self.min)}–{_shown(self.max)})"


def _shown(value: float) -> str:
    """Three significant digits, or the whole number."""
    digits = 3 - len(str(int(abs(value)))) if abs(value) >= 1 else 3
    return f"{value:.{max(0, digits)}f}"


@dataclass(frozen=True)
class Row:
    """One line of the table: one quantity, of ours and of what it is compared with.

    `torch.utils.benchmark.Measurement` is of seconds alone and knows no partner; most lines here
    are of rates or memory, and each has a ratio to another way.

    Attributes:
        name: what was measured, in plain words.
        unit: of `ours` and `reference`.
        ours: what the toolkit reaches.
        reference: what it is compared with; None where there is nothing to compare with.
        ratio: how many times better ours is, above 1 if it is.
    """

    name: str
    unit: str
    ours: Repeats
    reference: Repeats | None = None
    ratio: Repeats | None = None

    @classmethod
    def of(
        cls,
        name: str,
        unit: str,
        ours: Sequence[float],
        reference: Sequence[float] | None = None,
        *,
        more_is_better: bool = False,
    ) -> Row:
        """Compare repeat by repeat: neighbours in time saw the same machine.

        Args:
            name: of the line.
            unit: of the values.
            ours: one value of each repeat.
            reference: as many, or None.
            more_is_better: of rates; durations and memory are better small.
        """
        if reference is None:
            return cls(name, unit, Repeats.of(ours))
        better, worse = (ours, reference) if more_is_better else (reference, ours)
        ratio = Repeats.of(b / w for b, w in zip(better, worse, strict=True))
        return cls(name, unit, Repeats.of(ours), Repeats.of(reference), ratio)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Row:
        """Read what `asdict` made of a row."""
        keys = ("ours", "reference", "ratio")
        repeats = {key: content[key] and Repeats(**content[key]) for key in keys}
        return cls(content["name"], content["unit"], **repeats)


@dataclass
class PartResult:
    """Everything that one part found.

    Attributes:
        date: when it ended.
        seconds: how long it took.
        measurements: its lines.
        facts: what it is about and what both ways found, by name: JSON values.
        error: why it failed, in one line; None if it did not.
    """

    date: str = ""
    seconds: float = 0.0
    measurements: list[Row] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    error: str | None = None

    def add(self, *rows: Row) -> None:
        """Keep lines, and log each: a part may take half an hour."""
        for row in rows:
            ratio = f", ratio {row.ratio}" if row.ratio else ""
            logger.info("%s: %s %s%s", row.name, row.ours, row.unit, ratio)
        self.measurements += rows

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> PartResult:
        """Read what `asdict` made of a result."""
        return cls(**{**content, "measurements": [*map(Row.from_json, content["measurements"])]})


@dataclass
class Results:
    """A benchmark's file.

    Attributes:
        machine: what it ran on.
        quick: whether sizes were cut down; such numbers mean nothing.
        date: of the last part.
        parts: results by part; a file may hold parts that are no longer measured.
    """

    machine: dict[str, Any]
    quick: bool = False
    date: str = ""
    parts: dict[str, PartResult] = field(default_factory=dict)
    schema: int = SCHEMA

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            LadonError: if it cannot be written.
        """
        write_json(path, asdict(self))


def read_results(path: Path) -> Results:
    """Read a benchmark's file.

    Raises:
        UsageError: if it is none, or of another schema.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise ValueError(f"schema {content['schema']} instead of {SCHEMA}")
        parts = {name: PartResult.from_json(part) for name, part in content["parts"].items()}
        return Results(**(content | {"parts": parts}))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{path}: is not a benchmark's file ({in_one_line(error)}): "
            "delete it, or name another file with --out"
        ) from error


def open_results(path: Path, machine: dict[str, Any], *, quick: bool) -> Results:
    """Return the results to be filled: those in the file, if of the same machine and size.

    So a benchmark can be run part by part. A file of other numbers is begun anew.

    Raises:
        UsageError: if the file is no benchmark's.
    """
    if path.is_file():
        before = read_results(path)
        if before.machine == machine and before.quick == quick:
            return before
    return Results(machine, quick)
