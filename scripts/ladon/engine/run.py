"""A run: what the engine needs to know about it, and the folder where it leaves its traces."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import logging
import os
import platform
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ladon import __version__
from ladon.config import Config
from ladon.engine.classes import Classes
from ladon.engine.distributed import World
from ladon.engine.earlier import keep_best, put_last_away, remove_orphans
from ladon.engine.identity import differences, fingerprint, in_words
from ladon.engine.interrupt import StopRequest
from ladon.engine.locking import Locks
from ladon.engine.state import read_last
from ladon.engine.together import Member
from ladon.errors import LadonError, UsageError, cannot_write, why_not_written
from ladon.launch import checkout, own_command
from ladon.replacing import replacing
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
        classes: of its model; every dataset is held to them.
        best_before: where a resumed run wrote its best checkpoint before, if that is known.
    """

    task: Task
    config: Config
    world: World
    stop: StopRequest
    folder: Path
    args: argparse.Namespace
    seed: int
    member: Member = field(default_factory=Member)
    classes: Classes = field(default_factory=Classes)
    best_before: Path | None = None
    _locks: Locks = field(default_factory=Locks, repr=False)
    _last: dict[str, Any] | None = field(default=None, repr=False)

    @property
    def last_path(self) -> Path:
        """The checkpoint from which the run can be resumed."""
        return self.folder / "last.pt"

    @property
    def options(self) -> dict[str, Any]:
        """What the task's metric may want to know: ``num_classes``, ``iou_types``."""
        iou_types = getattr(self.args, "iou_types", None)
        return {"num_classes": self.classes.number, "iou_types": iou_types}

    def setting(self, name: str, section: str, default: Any) -> Any:
        """Returns what the command line says of ``name``, or else the config's section."""
        flag = getattr(self.args, name, None)
        return self.config.get(f"{section}.{name}") or default if flag is None else flag

    def dataset(self, dataset_id: str) -> Any:
        """Returns a dataset of the config, built when it is first asked for.

        Raises:
            DataError: if it cannot be used, or its classes are not the model's.
        """
        dataset = self.config.build(self.config.get("datasets")[dataset_id])
        self.classes.hold(dataset)
        return dataset

    def lock(self, best: Path | None) -> None:
        """Keeps other runs from the folder, and from the best checkpoint, until ``close``.

        Args:
            best: where a training writes it, None in a test.

        Raises:
            UsageError: another run is using one of them.
        """
        if not self.world.is_main:
            return
        other = "wait for its end or stop it, or choose another"
        self._locks.take(
            self.folder / ".lock", f"the run folder {self.folder}", f"{other} --run_log"
        )
        remove_orphans(self.folder)
        if best is not None:
            where = f"the checkpoint {best}"
            self._locks.take(best.with_name(f".{best.name}.lock"), where, f"{other} dst_ckpt")
            remove_orphans(best.parent, best.name)

    def close(self) -> None:
        """Lets other runs use the folder."""
        self._locks.release()

    def open_folder(self, best: Path | None = None) -> None:
        """Makes the folder and writes the resolved config and where the run comes from.

        A training that starts anew puts away what an earlier one left, before anything else.

        Args:
            best: where a training writes its best checkpoint, None in a test.

        Raises:
            UsageError: if ``last.pt`` is of another training.
            LadonError: if the folder cannot be written.
            CheckpointError: if ``last.pt`` is damaged.
        """
        if not self.world.is_main:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            resolved = self.folder / "config.yaml"
            is_resumed = self.args.resume and not self.args.test_only
            if is_resumed and self.last_path.is_file():
                self._check_identity()
            elif not self.args.test_only:
                self._start_anew(best)
            if self.args.resume and resolved.is_file():
                self._compare_with_before(resolved)
            resolved.write_text(self.config.dump(variables=False), encoding="utf-8")
            write_json(self.folder / "run.json", self._origin(best))
            if not self.args.test_only:
                # a finished result of an earlier run must not pass for this one's
                (self.folder / "metrics.json").unlink(missing_ok=True)
        except OSError as error:
            raise cannot_write(self.folder, error) from error

    def _start_anew(self, best: Path | None) -> None:
        overwrite = bool(getattr(self.args, "overwrite", False))
        if best is not None and not overwrite:
            keep_best(best, self.last_path)
        put_last_away(self.last_path, overwrite=overwrite)
        (self.folder / "metrics.jsonl").unlink(missing_ok=True)

    @property
    def identity(self) -> dict[str, str]:
        """What makes this training the one that it is."""
        adjusts = self.args.adjust_lr
        return fingerprint(self.config, self.seed, adjust_lr=adjusts)

    def _check_identity(self) -> None:
        """Refuses to go on with another training.

        Raises:
            UsageError: names what differs, and both values.
        """
        self._last = read_last(self.last_path)
        before, now = self._last.get("identity"), self.identity
        if not isinstance(before, Mapping):
            logger.warning(
                "--resume: %s is of an older version and does not say which training it is of: "
                "going on with it as with this one's",
                self.last_path,
            )
            return
        changed = differences(before, now)
        if changed:
            raise UsageError(
                f"--resume: {self.last_path} is of another training: "
                f"{in_words(changed, before, now)}; give it what it had, choose another --run_log, "
                "or leave out --resume to start anew"
            )

    def take_last(self) -> dict[str, Any] | None:
        """Returns what ``last.pt`` holds if it was read already; the second time None."""
        content, self._last = self._last, None
        return content

    def _compare_with_before(self, resolved: Path) -> None:
        """Warns if a resumed run is not quite the one that was interrupted."""
        now = self.config.dump(variables=False).splitlines()
        before = resolved.read_text("utf-8", errors="replace").splitlines()
        changed = [line.strip() for line in now if line not in before]
        if now != before:
            logger.warning(
                "--resume: the config differs from the one that %s began with: %s",
                *(self.folder, "; ".join(changed[:3]) or "lines were removed"),
            )
        try:
            best = json.loads((self.folder / "run.json").read_text("utf-8")).get("dst_ckpt")
        except (OSError, ValueError, AttributeError):
            return
        self.best_before = Path(best) if isinstance(best, str) else None

    def _origin(self, best: Path | None) -> dict[str, Any]:
        return {
            "command": own_command(),
            "config": str(self.config.path),
            "started": time.strftime("%Y-%m-%d %H:%M:%S"),
            "seed": self.seed,
            **({} if best is None else {"dst_ckpt": str(best)}),
            "device": str(self.world.device),
            "processes": self.world.size,
            "ladon": __version__,
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
            raise LadonError(f"cannot write {path}: {why_not_written(error)}") from error


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def git_revision() -> str | None:
    """Revision of this toolkit's checkout, with ``-dirty`` if files differ; None outside git.

    An installed package has none: it may lie in an environment in somebody's own repository.
    """
    root = checkout()
    if root is None:
        return None
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
    try:
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise LadonError(f"cannot write {path}: {why_not_written(error)}") from error
