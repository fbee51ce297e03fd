"""The training plan: stages with their epochs, read from the config's `train` section."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ladon.config import Config
from ladon.engine.module_paths import PlacedSection, place
from ladon.errors import ConfigError
from ladon.models.library import has_pretrained_weights

logger = logging.getLogger(__name__)

DEFAULT_LOG_FREQ = 1000
CHECKPOINT_MINUTES = 10.0
MODELS = ("teacher", "student", "model")
TEACHER = "models.teacher_model"
LOADERS = TRAIN_LOADER, VAL_LOADER = "train_data_loader", "val_data_loader"


@dataclass(frozen=True)
class StagePlan:
    """One stage's place in the training.

    Attributes:
        name: `stage1` and so on.
        key: where it stands in the config.
        number: 1, 2, …
        first_epoch: its first epoch, counted over all stages.
        num_epochs: how many epochs it has.
    """

    name: str
    key: str
    number: int
    first_epoch: int
    num_epochs: int

    @property
    def end_epoch(self) -> int:
        """First epoch after the stage."""
        return self.first_epoch + self.num_epochs


@dataclass(frozen=True)
class Plan:
    """The whole training.

    Attributes:
        stages: its stages, in order.
        update_epoch: epoch before which the CDF tables are built and entropy coding begins;
            None if the config doesn't say.
        log_freq: steps between log lines.
        checkpoint_minutes: minutes between two writes of `last.pt`; 0: only epochs' ends write it.
        checkpoint_steps: steps between them; None: their number does not matter.
    """

    stages: tuple[StagePlan, ...]
    update_epoch: int | None
    log_freq: int
    checkpoint_minutes: float = CHECKPOINT_MINUTES
    checkpoint_steps: int | None = None

    @property
    def num_epochs(self) -> int:
        """Epochs of all stages."""
        return self.stages[-1].end_epoch


def read_plan(config: Config) -> Plan:
    """Read the plan of a config.

    Raises:
        ConfigError: if it has no `train` section.
    """
    train = config.section("train")
    if not train:
        raise ConfigError(f"{config.path}: has no 'train' section; run it with -test_only")
    numbers = sorted(int(m[1]) for key in train if (m := re.fullmatch(r"stage(\d+)", str(key))))
    stages: list[StagePlan] = []
    for number in numbers or [1]:
        section: dict[str, Any] = train[f"stage{number}"] if numbers else train
        first = stages[-1].end_epoch if stages else 0
        key = f"train.stage{number}" if numbers else "train"
        stages.append(StagePlan(f"stage{number}", key, number, first, int(section["num_epochs"])))
    update = train.get("epoch_to_update")
    log_freq = train.get("log_freq") or DEFAULT_LOG_FREQ
    minutes, steps = train.get("checkpoint_every"), train.get("checkpoint_steps")
    return Plan(
        tuple(stages),
        None if update is None else int(update),
        int(log_freq),
        CHECKPOINT_MINUTES if minutes is None else float(minutes),
        None if steps is None else int(steps),
    )


def build_stage_section(config: Config, plan: StagePlan) -> dict[str, Any]:
    """Return a stage's config, built, less what is derived from the stage itself.

    The loaders are left out: their arguments may build datasets.

    Raises:
        ConfigError: it cannot be built, or the config's teacher has no weights.
    """
    if (problem := teacher_problem(config)) is not None:
        raise ConfigError(problem)
    section = config.section(plan.key)
    scheduler = dict(section.get("scheduler") or {})
    if scheduler.get("key") == "poly_lr_scheduler":
        kwargs = dict(scheduler.get("kwargs") or {})
        _drop_computed_length(config, plan, section, kwargs)
        section = section | {"scheduler": scheduler | {"kwargs": kwargs}}
    dropped = ("log_freq", *LOADERS)
    kept = {k: v for k, v in section.items() if k not in dropped and not str(k).startswith("_")}
    built = config.build(kept)
    for name in (*MODELS, "optimizer"):
        if isinstance(built.get(name), dict):
            built[name] = PlacedSection(config, f"{plan.key}.{name}", built[name])
    return built


def teacher_problem(config: Config) -> str | None:
    """Say that the teacher has no weights, with file, line and key; None if it has, or is none."""
    teacher = config.section(TEACHER)
    if not teacher or teacher.get("src_ckpt") or has_pretrained_weights(teacher):
        return None
    text = "neither src_ckpt nor pretrained weights: random weights are no teacher"
    return f"{place(config, TEACHER)}: {text}"


def _drop_computed_length(
    config: Config, plan: StagePlan, section: Mapping[str, Any], kwargs: dict[str, Any]
) -> None:
    """Remove a computed `num_iterations`: it would build a dataset only to be replaced."""
    length = kwargs.get("num_iterations")
    if isinstance(length, (int, float)):
        return  # the stage compares it with its own
    kwargs.pop("num_iterations", None)
    value = getattr(length, "value", None) or {}
    counted = ((value.get("init") or {}).get("kwargs") or {}).get("dataset")
    dataset_id = section["train_data_loader"]["dataset_id"]
    if counted is not None and counted is not config.get("datasets")[dataset_id]:
        logger.warning(
            "%s: num_iterations is counted on another dataset than %s: using the stage's own",
            config.where(f"{plan.key}.scheduler"),
            dataset_id,
        )
