"""The models of a run: its teacher, the student that is trained or tested, the best checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ladon.engine.distributed import World
from ladon.engine.plan import TEACHER, build_stage_section
from ladon.engine.randomness import seed_everything
from ladon.engine.rehearsal import rehearse
from ladon.engine.run import Run
from ladon.engine.stage import Stage, setting_up
from ladon.errors import CheckpointError, ConfigError
from ladon.models import (
    Checkpoint,
    build_model,
    check_writable,
    class_layers,
    forget_tables,
    has_pretrained_weights,
    is_updated,
    load_into,
    noting_files,
    read_checkpoint,
    start_from,
    update_bottleneck,
    write_checkpoint,
)
from ladon.models.describe import num_classes_of
from ladon.models.fit import completed
from ladon.models.ladon import ThreeHeadedLadon
from ladon.models.meta_device import on_meta_device
from ladon.modules import moved

logger = logging.getLogger(__name__)


def dry_run(run: Run) -> None:
    """Build everything but data and weights, and run each stage once on nothing.

    Raises:
        ConfigError: for what would stop a real run.
    """
    config, meta = run.config, torch.device("meta")
    with on_meta_device():
        student = _build(run, run.student_section, run.student_key, load_weights=False)
        teacher = None
        if run.wants_teacher:
            section = config.build(config.section(TEACHER))
            teacher = _build(run, section, TEACHER, load_weights=False)
            _check_reset(run, section, TEACHER)
    _check_reset(run, run.student_section, run.student_key)
    for plan in () if run.args.test_only else run.plan.stages:
        where, section = run.place(plan.key), build_stage_section(config, plan)
        with setting_up(where):
            stage = Stage(section, student, teacher, 1, World(meta))
            if (batch := run.task.example(meta)) is not None:
                try:
                    rehearse(stage, batch)
                except ConfigError as error:
                    raise ConfigError(f"{where}: {error}") from error
        stage.close()
    logger.info("Dry run: nothing wrong with %s", config.path)


def build_teacher(run: Run) -> nn.Module:
    """Build the teacher, on the run's device and in eval mode; never with random weights.

    Raises:
        CheckpointError: if there are no weights for it.
    """
    config = run.config
    section = config.build(config.section(TEACHER))
    source = section.get("src_ckpt")
    pretrained = has_pretrained_weights(section)
    if source is not None and pretrained and not _exists(source):
        logger.warning(
            "%s.src_ckpt: %s not found; the teacher keeps its pretrained weights", TEACHER, source
        )
        source = None
    if source is None and not pretrained:
        raise CheckpointError(
            f"{config.where(TEACHER)}: the teacher has neither pretrained weights nor "
            "src_ckpt; random weights are no teacher"
        )
    name = "src_ckpt" if source is not None else None
    with noting_files() as run.tested_files["teacher"]:
        teacher, checkpoint = _build_from(run, section, TEACHER, name, is_start=True)
    if section.get("reset_head"):
        logger.warning(
            "%s: its class layers are untrained (reset_head): it teaches by its features; its own "
            "scores mean nothing",
            TEACHER,
        )
    elif checkpoint is not None:
        run.classes.teacher = checkpoint.classes
    return teacher.eval()


def build_student(run: Run) -> nn.Module:
    """Build the student that is to be tested or trained, on the run's device.

    Raises:
        CheckpointError: if its weights cannot be read, or the best ones could not be written.
        ConfigError: if the config does not say what a training needs.
    """
    student = _build_tested(run) if run.args.test_only else _build_trained(run)
    run.classes.number = _num_classes(run, student)
    run.classes.number_from = run.place(f"{run.student_key}.kwargs.num_classes")
    return student


def load_best(run: Run, student: nn.Module) -> None:
    """Load the best checkpoint, and give it CDF tables if it is older than those.

    Tables built anew on another machine might differ by a bit: whoever encodes and whoever
    decodes with this checkpoint must find the same ones in it.
    """
    best = run.student_section["dst_ckpt"]
    checkpoint = read_checkpoint(best, run.place(f"{run.student_key}.dst_ckpt"))
    load_into(student, checkpoint)
    run.tested_files["student"] = [checkpoint.path]
    if checkpoint.classes is not None:
        run.classes.take(checkpoint.classes, f"the checkpoint {best}")
    value = checkpoint.best_value
    logger.info("Best checkpoint: %s%s", best, "" if value is None else f" ({value})")
    if not is_updated(student) and update_bottleneck(student) and run.world.is_main:
        write_checkpoint(
            best,
            student,
            optimizer=checkpoint.optimizer,
            lr_scheduler=checkpoint.lr_scheduler,
            best_value=checkpoint.best_value,
            args=checkpoint.args,
            classes=checkpoint.classes,
        )
    run.world.barrier()


def _build(run: Run, section: Mapping[str, Any], key: str, *, load_weights: bool) -> nn.Module:
    seed_everything(run.seed)  # each model's first weights depend on the seed alone
    try:
        return build_model(section, run.task.model_kind, key, load_weights=load_weights)
    except ConfigError as error:
        raise ConfigError(run.config.located(str(error))) from error


def _check_reset(run: Run, section: Mapping[str, Any], key: str) -> None:
    """Refuse `reset_head` for a model without class layers."""
    if section.get("reset_head"):
        class_layers(section, run.task.model_kind, key)


def _build_from(
    run: Run, section: Mapping[str, Any], key: str, name: str | None, *, is_start: bool
) -> tuple[nn.Module, Checkpoint | None]:
    """Build a model on the run's device, from the checkpoint under `name` if one is given.

    The checkpoint is read first: what is wrong with it shows before anything is built.

    Args:
        run: the run.
        section: the model's section, built.
        key: its place in the config.
        name: the checkpoint's key in it, or None.
        is_start: whether a training starts from the checkpoint, so that `reset_head` counts.
    """
    checkpoint = None
    if name is not None:
        checkpoint = read_checkpoint(section[name], run.place(f"{key}.{name}"))
    model = _build(run, section, key, load_weights=checkpoint is None)
    if checkpoint is not None:
        if is_start:
            begun = completed(model, checkpoint)
            start_from(model, begun, section, run.task.model_kind, key)
        else:
            load_into(model, checkpoint)
        logger.info("Loaded %s", checkpoint.path)
    return moved(model, run.world.device, torch.channels_last), checkpoint


def _build_tested(run: Run) -> nn.Module:
    """Build the student with the weights that are to be tested; never random ones."""
    section, key, classes = run.student_section, run.student_key, run.classes
    name = next((n for n in ("dst_ckpt", "src_ckpt") if section.get(n)), None)
    brings_its_own = section["key"] == "ladon" or has_pretrained_weights(section)
    if name is None and not brings_its_own:
        raise CheckpointError(
            f"{run.config.where(key)}: names neither dst_ckpt nor src_ckpt nor "
            "pretrained weights: there is nothing to test"
        )
    if section.get("reset_head") and name != "dst_ckpt":
        raise CheckpointError(
            f"{run.config.where(f'{key}.reset_head')}: {key}.reset_head leaves its class layers "
            "untrained: there is nothing to test; train it, and name its checkpoint in dst_ckpt"
        )
    with noting_files() as run.tested_files["student"]:
        model, checkpoint = _build_from(run, section, key, name, is_start=False)
    if checkpoint is not None:
        classes.take(checkpoint.classes, f"the checkpoint {checkpoint.path}")
    elif isinstance(model, ThreeHeadedLadon):
        head = model.answering = run.task.model_kind
        classes.take(model.class_names.get(head), f"the {head} checkpoint")
    else:
        classes.take(None, f"the pretrained {key}")
    if classes.names is None and run.config.section("train"):
        classes.take_from_training(run.config, run.plan.stages[-1])
    return model


def _build_trained(run: Run) -> nn.Module:
    """Build the student that is to be trained, once it is sure that it can be saved."""
    config, section, key = run.config, run.student_section, run.student_key
    best = section.get("dst_ckpt")
    if not best:
        raise ConfigError(
            f"{config.where(key)}: training needs {key}.dst_ckpt to write the best model to"
        )
    if not config.section("train"):
        raise ConfigError(f"{config.path}: has no train section; add -test_only to test")
    check_writable(best, run.place(f"{key}.dst_ckpt"))
    name = "src_ckpt" if section.get("src_ckpt") else None
    student = _build_from(run, section, key, name, is_start=True)[0]
    begins = run.plan.update_epoch
    if begins and is_updated(student):
        forget_tables(student)
        logger.info(
            "%s.%s: its CDF tables are left out: they are built anew at epoch %d", key, name, begins
        )
    return student


def _num_classes(run: Run, student: nn.Module) -> int | None:
    """Return how many classes the student has, by the command line or by its head."""
    asked = getattr(run.args, "num_classes", None)
    if asked is not None:
        return asked
    if isinstance(student, ThreeHeadedLadon):
        return num_classes_of(student.head_state(run.task.model_kind))
    kwargs = run.student_section.get("kwargs") or {}
    return num_classes_of(student.state_dict()) or kwargs.get("num_classes")


def _exists(path: str) -> bool:
    return path.startswith(("http://", "https://")) or Path(path).expanduser().is_file()
