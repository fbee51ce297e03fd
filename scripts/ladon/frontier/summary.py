"""What the comparison says: rate and accuracy of each recipe over its seeds, and the deltas."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev

from ladon.errors import UsageError
from ladon.frontier.results import Point
from ladon.frontier.runs import BETAS, BUDGETS, FIRST, SEPARATE, VARIABLE, VARIANTS
from ladon.report.bd import bd_accuracy, bd_rate
from ladon.report.results import RunResult, Spread
from ladon.report.series import Series
from ladon.tasks import TASKS, find_task

COMPARISONS = (
    ("at equal total cost", (VARIABLE, 5), (SEPARATE, 1)),
    ("each trained as long", (VARIABLE, 5), (SEPARATE, 5)),
    ("at a fifth of the total cost", (VARIABLE, 1), (SEPARATE, 1)),
)
"""In words: one model for every rate, and the separate ones, by recipe and budget."""

Recipe = tuple[str, int]


@dataclass(frozen=True)
class Row:
    """A recipe at one rate, over its seeds: means and standard deviations."""

    task: str
    recipe: Recipe
    beta: float
    seeds: int
    payload_bytes: tuple[float, float]
    metric: tuple[float, float]


def rows(points: Iterable[Point]) -> list[Row]:
    """Return the table of all recipes."""
    groups: dict[tuple[str, Recipe, float], list[Point]] = defaultdict(list)
    for point in points:
        recipe = point.trial.recipe, point.trial.budget
        groups[point.trial.task, recipe, point.beta].append(point)
    return [
        Row(
            *key,
            len(found),
            _spread([point.payload_bytes for point in found]),
            _spread([point.metric for point in found]),
        )
        for key, found in sorted(groups.items())
    ]


def _spread(values: Sequence[float]) -> tuple[float, float]:
    return fmean(values), pstdev(values)


def lines(points: Sequence[Point]) -> Iterator[str]:
    """Yield the table and the deltas in Markdown."""
    yield "| task | models | epochs | β | seeds | bytes | score |"
    yield "|---|---|---|---|---|---|---|"
    for row in rows(points):
        name, budget = row.recipe
        value = " ± ".join(f"{number:.{_digits(row.task)}f}" for number in row.metric)
        size = f"{row.payload_bytes[0]:.1f} ± {row.payload_bytes[1]:.1f}"
        yield f"| {row.task} | {name} | x{budget} | {row.beta:g} | {row.seeds} | {size} | {value} |"
    yield ""
    yield "| task | one model | seeds | BD-rate [%] | BD-accuracy |"
    yield "|---|---|---|---|---|"
    for task in (task.short_name for task in TASKS.values()):
        for words, test, anchor in COMPARISONS:
            yield from _delta(task, words, points, test, anchor)
    yield ""
    yield "| task | changed | seeds | BD-rate [%] | BD-accuracy |"
    yield "|---|---|---|---|---|"
    long = BUDGETS[-1]
    for task in (task.short_name for task in TASKS.values()):
        yield from _delta(task, FIRST, points, (FIRST, long), (VARIABLE, long))
        for recipe in [name for name in VARIANTS if name != FIRST]:
            yield from _delta(task, f"{recipe}, to {FIRST}", points, (recipe, long), (FIRST, long))


def _delta(
    task: str, words: str, points: Sequence[Point], test: Recipe, anchor: Recipe
) -> Iterator[str]:
    """Yield the row of a comparison: the mean over seeds of each seed's deltas."""
    seeds = sorted({p.trial.seed for p in points if p.trial.task == task})
    pairs = [
        (ours, theirs)
        for seed in seeds
        if (ours := _series(points, task, test, seed)) is not None
        and (theirs := _series(points, task, anchor, seed)) is not None
    ]
    if not pairs:
        return
    try:
        rates = [_rate(*map(_front, pair)) for pair in pairs]
        rate = _words([rate.percent for rate in rates], "+.1f")
        if bounds := sum(rate.is_bound for rate in rates):
            rate = f"below {rate} ({bounds} of {len(pairs)}: more accurate at its fewest bytes)"
    except UsageError as error:
        rate = str(error)
    accuracy = _words([bd_accuracy(*pair) for pair in pairs], f"+.{_digits(task)}f")
    yield f"| {task} | {words} | {len(pairs)} | {rate} | {accuracy} |"


def _words(values: Sequence[float], form: str) -> str:
    mean, spread = _spread(values)
    return f"{mean:{form}} ± {spread:{form.removeprefix('+')}}"


def _digits(task: str) -> int:
    return find_task(task).view.first.digits


@dataclass(frozen=True)
class _Rate:
    """A BD-rate, or what it is less than."""

    percent: float
    is_bound: bool = False


def _rate(test: Series, anchor: Series) -> _Rate:
    """Compare two fronts.

    Where even the fewest bytes of one give more than the other's best, no accuracy is in common:
    the one needs at least by so much less than the other does for its best.

    Raises:
        UsageError: the other way round.
    """
    score = test.results[0].view.first
    (fewest, least), (most, best) = min(test.points), max(anchor.points)
    if score.is_better(least, than=best):
        return _Rate(100 * (fewest / most - 1), is_bound=True)
    return _Rate(bd_rate(test, anchor, min_points=2))


def _series(points: Iterable[Point], task: str, recipe: Recipe, seed: int) -> Series | None:
    """Return a seed's curve; None where it is not whole."""
    view = find_task(task).view
    found = [
        RunResult(
            run=Path(),
            role="student",
            task=task,
            view=view,
            mode="train",
            name=f"{recipe[0]} x{recipe[1]}",
            config=None,
            dataset="digit_scenes/val",
            backbone="resnet18",
            beta=point.beta,
            metrics={view.first.key: point.metric},
            data_size_kb=None,
            payload_bytes=Spread(point.payload_bytes, 0.0, point.num_images),
            num_images=point.num_images,
            images_per_s=None,
        )
        for point in points
        if (point.trial.task, point.trial.recipe, point.trial.budget) == (task, *recipe)
        and point.trial.seed == seed
    ]
    return Series(f"{recipe[0]} x{recipe[1]}", found) if len(found) >= len(BETAS) else None


def _front(series: Series) -> Series:
    """Leave the results that a smaller one beats: who chooses a rate takes none of them.

    Of so few scenes the accuracies of neighbouring rates differ by chance, too, and BD-rate is of
    curves that rise.
    """
    first = series.results[0].view.first
    best, kept = None, []
    by_size = sorted(zip(series.points, series.results, strict=True), key=lambda pair: pair[0])
    for (_, value), result in by_size:
        if best is None or first.is_better(value, than=best):
            best = value
            kept.append(result)
    return Series(series.label, kept)
