"""The parts of the benchmark, and running them so that a failure costs one part only.

A part is a module of this package with `measure(bench: Bench) -> None`, which fills `bench.found`,
and its name in `PARTS`. Imports nothing heavy before a part runs.
"""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ladon.benchmark.results import PartResult, Results
from ladon.errors import UsageError, in_one_line
from ladon.launch import checkout

logger = logging.getLogger(__name__)

PARTS = ("codec", "evaluation", "validation", "training", "startup", "memory")
"""In the order in which they run."""


def root() -> Path:
    """Return the checkout whose configs are timed and whose resource/benchmarks holds the results.

    Raises:
        UsageError: if the package is installed and the working directory is no checkout.
    """
    found = checkout() or Path.cwd()
    if not (found / "configs" / "ilsvrc2012").is_dir():
        raise UsageError("the benchmark needs a checkout's configs: run it in a checkout's root")
    return found


@dataclass(frozen=True)
class Bench:
    """Settings of one part, and what it finds.

    Attributes:
        folder: an empty folder for its files, removed at the end.
        device: `cpu`, `cuda` or `cuda:N`.
        repeats: timed repeats of each way.
        quick: use the smallest sizes that still run through everything.
        tasks: names of the tasks to measure, for the part that has several.
        found: filled line by line, so that an interrupted part leaves what it had measured.
    """

    folder: Path
    device: str = "cpu"
    repeats: int = 3
    quick: bool = False
    tasks: Sequence[str] = ()
    found: PartResult = field(default_factory=PartResult)


def run_parts(
    names: Sequence[str],
    make_bench: Callable[[str], Bench],
    results: Results,
    out: Path,
    show: Callable[[str, PartResult], None],
) -> list[str]:
    """Run parts, and write the file after each.

    Args:
        names: of `PARTS`, in whatever order.
        make_bench: returns what the part of a name needs.
        results: is given each part's result.
        out: the JSON file.
        show: is given each part's result.

    Returns:
        The names of the parts that failed.

    Raises:
        LadonError: if the file cannot be written.
        KeyboardInterrupt: with what the part had found until then in the file.
    """
    failed = []

    def keep(name: str, found: PartResult, start: float) -> None:
        found.date = results.date = time.strftime("%Y-%m-%d %H:%M:%S")
        found.seconds = round(time.perf_counter() - start, 1)
        results.parts[name] = found
        results.write(out)

    for name in (part for part in PARTS if part in names):
        bench, start = make_bench(name), time.perf_counter()
        try:
            importlib.import_module(f"{__package__}.{name}").measure(bench)
        except KeyboardInterrupt:
            if bench.found.measurements:
                bench.found.error = "interrupted"
                keep(name, bench.found, start)
                logger.info("What part %s had measured is in %s", name, out)
            raise
        except Exception as error:  # whatever it was, the other parts must not be lost
            logger.exception("Part %s failed", name)
            bench.found.error = in_one_line(error)
            failed.append(name)
        keep(name, bench.found, start)
        show(name, bench.found)
    return failed
