"""What is known of a run on a GPU: its steps, its tests, the benchmark's parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ladon.benchmark.results import PartResult

SCHEMA = 1


@dataclass
class Outcome:
    """What became of a step: ``ok``, ``failed``, ``timed out`` or ``left out``."""

    outcome: str
    seconds: float = 0.0
    error: str | None = None


@dataclass
class Case:
    """One test: ``passed``, ``failed``, ``error`` or ``skipped``.

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
