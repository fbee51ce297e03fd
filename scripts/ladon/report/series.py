"""Sorts results into the lines (sweeps over β) and levels of a rate-accuracy plot."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ladon.backbones import shown_name
from ladon.report.results import RunResult, Spread


@dataclass(frozen=True)
class Measure:
    """A measure of the rate: its axis label, and where a result holds it."""

    label: str
    of: Callable[[RunResult], Spread | None]


PAYLOAD = Measure("payload per image [bytes]", lambda result: result.payload_bytes)
DATA_SIZE = Measure("data size per image [KB]", lambda result: result.data_size_kb)


@dataclass(frozen=True)
class Series:
    """Results of one experiment, in the order of β or quality, each with a rate."""

    label: str
    results: list[RunResult]
    measure: Measure = PAYLOAD

    @property
    def points(self) -> list[tuple[float, float]]:
        """Rate (bytes or KB) and score of each result."""
        return [(self._size(r), score(r)) for r in self.results]

    def _size(self, result: RunResult) -> float:
        size = self.measure.of(result)
        assert size is not None, "results without a size are in no series"
        return size.mean

    @property
    def subject(self) -> tuple[str, str, str | None]:
        """Task, dataset and backbone."""
        first = self.results[0]
        return first.task, first.data, first.backbone


def score(result: RunResult) -> float:
    """Return the decisive metric, nan if it was not measured."""
    value = result.score(result.view.first)
    return math.nan if value is None else value


def split_series(
    results: Sequence[RunResult], measure: Measure = PAYLOAD
) -> tuple[list[Series], list[RunResult]]:
    """Sort the results of one task into lines and levels.

    Returns:
        Lines, of the results with a rate: one per experiment and dataset; an experiment that ran
        twice has two. Levels, of the other results (teachers and baselines): they have an accuracy
        and no rate.
    """
    scored = [r for r in results if math.isfinite(score(r))]
    rated = [r for r in scored if (rate := measure.of(r)) is not None and rate.mean > 0]
    levels = [r for r in scored if measure.of(r) is None]
    groups: dict[tuple[str, str, str, int], list[RunResult]] = defaultdict(list)
    for result in rated:
        experiment = (result.backbone or "", result.family, result.dataset)
        # the n-th run of the same β or quality belongs to the n-th line
        repeat = 0
        while any(r.setting == result.setting for r in groups.get((*experiment, repeat), [])):
            repeat += 1
        groups[(*experiment, repeat)].append(result)
    several_datasets = len({result.dataset for result in rated}) > 1
    families = {(backbone, family) for backbone, family, _, _ in groups}
    series = []
    for (backbone, family, dataset, repeat), members in groups.items():
        shared = sum(backbone == other for other, _ in families) > 1
        shown = family if shared or not backbone else shown_name(backbone)
        label = members[0].shown_as or shown
        label += f", {dataset}" if several_datasets else ""
        label += f" (run {repeat + 1})" if repeat else ""
        series.append(Series(label, sorted(members, key=lambda r: r.setting or 0.0), measure))
    return series, levels
