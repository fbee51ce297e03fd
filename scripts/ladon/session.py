"""One run of a task script: its config, its models, and what it writes."""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ladon.backbones import backbone_name
from ladon.config import Config, check_config, load_config
from ladon.engine.distributed import World
from ladon.engine.evaluate import Evaluation
from ladon.engine.interrupt import StopRequest
from ladon.engine.plan import TEACHER, build_stage_section, read_plan
from ladon.engine.randomness import seed_everything
from ladon.engine.rehearsal import rehearse
from ladon.engine.run import Run, write_json
from ladon.engine.stage import Stage, setting_up
from ladon.engine.together import Member
from ladon.errors import CheckpointError, ConfigError, UsageError
from ladon.logs import add_log_file
from ladon.models import (
    Checkpoint,
    build_model,
    check_writable,
    has_pretrained_weights,
    is_updated,
    load_into,
    read_checkpoint,
    update_bottleneck,
    write_checkpoint,
)
from ladon.models.build import on_meta_device
from ladon.models.describe import num_classes_of
from ladon.models.ladon import ThreeHeadedLadon
from ladon.paths import run_folder, run_log_path
from ladon.tasks import Task

logger = logging.getLogger(__name__)


class Session:
    """A run from its flags to its results; ``ladon.app`` says in which order.

    Attributes:
        config: the resolved config, once it is loaded.
        run: the run, once it is open.
        student: the model that is trained or tested, once it is built.
        results: what the test found, by role.

    Args:
        task: the task.
        args: flags from ``ladon.cli.build_parser``.
        member: its place among the runs of this process.
    """

    config: Config
    run: Run
    student: nn.Module

    def __init__(self, task: Task, args: argparse.Namespace, member: Member) -> None:
        self.task, self.args, self.member = task, args, member
        self.results: dict[str, Evaluation] = {}

    def load_config(self) -> None:
        """Reads and checks the config.

        Raises:
            ConfigError: if it cannot be used.
        """
        args = self.args
        self.config = load_config(
            args.config,
            overrides=args.json,
            assignments=args.assignments,
            data_root=args.data_root,
        )
        self.config.import_dependencies()
        check_config(self.config, self.task.model_kind)
        if not args.test_only and self.config.section("train"):
            epochs = read_plan(self.config).num_epochs
            if args.start_epoch >= epochs:
                raise UsageError(
                    f"--start_epoch {args.start_epoch}: {self.config.path} trains {epochs} epochs, "
                    f"0 to {epochs - 1}: nothing would be left to train"
                )

    def open(self, world: World, stop: StopRequest) -> None:
        """Opens the log and the run folder, unless it is a dry run."""
        args, config = self.args, self.config
        folder = run_folder(args.config, args.run_log)
        self.run = Run(self.task, config, world, stop, folder, args, args.seed, self.member)
        sections = [s for s in self.task.student_sections if f"models.{s}" in config]
        best = None
        if sections and not args.test_only:
            path = config.get(f"models.{sections[0]}.dst_ckpt")
            best = Path(path).expanduser() if isinstance(path, str) and path else None
        if not args.dry_run:
            self.run.lock(best)  # before anything is written, into the log of the other run, too
            if world.is_main:
                add_log_file(run_log_path(args.config, args.run_log), self.member.beta)
            self.run.open_folder(best)
        logger.info("Config %s, device %s, seed %d", config.path, world.device, args.seed)
        if args.log_config:
            logger.info("Resolved config:\n%s", config.dump())
        if not sections:
            names = " or ".join(f"models.{s}" for s in self.task.student_sections)
            raise ConfigError(f"{config.path}: has no {names}")
        self._student_key = f"models.{sections[0]}"
        self._student_section = config.build(config.section(self._student_key))

    def close(self) -> None:
        """Lets other runs use what this one had for itself."""
        if hasattr(self, "run"):
            self.run.close()

    @property
    def best_path(self) -> Path:
        """Where the best checkpoint goes."""
        return Path(self._student_section["dst_ckpt"]).expanduser()

    @property
    def wants_teacher(self) -> bool:
        """Whether the run has a teacher and needs it."""
        return TEACHER in self.config and not (self.args.test_only and self.args.student_only)

    def dry_run(self) -> None:
        """Builds everything but data and weights, and runs each stage once on nothing."""
        run, config, meta = self.run, self.config, torch.device("meta")
        with on_meta_device():
            student = self._build(self._student_section, self._student_key, replaced=True)
            teacher = None
            if self.wants_teacher:
                section = config.build(config.section(TEACHER))
                teacher = self._build(section, TEACHER, replaced=True)
        if not run.args.test_only:
            for plan in read_plan(config).stages:
                where, section = self._where(plan.key), build_stage_section(config, plan)
                with setting_up(where):
                    stage = Stage(section, student, teacher, 1, World(meta))
                if (batch := self.task.example(meta)) is not None:
                    try:
                        rehearse(stage, batch)
                    except ConfigError as error:
                        raise ConfigError(f"{where}: {error}") from error
                stage.close()
        logger.info("Dry run: nothing wrong with %s", config.path)

    def _build(self, section: Mapping[str, Any], key: str, *, replaced: bool) -> nn.Module:
        seed_everything(self.run.seed)  # each model's first weights depend on the seed alone
        return build_model(section, self.task.model_kind, key, replaced=replaced)

    def _build_from(
        self, section: Mapping[str, Any], key: str, name: str | None
    ) -> tuple[nn.Module, Checkpoint | None]:
        """Builds a model on the run's device, from the checkpoint under ``name`` if one is given.

        The checkpoint is read first: what is wrong with it shows before anything is built.
        """
        checkpoint = None
        if name is not None:
            checkpoint = read_checkpoint(section[name], self._where(f"{key}.{name}"))
        model = self._build(section, key, replaced=checkpoint is not None)
        if checkpoint is not None:
            load_into(model, checkpoint)
            logger.info("Loaded %s", checkpoint.path)
        return model.to(self.run.world.device, memory_format=torch.channels_last), checkpoint

    def build_teacher(self) -> nn.Module:
        """Returns the teacher, in eval mode; never with random weights."""
        key, config = TEACHER, self.config
        section = config.build(config.section(key))
        source = section.get("src_ckpt")
        pretrained = has_pretrained_weights(section)
        if source is not None and pretrained and not _exists(source):
            logger.warning(
                "%s.src_ckpt: %s not found; the teacher keeps its pretrained weights", key, source
            )
            source = None
        if source is None and not pretrained:
            raise CheckpointError(
                f"{config.where(key)}: the teacher has neither pretrained weights nor "
                "src_ckpt; random weights are no teacher"
            )
        name = "src_ckpt" if source is not None else None
        teacher, checkpoint = self._build_from(section, key, name)
        if checkpoint is not None:
            self.run.classes.teacher = checkpoint.classes
        return teacher.eval()

    def build_student(self) -> None:
        """Builds the student that is to be tested or trained."""
        self.student = self._build_tested() if self.args.test_only else self._build_trained()
        self.run.classes.number = self._num_classes()

    def _build_tested(self) -> nn.Module:
        """Builds the student with the weights that are to be tested; never random ones."""
        section, key = self._student_section, self._student_key
        name = next((n for n in ("dst_ckpt", "src_ckpt") if section.get(n)), None)
        brings_its_own = section["key"] == "ladon" or has_pretrained_weights(section)
        if name is None and not brings_its_own:
            raise CheckpointError(
                f"{self.config.where(key)}: names neither dst_ckpt nor src_ckpt nor "
                "pretrained weights: there is nothing to test"
            )
        model, checkpoint = self._build_from(section, key, name)
        classes = self.run.classes
        if checkpoint is not None:
            classes.take(checkpoint.classes, f"the checkpoint {checkpoint.path}")
        elif isinstance(model, ThreeHeadedLadon):
            head = model.answering = self.task.model_kind
            classes.take(model.class_names.get(head), f"the {head} checkpoint")
        if classes.names is None:
            classes.take_from_training(self.config)
        return model

    def _num_classes(self) -> int | None:
        """Returns how many classes the student has, by the command line or by its head."""
        asked = getattr(self.args, "num_classes", None)
        if asked is not None:
            return asked
        student = self.student
        if isinstance(student, ThreeHeadedLadon):
            return num_classes_of(student.head_state(self.task.model_kind))
        kwargs = self._student_section.get("kwargs") or {}
        return num_classes_of(student.state_dict()) or kwargs.get("num_classes")

    def _build_trained(self) -> nn.Module:
        """Builds the student that is to be trained, once it is sure that it can be saved."""
        config, section, key = self.config, self._student_section, self._student_key
        best = section.get("dst_ckpt")
        if not best:
            raise ConfigError(
                f"{config.where(key)}: training needs {key}.dst_ckpt to write the best model to"
            )
        if not config.section("train"):
            raise ConfigError(f"{config.path}: has no train section; add -test_only to test")
        check_writable(best, self._where(f"{key}.dst_ckpt"))
        return self._build_from(section, key, "src_ckpt" if section.get("src_ckpt") else None)[0]

    def take_best(self) -> None:
        """Loads the best checkpoint, and gives it CDF tables if it is older than those.

        Tables built anew on another machine might differ by a bit: whoever encodes and whoever
        decodes with this checkpoint must find the same ones in it.
        """
        student, best = self.student, self._student_section["dst_ckpt"]
        checkpoint = read_checkpoint(best, self._where(f"{self._student_key}.dst_ckpt"))
        load_into(student, checkpoint)
        if checkpoint.classes is not None:
            self.run.classes.take(checkpoint.classes, f"the checkpoint {best}")
        value = checkpoint.best_value
        logger.info("Best checkpoint: %s%s", best, "" if value is None else f" ({value})")
        if not is_updated(student) and update_bottleneck(student) and self.run.world.is_main:
            write_checkpoint(
                best,
                student,
                optimizer=checkpoint.optimizer,
                lr_scheduler=checkpoint.lr_scheduler,
                best_value=checkpoint.best_value,
                args=checkpoint.args,
                classes=checkpoint.classes,
            )
        self.run.world.barrier()

    def test_set(self) -> tuple[dict[str, Any], Any]:
        """Returns the section of the test's loader, and its dataset, built at the first call."""
        config = self.config
        loader = config.build(config.section("test.test_data_loader"))
        if not loader:
            raise ConfigError(f"{config.path}: has no test.test_data_loader: nothing to test on")
        return loader, self.run.dataset(loader["dataset_id"])

    def announce(self, role: str) -> None:
        """Logs whose test begins, or whose results follow: the teacher's or the student's."""
        key = TEACHER if role == "teacher" else self._student_key
        logger.info("[%s: %s]", role.capitalize(), self.config.get(f"{key}.key"))

    def take_result(self, role: str, found: Evaluation) -> None:
        """Logs what the test found of the teacher or the student, and keeps it."""
        found.log()
        self.results[role] = found

    def write(self, startup_seconds: float | None) -> None:
        """Writes ``metrics.json``.

        Args:
            startup_seconds: from the start of the process to its first batch, if known.
        """
        run, config, results = self.run, self.config, self.results
        if not run.world.is_main:
            return
        content = {
            "format": 1,
            "task": run.task.name,
            "mode": "test" if run.args.test_only else "train",
            "config": str(config.path),
            "name": config.name or self._student_section.get("experiment"),
            "dataset": config.get("test.test_data_loader.dataset_id"),
            "beta": config.beta,
            "backbone": backbone_name(self._student_section),
            "key_metric": run.task.decisive.key,
            "shown": run.task.view.as_plain(),
            "num_images": results["student"].num_images,
            "finished": time.strftime("%Y-%m-%d %H:%M:%S"),
            **({} if self.member.is_alone else {"fused_with": list(self.member.others)}),
            **({} if startup_seconds is None else {"startup_s": round(startup_seconds, 3)}),
            "models": {name: found.summary() for name, found in results.items()},
        }
        write_json(run.folder / "metrics.json", content)
        logger.info("Results: %s", run.folder / "metrics.json")

    def _where(self, key: str) -> str:
        return f"{key} in {self.config.where(key)}"


def _exists(path: str) -> bool:
    return path.startswith(("http://", "https://")) or Path(path).expanduser().is_file()
