"""The machine that a benchmark runs on: what it is, and how many of its threads torch takes."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ladon.process import usable_cores


def cpu_name() -> str:
    """Return the CPU's model name."""
    try:
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:  # no Linux
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Return what the numbers depend on, as JSON values."""
    found = {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "vector_units": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "device": "cpu",
    }
    if device.type != "cuda":
        return found
    properties = torch.cuda.get_device_properties(device)
    return found | {
        "device": properties.name,
        "usable_cores": usable_cores(),
        "gpu_memory_gib": round(properties.total_memory / 2**30, 1),
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def machine_slug(machine: dict[str, Any]) -> str:
    """Return a file name for it, like `amd-epyc-2-cores`."""
    name = machine["cpu"] if machine["device"] == "cpu" else machine["device"]
    words = re.findall(r"[a-z0-9]+", re.sub(r"\((?:R|TM)\)", "", name).lower())
    return "-".join([*words, str(machine["cores"]), "cores"])


@contextmanager
def intraop_threads(count: int) -> Iterator[None]:
    """Set torch's threads inside one operation for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
