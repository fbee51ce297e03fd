"""What the comparison says: rate and accuracy of each recipe over its seeds, and the deltas."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev

from ladon.errors import UsageError
from ladon.frontier.results import Point
from ladon.frontier.runs import ABLATIONS, BETAS, BUDGETS, SEPARATE, VARIABLE
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
        score = find_task(row.task).view.first
        value = " ± ".join(f"{number:.{score.digits}f}" for number in row.metric)
        size = f"{row.payload_bytes[0]:.1f} ± {row.payload_bytes[1]:.1f}"
        yield f"| {row.task} | {name} | x{budget} | {row.beta:g} | {row.seeds} | {size} | {value} |"
    yield ""
    yield "| task | one model | seeds | BD-rate [%] | BD-accuracy |"
    yield "|---|---|---|---|---|"
    for task in (task.short_name for task in TASKS.values()):
        for words, test, anchor in COMPARISONS:
            yield from _delta(task, words, points, test, anchor)
    whole = (VARIABLE, BUDGETS[-1])
    deltas = [
        line
        for recipe in ABLATIONS
        for line in _delta("classification", recipe, points, (recipe, BUDGETS[-1]), whole)
    ]
    if deltas:
        yield ""
        yield "| task | instead of the one model | seeds | BD-rate [%] | BD-accuracy |"
        yield "|---|---|---|---|---|"
        yield from deltas


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
    rates, why = [], ""
    for pair in pairs:
        try:
            rates.append(bd_rate(*map(_front, pair)))
        except UsageError as error:  # too few points, or no accuracy in common
            why = str(error)
    accuracies = [bd_accuracy(*pair) for pair in pairs]
    rate = f"{fmean(rates):.1f} ± {pstdev(rates):.1f} ({len(rates)})" if rates else why
    accuracy = f"{fmean(accuracies):+.2f} ± {pstdev(accuracies):.2f}"
    yield f"| {task} | {words} | {len(pairs)} | {rate} | {accuracy} |"


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
