"""Part `startup`: from starting a task script to its first batch, and to its end after one batch.

The published way is not there to be run, so there is no ratio here.
"""

from __future__ import annotations

import json
import os
import subprocess
import time

import torch

from ladon.benchmark.parts import Bench, root
from ladon.benchmark.results import Row
from ladon.benchmark.workload import CLASSIFICATION, SOURCES, make_workload
from ladon.errors import LadonError
from ladon.launch import child_command
from ladon.models import write_checkpoint


def measure(bench: Bench) -> None:
    """Start the classification script several times on one batch of images."""
    work = make_workload(CLASSIFICATION, bench.folder / "data", quick=True)
    checkpoint = bench.folder / "student.pt"
    write_checkpoint(checkpoint, work.model, best_value=0.0)
    command = [
        *child_command(CLASSIFICATION),
        "-test_only",
        "-student_only",
        "--config",
        str(root() / SOURCES[CLASSIFICATION].config),
        "--device",
        bench.device,
        "--data_root",
        str(bench.folder / "data"),
        "--run_log",
        str(bench.folder / "run.txt"),
        "--set",
        f"models.student_model.dst_ckpt={checkpoint}",
    ]
    _run(bench, command)  # what the disk and the compilation cache then hold
    runs = [_run(bench, command) for _ in range(bench.repeats)]
    bench.found.facts["images"] = len(work.dataset)
    for number, title in enumerate(("until the first batch", "all of it")):
        seconds = [run[number] for run in runs]
        bench.found.add(Row.of(title, "s", seconds))


def _run(bench: Bench, command: list[str]) -> tuple[float, float]:
    """Seconds from the start to the first batch, as the script itself says, and to the end."""
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    start = time.perf_counter()
    done = subprocess.run(
        command, cwd=bench.folder, env=environment, capture_output=True, text=True
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        raise LadonError(f"{CLASSIFICATION} ended with {done.returncode}: {done.stderr[-300:]}")
    metrics = json.loads((bench.folder / "run" / "metrics.json").read_text(encoding="utf-8"))
    return metrics["startup_s"], seconds
