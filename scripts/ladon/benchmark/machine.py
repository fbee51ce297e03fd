"""The machine that a benchmark runs on: what it is, and how many of its threads torch takes."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ladon.engine.origin import PACKAGES
from ladon.process import usable_cores


def cpu_name() -> str:
    """Returns the CPU's model name."""
    try:
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:  # no Linux
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Returns what the numbers depend on, as JSON values."""
    cuda = device.type == "cuda"
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "vector_units": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if cuda else "cpu",
    }


def describe_gpu() -> dict[str, Any]:
    """Returns what numbers of the first GPU depend on, as JSON values."""
    device = torch.device("cuda", 0)
    properties = torch.cuda.get_device_properties(device)
    return describe_machine(device) | {
        "usable_cores": usable_cores(),
        "gpu_memory_gib": round(properties.total_memory / 2**30, 1),
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def package_versions() -> dict[str, str]:
    """Returns Python's version and those of the packages that matter, as far as they are there."""
    found = {"python": platform.python_version()}
    for package in (*PACKAGES, "torch", "numba", "pytest"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine_slug(machine: dict[str, Any]) -> str:
    """Returns a file name for it, like ``amd-epyc-2-cores``."""
    name = machine["cpu"] if machine["device"] == "cpu" else machine["device"]
    words = re.findall(r"[a-z0-9]+", re.sub(r"\((?:R|TM)\)", "", name).lower())
    return "-".join([*words, str(machine["cores"]), "cores"])


def clock_of(device: torch.device | str) -> Callable[[], float]:
    """Returns a clock in seconds that a device has caught up with whenever it is read.

    What is launched on a GPU is done some time later; a clock that did not wait for it would
    time the launches.
    """
    device = torch.device(device)
    if device.type != "cuda":
        return time.perf_counter

    def clock() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return clock


def peak_device_mib(device: torch.device) -> float | None:
    """Returns the most that torch held on a GPU since its last reset, in MiB; None on a CPU."""
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None


def reset_peak(device: torch.device) -> None:
    """Begins anew to look for the most that torch holds on a GPU."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


@contextmanager
def intraop_threads(count: int) -> Iterator[None]:
    """Sets torch's threads inside one operation for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
