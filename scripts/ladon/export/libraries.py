"""The coder's C compiled for devices, as far as there are compilers."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

from ladon.codec.rans_native import SOURCE, NativeRans, library_name
from ladon.errors import LadonError

MACHINES = ("x86_64", "aarch64")
"""Kinds of processors, by their names in `uname -m`."""

# it needs no library, neither glibc of some version nor musl
_FLAGS = ("-std=c99", "-O2", "-shared", "-fPIC", "-nostdlib", "-s")
_SECONDS = 60


def build_libraries(folder: Path) -> list[str]:
    """Compile the coder for each kind of processor.

    Args:
        folder: gets `librans-….so`.

    Returns:
        Of each kind for which there is none, a line that says why, and what to do.
    """
    missing = []
    for machine in MACHINES:
        path = folder / library_name(machine)
        try:
            _compile(machine, path)
            if machine == platform.machine():
                NativeRans(path)
        except LadonError as error:
            path.unlink(missing_ok=True)
            package = f"gcc-{machine.replace('_', '-')}-linux-gnu"
            missing.append(
                f"no {path.name}: {error}. On such a device Python codes, slower, the same bytes. "
                f"Install a compiler before you export (Debian's {package}), or compile it there: "
                f"cc -O2 -shared -fPIC -o {path.name} ladon/codec/rans.c"
            )
    return missing


def _compile(machine: str, path: Path) -> None:
    compiler = "cc" if machine == platform.machine() else f"{machine}-linux-gnu-gcc"
    if shutil.which(compiler) is None:
        raise LadonError(f"there is no compiler {compiler} here")
    command = [compiler, *_FLAGS, "-o", str(path), str(SOURCE)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LadonError(f"{compiler} cannot be run: {' '.join(str(error).split())}") from error
    if done.returncode:
        said = " ".join(done.stderr.split())[-300:]
        raise LadonError(f"{compiler} fails: {said}")
