"""This process on its machine: how it keeps memory, and the cores it may use.

Imports nothing heavy: what is set here has to be set before torch allocates.
"""

from __future__ import annotations

import ctypes
import os
import re

# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_MMAP_THRESHOLD = 32 << 20  # glibc refuses more on 64-bit systems


def keep_freed_memory() -> None:
    """Asks torch for large pages and glibc to keep what is freed; elsewhere nothing happens.

    An activation of 20 MB is 5,000 pages; where each is returned to the system when it is freed,
    each next one is 5,000 page faults: about a tenth of a CPU run.
    """
    # read once by torch, before its first tensor; without effect where the system has none
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return
    mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def usable_cores() -> int:
    """Number of cores that this process may use: its share, where a run has several here."""
    there = os.cpu_count() or 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else there
    processes = _positive(os.environ.get("LOCAL_WORLD_SIZE"))
    if processes is None and cores == there:  # else SLURM has bound each task to its share
        processes = _positive(os.environ.get("SLURM_STEP_TASKS_PER_NODE")) or _positive(
            os.environ.get("SLURM_NTASKS_PER_NODE")
        )
    return max(1, cores // (processes or 1))


def _positive(text: str | None) -> int | None:
    """Number at the start of text like '4' or SLURM's '4(x2),3'; None if there is none above 0."""
    found = re.match(r"\d+(?=$|[(,])", text.strip()) if text else None
    return int(found[0]) or None if found else None
