"""Part `memory`: peak of the classification evaluation's process, either way; of a GPU, too.

Each run is a process of its own:
`python -m ladon.benchmark.memory PRECISION|published FOLDER NUM DEVICE FILE.json`.
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import torch

from ladon.benchmark.evaluation import evaluate_ours
from ladon.benchmark.machine import peak_device_mib
from ladon.benchmark.pairing import against
from ladon.benchmark.parts import Bench
from ladon.benchmark.published import evaluate_published
from ladon.benchmark.results import PartResult
from ladon.benchmark.workload import make_workload
from ladon.choices import PRECISIONS
from ladon.errors import LadonError

NUM_IMAGES, QUICK_IMAGES = 32, 2
_TASK = "image_classification"
PUBLISHED = "published"
_PLACES = {"host": "", "device": " on the GPU"}


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
        for place in theirs[0]:
            title = f"peak of {_TASK}{_PLACES[place]}: {precision} against published"
            own, reference = ([run[place] for run in runs] for runs in (ours, theirs))
            found.measurements.append(against("MiB", title, own, reference))
    return found


def _run(bench: Bench, way: str, num_images: int) -> dict[str, float]:
    """Peaks in MiB by place: of the host, and of the device if it is a GPU."""
    out = bench.folder / "peak.json"
    environment = os.environ | {
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
        "PYTHONPATH": os.pathsep.join(sys.path),  # it finds what this process finds
    }
    done = subprocess.run(
        [
            *(sys.executable, "-m", __spec__.name, way, str(bench.folder / "data")),
            *(str(num_images), bench.device, str(out)),
        ],
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise LadonError(f"the {way} evaluation failed: {done.stderr.strip()[-300:]}")
    return json.loads(out.read_text())


def _child(way: str, folder: str, num_images: str, device_name: str, out: str) -> None:
    work = make_workload(_TASK, Path(folder), int(num_images))
    kwargs = (work.loader.get("kwargs") or {}) | {"num_workers": 0}
    work.loader = dict(work.loader) | {"kwargs": kwargs}
    device = torch.device(device_name)
    if way == PUBLISHED:
        evaluate_published(work, work.model.to(device), work.task, device)
    else:
        model = work.model.to(device, memory_format=torch.channels_last)
        evaluate_ours(work, model, work.task, device, way)
    peaks = {"host": peak_mib(), "device": peak_device_mib(device)}
    Path(out).write_text(json.dumps({k: v for k, v in peaks.items() if v is not None}))


if __name__ == "__main__":
    _child(*sys.argv[1:])
