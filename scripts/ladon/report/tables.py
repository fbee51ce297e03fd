"""Results as tables for the terminal, Markdown, CSV and LaTeX, all from the one list `COLUMNS`."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ladon.report.runs import Metric, RunCollection, RunResult, TaskView

MISSING = "–"
WIDTH_WITHOUT_TERMINAL = 240


@dataclass(frozen=True)
class Column:
    """One column, in whichever format.

    Args:
        name: header of the CSV file.
        value: what the CSV file holds, unrounded; None becomes an empty cell.
        header: header of the other tables, by task; None for a column of the CSV file only.
        text: the cell of the other tables.
        in_latex: False for what a paper does not print.
        left: aligned to the left.
    """

    name: str
    value: Callable[[RunResult], object]
    header: Callable[[TaskView], str] | None = None
    text: Callable[[RunResult], str] = lambda result: MISSING
    in_latex: bool = True
    left: bool = False


def _number(value: float | None, digits: int) -> str:
    return MISSING if value is None else f"{value:.{digits}f}"


def _beta(result: RunResult) -> float | None:
    return None if result.role == "teacher" else result.beta


def _score_text(result: RunResult, metric: Metric) -> str:
    return _number(result.score(metric), metric.digits)


def _size_text(result: RunResult) -> str:
    size = result.data_size_kb
    return MISSING if size is None else f"{size.mean:.2f} ± {size.std:.2f}"


def _payload_text(result: RunResult) -> str:
    return MISSING if result.payload_bytes is None else f"{result.payload_bytes.mean:.1f}"


def _run_path(result: RunResult) -> str:
    """The run folder, relative to the working directory where it lies below."""
    absolute = os.path.abspath(result.run)
    relative = os.path.relpath(absolute)
    return absolute if relative.startswith(os.pardir) else Path(relative).as_posix()


COLUMNS = (
    Column("task", lambda r: r.task),
    Column("dataset", lambda r: r.dataset, lambda v: "dataset", lambda r: r.dataset, left=True),
    Column("name", lambda r: r.name),
    Column("role", lambda r: r.role),
    Column("mode", lambda r: r.mode),
    Column("backbone", lambda r: r.backbone),
    Column("model", lambda r: r.label, lambda v: "model", lambda r: r.label, left=True),
    Column(
        "beta", _beta, lambda v: "β", lambda r: MISSING if _beta(r) is None else f"{_beta(r):g}"
    ),
    Column("metric_name", lambda r: r.view.first.key),
    Column(
        "metric_value",
        lambda r: r.score(r.view.first),
        lambda v: v.first.label,
        lambda r: _score_text(r, r.view.first),
    ),
    Column("second_metric_name", lambda r: r.view.second.key),
    Column(
        "second_metric_value",
        lambda r: r.score(r.view.second),
        lambda v: v.second.label,
        lambda r: _score_text(r, r.view.second),
    ),
    Column(
        "data_size_kb_mean",
        lambda r: r.data_size_kb and r.data_size_kb.mean,
        lambda v: "data size [KiB]",
        _size_text,
    ),
    Column("data_size_kb_std", lambda r: r.data_size_kb and r.data_size_kb.std),
    Column(
        "payload_bytes_mean",
        lambda r: r.payload_bytes and r.payload_bytes.mean,
        lambda v: "payload [B]",
        _payload_text,
    ),
    Column("payload_bytes_std", lambda r: r.payload_bytes and r.payload_bytes.std),
    Column(
        "num_images",
        lambda r: r.num_images,
        lambda v: "n",
        lambda r: MISSING if r.num_images is None else str(r.num_images),
    ),
    Column(
        "images_per_s",
        lambda r: r.images_per_s,
        lambda v: "images/s",
        lambda r: _number(r.images_per_s, 1),
    ),
    Column("run", _run_path, lambda v: "run", _run_path, in_latex=False, left=True),
)


def make_console() -> Console:
    """A console as wide as the terminal, or wide enough for a table where there is none."""
    console = Console(highlight=False)
    return (
        console if console.is_terminal else Console(width=WIDTH_WITHOUT_TERMINAL, highlight=False)
    )


def _datasets(results: Sequence[RunResult]) -> list[str]:
    return list(dict.fromkeys(result.dataset for result in results))


def _shown_columns(results: Sequence[RunResult]) -> list[Column]:
    """The columns of a table for people; the dataset's only where there are several."""
    several = len(_datasets(results)) > 1
    return [c for c in COLUMNS if c.header and (several or c.name != "dataset")]


def title(results: Sequence[RunResult]) -> str:
    """Headline of the results of one task."""
    return f"{results[0].view.title}: {', '.join(_datasets(results))}"


def rich_table(results: Sequence[RunResult], with_runs: bool = True) -> Table:
    """The table of one task for the terminal.

    Args:
        results: of one task.
        with_runs: False to leave out the paths of the run folders.
    """
    table = Table(title=title(results), title_justify="left")
    columns = [c for c in _shown_columns(results) if with_runs or c.name != "run"]
    for column in columns:
        cells = [column.text(result) for result in results]
        # cells stay whole, headers may break between words
        table.add_column(
            Text(column.header(results[0].view)),  # not markup: headers hold brackets
            justify="left" if column.left else "right",
            min_width=max(map(len, cells)),
        )
    for result in results:
        table.add_row(*(Text(column.text(result)) for column in columns))
    return table


def print_table(console: Console, results: Sequence[RunResult]) -> None:
    """Prints one task's table; where it is too wide, the run folders follow below it."""
    table = rich_table(results)
    # measured without the console's own limit, which would cut the answer
    needed = console.measure(table, options=console.options.update(max_width=10_000)).minimum
    if needed <= console.width:
        console.print(table)
        return
    console.print(rich_table(results, with_runs=False))
    for run in dict.fromkeys(map(_run_path, results)):
        console.print(f"  {run}", markup=False, soft_wrap=True)


def markdown(runs: RunCollection, plot: str | None = None) -> str:
    """A Markdown document with a table per task.

    Args:
        runs: what to show.
        plot: file name of a picture to show at the end.
    """
    parts = ["# Results"]
    for results in runs.by_task().values():
        columns = _shown_columns(results)
        rows = [
            [column.header(results[0].view) for column in columns],
            [":---" if column.left else "---:" for column in columns],
            *([column.text(result) for column in columns] for result in results),
        ]
        lines = ["| " + " | ".join(c.replace("|", r"\|") for c in row) + " |" for row in rows]
        parts += [f"## {title(results)}", "\n".join(lines)]
    if runs.unfinished:
        parts.append(f"Unfinished: {', '.join(f'`{path}`' for path in runs.unfinished)}")
    if plot:
        parts.append(f"![Accuracy against payload size]({plot})")
    return "\n\n".join(parts) + "\n"


def csv_text(runs: RunCollection) -> str:
    """All results, unrounded, one line each, with a header."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(column.name for column in COLUMNS)
    for results in runs.by_task().values():
        writer.writerows([column.value(result) for column in COLUMNS] for result in results)
    return buffer.getvalue()


def latex(runs: RunCollection) -> str:
    r"""One `tabular` per task, to be `\input` into a document; needs no package."""
    parts = []
    for results in runs.by_task().values():
        columns = [column for column in _shown_columns(results) if column.in_latex]
        alignment = "".join("l" if column.left else "r" for column in columns)
        lines = [
            f"% {title(results)}",
            f"\\begin{{tabular}}{{{alignment}}}",
            "\\hline",
            _latex_row(column.header(results[0].view) for column in columns),
            "\\hline",
            *(_latex_row(column.text(result) for column in columns) for result in results),
            "\\hline",
            "\\end{tabular}",
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _latex_row(cells: Iterable[str]) -> str:
    row = " & ".join(map(latex_escape, cells))
    # the \\ of the row above would read a bracket or a star as its own argument
    return f"{'{}' if row[:1] in ('[', '*') else ''}{row} \\\\"


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{c: f"${c}$" for c in "<>|"},
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "β": r"$\beta$",
    "±": r"$\pm$",
    MISSING: "--",
}


def latex_escape(text: str) -> str:
    """The text with every character that LaTeX would take for something else written out."""
    return "".join(_LATEX.get(character, character) for character in text)
