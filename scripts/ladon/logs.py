"""Logging: plain lines for files and people, and a progress bar where there is a terminal."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
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

from ladon.errors import cannot_write

FORMAT = "%(asctime)s\t%(levelname)s\t%(name)s\t%(message)s"
DATE_FORMAT = "%Y/%m/%d %H:%M:%S"
# libraries that log every import and call they make; their warnings are enough
_CHATTY = ("torchdistill", "sc2bench", "timm", "matplotlib", "PIL", "filelock")
_console = Console(stderr=True)
_handlers: list[logging.Handler] = []
_beta: ContextVar[str | None] = ContextVar("beta", default=None)


@contextmanager
def log_context(beta: str | None) -> Iterator[None]:
    """Lines logged within concern one of several runs in this process: they go to its file alone.

    Args:
        beta: the run's β as the user typed it; None changes nothing.
    """
    token = None if beta is None else _beta.set(beta)
    try:
        yield
    finally:
        if token is not None:
            _beta.reset(token)


class _Shown(logging.Formatter):
    """For the terminal, where the lines of several runs come together: says which is meant."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        if _beta.get() is not None:
            record.message = f"[β {_beta.get()}] {record.message}"
        return super().formatMessage(record)


class _LogFile(logging.FileHandler):
    """A log file. One that cannot be written any more ends the work, in one line."""

    def __init__(self, path: Path) -> None:
        # a file name need not be text: the line must not be lost for it
        super().__init__(path, encoding="utf-8", errors="backslashreplace")

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        self.setLevel(logging.CRITICAL + 1)  # what is said of it must not end the same way
        raise cannot_write(f"--run_log {self.baseFilename}", error) from error

    def close(self) -> None:
        with contextlib.suppress(OSError):  # of what could not be written, once more
            super().close()


def _has_terminal() -> bool:
    """Whether a person watches. A pipe gets whole lines, even where colours are forced into it."""
    return _console.is_terminal and sys.stderr.isatty()


def set_up_logging(
    log_file: Path | None = None,
    *,
    is_main: bool = True,
    formatter: logging.Formatter | None = None,
) -> None:
    """Send log lines to the terminal and, with `log_file`, to a file as well.

    Args:
        log_file: appended to; its folders are made.
        is_main: other processes of a distributed run only say errors, and write no file: what
            a library warns of, it warns all processes of.
        formatter: of the lines on the terminal, for programs that read them; None: for people.

    Raises:
        LadonError: if the file cannot be written.
    """
    shut_down_logging()
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    level = logging.INFO if is_main else logging.ERROR
    root.setLevel(level)
    if formatter is None and _has_terminal():
        # through rich, so that lines and a progress bar don't overwrite each other
        shown: logging.Handler = RichHandler(
            console=_console, show_path=False, markup=False, highlighter=None, rich_tracebacks=False
        )
        shown.setFormatter(_Shown("%(message)s"))
    else:
        shown = logging.StreamHandler(sys.stderr)
        shown.setFormatter(formatter or _Shown(FORMAT, DATE_FORMAT))
    shown.setLevel(level)  # a logger with a level of its own doesn't ask the root's
    _add(shown)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)
    if log_file is not None and is_main:
        add_log_file(log_file)


def add_log_file(log_file: Path, beta: str | None = None) -> None:
    """Send log lines to a file as well.

    Args:
        log_file: appended to; its folders are made.
        beta: of the run whose log it is: lines that concern another are left out.

    Raises:
        LadonError: if the file cannot be written.
    """
    try:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        written = _LogFile(log_file)
    except OSError as error:
        raise cannot_write(f"--run_log {log_file}", error) from error
    written.setFormatter(logging.Formatter(FORMAT, DATE_FORMAT))
    written.addFilter(lambda record: beta is None or _beta.get() in (None, beta))
    _add(written)


def _add(handler: logging.Handler) -> None:
    logging.getLogger().addHandler(handler)
    _handlers.append(handler)


def is_set_up() -> bool:
    """Whether log lines go anywhere yet (foreign handlers don't count)."""
    return bool(_handlers)


def shut_down_logging() -> None:
    """Close what `set_up_logging` opened: a later run in this process has its own log."""
    while _handlers:
        handler = _handlers.pop()
        logging.getLogger().removeHandler(handler)
        handler.close()


@contextmanager
def progress(title: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on a terminal, nothing elsewhere.

    Args:
        title: what is going on.
        total: number of steps, None if unknown.

    Yields:
        A function that advances the bar by a number of steps.
    """
    if not _has_terminal() or logging.getLogger().level > logging.INFO:
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
