"""The pictures of a measured split: latency by its terms, break-even rates, energy, accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from ladon.errors import cannot_write
from ladon.measure.energy import MODELLED
from ladon.measure.links import Link
from ladon.measure.results import TERMS, Measured
from ladon.measure.tables import rate_text, round_trip_of
from ladon.measure.ways import LADON, ON_DEVICE, PICTURE, SINGLE
from ladon.report.plots import STYLES, save_figure, short_number

# Okabe & Ito's palette, as the report's: the device blue, the link yellow, the server red and green
_TERM_COLORS = dict(
    zip(
        TERMS,
        (
            "#0072B2",
            "#56B4E9",
            "#E69F00",
            "#F0E442",
            "#CC79A7",
            "#D55E00",
            "#009E73",
            "#999999",
        ),
        strict=True,
    )
)
_KIND_STYLES = dict(zip((LADON, SINGLE, ON_DEVICE, PICTURE), STYLES, strict=False))
_CODEC_STYLES = {"JPEG": STYLES[3], "WebP": STYLES[4]}
_SMALL = 8  # points


def latency_figure(measured: Measured) -> Figure:
    """Draw each way's latency as a bar of its terms, a plot for each link."""
    ways, links = list(measured.ways), list(measured.links)
    height = 1.6 + 0.27 * len(ways)
    figure = Figure(figsize=(3.2 * len(links) + 1.2, height), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(links), sharey=True))
    places = range(len(ways))
    for axes, link in zip(panels, links, strict=True):
        left = np.zeros(len(ways))
        terms = [measured.terms(way, link) for way in ways]
        for term, color in _TERM_COLORS.items():
            widths = 1000 * np.array([of_way[term] for of_way in terms])
            if widths.any():
                axes.barh(places, widths, left=left, color=color, label=term, height=0.75)
            left += widths
        for place, total in zip(places, left, strict=True):
            axes.annotate(
                short_time(total),
                (total, place),
                xytext=(2, 0),
                textcoords="offset points",
                va="center",
                fontsize=_SMALL - 1,
            )
        axes.set_xlim(0, 1.22 * left.max())
        axes.set_title(_of_link(link), fontsize=10)
        axes.set_xlabel("median latency [ms]")
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=_SMALL)
    panels[0].set_yticks(list(places), ways)
    panels[0].set_ylim(len(ways) - 0.5, -0.5)
    _legend_below(figure, panels)
    return figure


def rate_figure(measured: Measured) -> Figure:
    """Draw each way's latency against the link's rate, and where another becomes the fastest."""
    trip = round_trip_of(measured)
    figure = Figure(figsize=(7.4, 5.2), layout="constrained")
    axes = figure.add_subplot()
    rates = np.geomspace(10e3, 200e6, 200)
    for curve, ways in curves(measured).items():
        color, _, style = _style(measured, ways[0])
        for way in ways:
            fixed, bits = measured.line(way, trip)
            label = curve if way == ways[0] else None
            values = 1000 * (fixed + bits / rates)
            axes.plot(rates, values, color=color, linestyle=style, linewidth=1.3, label=label)
    for interval in measured.fastest(trip):
        if rates[0] < interval.low < rates[-1]:
            axes.axvline(interval.low, color="0.6", linewidth=0.8, linestyle=":", zorder=0)
    for link in measured.links:
        axes.axvline(link.bits_per_s, color="0.85", linewidth=5, zorder=-1)
        axes.annotate(
            link.name,
            (link.bits_per_s, 1.0),
            xycoords=axes.get_xaxis_transform(),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=_SMALL,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(rates[0], rates[-1])
    axes.xaxis.set_major_formatter(FuncFormatter(short_number))
    _plain_log(axes)
    axes.set_xlabel(f"rate of the link [bit/s], round trip {1000 * trip:g} ms")
    axes.set_ylabel("median latency [ms]")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9, framealpha=0.9, edgecolor="none")
    return figure


def energy_figure(measured: Measured) -> Figure | None:
    """Draw the device's energy against β, a plot for each link whose radio's power is known."""
    sweeps = {c: w for c, w in curves(measured).items() if _kind(measured, w) in (LADON, SINGLE)}
    links = [
        link
        for link in measured.links
        if all(measured.energy(w, link).total_j is not None for w in measured.ways)
    ]
    betas = sorted({measured.ways[w].setting or 0.0 for ways in sweeps.values() for w in ways})
    if not links or not betas:
        return None
    figure = Figure(figsize=(3.1 * len(links) + 1, 4), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(links), sharey=True))
    for axes, link in zip(panels, links, strict=True):
        for curve, ways in sweeps.items():
            color, marker, style = _style(measured, ways[0])
            x = [betas.index(measured.ways[w].setting or 0.0) for w in ways]
            y = [_millijoules(measured, way, link) for way in ways]
            axes.plot(x, y, color=color, marker=marker, linestyle=style, label=curve)
        for way in _levels(measured):
            color, _, style = _style(measured, way)
            height = _millijoules(measured, way, link)
            axes.axhline(height, color=color, linestyle=style, linewidth=1, label=way)
        axes.set_yscale("log")
        _plain_log(axes)
        axes.set_xticks(range(len(betas)), [f"{beta:g}" for beta in betas])
        axes.set_xlim(-0.4, len(betas) - 0.6)
        axes.set_xlabel("β")
        axes.set_title(_of_link(link), fontsize=10)
        axes.grid(alpha=0.3)
        axes.tick_params(labelsize=_SMALL)
    panels[0].set_ylabel(f"device's energy [mJ], {MODELLED}\n({measured.power.name})")
    _legend_below(figure, panels)
    return figure


def accuracy_figure(measured: Measured) -> Figure | None:
    """Draw accuracy against latency, a column for each task and a row for each link."""
    scored = [s for s in measured.accuracy if s["way"] in measured.ways]
    tasks = list(dict.fromkeys((s["task"], s["title"], s["label"]) for s in scored))
    if not tasks:
        return None
    links = list(measured.links)
    size = (3.7 * len(tasks) + 0.6, 2.5 * len(links) + 0.8)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(links), len(tasks), squeeze=False)
    for row, link in enumerate(links):
        for column, (task, title, label) in enumerate(tasks):
            axes = panels[row, column]
            values = {s["way"]: s["value"] for s in scored if s["task"] == task}
            _draw_accuracies(axes, measured, values, link)
            axes.set_ylabel(label if column else f"{link.name}\n{label}", fontsize=_SMALL + 1)
            if not row:
                axes.set_title(title, fontsize=10)
            if row == len(links) - 1:
                axes.set_xlabel("median latency [ms]")
    _legend_below(figure, list(panels.ravel()))
    return figure


def _draw_accuracies(axes: Axes, measured: Measured, values: dict[str, float], link: Link) -> None:
    for curve, ways in curves(measured).items():
        shown = [way for way in ways if way in values]
        if not shown:
            continue
        color, marker, style = _style(measured, shown[0])
        x = [1000 * float(np.median(measured.latencies(way, link))) for way in shown]
        y = [values[way] for way in shown]
        axes.plot(x, y, color=color, marker=marker, linestyle=style, label=curve, markersize=5)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(short_number))
    axes.grid(alpha=0.3)
    axes.tick_params(labelsize=_SMALL)


def curves(measured: Measured) -> dict[str, list[str]]:
    """Return the ways by their curves, each in the order of its settings."""
    found: dict[str, list[str]] = {}
    for name, way in measured.ways.items():
        found.setdefault(way.curve or name, []).append(name)
    return {
        curve: sorted(ways, key=lambda w: measured.ways[w].setting or 0.0)
        for curve, ways in found.items()
    }


def short_time(milliseconds: float) -> str:
    """Return a duration in a few characters."""
    if milliseconds >= 10_000:
        return f"{milliseconds / 1000:.0f} s"
    return f"{milliseconds:.3g}" if milliseconds < 1000 else f"{milliseconds:.0f}"


def _levels(measured: Measured) -> list[str]:
    """Return the ways that β does not change: on the device, and each codec's middle quality."""
    found = []
    for ways in curves(measured).values():
        if _kind(measured, ways) in (ON_DEVICE, PICTURE):
            found.append(ways[len(ways) // 2])
    return found


def _kind(measured: Measured, ways: Sequence[str]) -> str:
    return measured.ways[ways[0]].kind


def _style(measured: Measured, way: str) -> tuple[Any, ...]:
    identity = measured.ways[way]
    return _CODEC_STYLES.get(identity.curve, _KIND_STYLES[identity.kind])


def _millijoules(measured: Measured, way: str, link: Link) -> float:
    found = measured.energy(way, link).total_j
    assert found is not None, "links without a known radio are left out"
    return 1000 * found


def _of_link(link: Link) -> str:
    return f"{link.name}, {rate_text(link.bits_per_s)}"


def _plain_log(axes: Axes) -> None:
    """Write the numbers of a logarithmic y axis out, at 1, 2 and 5 where there is room."""
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
    axes.yaxis.set_major_formatter(FuncFormatter(short_number))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _legend_below(figure: Figure, panels: Sequence[Axes]) -> None:
    """Name everything that any of the panels shows, once."""
    named: dict[str, Any] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        named.update(zip(labels, handles, strict=True))
    columns = min(5 if len(named) == 5 else 4, len(named))
    figure.legend(
        list(named.values()),
        list(named),
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize=9,
    )


def save_all(figure: Figure, paths: Sequence[Path]) -> None:
    """Write a figure to several files.

    Raises:
        LadonError: one cannot be written.
    """
    for path in paths:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_figure(figure, path)
        except OSError as error:
            raise cannot_write(path, error) from error
