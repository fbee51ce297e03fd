"""Accuracy against size: one plot per task or dataset, a line per experiment, a point per β."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from ladon.errors import UsageError
from ladon.report.labels import Box, Point, keep_apart, place_labels, text_size
from ladon.report.results import RunCollection, RunResult
from ladon.report.series import DATA_SIZE, PAYLOAD, Measure, Series, score, split_series
from ladon.tasks import TaskView

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
OWN_MARKERS = ("D", "^", "P", "X", "v", "*")  # hollow and large, around the published points
OWN_SIZE = 10  # points
LABEL_SIZE = 7.5  # points
LEVEL_GAP = 0.045  # of the axes' height: one line of text of that size


@dataclass(frozen=True)
class Panel:
    """Contents of one plot.

    Args:
        title: above the plot.
        view: of the task.
        measure: of the size.
        lines: sweeps drawn as lines, β at each point.
        levels: results without a size, drawn as horizontal lines.
        own: sweeps drawn as markers only, beside published lines.
        own_levels: results without a size beside published ones.
    """

    title: str
    view: TaskView
    measure: Measure
    lines: list[Series]
    levels: list[RunResult]
    own: list[Series] = field(default_factory=list)
    own_levels: list[RunResult] = field(default_factory=list)

    @property
    def sizes(self) -> list[float]:
        """All sizes in the plot."""
        return [size for line in (*self.lines, *self.own) for size, _ in line.points]


def rate_accuracy_figure(runs: RunCollection) -> Figure:
    """Draw results task by task: x = payload in bytes (log), y = the task's first metric.

    Where no payload is known (logs in the published wording), x is the published data size.
    """
    rated = [r for r in runs.results if r.data_size_kb is not None or r.payload_bytes is not None]
    known = any(r.payload_bytes is not None for r in rated) or not rated
    measure = PAYLOAD if known else DATA_SIZE
    return draw(
        [
            Panel(r[0].view.title, r[0].view, measure, *split_series(r, measure))
            for r in runs.by_task().values()
        ]
    )


def published_figure(
    published: RunCollection, runs: RunCollection | None = None, dataset: str | None = None
) -> Figure:
    """Draw published results dataset by dataset: x = the published data size in KB (log).

    Args:
        published: lines, and levels of teachers and baselines.
        runs: drawn as markers on top; only their datasets are shown then.
        dataset: show this one only.
    """
    own = runs.by_dataset() if runs else {}
    known = published.by_dataset()
    panels = []
    for key in own or known:
        results = known.get(key, [])
        if dataset is not None and key[1] != dataset:
            continue
        view = (results or own[key])[0].view
        lines, levels = split_series(results, DATA_SIZE)
        own_lines, own_levels = split_series(own.get(key, []), DATA_SIZE)
        own_lines.sort(key=partial(_place_among, lines))
        headline = f"{view.title}: {key[1]}"
        panels.append(Panel(headline, view, DATA_SIZE, lines, levels, own_lines, own_levels))
    return draw(panels)


def _place_among(lines: Sequence[Series], line: Series) -> int:
    subjects = [other.subject for other in lines]
    return subjects.index(line.subject) if line.subject in subjects else len(subjects)


def draw(panels: Sequence[Panel]) -> Figure:
    """Draw panels side by side."""
    width = 5 * len(panels) if len(panels) > 1 else 6.4
    figure = Figure(figsize=(width, 4.6), layout="constrained")
    drawn = []
    for column, panel in enumerate(panels, start=1):
        axes = figure.add_subplot(1, len(panels), column)
        _draw_series(axes, panel)
        axes.set_title(panel.title)
        axes.set_ylabel(panel.view.first.axis_label)
        drawn.append((axes, panel, _draw_levels(axes, panel)))
    # labels are placed by what the layout made of the axes, which then must not move any more
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes, panel, level_texts in drawn:
        _annotate_betas(axes, panel, level_texts)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write the figure, the same bytes for the same results.

    Raises:
        UsageError: the file name's ending is none of `FORMATS`.
    """
    if path.suffix not in FORMATS:
        raise UsageError(f"cannot plot to {path}: the name must end in {', '.join(FORMATS)}")
    dateless = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    with matplotlib.rc_context({"svg.hashsalt": "ladon"}):
        figure.savefig(path, dpi=150, metadata=dateless.get(path.suffix))


def _draw_series(axes: Axes, panel: Panel) -> None:
    axes.grid(alpha=0.3)
    axes.margins(y=0.1)
    if not panel.sizes:
        axes.set_xticks([])
        axes.set_xlabel("no size measured")
        return
    for number, line in enumerate(panel.lines):
        color, marker, style = STYLES[number % len(STYLES)]
        sizes, scores = zip(*line.points, strict=True)
        axes.plot(sizes, scores, color=color, marker=marker, linestyle=style, label=line.label)
    for line, marker in zip(panel.own, _own_markers(panel), strict=True):
        sizes, scores = zip(*line.points, strict=True)
        axes.plot(
            sizes,
            scores,
            color="black",
            marker=marker,
            markersize=OWN_SIZE,
            markerfacecolor="none",
            linestyle="none",
            label=f"this run: {line.label}",
        )
    axes.set_xscale("log")
    axes.set_xlim(min(panel.sizes) / 1.8, max(panel.sizes) * 1.8)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(short_number))
    codecs = any(r.codec for line in (*panel.lines, *panel.own) for r in line.results)
    axes.set_xlabel(f"{panel.measure.label}, β{' or quality q' * codecs} at each point")
    handles = len(panel.lines) + len(panel.own)
    columns = 2 if handles > 1 and panel.own else 1
    axes.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -0.15),
        frameon=False,
        fontsize=9,
        ncols=len(panel.lines) if not panel.own and panel.measure is DATA_SIZE else columns,
    )


def _own_markers(panel: Panel) -> list[str]:
    """Return a run's marker goes with its backbone's published line, as far as there is one."""
    known = [line.subject for line in panel.lines]
    free = list(OWN_MARKERS[len(known) :])
    markers = []
    for number, line in enumerate(panel.own):
        first = line.subject not in {other.subject for other in panel.own[:number]}
        if first and line.subject in known[: len(OWN_MARKERS)]:
            markers.append(OWN_MARKERS[known.index(line.subject)])
        else:
            markers.append(free.pop(0) if free else OWN_MARKERS[-1])
    return markers


def short_number(value: float, position: int | None = None) -> str:
    """Return a number with k or M for thousands and millions; a formatter of ticks, too."""
    for factor, suffix in ((1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:g}{suffix}"
    return f"{value:g}"


def _draw_levels(axes: Axes, panel: Panel) -> list[Text]:
    """Draw teachers and baselines as dashed lines, each named above its left end.

    Returns:
        The names.
    """
    heights = {(score(r), r.label, r.digits(r.view.first), "--") for r in panel.levels}
    heights |= {
        (score(r), f"this run: {r.label}", r.digits(r.view.first), ":") for r in panel.own_levels
    }
    levels = sorted(heights)
    for height, _, _, style in levels:
        color = "0.45" if style == "--" else "black"
        axes.axhline(height, color=color, linestyle=style, linewidth=1, zorder=1)
    low, high = axes.get_ylim()
    # room for the names; places follow from the limits, which must not move any more
    high += (high - low) * LEVEL_GAP * len(levels)
    axes.set_ylim(low, high)
    wanted = [(height - low) / (high - low) + LEVEL_GAP / 2 for height, *_ in levels]
    texts = []
    for (height, label, digits, _), place in zip(
        levels, keep_apart(wanted, LEVEL_GAP), strict=True
    ):
        name = f"{label} {height:.{digits}f}"
        texts.append(
            axes.text(
                0.015, place, name, transform=axes.transAxes, va="center", fontsize=LABEL_SIZE
            )
        )
    return texts


def _annotate_betas(axes: Axes, panel: Panel, level_texts: Sequence[Text]) -> None:
    """Write β beside each point, clear of the lines, the markers and the names of the levels.

    A run's own markers go without where published lines name the βs.
    """
    named = panel.lines or panel.own
    if not named:
        return
    to_points = 72 / axes.figure.dpi
    lines = [
        [(float(x), float(y)) for x, y in axes.transData.transform(line.points) * to_points]
        for line in named
    ]
    left, right = axes.bbox.x0 * to_points, axes.bbox.x1 * to_points
    frame = Box(left, axes.bbox.y0 * to_points, right, axes.bbox.y1 * to_points)
    taken: list[Box] = []
    ink: list[Sequence[Point]] = list(lines)
    for text in level_texts:
        extent = text.get_window_extent()
        taken.append(Box(*(edge * to_points for edge in extent.extents)))
    for level in axes.lines[len(panel.lines) + len(panel.own) :]:
        height = float(np.asarray(level.get_ydata())[0])
        _, y = axes.transData.transform((1.0, height)) * to_points
        ink.append([(left, y), (right, y)])
    if panel.lines:
        own = (axes.transData.transform(line.points) * to_points for line in panel.own)
        taken += [Box.around(tuple(p), OWN_SIZE, OWN_SIZE) for points in own for p in points]
    betas = [r.setting_text for line in named for r in line.results]
    colors = [axes.lines[i].get_color() for i, line in enumerate(named) for _ in line.results]
    data = [point for line in named for point in line.points]
    points = [point for line in lines for point in line]
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
