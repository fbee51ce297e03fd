"""Part `compile`: a training step with `--compile` against one without, on a GPU."""

from __future__ import annotations

from ladon.benchmark.machine import clock_of
from ladon.benchmark.pairing import against, alternate
from ladon.benchmark.parts import Bench
from ladon.benchmark.results import Measurement, PartResult, Spread
from ladon.benchmark.training import OurSteps, Setting, memory_of_step

_PRECISION = "bf16"


def measure(bench: Bench) -> PartResult:
    """Times a step of each stage both ways, and the first one, which compiles."""
    if bench.device == "cpu" and not bench.quick:
        return PartResult(facts={"not measured": "only on a GPU"})
    setting = Setting.make(bench)
    found, clock = bench.begin(**setting.facts), clock_of(setting.device)
    for stage, section in setting.stages():
        name = f"{stage}, {_PRECISION}"
        compiled = OurSteps(setting, section, _PRECISION, compiled=True)
        plain = OurSteps(setting, section, _PRECISION)
        start = clock()
        first = compiled()
        spent = Spread.of([clock() - start])
        found.measurements.append(Measurement(f"first step of {name}: compiling", "s", spent))
        title = f"{name}: relative difference of first losses"
        found.facts[title] = first / plain() - 1
        pairs = alternate(compiled, plain, setting.repeats(bench), clock=clock)
        title = f"training step of {name}: compiled against not"
        found.measurements.append(pairs.rate(title, len(setting.batch.images), "images/s"))
        if setting.device.type == "cuda":
            peaks = [[memory_of_step(way, setting.device)] for way in (compiled, plain)]
            title = f"memory of a step of {name}: compiled against not"
            found.measurements.append(against("MiB", title, *peaks))
        compiled.close()
        plain.close()
    return found
