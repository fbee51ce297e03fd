"""Writes a report's files."""

from __future__ import annotations

from pathlib import Path

from ladon.errors import UsageError
from ladon.report.plots import rate_accuracy_figure, save_figure
from ladon.report.runs import RunCollection
from ladon.report.tables import csv_text, latex, markdown

PLOT_NAME = "rate_accuracy"


def write_report(
    runs: RunCollection, out: Path, name: str = "report", extra_plot: Path | None = None
) -> list[Path]:
    """Writes NAME.md, NAME.csv, NAME.tex, rate_accuracy.png and rate_accuracy.svg.

    Args:
        runs: what to report.
        out: folder, made if need be; older files of these names are replaced.
        name: of the tables' files, without an ending.
        extra_plot: one more place for the plot (.png, .svg or .pdf).

    Returns:
        The files written.

    Raises:
        UsageError: a file cannot be written.
    """
    texts = {
        out / f"{name}.md": markdown(runs, plot=f"{PLOT_NAME}.png"),
        out / f"{name}.csv": csv_text(runs),
        out / f"{name}.tex": latex(runs),
    }
    plots = [out / f"{PLOT_NAME}.png", out / f"{PLOT_NAME}.svg"]
    if extra_plot:
        plots.append(extra_plot)
    figure = rate_accuracy_figure(runs)
    try:
        for path in (*texts, *plots):
            path.parent.mkdir(parents=True, exist_ok=True)
        for path, text in texts.items():
            path.write_text(text, encoding="utf-8")
        for path in plots:
            save_figure(figure, path)
    except OSError as error:
        raise UsageError(f"cannot write {error.filename or out}: {error.strerror}") from error
    return [*texts, *plots]
