"""Loading a model to use its halves, by its config or by a checkpoint of a training."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ladon.backbones import family_of
from ladon.bottlenecks import Bottleneck, find_bottleneck, update_bottleneck
from ladon.choices import HEADS
from ladon.config import Config, check_config, load_config
from ladon.config.validate.registries import model_kind
from ladon.engine.distributed import World
from ladon.engine.interrupt import StopRequest
from ladon.engine.run import Run
from ladon.errors import CheckpointError, ConfigError
from ladon.models import read_checkpoint
from ladon.models.describe import num_classes_of
from ladon.models.ladon import ThreeHeadedLadon
from ladon.run_models import build_student
from ladon.split.class_names import names_or_published
from ladon.split.heads import Heads, OneHead, ThreeHeads
from ladon.split.inputs import fitting_of
from ladon.split.model import SplitModel
from ladon.tasks import TASKS, Task

_CONFIGS = (".yaml", ".yml")
_STUDENTS = ("student_model", "model")


def load(
    source: str | os.PathLike,
    *,
    device: str = "cpu",
    precision: str = "float32",
    assignments: Sequence[str] = (),
    data_root: str | None = None,
) -> SplitModel:
    """Load a model whose halves are to be used.

    Args:
        source: a config (`.yaml`), whose checkpoints are loaded; or a checkpoint that this library
            wrote, which names its config.
        device: 'cpu', 'cuda' or 'cuda:N'; both halves are there.
        precision: 'float32' or 'bf16', of all that comes behind the payload.
        assignments: `key=value`, as the scripts' `--set`.
        data_root: where datasets are, as the scripts' `--data_root`; they need not be there.

    Raises:
        ConfigError: the config cannot be used, or its model has no bottleneck.
        CheckpointError: weights are missing or do not fit.
    """
    run, kind = open_run(source, device=device, assignments=assignments, data_root=data_root)
    network = build_student(run)
    update_bottleneck(network)
    bottleneck = find_bottleneck(network)
    if not isinstance(bottleneck, Bottleneck):
        found = "no bottleneck" if bottleneck is None else "one that codes by itself"
        where = run.config.where(run.student_key)
        raise ConfigError(f"{where}: {run.student_key} cannot be split: it has {found}")
    return SplitModel(
        network.eval(),
        bottleneck,
        _heads(network, bottleneck, run.student_section, kind),
        fitting_of(run.config, network),
        _class_names(run, network, kind),
        run.config.path.stem,
        precision,
    )


def open_run(
    source: str | os.PathLike,
    *,
    device: str = "cpu",
    assignments: Sequence[str] = (),
    data_root: str | None = None,
) -> tuple[Run, str]:
    """Return a run that would only test a model, nothing of it built yet, and the model's kind.

    Args:
        source, device, assignments, data_root: as for `load`.

    Raises:
        ConfigError: the config cannot be used.
        CheckpointError: the checkpoint names none.
    """
    path = Path(source).expanduser()
    options: dict[str, Any] = {"assignments": list(assignments), "data_root": data_root}
    if path.suffix.lower() not in _CONFIGS:
        path, options = _config_of(path, options)
    config = load_config(path, **options)
    config.import_dependencies()
    task, kind = _task_of(config)
    check_config(config, kind)
    arguments = argparse.Namespace(test_only=True, student_only=True, config=str(path), seed=0)
    return Run(task, arguments, config, World(torch.device(device)), StopRequest()), kind


def _config_of(path: Path, options: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    """Return the config that a checkpoint names, and how it is to be read to load just that one.

    Raises:
        CheckpointError: it names none, or one that is not there.
    """
    written = read_checkpoint(path, "the model's name").args
    args = vars(written) if isinstance(written, argparse.Namespace) else dict(written or {})
    named = args.get("config")
    if not isinstance(named, str):
        raise CheckpointError(f"{path}: does not say which config it was made by: name the config")
    config = Path(named).expanduser()
    if not config.is_file():
        raise CheckpointError(
            f"{path}: was made by the config {named}, which is not there: run this where it is, or "
            "name the config"
        )
    assignments = [str(one) for one in args.get("assignments") or ()] + options["assignments"]
    overrides = args.get("json") if isinstance(args.get("json"), dict) else None
    probe = load_config(config, overrides=overrides, assignments=assignments)
    key = _student_key(probe)
    return config, {
        **options,
        "overrides": overrides,
        "assignments": [*assignments, f"models.{key}.dst_ckpt={path}"],
    }


def _student_key(config: Config) -> str:
    found = next((key for key in _STUDENTS if f"models.{key}" in config), None)
    if found is None:
        raise ConfigError(f"{config.path}: has no models.student_model or models.model")
    return found


def _task_of(config: Config) -> tuple[Task, str]:
    """Return the task of a config's model, and the kind of that."""
    key = config.get(f"models.{_student_key(config)}.key")
    kind = model_kind(key) if isinstance(key, str) else HEADS[0]
    kind = kind if kind in HEADS else HEADS[0]
    return next(task for task in TASKS.values() if task.model_kind == kind), kind


def _heads(network: nn.Module, bottleneck: Bottleneck, section: dict, kind: str) -> Heads:
    if isinstance(network, ThreeHeadedLadon):
        network.answering = None  # not one for one task, as in a test
        return ThreeHeads(network)
    return OneHead(network, bottleneck, kind, family_of(section["key"]))


def _class_names(run: Run, network: nn.Module, kind: str) -> dict[str, list[str] | None]:
    """Return names of classes by head."""
    if isinstance(network, ThreeHeadedLadon):
        counts = {head: num_classes_of(network.head_state(head)) for head in HEADS}
        names = network.class_names
        return {h: names_or_published(names.get(h), h, counts[h]) for h in HEADS}
    return {kind: names_or_published(run.classes.names, kind, run.classes.number)}
