"""Measurements and their JSON file, which keeps what is done while the rest still runs."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ladon.errors import UsageError, in_one_line

SCHEMA = 1


@dataclass(frozen=True)
class Spread:
    """Median and range of repeats.

    Attributes:
        n: number of repeats.
    """

    median: float
    min: float
    max: float
    n: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """The spread of some values, of one at least."""
        values = list(values)
        return cls(statistics.median(values), min(values), max(values), len(values))


@dataclass(frozen=True)
class Measurement:
    """One line of the table.

    Attributes:
        name: what was measured, in plain words.
        unit: of ``ours`` and ``reference``.
        ours: what the toolkit reaches.
        reference: what it is compared with; None where there is nothing to compare with.
        ratio: how many times better ours is, above 1 if it is; or the share reached of a bound.
    """

    name: str
    unit: str
    ours: Spread
    reference: Spread | None = None
    ratio: Spread | None = None

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Measurement:
        """The measurement that `asdict` was made of."""

        def spread(key: str) -> Spread | None:
            return None if content[key] is None else Spread(**content[key])

        return cls(
            content["name"], content["unit"], spread("ours"), spread("reference"), spread("ratio")
        )


@dataclass
class PartResult:
    """What one part found.

    Attributes:
        date: when it ended.
        seconds: how long it took.
        measurements: its lines.
        facts: what it is about and what both ways found, by name: JSON values.
        error: why it failed, in one line; None if it did not.
    """

    date: str = ""
    seconds: float = 0.0
    measurements: list[Measurement] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    error: str | None = None

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> PartResult:
        """The result that `asdict` was made of."""
        measurements = [Measurement.from_json(m) for m in content["measurements"]]
        return cls(**(dict(content) | {"measurements": measurements}))


@dataclass
class Results:
    """A benchmark's file.

    Attributes:
        machine: what it ran on.
        quick: whether sizes were cut down; such numbers mean nothing.
        parts: results by part.
    """

    machine: dict[str, Any]
    quick: bool = False
    date: str = ""
    parts: dict[str, PartResult] = field(default_factory=dict)
    schema: int = SCHEMA

    def write(self, path: Path) -> None:
        """Writes the file, whole or not at all.

        Raises:
            LadonError: if it cannot be written.
        """
        from ladon.replacing import write_json

        write_json(path, asdict(self))


def read_results(path: Path) -> Results:
    """Reads a benchmark's file.

    Raises:
        UsageError: if it is none, or of another schema.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise UsageError(
                f"{path}: has schema {content['schema']} instead of {SCHEMA}: "
                "delete it, or name another file with --out"
            )
        parts = {name: PartResult.from_json(part) for name, part in content["parts"].items()}
        return Results(**(content | {"parts": parts}))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{path}: is not a benchmark's file ({in_one_line(error)}): "
            "delete it, or name another file with --out"
        ) from error


def open_results(path: Path, machine: dict[str, Any], *, quick: bool) -> Results:
    """The results to be filled: those in the file, if they are of the same machine and size.

    So a benchmark can be run part by part. A file of other numbers is begun anew.

    Raises:
        UsageError: if the file is no benchmark's.
    """
    if path.is_file():
        before = read_results(path)
        if before.machine == machine and before.quick == quick:
            return before
    return Results(machine, quick)
