"""Part `memory`: peak of the classification evaluation's process, either way; of a GPU, too."""

from __future__ import annotations

import multiprocessing
import re
import resource
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from ladon.benchmark.evaluation import evaluate_ours
from ladon.benchmark.parts import Bench
from ladon.benchmark.published import evaluate_published
from ladon.benchmark.results import Row
from ladon.benchmark.workload import CLASSIFICATION, make_workload
from ladon.choices import PRECISIONS
from ladon.cli import prepare_process
from ladon.modules import moved

PUBLISHED = "published"


def measure(bench: Bench) -> None:
    """Run both ways, each in processes of its own, without loader workers."""
    peaks = {
        way: [_in_new_process(bench, way) for _ in range(bench.repeats)]
        for way in (PUBLISHED, *PRECISIONS)
    }
    for precision in PRECISIONS:
        for place in peaks[PUBLISHED][0]:
            title = f"peak of {CLASSIFICATION}{place}: {precision} against published"
            ours, theirs = ([run[place] for run in peaks[w]] for w in (precision, PUBLISHED))
            bench.found.add(Row.of(title, "MiB", ours, theirs))


def _in_new_process(bench: Bench, way: str) -> dict[str, float]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=prepare_process) as pool:
        return pool.submit(_peaks, bench, way, torch.get_num_threads()).result()


def _peaks(bench: Bench, way: str, threads: int) -> dict[str, float]:
    """Evaluate; return peaks in MiB by place: of the host, and of the device if it is a GPU."""
    torch.set_num_threads(threads)
    device = torch.device(bench.device)
    work = make_workload(CLASSIFICATION, bench.folder, quick=bench.quick).without_workers()
    if way == PUBLISHED:
        evaluate_published(work, work.model.to(device), work.task, device)
    else:
        model = moved(work.model, device, torch.channels_last)
        evaluate_ours(work, model, work.task, device, way)
    peaks = {"": peak_mib()}
    if device.type == "cuda":
        peaks[" on the GPU"] = torch.cuda.max_memory_allocated(device) / 2**20
    return peaks


def peak_mib() -> float:
    """Return the most memory that this process ever held, in MiB.

    Linux's `getrusage` also counts the process that started this one, as a child is its copy
    until it executes something else; `VmHWM` begins with the program.
    """
    try:
        text = Path("/proc/self/status").read_text()
        return int(re.findall(r"^VmHWM:\s+(\d+) kB", text, re.MULTILINE)[0]) / 1024
    except (OSError, IndexError):  # no Linux
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)
