"""Bjøntegaard's deltas between two sweeps over β, the task's metric in place of PSNR.

BD-rate: by how many percent more bytes (negative: fewer) a sweep needs for the same accuracy, on
average over the accuracies both reach. BD-accuracy: how much more accurate it is at the same bytes,
in the metric's unit, on average over the (logarithmic) sizes both have. G. Bjøntegaard,
"Calculation of average PSNR differences between RD-curves", VCEG-M33, 2001; computed by the package
`bjontegaard` with piecewise cubic (PCHIP) interpolation, as in JVET's common test conditions: it
does not overshoot between few and uneven points.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ladon.errors import UsageError
from ladon.report.series import Series

MIN_POINTS = 4
WIDE_OVERLAP = 0.75
"""Share of the range that both curves should cover: the package's own bound for a warning."""


@dataclass(frozen=True)
class BdResult:
    """The deltas of one sweep over another; None where not defined, then `notes` say why."""

    test: Series
    anchor: Series
    rate: float | None
    accuracy: float | None
    notes: tuple[str, ...]


def bd_rate(test: Series, anchor: Series, *, min_points: int = MIN_POINTS) -> float:
    """Percent more bytes that `test` needs for the same accuracy as `anchor`.

    Args:
        test, anchor: the sweeps.
        min_points: that each has; the deltas of the standard are of 4, and 2 make a curve.

    Raises:
        UsageError: fewer points, no accuracy in common, or a curve that does not rise with
            its size: then no single size belongs to an accuracy.
    """
    test_sizes, test_scores = _curve(test, min_points)
    anchor_sizes, anchor_scores = _curve(anchor, min_points)
    _require_rise(test, "BD-rate")
    _require_rise(anchor, "BD-rate")
    if overlap(test_scores, anchor_scores) == 0:
        raise UsageError(
            f"BD-rate: the accuracies of {_range(test, test_scores)} and "
            f"{_range(anchor, anchor_scores)} don't overlap"
        )
    import bjontegaard  # imports pyplot

    return float(
        bjontegaard.bd_rate(
            anchor_sizes,
            anchor_scores,
            test_sizes,
            test_scores,
            method="pchip",
            require_matching_points=False,
            min_overlap=0,  # 'deltas' warns itself
        )
    )


def bd_accuracy(test: Series, anchor: Series) -> float:
    """How much more accurate `test` is than `anchor` at the same size, in the metric's unit.

    Raises:
        UsageError: fewer than 4 points, two of the same size, or no size in common.
    """
    (test_sizes, test_scores), (anchor_sizes, anchor_scores) = _curve(test), _curve(anchor)
    if overlap(test_sizes, anchor_sizes) == 0:
        raise UsageError(
            f"BD-accuracy: the data sizes of {_range(test, test_sizes)} and "
            f"{_range(anchor, anchor_sizes)} don't overlap"
        )
    import bjontegaard

    return float(
        bjontegaard.bd_psnr(
            anchor_sizes,
            anchor_scores,
            test_sizes,
            test_scores,
            method="pchip",
            require_matching_points=False,
            min_overlap=0,
        )
    )


def deltas(test: Series, anchor: Series) -> BdResult:
    """Both deltas, with a note for each that is not defined or rests on a small overlap."""
    values: list[float | None] = []
    notes: list[str] = []
    for delta, name, column in ((bd_rate, "accuracies", 1), (bd_accuracy, "sizes", 0)):
        try:
            values.append(delta(test, anchor))
        except UsageError as error:
            values.append(None)
            notes.append(str(error))
            continue
        share = overlap(_columns(test)[column], _columns(anchor)[column])
        if share < WIDE_OVERLAP:
            notes.append(f"the {name} overlap by {share:.0%} only")
    rate, accuracy = values
    return BdResult(test, anchor, rate, accuracy, tuple(dict.fromkeys(notes)))


def pair_deltas(tests: Iterable[Series], anchors: Sequence[Series]) -> list[BdResult]:
    """Return the deltas of every sweep over every other one on the same task and dataset.

    Raises:
        UsageError: nothing is comparable: the message says why for each pair.
    """
    pairs = [(t, a) for t in tests for a in anchors if t.subject[:2] == a.subject[:2]]
    if not pairs:
        raise UsageError("no two sweeps on the same task and dataset, with a data size")
    results = [deltas(test, anchor) for test, anchor in pairs]
    if all(result.rate is None and result.accuracy is None for result in results):
        raise UsageError("; ".join(note for result in results for note in result.notes))
    return results


def overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Length of the range two lists of numbers share, as a part of the range they cover."""
    shared = min(max(one), max(other)) - max(min(one), min(other))
    covered = max(*one, *other) - min(*one, *other)
    return max(shared, 0.0) / covered if covered else 0.0


def _columns(series: Series) -> tuple[list[float], list[float]]:
    """Sizes, ascending, and the scores that belong to them, turned so that greater is better."""
    points = sorted(series.points)
    gain = series.results[0].view.first.gain
    return [size for size, _ in points], [gain(score) for _, score in points]


def _curve(series: Series, min_points: int = MIN_POINTS) -> tuple[list[float], list[float]]:
    sizes, scores = _columns(series)
    if len(sizes) < min_points:
        raise UsageError(
            f"BD-rate and BD-accuracy need at least {min_points} points (βs) per curve; "
            f"{series.label} has {len(sizes)}"
        )
    if any(left == right for left, right in pairwise(sizes)):
        raise UsageError(f"{series.label}: two results have the same data size")
    return sizes, scores


def _require_rise(series: Series, what: str) -> None:
    score = series.results[0].view.first
    digits = series.results[0].digits(score)
    for (_, low), (size, high) in pairwise(sorted(series.points)):
        if not score.is_better(high, than=low):
            raise UsageError(
                f"{what}: {series.label} does not gain accuracy with size throughout "
                f"({low:.{digits}f}, then {high:.{digits}f} at {size:.2f} KB)"
            )


def _range(series: Series, values: Sequence[float]) -> str:
    return f"{series.label} ({min(values):.4g} to {max(values):.4g})"
