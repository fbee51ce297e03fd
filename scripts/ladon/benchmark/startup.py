"""Part `startup`: from starting a task script to the end of its first batch.

The published way is not there to be run, so there is no ratio here.
"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import torch

from ladon.benchmark.parts import Bench, root
from ladon.benchmark.results import Measurement, PartResult, Spread
from ladon.benchmark.workload import SOURCES, make_workload
from ladon.errors import LadonError
from ladon.launch import child_command
from ladon.models import write_checkpoint

_TASK = "image_classification"
_NUM_IMAGES = 2  # one batch
# what a script logs when it gets there; lines arrive as they are written
MARKS = {
    "imports and config": "\tConfig ",
    "model and checkpoint": "\tLoaded ",
    "first batch": "\t * Acc@1 ",
}


def measure(bench: Bench) -> PartResult:
    """Starts the classification script several times on one batch of images."""
    work = make_workload(_TASK, bench.folder / "data", _NUM_IMAGES)
    checkpoint = bench.folder / "student.pt"
    write_checkpoint(checkpoint, work.model, best_value=0.0)
    command = [
        *(*child_command(_TASK), "-test_only", "-student_only"),
        *("--config", str(root() / SOURCES[_TASK].config), "--device", bench.device),
        *("--data_root", str(bench.folder / "data"), "--run_log", str(bench.folder / "run.txt")),
        *("--set", f"models.student_model.dst_ckpt={checkpoint}"),
    ]
    _times(command, bench.folder)  # what the disk and the compilation cache then hold
    runs = [_times(command, bench.folder) for _ in range(bench.repeats)]
    measurements = [Measurement("until the first batch is done", "s", Spread.of(map(max, runs)))]
    begin = [0.0] * len(runs)
    for number, name in enumerate(MARKS):
        end = [run[number] for run in runs]
        spread = Spread.of(b - a for a, b in zip(begin, end, strict=True))
        measurements.append(Measurement(f"of these, {name}", "s", spread))
        begin = end
    return PartResult(measurements=measurements, facts={"images in the first batch": _NUM_IMAGES})


def _times(command: list[str], folder: Path) -> list[float]:
    """Seconds from the start to each mark.

    Raises:
        LadonError: if the script fails.
    """
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    start, waited, lines = time.perf_counter(), list(MARKS.values()), []
    times: list[float] = []
    with subprocess.Popen(
        command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        for line in process.stderr:
            lines.append(line)
            if len(times) < len(waited) and waited[len(times)] in line:
                times.append(time.perf_counter() - start)
    if process.returncode or len(times) < len(waited):
        raise LadonError(
            f"{_TASK} ended with {process.returncode} before its first batch: "
            f"{''.join(lines[-3:]).strip()}"
        )
    return times
