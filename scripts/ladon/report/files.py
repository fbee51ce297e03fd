"""Writes a report's files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from ladon.errors import cannot_write
from ladon.report.plots import rate_accuracy_figure, save_figure
from ladon.report.render import Table, csv_text, latex_document, markdown_document
from ladon.report.results import RunCollection
from ladon.report.tables import csv_columns, result_tables

PLOT_NAME = "rate_accuracy"


def write_report(
    runs: RunCollection, out: Path, name: str = "report", extra_plot: Path | None = None
) -> list[Path]:
    """Write NAME.md, NAME.csv, NAME.tex, rate_accuracy.png and rate_accuracy.svg.

    Args:
        runs: what to report.
        out: folder, made if need be; older files of these names are replaced.
        name: of the tables' files, without an ending.
        extra_plot: one more place for the plot (.png, .svg or .pdf).

    Returns:
        The files written.

    Raises:
        LadonError: a file cannot be written.
    """
    ordered = [result for results in runs.by_task().values() for result in results]
    unfinished = ", ".join(f"`{path}`" for path in runs.unfinished)
    return write_files(
        {out / f"{name}.csv": csv_text(csv_columns(ordered), ordered)},
        result_tables(runs),
        out / name,
        rate_accuracy_figure(runs),
        [out / f"{PLOT_NAME}.png", out / f"{PLOT_NAME}.svg", *([extra_plot] if extra_plot else [])],
        footer=f"Unfinished: {unfinished}" if unfinished else "",
    )


def write_files(
    texts: dict[Path, str],
    tables: Sequence[Table],
    stem: Path,
    figure: Figure | None = None,
    plots: Sequence[Path] = (),
    footer: str = "",
) -> list[Path]:
    """Write tables as STEM.md and STEM.tex, a figure, and other texts.

    Args:
        texts: further files, by their paths.
        tables: the tables.
        stem: of the two documents' paths.
        figure: the plot, if there is one.
        plots: where to, the first one shown in the Markdown document.
        footer: a paragraph of the Markdown document.

    Returns:
        The files written.

    Raises:
        LadonError: a file cannot be written.
    """
    documents = {
        stem.with_name(f"{stem.name}.md"): markdown_document(
            tables, plots[0].name if plots else None, footer
        ),
        **texts,
        stem.with_name(f"{stem.name}.tex"): latex_document(tables),
    }
    path = stem
    try:
        for path in (*documents, *plots):
            path.parent.mkdir(parents=True, exist_ok=True)
        for path, text in documents.items():
            path.write_text(text, encoding="utf-8")
        for path in plots:
            assert figure is not None  # else there would be no plots
            save_figure(figure, path)
    except OSError as error:
        raise cannot_write(error.filename or path, error) from error
    return [*documents, *plots]
