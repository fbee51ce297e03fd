"""An epoch a line: `metrics.jsonl`, and `metrics.csv` beside it for whoever has no JSON."""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ladon.errors import LadonError, why_not_written
from ladon.replacing import replacing
from ladon.tracking.journal import Sink, scalars

logger = logging.getLogger(__name__)

_FIRST = ("stage", "epoch")


class EpochFiles(Sink):
    """Writes both files; a line of JSON is added, the CSV file is written anew.

    What a kill leaves half-written in the one is dropped by `begin`; the other is always whole, and
    has a column for whatever any epoch has, later stages included. It follows from the first: where
    it cannot be written, the next epoch tries again.

    Args:
        folder: the run's.

    Raises:
        LadonError: a file cannot be written (`begin`), or the first one (`epoch`).
    """

    def __init__(self, folder: Path) -> None:
        self._json, self._csv = folder / "metrics.jsonl", folder / "metrics.csv"
        self._records: list[Mapping[str, Any]] = []

    def begin(self, epoch: int) -> None:
        """Drop the epochs that will be trained again; make the CSV file, so that it can be."""
        drop_epochs_from(self._json, epoch)
        self._records = read_epochs(self._json)
        self._write_csv()

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Add an epoch."""
        try:
            with self._json.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise _cannot_write(self._json, error) from error
        self._records.append(record)
        try:
            self._write_csv()
        except LadonError as error:  # somebody's spreadsheet may have it open
            logger.warning("%s; the next epoch will try again", error)

    def _write_csv(self) -> None:
        try:
            with replacing(self._csv) as temporary:
                temporary.write_text(csv_of(self._records), encoding="utf-8")
        except OSError as error:
            raise _cannot_write(self._csv, error) from error


def csv_of(records: Iterable[Mapping[str, Any]]) -> str:
    """Return epochs as CSV, a column for each of `scalars`; what an epoch lacks is empty.

    Columns of one kind (`terms.…`) stand together, kinds in the order in which they came.
    """
    rows = [scalars(record) for record in records]
    kinds: dict[str, dict[str, None]] = {name: {name: None} for name in _FIRST}
    for name in (name for row in rows for name in row):
        kinds.setdefault(name.partition(".")[0], {})[name] = None
    columns = [name for names in kinds.values() for name in names]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    # true and false are 1 and 0: every cell is a number
    writer.writerows(
        {name: int(v) if isinstance(v, bool) else v for name, v in row.items()} for row in rows
    )
    return text.getvalue()


def read_epochs(path: Path) -> list[Mapping[str, Any]]:
    """Read `metrics.jsonl`; lines that are none, such as one that is being written, are left out.

    Args:
        path: the file; none if it is missing or cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [record for line in lines if (record := _record(line)) is not None]


def _record(line: str) -> Mapping[str, Any] | None:
    try:
        found = json.loads(line)
        return found if isinstance(found["epoch"], int) else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def drop_epochs_from(path: Path, epoch: int) -> None:
    """Drop the lines of `metrics.jsonl` that a resumed run will write again.

    A run that is killed between its epoch's line and `last.pt` trains that epoch once more; a
    line that was cut off goes, too.

    Args:
        path: the file.
        epoch: the one that the run goes on with.

    Raises:
        LadonError: if it cannot be written.
    """
    try:
        if not path.is_file():
            return
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        found = ((line, _record(line)) for line in lines)
        kept = [line for line, record in found if record is not None and record["epoch"] < epoch]
        if kept == lines:
            return
        with replacing(path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    except OSError as error:
        raise _cannot_write(path, error) from error


def _cannot_write(path: Path, error: OSError) -> LadonError:
    return LadonError(f"cannot write {path}: {why_not_written(error)}")
