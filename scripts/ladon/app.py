"""One run of a task script, from flags to result lines: check, build, train, test."""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ladon.config import check_config, load_config
from ladon.data.fast_input import use_fast_input
from ladon.data.transforms import without_normalization
from ladon.engine.distributed import World, join_world, leave_world
from ladon.engine.evaluate import Evaluation, evaluate
from ladon.engine.interrupt import catch_signals
from ladon.engine.plan import build_stage_section, read_plan
from ladon.engine.randomness import seed_everything
from ladon.engine.run import Run, write_json
from ladon.engine.stage import Stage
from ladon.engine.train import train
from ladon.errors import CheckpointError, ConfigError, Interrupted, LadonError, in_one_line
from ladon.logs import set_up_logging
from ladon.models import (
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
from ladon.models.ladon import ThreeHeadedLadon
from ladon.paths import run_folder, run_log_path
from ladon.tasks import TASKS

logger = logging.getLogger(__name__)


def run_task(task_name: str, args: argparse.Namespace) -> None:
    """Runs a task script's work.

    Args:
        task_name: key of ``ladon.tasks.TASKS``.
        args: flags from ``ladon.cli.build_parser``.

    Raises:
        LadonError: whatever went wrong, with an exit code.
    """
    config = load_config(
        args.config,
        overrides=args.json,
        assignments=args.assignments,
        data_root=args.data_root,
    )
    config.import_dependencies()
    check_config(config, task_name)
    world = join_world(args.device, args.world_size, args.dist_url)
    try:
        log_file = None if args.dry_run else run_log_path(args.config, args.run_log)
        set_up_logging(log_file, is_main=world.is_main)
        with catch_signals() as stop:
            folder = run_folder(args.config, args.run_log)
            run = Run(TASKS[task_name](), config, world, stop, folder, args, args.seed)
            if not args.dry_run:
                run.open_folder()
            logger.info("Config %s, device %s, seed %d", config.path, world.device, args.seed)
            if args.log_config:
                logger.info("Resolved config:\n%s", config.dump())
            session = _Session(run)
            session.dry_run() if args.dry_run else session.run()
    except torch.OutOfMemoryError as error:
        text = f"the memory of {world.device} does not suffice: lower batch_size"
        raise LadonError(f"{text} ({in_one_line(error)})") from error
    finally:
        leave_world()


class _Session:
    """The models of a run, and what is done with them."""

    def __init__(self, run: Run) -> None:
        self._run = run
        sections = [s for s in run.task.student_sections if f"models.{s}" in run.config]
        if not sections:
            names = " or ".join(f"models.{s}" for s in run.task.student_sections)
            raise ConfigError(f"{run.config.path}: has no {names}")
        self._student_key = f"models.{sections[0]}"
        self._student_section = run.config.build(run.config.section(self._student_key))

    def run(self) -> None:
        """Trains unless told only to test; tests the teacher and the best student."""
        run, args = self._run, self._run.args
        teacher = None
        if "models.teacher_model" in run.config and not (args.test_only and args.student_only):
            teacher = self._build_teacher()
        student = self._build_tested() if args.test_only else self._train(teacher)
        results: dict[str, Evaluation] = {}
        if teacher is not None and not args.student_only:
            logger.info("[Teacher: %s]", run.config.get("models.teacher_model.key"))
            results["teacher"] = self._test(teacher)
            del teacher
        update_bottleneck(student)  # a checkpoint of the early epochs has no CDF tables yet
        logger.info("[Student: %s]", self._student_section["key"])
        results["student"] = self._test(student)
        self._write(results)

    def dry_run(self) -> None:
        """Builds everything but data and weights: models, losses, optimizers, schedules."""
        run, key = self._run, "models.teacher_model"
        with on_meta_device():
            student = self._build(self._student_section, self._student_key, replaced=True)
            teacher = None
            if key in run.config and not (run.args.test_only and run.args.student_only):
                section = run.config.build(run.config.section(key))
                teacher = self._build(section, key, replaced=True)
        if not run.args.test_only:
            for plan in read_plan(run.config).stages:
                section = build_stage_section(run.config, plan, without_data=True)
                Stage(section, student, teacher, 1, World(torch.device("meta"))).close()
        logger.info("Dry run: nothing wrong with %s", run.config.path)

    def _build(self, section: Mapping[str, Any], key: str, *, replaced: bool) -> nn.Module:
        seed_everything(self._run.seed)  # each model's first weights depend on the seed alone
        return build_model(section, self._run.task.name, key, replaced=replaced)

    def _build_from(self, section: Mapping[str, Any], key: str, name: str | None) -> nn.Module:
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
        return model.to(self._run.world.device, memory_format=torch.channels_last)

    def _build_teacher(self) -> nn.Module:
        key = "models.teacher_model"
        section = self._run.config.build(self._run.config.section(key))
        source = section.get("src_ckpt")
        pretrained = has_pretrained_weights(section)
        if source is not None and pretrained and not _exists(source):
            logger.warning(
                "%s.src_ckpt: %s not found; the teacher keeps its pretrained weights", key, source
            )
            source = None
        if source is None and not pretrained:
            raise CheckpointError(
                f"{self._run.config.where(key)}: the teacher has neither pretrained weights nor "
                "src_ckpt; random weights are no teacher"
            )
        return self._build_from(section, key, "src_ckpt" if source is not None else None).eval()

    def _build_tested(self) -> nn.Module:
        """The student with the weights that are to be tested; never random ones."""
        section, key = self._student_section, self._student_key
        name = next((n for n in ("dst_ckpt", "src_ckpt") if section.get(n)), None)
        brings_its_own = section["key"] == "ladon" or has_pretrained_weights(section)
        if name is None and not brings_its_own:
            raise CheckpointError(
                f"{self._run.config.where(key)}: names neither dst_ckpt nor src_ckpt nor "
                "pretrained weights: there is nothing to test"
            )
        return self._build_from(section, key, name)

    def _train(self, teacher: nn.Module | None) -> nn.Module:
        """Trains the student; returns it with the best checkpoint's weights."""
        run, section, key = self._run, self._student_section, self._student_key
        best = section.get("dst_ckpt")
        if not best:
            raise ConfigError(
                f"{run.config.where(key)}: training needs {key}.dst_ckpt to write the best model to"
            )
        if not run.config.section("train"):
            raise ConfigError(f"{run.config.path}: has no train section; add -test_only to test")
        check_writable(best, self._where(f"{key}.dst_ckpt"))
        self._test_set()  # built now, so that what it lacks is known before the training
        student = self._build_from(section, key, "src_ckpt" if section.get("src_ckpt") else None)
        seed_everything(run.seed + run.world.rank)
        train(run, student, teacher, Path(best).expanduser())
        return self._take_best(student, best)

    def _take_best(self, student: nn.Module, best: str) -> nn.Module:
        """Loads the best checkpoint, and gives it CDF tables if it is older than those.

        Tables built anew on another machine might differ by a bit: whoever encodes and whoever
        decodes with this checkpoint must find the same ones in it.
        """
        checkpoint = read_checkpoint(best, self._where(f"{self._student_key}.dst_ckpt"))
        load_into(student, checkpoint)
        logger.info("Best checkpoint: %s (%s)", best, checkpoint.best_value)
        if not is_updated(student) and update_bottleneck(student) and self._run.world.is_main:
            write_checkpoint(
                best,
                student,
                optimizer=checkpoint.optimizer,
                lr_scheduler=checkpoint.lr_scheduler,
                best_value=checkpoint.best_value,
                args=checkpoint.args,
            )
        self._run.world.barrier()
        return student

    def _test_set(self) -> tuple[dict[str, Any], Any]:
        config = self._run.config
        loader = config.build(config.section("test.test_data_loader"))
        if not loader:
            raise ConfigError(f"{config.path}: has no test.test_data_loader: nothing to test on")
        return loader, self._run.dataset(loader["dataset_id"])

    def _test(self, model: nn.Module) -> Evaluation:
        run = self._run
        loader, dataset = self._test_set()
        if isinstance(model, ThreeHeadedLadon):
            without_normalization(dataset)
        if run.setting("input", "test", "reference") == "fast":
            use_fast_input(dataset)
        found = evaluate(
            *(model, dataset, loader, run.task, run.world, run.stop),
            options=run.options,
            mode=run.setting("evaluation", "test", "full"),
            precision=run.setting("precision", "test", "float32"),
            compiled=run.setting("compile", "test", False),
        )
        if found is None:
            signum = run.world.maximum(run.stop.signum)
            raise Interrupted(signum, "interrupted during the test; run it again with -test_only")
        found.log()
        return found

    def _write(self, results: Mapping[str, Evaluation]) -> None:
        run = self._run
        if not run.world.is_main:
            return
        kwargs = self._student_section.get("kwargs") or {}
        inner = (kwargs.get("backbone_config") or {}).get("kwargs") or kwargs
        backbone = inner.get("resnet_name") or inner.get("resnest_name")
        content = {
            "format": 1,
            "task": run.task.name,
            "mode": "test" if run.args.test_only else "train",
            "config": str(run.config.path),
            "name": run.config.name or self._student_section.get("experiment"),
            "dataset": run.config.get("test.test_data_loader.dataset_id"),
            "beta": run.config.beta,
            "backbone": backbone or self._student_section["key"],
            "key_metric": run.task.key_metric,
            "num_images": results["student"].num_images,
            "finished": time.strftime("%Y-%m-%d %H:%M:%S"),
            "models": {name: found.summary() for name, found in results.items()},
        }
        write_json(run.folder / "metrics.json", content)
        logger.info("Results: %s", run.folder / "metrics.json")

    def _where(self, key: str) -> str:
        return f"{key} in {self._run.config.where(key)}"


def _exists(path: str) -> bool:
    return path.startswith(("http://", "https://")) or Path(path).expanduser().is_file()
