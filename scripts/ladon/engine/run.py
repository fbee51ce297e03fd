"""A run: what the engine needs to know about it, and the folder where it leaves its traces."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import logging
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ladon.config import Config
from ladon.engine.distributed import World
from ladon.engine.interrupt import StopRequest
from ladon.engine.together import Member
from ladon.errors import LadonError, UsageError
from ladon.tasks import Task

logger = logging.getLogger(__name__)

PACKAGES = (
    *("torch", "torchvision", "sc2bench", "torchdistill", "compressai", "timm"),
    *("numpy", "pycocotools", "faster-coco-eval"),
)


@dataclass
class Run:
    """One run of a task script.

    Attributes:
        task: the task's adapter.
        config: the resolved config.
        world: device and processes.
        stop: set by Ctrl-C or SIGTERM.
        folder: where its files go.
        args: the command line.
        seed: all randomness follows from it.
        member: its place among the runs of this process.
    """

    task: Task
    config: Config
    world: World
    stop: StopRequest
    folder: Path
    args: argparse.Namespace
    seed: int
    member: Member = field(default_factory=Member)

    @property
    def last_path(self) -> Path:
        """The checkpoint from which the run can be resumed."""
        return self.folder / "last.pt"

    @property
    def options(self) -> dict[str, Any]:
        """What the task's metric may want to know: ``num_classes``, ``iou_types``."""
        num_classes = getattr(self.args, "num_classes", None)
        if num_classes is None:
            section = self.config.section("models.model")
            num_classes = (section.get("kwargs") or {}).get("num_classes")
        return {"num_classes": num_classes, "iou_types": getattr(self.args, "iou_types", None)}

    def setting(self, name: str, section: str, default: Any) -> Any:
        """Returns what the command line says of ``name``, or else the config's section."""
        flag = getattr(self.args, name, None)
        return self.config.get(f"{section}.{name}") or default if flag is None else flag

    def dataset(self, dataset_id: str) -> Any:
        """Returns a dataset of the config, built when it is first asked for."""
        return self.config.build(self.config.get("datasets")[dataset_id])

    def open_folder(self) -> None:
        """Makes the folder and writes the resolved config and where the run comes from.

        Raises:
            UsageError: if the folder cannot be written.
        """
        if not self.world.is_main:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            resolved = self.folder / "config.yaml"
            if self.args.resume and resolved.is_file():
                self._compare_with_before(resolved)
            resolved.write_text(self.config.dump(), encoding="utf-8")
            write_json(self.folder / "run.json", self._origin())
            if not self.args.test_only:
                # a finished result of an earlier run must not pass for this one's
                (self.folder / "metrics.json").unlink(missing_ok=True)
        except OSError as error:
            raise UsageError(f"{self.folder}: cannot be written: {error.strerror}") from error

    def _compare_with_before(self, resolved: Path) -> None:
        """Warns if a resumed run is not quite the one that was interrupted."""
        now, before = self.config.dump().splitlines(), resolved.read_text("utf-8").splitlines()
        changed = [line.strip() for line in now if line not in before]
        if now != before:
            logger.warning(
                "--resume: the config differs from the one that %s began with: %s",
                *(self.folder, "; ".join(changed[:3]) or "lines were removed"),
            )
        try:
            seed = json.loads((self.folder / "run.json").read_text("utf-8")).get("seed")
        except (OSError, ValueError):
            return
        if seed != self.seed:
            logger.warning("--resume: --seed was %s before and is %s now", seed, self.seed)

    def _origin(self) -> dict[str, Any]:
        return {
            "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
            "config": str(self.config.path),
            "started": time.strftime("%Y-%m-%d %H:%M:%S"),
            "seed": self.seed,
            "device": str(self.world.device),
            "processes": self.world.size,
            "git": git_revision(),
            "python": platform.python_version(),
            "packages": {name: _version(name) for name in PACKAGES},
        }

    def log_epoch(self, record: Mapping[str, Any]) -> None:
        """Adds a line to ``metrics.jsonl``.

        Raises:
            LadonError: if it cannot be written.
        """
        if not self.world.is_main:
            return
        path = self.folder / "metrics.jsonl"
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise LadonError(f"cannot write {path}: {error.strerror}") from error


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def git_revision() -> str | None:
    """Revision of this toolkit's checkout, with ``-dirty`` if files differ; None outside git."""
    root = Path(__file__).resolve().parents[3]
    try:
        done = subprocess.run(
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


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file, whole or not at all.

    Raises:
        LadonError: if it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise LadonError(f"cannot write {path}: {error.strerror}") from error
