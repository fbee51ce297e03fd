"""Checks of the training plan: its stages, what belongs together in one, and `epoch_to_update`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ladon.config.core import schema
from ladon.config.core.nodes import kind_of, suggest
from ladon.config.core.schema import Section
from ladon.config.core.update_epoch import STAGE
from ladon.config.validate.losses import check_losses
from ladon.config.validate.validator import ConfigNode, Validator


def check_train(validator: Validator, node: ConfigNode) -> None:
    """Check the training section: one stage, or stage1, stage2, … without gaps."""
    if node.value is None or node.is_unresolved:
        return
    if not isinstance(node.value, dict):
        validator.add(node, f"must be a mapping, not {kind_of(node.value)}")
        return
    stages = {m[0]: int(m[1]) for key in node.value if (m := STAGE.fullmatch(str(key)))}
    if not stages:
        keys: Mapping[str, Any] = {**schema.STAGE.keys, **schema.TRAIN_KEYS}
        validator.section(node, Section(keys, schema.STAGE.required))
        _check_stage(validator, node)
    for key, child in validator.children(node) if stages else ():
        if key in stages:
            if child.value is None:
                validator.add(child, "the stage is empty")
            validator.rule(child, schema.STAGE)
            _check_stage(validator, child)
        elif key in schema.TRAIN_KEYS:
            validator.rule(child, schema.TRAIN_KEYS[key])
        elif key in schema.STAGE.keys:
            validator.add(child, f"has no effect beside stages: set train.stage1.{key} and so on")
        elif not str(key).startswith("_"):
            hint = suggest(key, [*stages, *schema.TRAIN_KEYS])
            validator.add(child, f"unknown key{hint}")
    gaps = [
        f"stage{n}" for n in range(1, max(stages.values(), default=0)) if f"stage{n}" not in stages
    ]
    if gaps:
        validator.add(
            node, f"{', '.join(gaps)} is missing: stages are numbered without gaps from 1"
        )
    epoch = validator.child(node, "epoch_to_update")
    if epoch is not None and not epoch.is_unresolved:
        value = epoch.value
        names = stages or ["stage1"]
        if isinstance(value, str) and value not in names:  # else a num_epochs is at fault
            validator.add(epoch, f'there is no stage "{value}"{suggest(value, names)}')
        elif isinstance(value, str):
            return
        elif not isinstance(value, int) or isinstance(value, bool) or value < 0:
            validator.add(
                epoch, f"must be a stage's name or an epoch's number, not {kind_of(value)}"
            )


def _check_stage(validator: Validator, stage: ConfigNode) -> None:
    """Check what belongs together in a stage."""
    _check_teacher(validator, stage)
    _check_plateau(validator, stage)
    check_losses(validator, stage)


def _check_plateau(validator: Validator, stage: ConfigNode) -> None:
    scheduler = validator.child(stage, "scheduler")
    key = validator.child(scheduler, "key") if scheduler is not None else None
    if scheduler is None or key is None or key.value != "ReduceLROnPlateau":
        return
    validation = validator.child(stage, "val_data_loader")
    if validation is None or validation.value is None:
        validator.add(
            key, "ReduceLROnPlateau follows a validation: the stage needs val_data_loader"
        )
    step = validator.child(scheduler, "scheduling_step")
    if step is not None and not step.is_unresolved and step.value:
        text = "ReduceLROnPlateau follows each epoch's validation: leave out scheduling_step"
        validator.add(step, text)


def _check_teacher(validator: Validator, stage: ConfigNode) -> None:
    teacher = validator.child(stage, "teacher")
    models = validator.child(validator.root(), "models")
    if teacher is None or models is None or not isinstance(models.value, dict):
        return
    if validator.child(models, "teacher_model") is None:
        validator.add(teacher, 'there is no "teacher_model" under models')
