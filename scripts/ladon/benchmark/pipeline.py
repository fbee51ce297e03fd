"""Part `pipeline`: batches under way, with sleeps in the place of the machine's parts.

How near the throughput comes to that of the slowest part alone: what threads, queues and order
cost, without a GPU and without anything to compute.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

from ladon.benchmark.parts import Bench
from ladon.benchmark.results import Measurement, PartResult, Spread
from ladon.engine.evaluate import GPU_AHEAD, GPU_THREAD_CORES
from ladon.engine.pipeline import run_ahead, taken_ahead

# seconds of a batch; 64 images at 800 images/s take 80 ms
PARTS = ("loading", "encoder", "coder", "decoder to heads", "scoring")
CASES = {
    "even": (0.04, 0.04, 0.04, 0.04, 0.04),
    "slow loading": (0.08, 0.03, 0.05, 0.02, 0.01),
    "slow coder": (0.03, 0.03, 0.08, 0.02, 0.01),
    "slow network": (0.03, 0.03, 0.05, 0.08, 0.01),
}
_BATCHES, _QUICK_BATCHES = 40, 10


def measure(bench: Bench) -> PartResult:
    """Runs each case; a part works on one batch at a time, as a GPU's queue does."""
    batches = _QUICK_BATCHES if bench.quick else _BATCHES
    found = PartResult(facts={"batches": batches, "under way": GPU_AHEAD})
    for name, seconds in CASES.items():
        found.facts[f"{name}, ms"] = {p: 1e3 * s for p, s in zip(PARTS, seconds, strict=True)}
        rates = [_rate(seconds, batches) for _ in range(bench.repeats)]
        bound = 1 / max(seconds)
        found.measurements.append(
            Measurement(
                f"{name}: share of its slowest part's rate",
                "batches/s",
                Spread.of(rates),
                Spread.of([bound]),
                Spread.of(rate / bound for rate in rates),
            )
        )
    return found


def _rate(seconds: tuple[float, ...], batches: int) -> float:
    """Batches per second, once as many are under way as there may be."""
    loading, *network, scoring = seconds
    turns = [threading.Lock() for _ in network]

    def load() -> Iterator[int]:
        for number in range(batches):
            time.sleep(loading)
            yield number

    def predict(number: int) -> int:
        for part, turn in zip(network, turns, strict=True):
            with turn:
                time.sleep(part)
        return number

    ends = []
    for _ in run_ahead(predict, taken_ahead(load()), GPU_AHEAD, cores=GPU_THREAD_CORES):
        time.sleep(scoring)
        ends.append(time.perf_counter())
    steady = ends[GPU_AHEAD:]
    return (len(steady) - 1) / (steady[-1] - steady[0])
