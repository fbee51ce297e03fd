"""Tables for the terminal, Markdown, CSV and LaTeX: columns of whatever a row is."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
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
class Sheet:
    """A table for people: rows, the columns to show, and a line below; a view if of one task."""

    title: str
    view: TaskView | None
    columns: list[Column]
    rows: list[Any]
    caption: str = ""

    def cells(self, columns: Sequence[Column]) -> list[list[str]]:
        """The header and the rows, of these columns."""
        header = [column.header(self.view) if column.header else column.name for column in columns]
        return [header, *([column.text(row) for column in columns] for row in self.rows)]


def number(value: float | None, digits: int, sign: str = "") -> str:
    """A number with this many decimals, `MISSING` for None; sign '+' writes it always."""
    return MISSING if value is None else f"{value:{sign}z.{digits}f}"  # z: never -0.000


def rich_table(sheet: Sheet, columns: Sequence[Column], narrow: bool = False) -> Table:
    """The table for the terminal, of these columns; narrow ones break headers between words."""
    table = Table(
        title=Text(sheet.title),  # not markup: headers and names hold brackets
        title_justify="left",
        caption=Text(sheet.caption) if sheet.caption else None,
        caption_justify="left",
    )
    header, *rows = sheet.cells(columns)
    for column, name, *cells in zip(columns, header, *rows, strict=True):
        width = max(map(len, [*cells, *name.split()]))
        shown = "\n".join(textwrap.wrap(name, width)) if narrow else name
        table.add_column(Text(shown), justify="left" if column.left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def print_sheet(console: Console, sheet: Sheet) -> None:
    """Prints the table; where it is too wide, what stands aside follows below it."""
    # measured without the console's own limit, which would cut the answer
    unlimited = console.options.update(max_width=10_000)
    for narrow in (False, True):
        table = rich_table(sheet, sheet.columns, narrow)
        if console.measure(table, options=unlimited).maximum <= console.width:
            console.print(table)
            return
    console.print(rich_table(sheet, [column for column in sheet.columns if not column.aside], True))
    for column in (column for column in sheet.columns if column.aside):
        for text in dict.fromkeys(filter(None, map(column.text, sheet.rows))):
            console.print(f"  {text}", markup=False, soft_wrap=True)


def markdown_table(sheet: Sheet) -> str:
    """The table alone, in Markdown."""
    header, *rows = sheet.cells(sheet.columns)
    rule = [":---" if column.left else "---:" for column in sheet.columns]
    lines = [header, rule, *rows]
    return "\n".join("| " + " | ".join(c.replace("|", r"\|") for c in row) + " |" for row in lines)


def markdown_document(sheets: Sequence[Sheet], plot: str | None = None, footer: str = "") -> str:
    """A document of all tables.

    Args:
        sheets: the tables.
        plot: file name of a picture to show at the end.
        footer: a paragraph before the picture.
    """
    parts = ["# Results"]
    for sheet in sheets:
        parts += [f"## {sheet.title}", markdown_table(sheet)]
        parts += [sheet.caption] if sheet.caption else []
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


def latex_document(sheets: Sequence[Sheet]) -> str:
    r"""One `tabular` per table, to be `\input` into a document; needs no package."""
    return "\n\n".join(map(_latex_table, sheets)) + "\n"


def _latex_table(sheet: Sheet) -> str:
    columns = [column for column in sheet.columns if not column.aside]
    alignment = "".join("l" if column.left else "r" for column in columns)
    header, *rows = sheet.cells(columns)
    lines = [
        *(f"% {line}" for line in (sheet.title, *sheet.caption.splitlines())),
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
    """The text with every character that LaTeX would take for something else written out."""
    return "".join(_LATEX.get(character, character) for character in text)
