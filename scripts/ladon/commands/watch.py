"""How runs go that are going on elsewhere: a table and curves, kept up to date.

    python scripts/watch.py logs/                       # all runs below, those that start later too
    python scripts/watch.py logs/ilsvrc2012/ladon/*beta5.12*
    python scripts/watch.py logs/ --once                # once, for scripts

It reads what a run writes into its folder and log: nothing is asked of the run itself, so that it
can be on another machine of the same file system. `left` is what all stages that are still to come
take, from the epochs that were measured; `saved` is the age of `last.pt`, from which `--resume`
goes on. Where the output is no terminal it is shown once. Ctrl-C ends it (exit code 130).
"""

from __future__ import annotations

import argparse
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.live import Live

from ladon.cli import answer
from ladon.flags import whole_number
from ladon.launch import make_parser
from ladon.report.tables import make_console
from ladon.watch.finding import Finder, short_names
from ladon.watch.screen import screen
from ladon.watch.states import RunState, read_run

EVERY = 2  # seconds


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser("watch", __doc__)
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="run folder or log, or a folder above")
    add("--once", action="store_true", help="show it once and end")
    add(
        "--every",
        type=whole_number(1),
        default=EVERY,
        metavar="SECONDS",
        help="look again after so long (default: %(default)s)",
    )
    return parser.parse_args(argv)


class Watching:
    """Runs that are looked at again and again.

    Args:
        paths: where they are.

    Raises:
        UsageError: there is none.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._finder, self._was_there = Finder(paths), set[Path]()

    def look(self) -> list[tuple[str, RunState]]:
        """Return how all runs are, with what they are called."""
        folders, now = self._finder.find(), time.time()
        found = []
        for name, folder in zip(short_names(folders), folders, strict=True):
            run = read_run(folder, now)
            if run.state != "waiting":
                self._was_there.add(folder)
            elif folder in self._was_there:
                run = RunState(folder, "removed")
            found.append((name, run))
        return found


def watch(
    watching: Watching, console: Console, every: float, wait: Callable[[float], object]
) -> None:
    """Show runs until somebody interrupts it.

    Args:
        watching: the runs.
        console: a terminal.
        every: seconds until it looks again.
        wait: waits for so many seconds.
    """
    with Live(console=console, auto_refresh=False) as live:
        while True:
            live.update(screen(watching.look(), console.width, console.height), refresh=True)
            wait(every)


def main(argv: Sequence[str] | None = None) -> int:
    """Watch runs; return the exit code."""

    def work() -> int:
        args, console = parse_args(argv), make_console()
        watching = Watching(args.runs)
        if args.once or not console.is_terminal:
            console.print(screen(watching.look(), console.width))
            return 0
        try:
            with _terminable():
                watch(watching, console, args.every, threading.Event().wait)
        except KeyboardInterrupt:  # how one leaves it: nothing is to be said
            return 130
        return 0

    return answer(work)


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM unwind, so that the terminal gets its cursor back."""

    def leave(signum: int, _frame: object) -> None:
        raise SystemExit(128 + signum)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
