"""Logging: plain lines for files and people, and a progress bar where there is a terminal."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ladon.errors import UsageError

FORMAT = "%(asctime)s\t%(levelname)s\t%(name)s\t%(message)s"
DATE_FORMAT = "%Y/%m/%d %H:%M:%S"
# libraries that log every import and call they make; their warnings are enough
_CHATTY = ("torchdistill", "sc2bench", "timm", "matplotlib", "PIL", "filelock")
_console = Console(stderr=True)
_handlers: list[logging.Handler] = []


def set_up_logging(log_file: Path | None, *, is_main: bool = True) -> None:
    """Sends log lines to the terminal and, with ``log_file``, to a file as well.

    Args:
        log_file: appended to; its folders are made.
        is_main: other processes of a distributed run only say warnings, and write no file.

    Raises:
        UsageError: if the file cannot be written.
    """
    shut_down_logging()
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    root.setLevel(logging.INFO if is_main else logging.WARNING)
    plain = logging.Formatter(FORMAT, DATE_FORMAT)
    if _console.is_terminal:
        # through rich, so that lines and a progress bar don't overwrite each other
        shown: logging.Handler = RichHandler(
            console=_console, show_path=False, markup=False, highlighter=None, rich_tracebacks=False
        )
        shown.setFormatter(logging.Formatter("%(message)s"))
    else:
        shown = logging.StreamHandler(sys.stderr)
        shown.setFormatter(plain)
    _add(shown)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)
    if log_file is not None and is_main:
        try:
            log_file.parent.mkdir(parents=True, exist_ok=True)
            written = logging.FileHandler(log_file, encoding="utf-8")
        except OSError as error:
            raise UsageError(
                f"--run_log {log_file}: cannot be written: {error.strerror or error}"
            ) from error
        written.setFormatter(plain)
        _add(written)


def _add(handler: logging.Handler) -> None:
    logging.getLogger().addHandler(handler)
    _handlers.append(handler)


def is_set_up() -> bool:
    """Whether log lines go anywhere yet (foreign handlers don't count)."""
    return bool(_handlers)


def shut_down_logging() -> None:
    """Closes what ``set_up_logging`` opened: a later run in this process has its own log."""
    while _handlers:
        handler = _handlers.pop()
        logging.getLogger().removeHandler(handler)
        handler.close()


@contextmanager
def progress(title: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A progress bar on a terminal, nothing elsewhere.

    Args:
        title: what is going on.
        total: number of steps, None if unknown.

    Yields:
        A function that advances the bar by a number of steps.
    """
    if not _console.is_terminal or logging.getLogger().level > logging.INFO:
        yield lambda steps: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=_console, transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda steps: bar.advance(task, steps)
