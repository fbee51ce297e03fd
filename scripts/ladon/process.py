"""This process on its machine: how it keeps memory, and the cores it may use.

Imports nothing heavy: what is set here has to be set before torch allocates.
"""

from __future__ import annotations

import ctypes
import os

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
    """Number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
