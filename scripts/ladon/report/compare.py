"""Puts runs beside the published results: differences, and whether they stay within a tolerance."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ladon.report.results import RunResult

ROUNDING = 1e-9  # a difference of just the tolerance stays within, whatever floats make of it


@dataclass(frozen=True)
class Tolerance:
    """The greatest differences that count as reproduced.

    Args:
        points: of the decisive metric, in percentage points (0.2 is an AP of 0.002).
        percent: of the published data size.
    """

    points: float = 0.2
    percent: float = 1.0

    def __str__(self) -> str:
        return f"{self.points:g} points of the metric, {self.percent:g} % of the data size"


@dataclass(frozen=True)
class Comparison:
    """A run's result and the published one of the same model, if there is one."""

    ours: RunResult
    published: RunResult | None
    tolerance: Tolerance

    @property
    def scores(self) -> tuple[float, float] | None:
        """The decisive metric, ours and the published one; None if either is missing."""
        if self.published is None:
            return None
        ours, theirs = (r.score(r.view.first) for r in (self.ours, self.published))
        return None if ours is None or theirs is None else (ours, theirs)

    @property
    def sizes(self) -> tuple[float, float] | None:
        """The mean data size in KB, ours and the published one; None if either is missing."""
        if self.published is None:
            return None
        ours, theirs = self.ours.data_size_kb, self.published.data_size_kb
        return None if ours is None or theirs is None else (ours.mean, theirs.mean)

    @property
    def outside(self) -> list[str]:
        """The values that differ by more than the tolerance: 'accuracy', 'data size'."""
        names = []
        if self.scores is not None:
            point = self.ours.view.first.point
            if abs(difference(self.scores)) > self.tolerance.points * point + ROUNDING:
                names.append("accuracy")
        if self.sizes is not None and (
            abs(relative_difference(self.sizes)) > self.tolerance.percent + ROUNDING
        ):
            names.append("data size")
        return names

    @property
    def verdict(self) -> str:
        """'within', 'OUTSIDE: …', or why nothing can be said."""
        if self.published is None:
            return "not published"
        if self.published.missing:
            return "published one missing"
        if self.scores is None:
            return self.ours.note or "not measured"
        if self.outside:
            return f"OUTSIDE: {', '.join(self.outside)}"
        unsized = self.published.data_size_kb is not None and self.ours.data_size_kb is None
        return "within, but no data size" if unsized else "within"


def difference(pair: tuple[float, float]) -> float:
    """Ours minus the published."""
    return pair[0] - pair[1]


def relative_difference(pair: tuple[float, float]) -> float:
    """Return the difference in percent of the published."""
    return 100 * (pair[0] - pair[1]) / pair[1]


def compare(
    runs: Iterable[RunResult], published: Iterable[RunResult], tolerance: Tolerance
) -> list[Comparison]:
    """Find for each result the published one of the same task, dataset, model and β."""
    by_key = {result.key: result for result in published}
    return [Comparison(run, by_key.get(run.key), tolerance) for run in runs]
