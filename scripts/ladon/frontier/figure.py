"""The comparison as a plot: accuracy over bytes, task by task, with the spread over the seeds."""

from __future__ import annotations

from collections.abc import Iterable

from matplotlib.figure import Figure

from ladon.frontier.results import Point
from ladon.frontier.runs import SEPARATE, VARIABLE
from ladon.frontier.summary import Row, rows
from ladon.report.plots import STYLES
from ladon.report.series import PAYLOAD
from ladon.tasks import TASKS

_LINES = {
    (VARIABLE, 5): "one model, trained five times as long",
    (VARIABLE, 1): "one model, trained as long as a separate one",
    (SEPARATE, 5): "separate models, five times as long each",
    (SEPARATE, 1): "separate models",
}


def draw(points: Iterable[Point]) -> Figure:
    """Draw a line of each recipe: means over seeds, bars of their standard deviation."""
    table = [row for row in rows(points) if row.recipe in _LINES]
    tasks = [task for task in TASKS.values() if any(r.task == task.short_name for r in table)]
    figure = Figure(figsize=(4.6 * len(tasks), 4.2), layout="constrained")
    for column, task in enumerate(tasks, start=1):
        axes = figure.add_subplot(1, len(tasks), column)
        for place, (recipe, words) in enumerate(_LINES.items()):
            own = [r for r in table if (r.task, r.recipe) == (task.short_name, recipe)]
            if own:
                _line(axes, own, words, place)
        axes.set_xscale("log")
        axes.set_xlabel(PAYLOAD.label)
        axes.set_ylabel(task.view.first.axis_label)
        axes.set_title(task.view.title)
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize=7.5, loc="lower right")
    return figure


def _line(axes, own: list[Row], words: str, place: int) -> None:
    colour, marker, style = STYLES[place]
    sizes, metrics = ([getattr(r, name) for r in own] for name in ("payload_bytes", "metric"))
    axes.errorbar(
        [mean for mean, _ in sizes],
        [mean for mean, _ in metrics],
        xerr=[spread for _, spread in sizes],
        yerr=[spread for _, spread in metrics],
        color=colour,
        marker=marker,
        linestyle=style,
        markersize=4,
        linewidth=1.3,
        capsize=2,
        label=words,
    )
