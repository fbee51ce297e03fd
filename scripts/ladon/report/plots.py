"""Accuracy against payload size: one plot per task, a line per experiment, a point per β."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from ladon.errors import UsageError
from ladon.report.labels import Box, keep_apart, place_labels, text_size
from ladon.report.runs import RunCollection, RunResult

FORMATS = (".png", ".svg", ".pdf")
# Okabe & Ito's palette, in an order that also differs in lightness
STYLES = (
    ("#0072B2", "o", "-"),
    ("#D55E00", "s", (0, (5, 2))),
    ("#000000", "^", "-."),
    ("#009E73", "D", ":"),
    ("#CC79A7", "v", (0, (3, 1, 1, 1, 1, 1))),
    ("#56B4E9", "P", (0, (8, 2))),
    ("#E69F00", "X", (0, (1, 3))),
)
LABEL_SIZE = 7.5  # points
LEVEL_GAP = 0.045  # of the axes' height: one line of text of that size


@dataclass(frozen=True)
class Series:
    """Results of one experiment, in the order of β, each with a payload."""

    label: str
    results: list[RunResult]

    @property
    def points(self) -> list[tuple[float, float]]:
        """Payload in bytes and score of each result."""
        return [(r.payload_bytes.mean, _score(r)) for r in self.results]


def _score(result: RunResult) -> float:
    """The first metric, nan if it was not measured."""
    score = result.score(result.view.first)
    return math.nan if score is None else score


def split_series(results: Sequence[RunResult]) -> tuple[list[Series], list[RunResult]]:
    """Sorts the results of one task into lines and levels.

    Returns:
        Lines, of the results with a payload: one per experiment and dataset; an experiment that ran
        twice has two. Levels, of the other results (teachers and baselines): they have an accuracy
        and no rate.
    """
    scored = [r for r in results if math.isfinite(_score(r))]
    points = [r for r in scored if r.payload_bytes is not None and r.payload_bytes.mean > 0]
    levels = [r for r in scored if r.payload_bytes is None]
    groups: dict[tuple[str, str, str, int], list[RunResult]] = defaultdict(list)
    for result in points:
        experiment = (result.backbone or "", result.family, result.dataset)
        # the n-th run of the same β belongs to the n-th line
        repeat = 0
        while any(r.beta == result.beta for r in groups.get((*experiment, repeat), [])):
            repeat += 1
        groups[(*experiment, repeat)].append(result)
    several_datasets = len({result.dataset for result in points}) > 1
    families = {(backbone, family) for backbone, family, _, _ in groups}
    series = []
    for (backbone, family, dataset, repeat), members in groups.items():
        shared = sum(backbone == other for other, _ in families) > 1
        label = family if shared or not backbone else backbone
        label += f", {dataset}" if several_datasets else ""
        label += f" (run {repeat + 1})" if repeat else ""
        series.append(Series(label, sorted(members, key=lambda r: r.beta or 0.0)))
    return series, levels


def rate_accuracy_figure(runs: RunCollection) -> Figure:
    """Draws all results: x = payload in bytes per image (log), y = the task's first metric."""
    tasks = runs.by_task()
    figure = Figure(figsize=(5 * len(tasks), 4.6), layout="constrained")
    drawn = []
    for column, results in enumerate(tasks.values(), start=1):
        axes = figure.add_subplot(1, len(tasks), column)
        series, levels = split_series(results)
        _draw_series(axes, series)
        axes.set_title(results[0].view.title)
        axes.set_ylabel(results[0].view.first.label)
        drawn.append((axes, series, _draw_levels(axes, levels)))
    # labels are placed by what the layout made of the axes, which then must not move any more
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes, series, level_texts in drawn:
        _annotate_betas(axes, series, level_texts)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Writes the figure, the same bytes for the same results.

    Raises:
        UsageError: the file name's ending is none of `FORMATS`.
    """
    if path.suffix not in FORMATS:
        raise UsageError(f"cannot plot to {path}: the name must end in {', '.join(FORMATS)}")
    dateless = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    with matplotlib.rc_context({"svg.hashsalt": "ladon"}):
        figure.savefig(path, dpi=150, metadata=dateless.get(path.suffix))


def _draw_series(axes: Axes, series: Sequence[Series]) -> None:
    axes.grid(alpha=0.3)
    axes.margins(y=0.1)
    if not series:
        axes.set_xticks([])
        axes.set_xlabel("no payload measured")
        return
    for number, line in enumerate(series):
        color, marker, style = STYLES[number % len(STYLES)]
        sizes, scores = zip(*line.points, strict=True)
        axes.plot(sizes, scores, color=color, marker=marker, linestyle=style, label=line.label)
    sizes = [size for line in series for size, _ in line.points]
    axes.set_xscale("log")
    axes.set_xlim(min(sizes) / 1.8, max(sizes) * 1.8)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(_short_number))
    axes.set_xlabel("payload per image [bytes], β at each point")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), frameon=False, fontsize=9)


def _short_number(value: float, position: int | None = None) -> str:
    for factor, suffix in ((1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:g}{suffix}"
    return f"{value:g}"


def _draw_levels(axes: Axes, levels: Sequence[RunResult]) -> list[Text]:
    """Draws teachers and baselines as dashed lines, each named above its left end.

    Returns:
        The names.
    """
    heights = sorted({(_score(r), r.label, r.view.first.digits) for r in levels})
    for height, _, _ in heights:
        axes.axhline(height, color="0.45", linestyle="--", linewidth=1, zorder=1)
    low, high = axes.get_ylim()
    # room for the names; places follow from the limits, which must not move any more
    high += (high - low) * LEVEL_GAP * len(heights)
    axes.set_ylim(low, high)
    wanted = [(height - low) / (high - low) + LEVEL_GAP / 2 for height, _, _ in heights]
    texts = []
    for (height, label, digits), place in zip(heights, keep_apart(wanted, LEVEL_GAP), strict=True):
        name = f"{label} {height:.{digits}f}"
        texts.append(
            axes.text(
                0.015, place, name, transform=axes.transAxes, va="center", fontsize=LABEL_SIZE
            )
        )
    return texts


def _annotate_betas(axes: Axes, series: Sequence[Series], level_texts: Sequence[Text]) -> None:
    """Writes β beside each point, clear of the lines, the markers and the names of the levels."""
    to_points = 72 / axes.figure.dpi
    lines = [axes.transData.transform(line.points) * to_points for line in series]
    left, right = axes.bbox.x0 * to_points, axes.bbox.x1 * to_points
    frame = Box(left, axes.bbox.y0 * to_points, right, axes.bbox.y1 * to_points)
    taken, ink = [], list(lines)
    for text in level_texts:
        extent = text.get_window_extent()
        taken.append(Box(*(edge * to_points for edge in extent.extents)))
    for level in axes.lines[len(series) :]:
        _, y = axes.transData.transform((1, level.get_ydata()[0])) * to_points
        ink.append([(left, y), (right, y)])
    betas = [f"{r.beta:g}" if r.beta is not None else "" for line in series for r in line.results]
    colors = [axes.lines[i].get_color() for i, line in enumerate(series) for _ in line.results]
    data = [point for line in series for point in line.points]
    points = [tuple(point) for line in lines for point in line]
    sizes = [text_size(beta, LABEL_SIZE) for beta in betas]
    centers = place_labels(points, sizes, ink, frame, taken)
    for beta, color, at, point, center in zip(betas, colors, data, points, centers, strict=True):
        offset = (center[0] - point[0], center[1] - point[1])
        axes.annotate(
            beta,
            at,
            xytext=offset,
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=LABEL_SIZE,
            color=color,
        )
