"""Tables for the terminal, Markdown, CSV and LaTeX: columns of whatever a row is."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from ladon.tasks import TaskView

MISSING = "–"


@dataclass(frozen=True)
class Column:
    """One column, in whichever format.

    Args:
        name: header of the CSV file.
        value: of a row, what the CSV file holds, unrounded; None becomes an empty cell.
        header: header of the other tables, by task; None for a column of the CSV file only.
        text: of a row, the cell of the other tables.
        aside: for whoever made the table only: not printed in a paper, and listed below the table
            where the terminal is too narrow.
        left: aligned to the left.
    """

    name: str
    value: Callable[[Any], object]
    header: Callable[[Any], str] | None = None
    text: Callable[[Any], str] = lambda row: MISSING
    aside: bool = False
    left: bool = False


@dataclass(frozen=True)
class Table:
    """A table for people: rows, the columns to show, and a line below; a view if of one task."""

    title: str
    view: TaskView | None
    columns: list[Column]
    rows: list[Any]
    caption: str = ""

    def cells(self, columns: Sequence[Column]) -> list[list[str]]:
        """Return the header and the rows, of these columns."""
        header = [column.header(self.view) if column.header else column.name for column in columns]
        return [header, *([column.text(row) for column in columns] for row in self.rows)]


def number(value: float | None, digits: int, sign: str = "") -> str:
    """Return a number with this many decimals, `MISSING` for None; sign '+' writes it always."""
    return MISSING if value is None else f"{value:{sign}z.{digits}f}"  # z: never -0.000


def rich_table(table: Table, columns: Sequence[Column], narrow: bool = False) -> RichTable:
    """Return the table for the terminal; narrow columns break their headers between words."""
    drawn = RichTable(
        title=Text(table.title),  # not markup: headers and names hold brackets
        title_justify="left",
        caption=Text(table.caption) if table.caption else None,
        caption_justify="left",
    )
    header, *rows = table.cells(columns)
    for column, name, *cells in zip(columns, header, *rows, strict=True):
        width = max(map(len, [*cells, *name.split()]))
        shown = "\n".join(textwrap.wrap(name, width)) if narrow else name
        drawn.add_column(Text(shown), justify="left" if column.left else "right", no_wrap=True)
    for row in rows:
        drawn.add_row(*map(Text, row))
    return drawn


def show_table(console: Console, table: Table) -> None:
    """Print the table; where it is too wide, what stands aside follows below it."""
    # measured without the console's own limit, which would cut the answer
    unlimited = console.options.update(max_width=10_000)
    for narrow in (False, True):
        drawn = rich_table(table, table.columns, narrow)
        if console.measure(drawn, options=unlimited).maximum <= console.width:
            console.print(drawn)
            return
    console.print(rich_table(table, [column for column in table.columns if not column.aside], True))
    for column in (column for column in table.columns if column.aside):
        for text in dict.fromkeys(filter(None, map(column.text, table.rows))):
            console.print(f"  {text}", markup=False, soft_wrap=True)


def markdown_table(table: Table) -> str:
    """Return the table alone, in Markdown."""
    header, *rows = table.cells(table.columns)
    rule = [":---" if column.left else "---:" for column in table.columns]
    lines = [header, rule, *rows]
    return "\n".join("| " + " | ".join(c.replace("|", r"\|") for c in row) + " |" for row in lines)


def markdown_document(tables: Sequence[Table], plot: str | None = None, footer: str = "") -> str:
    """Return a document of all tables.

    Args:
        tables: the tables.
        plot: file name of a picture to show at the end.
        footer: a paragraph before the picture.
    """
    parts = ["# Results"]
    for table in tables:
        parts += [f"## {table.title}", markdown_table(table)]
        parts += [table.caption] if table.caption else []
    parts += [footer] if footer else []
    if plot:
        parts.append(f"![Accuracy against size]({plot})")
    return "\n\n".join(parts) + "\n"


def csv_text(columns: Sequence[Column], rows: Iterable[Any]) -> str:
    """All rows, unrounded, one line each, with a header."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(column.name for column in columns)
    writer.writerows([column.value(row) for column in columns] for row in rows)
    return buffer.getvalue()


def latex_document(tables: Sequence[Table]) -> str:
    r"""One `tabular` per table, to be `\input` into a document; needs no package."""
    return "\n\n".join(map(_latex_table, tables)) + "\n"


def _latex_table(table: Table) -> str:
    columns = [column for column in table.columns if not column.aside]
    alignment = "".join("l" if column.left else "r" for column in columns)
    header, *rows = table.cells(columns)
    lines = [
        *(f"% {line}" for line in (table.title, *table.caption.splitlines())),
        f"\\begin{{tabular}}{{{alignment}}}",
        "\\hline",
        _latex_row(header),
        "\\hline",
        *map(_latex_row, rows),
        "\\hline",
        "\\end{tabular}",
    ]
    return "\n".join(lines)


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
    "Δ": r"$\Delta$",
    MISSING: "--",
}


def latex_escape(text: str) -> str:
    """Return the text with every character that LaTeX would take for something else written out."""
    return "".join(_LATEX.get(character, character) for character in text)
