"""What jobs are given on a cluster: their errands, cores and GPUs."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from ladon.errors import UsageError
from ladon.sweeps.engines import LINES_KEPT
from ladon.sweeps.errand import Errand


@dataclass(frozen=True)
class Resources:
    """What each job needs.

    Args:
        gpus: GPUs; with several, a process runs on each of them.
        cpus: cores.
    """

    gpus: int = 0
    cpus: int = 1

    def errand(self, command: Sequence[str], resumed: Sequence[str]) -> Errand:
        """Return what a node is to run, in this folder.

        Args:
            command: program and arguments.
            resumed: the same, for when it was begun before.
        """
        # where the datasets are, and what else this project is told by variables
        env = {name: value for name, value in os.environ.items() if name.startswith("LADON_")}
        if not self.gpus:
            env["OMP_NUM_THREADS"] = str(self.cpus)
        commands = self._on_all_gpus(command), self._on_all_gpus(resumed)
        return Errand(*commands, str(Path.cwd()), env, LINES_KEPT)

    def _on_all_gpus(self, command: Sequence[str]) -> list[str]:
        """Return the command that starts a process per GPU."""
        if self.gpus < 2:
            return list(command)
        python, *words = command
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={self.gpus}"]
        # what stands before a module's name are Python's own flags, which torchrun does not take
        at = words.index("-m") if "-m" in words[:2] else 0
        return [python, *words[:at], *launcher, *words[at:]]


def library(name: str, engine: str) -> ModuleType:
    """Import an engine's library.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageError(
            f"--engine {engine} needs {name}: pip install {name} (or this package with its extra "
            f"'cluster'): {error}"
        ) from error


def by_value(pickler: ModuleType) -> None:
    """Have errands travel with their code."""
    pickler.register_pickle_by_value(importlib.import_module(Errand.__module__))
