"""This process on its machine: what it writes to, how it keeps memory, the cores it may use.

Imports nothing heavy: what is set here has to be set before torch allocates.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from ladon.errors import cannot_write, disk_failure

# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_MMAP_THRESHOLD = 32 << 20  # glibc refuses more on 64-bit systems


def run_script(main: Callable[[], int]) -> NoReturn:
    """Run a script's `main` and end the process with its exit code.

    What a terminal or a pipe cannot show (β on one that is not UTF-8, a file name that is no text)
    is written as an escape, and a reader that leaves early (`| head`) gets no traceback, nor does
    one whose disk is full.

    Args:
        main: returns the exit code, or raises SystemExit as argparse does.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    code: Any
    try:
        try:
            code = main()
        except SystemExit as stop:
            code = stop.code
        sys.stdout.flush()
    except BrokenPipeError:
        _forget_output()
        code = 1
    except OSError as error:
        if disk_failure(error) is None:
            raise
        try:  # the error does not say which file it was
            sys.stdout.write("\n")
            sys.stdout.flush()
        except OSError:
            _forget_output()
            error.filename = error.filename or "the standard output"
        sys.stderr.write(f"error: {cannot_write(error.filename or 'a file', error)}\n")
        code = 1
    sys.exit(code)


def _forget_output() -> None:
    """Drop what could not be written: Python would flush once more at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def keep_compiled_code(package: Path, home: Path | None = None) -> None:
    """Give numba a place for compiled code where it would find none, and could not be imported.

    It writes beside the source, else into the home folder; of a read-only checkout without a
    writable home, into a folder of this user's among the temporary ones.

    Args:
        package: folder of the source.
        home: the user's; what the system says if None.
    """
    if "NUMBA_CACHE_DIR" in os.environ:
        return
    home = Path(os.path.expanduser("~")) if home is None else home
    if any(map(_is_writable, (package / "__pycache__", home / ".cache"))):
        return
    folder = Path(tempfile.gettempdir()) / f"ladon-compiled-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        # code is loaded from there: it must be nobody else's
        if folder.is_symlink() or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise FileExistsError(folder)
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix="ladon-compiled-"))
    os.environ["NUMBA_CACHE_DIR"] = str(folder)


def _is_writable(folder: Path) -> bool:
    """Whether a file can be made in a folder, or in the one that it would have to be made in."""
    while not folder.is_dir():
        if folder.parent == folder:
            return False
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def keep_freed_memory() -> None:
    """Ask torch for large pages and glibc to keep what is freed; elsewhere nothing happens.

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


# read by the libraries when they are first used: a workspace of cuBLAS that gives the same each
# time; as many threads in each call, and one path through MKL whatever the memory's alignment
_PINNED = {
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "OMP_DYNAMIC": "FALSE",
    "MKL_DYNAMIC": "FALSE",
    "MKL_CBWR": "AUTO",
}


def pin_arithmetic() -> None:
    """Ask the libraries below torch for the same results each time, for `--deterministic`.

    What the environment says already stays.
    """
    for name, value in _PINNED.items():
        os.environ.setdefault(name, value)


def usable_cores() -> int:
    """Count the cores that this process may use: its share, where a run has several here."""
    there = os.cpu_count() or 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else there
    processes = _positive(os.environ.get("LOCAL_WORLD_SIZE"))
    if processes is None and cores == there:  # else SLURM has bound each task to its share
        processes = _positive(os.environ.get("SLURM_STEP_TASKS_PER_NODE")) or _positive(
            os.environ.get("SLURM_NTASKS_PER_NODE")
        )
    return max(1, cores // (processes or 1))


def _positive(text: str | None) -> int | None:
    """Read the number at the start of '4' or SLURM's '4(x2),3'; None if none is above 0."""
    found = re.match(r"\d+(?=$|[(,])", text.strip()) if text else None
    return int(found[0]) or None if found else None
