"""The files of `--analyse`: a table by class, the confusion, and the worst images as pictures."""

from __future__ import annotations

import csv
import io
import logging
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ladon.analysis.base import Analysed, ByClass, NameOf
from ladon.errors import cannot_write
from ladon.replacing import replacing

logger = logging.getLogger(__name__)

_LOGGED = 12  # classes
_OF_LABELS = {"mistaken_for"}  # columns whose values are labels


def write_files(
    folder: Path, found: Analysed, dataset: Any, name_of: NameOf, path_of: Callable[[int], Any]
) -> None:
    """Write an analysis, in the place of one that is there.

    Args:
        folder: where to.
        found: the analysis.
        dataset: the data set that was tested on.
        name_of: names labels.
        path_of: returns the file of a sample, None where there is none.

    Raises:
        LadonError: it cannot be written.
    """
    names = partial(_name, name_of)
    by_class = found.by_class
    header, rows = class_table(by_class, names)
    try:
        _write_csv(folder / "per_class.csv", header, rows)
        _log_classes(header, rows, folder / "per_class.csv")
        if by_class.confusion is not None:
            # seconds of imports
            from ladon.report.confusion import confusion_figure
            from ladon.report.plots import save_figure

            labels = [names(label) for label in range(len(by_class.confusion))]
            figure = confusion_figure(by_class.confusion, labels, by_class.counted)
            save_figure(figure, folder / "confusion.png")
        _write_worst(folder / "worst", found, dataset, path_of)
    except OSError as error:
        raise cannot_write(f"--analyse {folder}", error) from error
    logger.info("Analysis: %s", folder)


def _name(name_of: NameOf, label: int) -> str:
    return name_of(label) or str(label)


def class_table(
    by_class: ByClass, names: Callable[[int], str]
) -> tuple[list[str], list[list[Any]]]:
    """Return a header and a row for each label that is in the data or in answers.

    The last row has the test's own values, as its metric reports them.
    """
    columns = by_class.columns
    header = ["label", "class", *columns]
    rows: list[list[Any]] = []
    for label, values in enumerate(zip(*columns.values(), strict=True)):
        if all(value in (None, 0) for value in values):
            continue
        shown = (
            names(int(value)) if name in _OF_LABELS and value is not None else value
            for name, value in zip(columns, values, strict=True)
        )
        rows.append([label, names(label), *shown])
    rows.append(["", "all", *(by_class.overall.get(name) for name in columns)])
    return header, rows


def _write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([header, *rows])
    with replacing(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def _log_classes(header: Sequence[str], rows: Sequence[Sequence[Any]], path: Path) -> None:
    """Log the worst classes by the first value behind their number, and the last row."""
    *classes, overall = rows
    by = 3 if len(header) > 3 else 2
    classes.sort(key=lambda row: (row[by] is None, row[by]))
    table = [[_shown(cell) for cell in row] for row in (header, *classes[:_LOGGED], overall)]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    logger.info("%d classes, the worst by %s first (all in %s):", len(classes), header[by], path)
    for row in table:
        cells = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        logger.info("  %s", "  ".join(cells).rstrip())


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return "" if value is None else str(value)


def _write_worst(
    folder: Path, found: Analysed, dataset: Any, path_of: Callable[[int], Any]
) -> None:
    from ladon.analysis.pictures import picture_of

    shutil.rmtree(folder, ignore_errors=True)  # of another test
    folder.mkdir()
    rows = []
    for rank, (badness, index, judged) in enumerate(found.worst, start=1):
        name, path = f"{rank:02d}.png", path_of(index)
        title = f"{rank}. {path or f'sample {index}'}"
        picture_of(dataset, index, judged, title).save(folder / name)
        rows.append([rank, name, index, path, badness, judged.words])
    _write_csv(folder / "worst.csv", ["rank", "picture", "sample", "image", "badness", "is"], rows)
