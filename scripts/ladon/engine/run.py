"""A run of a task script: what it is told, what it computes on, and where it leaves its traces."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ladon.config import Config, check_config, load_config
from ladon.config.validate.registries import entries
from ladon.data.bad_samples import BadSamples
from ladon.engine.classes import Classes
from ladon.engine.deterministic import arithmetic
from ladon.engine.distributed import World
from ladon.engine.earlier import keep_best, put_last_away, remove_orphans
from ladon.engine.identity import differences, fingerprint, in_words
from ladon.engine.interrupt import StopRequest
from ladon.engine.last_file import LastFile
from ladon.engine.locking import Locks
from ladon.engine.origin import program
from ladon.engine.plan import TEACHER, Plan, read_plan
from ladon.errors import ConfigError, LadonError, UsageError, cannot_write
from ladon.logs import add_log_file
from ladon.paths import run_folder, run_log_path
from ladon.replacing import write_json
from ladon.tasks import Task
from ladon.tracking import TRAINING_FILES, Journal, open_journal
from ladon.tracking.parameters import parameters

logger = logging.getLogger(__name__)


def load_run_config(task: Task, args: argparse.Namespace) -> Config:
    """Read and check the config that the command line names.

    Args:
        task: the task that is to run.
        args: flags from `ladon.cli.build_parser`.

    Raises:
        ConfigError: if it cannot be used.
    """
    config = load_config(
        args.config,
        overrides=args.json,
        assignments=args.assignments,
        data_root=args.data_root,
    )
    config.import_dependencies()
    check_config(config, task.model_kind)
    return config


@dataclass
class Run:
    """One run of a task script.

    Attributes:
        task: the task, with the metric that the config names, if it does.
        args: the command line.
        config: the resolved config.
        world: device and processes.
        stop: set by Ctrl-C or SIGTERM.
        beta: its β as the user typed it, where several runs share this process (`ladon.fused`).
        fused_with: the β of the others.
        classes: of its model; every dataset is held to them.
        bad_samples: what its training has replaced so far, over all processes (`share_bad`).
        best_before: where a resumed run wrote its best checkpoint before, if that is known.
        journal: is told how it goes; nobody listens in a dry run and in other processes.
        tested_files: checkpoints of the models that it tests, by role.
        script: name of the task as people start it; with the config's metric it has another.
    """

    task: Task
    args: argparse.Namespace
    config: Config
    world: World
    stop: StopRequest
    beta: str | None = None
    fused_with: tuple[str, ...] = ()
    classes: Classes = field(default_factory=Classes)
    bad_samples: BadSamples = field(default_factory=BadSamples)
    best_before: Path | None = None
    journal: Journal = field(default_factory=Journal, repr=False)
    tested_files: dict[str, list[Path]] = field(default_factory=dict)
    script: str = field(init=False)
    _locks: Locks = field(default_factory=Locks, repr=False)
    _last: dict[str, Any] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Take the metric that the config names."""
        self.script = self.task.name
        section = self.config.build(self.config.section("metric"))
        if section:
            metric: Any = entries("metric")[section["key"]]
            args, kwargs = section.get("args") or (), section.get("kwargs") or {}
            self.task = self.task.scored_by(lambda: metric(*args, **kwargs), metric.scores)

    @property
    def seed(self) -> int:
        """Where all of its randomness comes from."""
        return self.args.seed

    @cached_property
    def folder(self) -> Path:
        """Where its files go."""
        return run_folder(self.args.config, self.args.run_log)

    @cached_property
    def plan(self) -> Plan:
        """Its stages.

        Raises:
            ConfigError: if its config has no `train` section.
        """
        return read_plan(self.config)

    @property
    def last_path(self) -> Path:
        """The checkpoint from which the run can be resumed."""
        return self.last.path

    @cached_property
    def last(self) -> LastFile:
        """That checkpoint, and the one before it."""
        return LastFile(self.folder / "last.pt")

    @cached_property
    def student_key(self) -> str:
        """Where the config has the model that is trained or tested.

        Raises:
            ConfigError: if it is nowhere.
        """
        found = self._find_student()
        if found is None:
            names = " or ".join(f"models.{section}" for section in self.task.student_sections)
            raise ConfigError(f"{self.config.path}: has no {names}")
        return found

    def _find_student(self) -> str | None:
        keys = (f"models.{section}" for section in self.task.student_sections)
        return next((key for key in keys if key in self.config), None)

    @cached_property
    def student_section(self) -> dict[str, Any]:
        """The section of that model, built."""
        return self.config.build(self.config.section(self.student_key))

    @property
    def best_path(self) -> Path:
        """Where a training writes its best checkpoint."""
        return Path(self.student_section["dst_ckpt"]).expanduser()

    @property
    def wants_teacher(self) -> bool:
        """Whether the run has a teacher and needs it."""
        return TEACHER in self.config and not (self.args.test_only and self.args.student_only)

    @property
    def options(self) -> dict[str, Any]:
        """Options of the task's metric: `num_classes`, `iou_types`."""
        iou_types = getattr(self.args, "iou_types", None)
        return {"num_classes": self.classes.number, "iou_types": iou_types}

    def setting(self, name: str, section: str, default: Any) -> Any:
        """Return what the command line says of `name`, or else the config's section."""
        flag = getattr(self.args, name, None)
        return self.config.get(f"{section}.{name}") or default if flag is None else flag

    @property
    def skips_bad(self) -> bool:
        """Whether training goes on without samples that cannot be loaded."""
        return self.setting("on_bad_sample", "train", "error") == "skip"

    def share_bad(self) -> BadSamples:
        """Bring to the main process what all have replaced; every process must call it."""
        if self.skips_bad and self.world.distributed:
            states = self.world.gather(self.bad_samples.state())
            if self.world.is_main:
                self.bad_samples.join(states[1:])
            else:
                self.bad_samples.load(None)
        return self.bad_samples

    def place(self, key: str) -> str:
        """Return a key of the config with file and line, for messages."""
        return f"{key} in {self.config.where(key)}"

    def dataset(self, dataset_id: str) -> Any:
        """Return a dataset of the config whose labels mean what they mean to the model.

        Raises:
            DataError: if it cannot be used, or its classes are not the model's.
        """
        dataset = self.build_dataset(dataset_id)
        self.classes.hold(dataset)
        return dataset

    def build_dataset(self, dataset_id: str) -> Any:
        """Return a dataset of the config, built when it is first asked for.

        Raises:
            DataError: if it cannot be used.
        """
        return self.config.build(self.config.get("datasets")[dataset_id])

    def open(self) -> None:
        """Open the run's log and folder, unless it is a dry run; other runs are kept from both.

        Raises:
            UsageError: another run is using the folder or the best checkpoint, `last.pt` is of
                another training, or `--start_epoch` leaves nothing to train.
            LadonError: if something cannot be written.
            CheckpointError: if `last.pt` is damaged.
            ConfigError: if the config has no model for this task.
        """
        args, config = self.args, self.config
        if not args.test_only and config.section("train"):
            self._check_start()
        if not args.dry_run:
            best = self._best_named()
            self._lock(best)  # before anything is written, into the log of the other run, too
            if self.world.is_main:
                add_log_file(run_log_path(args.config, args.run_log), self.beta)
            elif self.world.board is not None:
                self.world.board.log_file = run_log_path(args.config, args.run_log)
            self._open_folder(best)
            if self.world.is_main:
                self.journal = open_journal(self.folder, args, self._parameters)
        logger.info("Config %s, device %s, seed %d", config.path, self.world.device, self.seed)
        if args.log_config:
            logger.info("Resolved config:\n%s", config.dump())
        _ = self.student_section  # what is wrong with it stands in the log, too

    def close(self) -> None:
        """Let other runs use the folder, once nothing is written there any more."""
        if "last" in self.__dict__:
            self.last.wait()
        with suppress(LadonError):  # a run that came to its end has closed it: this one failed
            self.journal.close()
        self._locks.release()

    def _check_start(self) -> None:
        epochs = self.plan.num_epochs
        if self.args.start_epoch >= epochs:
            raise UsageError(
                f"--start_epoch {self.args.start_epoch}: {self.config.path} trains {epochs} "
                f"epochs, 0 to {epochs - 1}: nothing would be left to train"
            )

    def _best_named(self) -> Path | None:
        """Where a training is to write its best checkpoint, as far as the config says it."""
        key = self._find_student()
        path = None if key is None or self.args.test_only else self.config.get(f"{key}.dst_ckpt")
        return Path(path).expanduser() if isinstance(path, str) and path else None

    def _lock(self, best: Path | None) -> None:
        """Keep other runs from the folder, and from the best checkpoint, until `close`.

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

    def _open_folder(self, best: Path | None) -> None:
        """Make the folder and write the resolved config and where the run comes from.

        A training that starts anew puts away what an earlier one left, before anything else.

        Args:
            best: where a training writes its best checkpoint, None in a test.

        Raises:
            UsageError: if `last.pt` is of another training.
            LadonError: if the folder cannot be written.
            CheckpointError: if `last.pt` is damaged.
        """
        if not self.world.is_main:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            resolved = self.folder / "config.yaml"
            is_resumed = self.args.resume and not self.args.test_only
            if is_resumed and self.last_path.is_file():
                self._check_identity()
                self.last.mend()
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
        for name in TRAINING_FILES:
            (self.folder / name).unlink(missing_ok=True)

    @property
    def identity(self) -> dict[str, str]:
        """The identity of this training, as text by dotted key."""
        adjusts = self.args.adjust_lr
        return fingerprint(self.config, self.plan, self.seed, adjust_lr=adjusts)

    def _check_identity(self) -> None:
        """Refuse to go on with another training.

        Raises:
            UsageError: names what differs, and both values.
        """
        self._last = self.last.read()
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
        """Return what `last.pt` holds if it was read already; the second time None."""
        content, self._last = self._last, None
        return content

    def _compare_with_before(self, resolved: Path) -> None:
        """Warn if a resumed run is not quite the one that was interrupted."""
        now = self.config.dump(variables=False).splitlines()
        before = resolved.read_text("utf-8", errors="replace").splitlines()
        changed = [line.strip() for line in now if line not in before]
        if now != before:
            logger.warning(
                "--resume: the config differs from the one that %s began with: %s",
                self.folder,
                "; ".join(changed[:3]) or "lines were removed",
            )
        try:
            before = json.loads((self.folder / "run.json").read_text("utf-8"))
            best, threads = before.get("dst_ckpt"), before.get("threads")
        except (OSError, ValueError, AttributeError):
            return
        self.best_before = Path(best) if isinstance(best, str) else None
        here = arithmetic()["threads"]
        if getattr(self.args, "deterministic", False) and threads not in (None, here):
            logger.warning(
                "--resume: %s threads here, %s when %s began: weights will differ in rounding; set "
                "OMP_NUM_THREADS=%s for the same ones",
                *(here, threads, self.folder, threads),
            )

    def _origin(self, best: Path | None) -> dict[str, Any]:
        return {
            "config": str(self.config.path),
            "seed": self.seed,
            **({} if best is None else {"dst_ckpt": str(best)}),
            "device": str(self.world.device),
            "processes": self.world.size,
            "shown": self.task.view.as_plain(),
            "stages": self._stages(),
            "deterministic": bool(getattr(self.args, "deterministic", False)),
            **arithmetic(),
            **program(),
        }

    def _stages(self) -> list[dict[str, Any]]:
        """Return the stages of a training, for whoever watches it."""
        if self.args.test_only or not self.config.section("train"):
            return []
        return [{"name": plan.name, "epochs": plan.num_epochs} for plan in self.plan.stages]

    def _parameters(self) -> dict[str, Any]:
        """Return what clients are told first; not the command line, which may hold anything."""
        names = ("seed", "device", "processes", "started", "ladon", "git", "python")
        origin = self._origin(None)
        facts = {name: origin[name] for name in names} | {"task": self.task.name}
        return parameters(self.config.dump(variables=False), facts)

    def log_epoch(self, record: Mapping[str, Any]) -> None:
        """Tell the journal of an epoch, which is a line of `metrics.jsonl` and `metrics.csv`.

        Raises:
            LadonError: if it cannot be written.
        """
        self.journal.epoch(record)
