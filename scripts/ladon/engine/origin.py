"""Where a run comes from: program, packages, revision of the checkout, age of the process."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

from ladon import __version__
from ladon.launch import checkout, own_command

PACKAGES = (
    "torch",
    "torchvision",
    "sc2bench",
    "torchdistill",
    "compressai",
    "timm",
    "numpy",
    "pycocotools",
    "faster-coco-eval",
)


def program() -> dict[str, Any]:
    """Command and versions, as `run.json` keeps them."""
    return {
        "command": own_command(),
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
        "ladon": __version__,
        "git": git_revision(),
        "python": platform.python_version(),
        "packages": package_versions(),
    }


def package_versions() -> dict[str, str | None]:
    """Return the version of each package that results depend on, None if it is not there."""
    return {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def git_revision() -> str | None:
    """Revision of this toolkit's checkout, with `-dirty` if files differ; None outside git.

    An installed package has none: it may lie in an environment in somebody's own repository.
    """
    root = checkout()
    if root is None:
        return None
    try:
        done = subprocess.run(  # nosec B607 # the person's own git, wherever it is
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def seconds_since_start() -> float | None:
    """Seconds since this process was started, imports included; None where that is not known."""
    try:
        # field 22 of proc_pid_stat(5): clock ticks between the machine's start and the process's;
        # the second field, a name in brackets, may hold spaces
        fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started
    except (OSError, AttributeError):  # not Linux
        return None
