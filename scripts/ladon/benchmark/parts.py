"""The parts of the benchmark, and running them so that a failure costs one part only.

A part is a module with `measure(bench: Bench) -> PartResult` and one line in `PARTS`. Imports
nothing heavy before a part runs.
"""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ladon.benchmark.results import PartResult, Results
from ladon.errors import UsageError, in_one_line
from ladon.launch import checkout

logger = logging.getLogger(__name__)

# in the order in which they run: the roofline reads what the evaluation found
PARTS = {
    "codec": "ladon.benchmark.codec",
    "evaluation": "ladon.benchmark.evaluation",
    "pipeline": "ladon.benchmark.pipeline",
    "throughput": "ladon.benchmark.throughput",
    "input": "ladon.benchmark.fast_input",
    "validation": "ladon.benchmark.validation",
    "fused": "ladon.benchmark.fused",
    "training": "ladon.benchmark.training",
    "compile": "ladon.benchmark.training_compiled",
    "startup": "ladon.benchmark.startup",
    "memory": "ladon.benchmark.memory",
    "roofline": "ladon.benchmark.roofline",
}


def root() -> Path:
    """The checkout whose configs are timed and whose resource/benchmarks holds the results.

    Raises:
        UsageError: if the package is installed and the working directory is no checkout.
    """
    found = checkout() or Path.cwd()
    if not (found / "configs" / "ilsvrc2012").is_dir():
        raise UsageError("the benchmark needs a checkout's configs: run it in a checkout's root")
    return found


@dataclass(frozen=True)
class Bench:
    """What a part needs to know.

    Attributes:
        folder: an empty folder for its files, removed at the end.
        results: what the parts before it found.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        repeats: timed repeats of each way.
        quick: use the smallest sizes that still run through everything.
        tasks: names of the tasks to measure, for the parts that have several.
        begun: what a part has found so far, kept if it is interrupted.
    """

    folder: Path
    results: Results
    device: str = "cpu"
    repeats: int = 3
    quick: bool = False
    tasks: Sequence[str] = ()
    begun: list[PartResult] = field(default_factory=list)

    def begin(self, **facts: Any) -> PartResult:
        """Returns an empty result; what is in it is not lost if the part is interrupted."""
        self.begun.append(PartResult(facts=facts))
        return self.begun[-1]


def run_parts(
    names: Sequence[str],
    make_bench: Callable[[str], Bench],
    out: Path,
    show: Callable[[str, PartResult], None],
) -> list[str]:
    """Runs parts, and writes the file after each.

    Args:
        names: keys of ``PARTS``, in whatever order.
        make_bench: returns what the part of a name needs; all share one ``results``.
        out: the JSON file.
        show: is given each part's result.

    Returns:
        The names of the parts that failed.

    Raises:
        LadonError: if the file cannot be written.
        KeyboardInterrupt: with what the part had found until then in the file.
    """
    failed = []

    def keep(bench: Bench, name: str, result: PartResult, start: float) -> None:
        result.date = time.strftime("%Y-%m-%d %H:%M:%S")
        result.seconds = round(time.perf_counter() - start, 1)
        bench.results.parts[name] = result
        bench.results.date = result.date
        bench.results.write(out)

    for name in (part for part in PARTS if part in names):
        bench, start = make_bench(name), time.perf_counter()
        try:
            result = importlib.import_module(PARTS[name]).measure(bench)
        except KeyboardInterrupt:
            if bench.begun and bench.begun[-1].measurements:
                bench.begun[-1].error = "interrupted"
                keep(bench, name, bench.begun[-1], start)
            raise
        except Exception as error:  # whatever it was, the other parts must not be lost
            logger.exception("Part %s failed", name)
            result = bench.begun[-1] if bench.begun else PartResult()
            result.error = in_one_line(error)
            failed.append(name)
        keep(bench, name, result, start)
        show(name, result)
    return failed
