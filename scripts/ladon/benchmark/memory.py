"""Part `memory`: peak of the classification evaluation's process, either way.

Each run is a process of its own: `python -m ladon.benchmark.memory ours|published FOLDER NUM FILE`.
"""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import torch

from ladon.benchmark.evaluation import evaluate_ours
from ladon.benchmark.parts import ROOT, Bench
from ladon.benchmark.published import evaluate_published
from ladon.benchmark.results import Measurement, PartResult, Spread
from ladon.benchmark.workload import make_workload
from ladon.choices import PRECISIONS
from ladon.errors import LadonError

NUM_IMAGES, QUICK_IMAGES = 32, 2
_TASK = "image_classification"
PUBLISHED = "published"


def peak_mib() -> float:
    """Returns the most memory that this process ever held, in MiB.

    Linux's ``getrusage`` also counts the process that started this one, as a child is its copy
    until it executes something else; ``VmHWM`` begins with the program.
    """
    try:
        text = Path("/proc/self/status").read_text()
        return int(re.search(r"^VmHWM:\s+(\d+) kB", text, re.MULTILINE)[1]) / 1024
    except (OSError, TypeError):  # no Linux
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def measure(bench: Bench) -> PartResult:
    """Runs both ways, each in processes of its own, without loader workers."""
    num_images = QUICK_IMAGES if bench.quick else NUM_IMAGES
    theirs = [_run(bench, PUBLISHED, num_images) for _ in range(bench.repeats)]
    found = PartResult(facts={"images": num_images})
    for precision in PRECISIONS:
        ours = [_run(bench, precision, num_images) for _ in range(bench.repeats)]
        pairs = zip(ours, theirs, strict=True)
        found.measurements.append(
            Measurement(
                f"peak of {_TASK}: {precision} against published",
                "MiB",
                Spread.of(ours),
                Spread.of(theirs),
                Spread.of(reference / own for own, reference in pairs),
            )
        )
    return found


def _run(bench: Bench, way: str, num_images: int) -> float:
    out = bench.folder / "peak.txt"
    environment = os.environ | {
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
        "PYTHONPATH": str(ROOT / "scripts"),
    }
    done = subprocess.run(
        [
            *(sys.executable, "-m", __spec__.name, way, str(bench.folder / "data")),
            *(str(num_images), str(out)),
        ],
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise LadonError(f"the {way} evaluation failed: {done.stderr.strip()[-300:]}")
    return float(out.read_text())


def _child(way: str, folder: str, num_images: str, out: str) -> None:
    work = make_workload(_TASK, Path(folder), int(num_images))
    kwargs = (work.loader.get("kwargs") or {}) | {"num_workers": 0}
    work.loader = dict(work.loader) | {"kwargs": kwargs}
    device = torch.device("cpu")
    if way == PUBLISHED:
        evaluate_published(work, work.model, work.task, device)
    else:
        model = work.model.to(memory_format=torch.channels_last)
        evaluate_ours(work, model, work.task, device, way)
    Path(out).write_text(str(peak_mib()))


if __name__ == "__main__":
    _child(*sys.argv[1:])
