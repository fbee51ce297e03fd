"""The libraries' tables of what a config names by `key`: optimizers, losses, models and so on."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

from ladon.config.core.own_modules import forget_own_modules

logger = logging.getLogger(__name__)

# Importing these fills the tables; `ladon.bottlenecks` puts this project's in
# sc2bench's place, and `ladon.data` adds its collate functions and samplers.
_LIBRARIES = (
    "torchdistill.core.distillation",
    "torchdistill.core.training",
    "torchdistill.losses.high_level",
    "torchdistill.losses.mid_level",
    "torchdistill.losses.util",
    "torchdistill.optim.scheduler",
    "sc2bench.analysis",
    "sc2bench.loss",
    "sc2bench.models",
    "sc2bench.transforms",
    "ladon.bottlenecks",
    "ladon.data",
)

_CORE = "torchdistill.core.interfaces.registry"
_LOSSES = "torchdistill.losses.registry"
_DATA = "torchdistill.datasets.registry"
_MODELS = "torchdistill.models.registry:MODEL_DICT"

# Tables of a user's modules only: none is asked for by `key`.
_OTHER_TABLES = ("ladon.tasks.base:TASKS", "ladon.backbones.base:FAMILIES")

# 'module' stands for all that can be called in it, 'module:NAME' for a table or a function that
# returns one. The first hit counts; what a dotted name stands for is entered in the last table.
_TABLES: dict[str, tuple[str, ...]] = {
    "optimizer": ("torchdistill.optim.registry:OPTIM_DICT",),
    "scheduler": ("torchdistill.optim.registry:SCHEDULER_DICT",),
    "loss": (f"{_LOSSES}:HIGH_LEVEL_LOSS_DICT",),
    "loss term": (
        f"{_LOSSES}:MIDDLE_LEVEL_LOSS_DICT",
        f"{_LOSSES}:LOSS_DICT",
        f"{_LOSSES}:LOW_LEVEL_LOSS_DICT",
    ),
    "loss wrapper": (f"{_LOSSES}:LOSS_WRAPPER_DICT",),
    "loss extractor": (f"{_LOSSES}:FUNC2EXTRACT_MODEL_OUTPUT_DICT",),
    "forward function": (f"{_CORE}:FORWARD_PROC_FUNC_DICT",),
    "pre-epoch process": (f"{_CORE}:PRE_EPOCH_PROC_FUNC_DICT",),
    "pre-forward process": (f"{_CORE}:PRE_FORWARD_PROC_FUNC_DICT",),
    "post-forward process": (f"{_CORE}:POST_FORWARD_PROC_FUNC_DICT",),
    "post-epoch process": (f"{_CORE}:POST_EPOCH_PROC_FUNC_DICT",),
    "collate function": (f"{_DATA}:COLLATE_FUNC_DICT",),
    "batch sampler": (f"{_DATA}:BATCH_SAMPLER_DICT",),
    "dataset wrapper": (f"{_DATA}:DATASET_WRAPPER_DICT",),
    "layer": ("sc2bench.models.layer:LAYER_CLASS_DICT", "sc2bench.models.layer:LAYER_FUNC_DICT"),
    "metric": ("ladon.metrics.base:METRICS",),
    "analyzer": ("sc2bench.analysis:ANALYZER_CLASS_DICT",),
    "classification model": (
        "torchvision.models",
        "timm.models",
        "ladon.backbones.splittable:builders",
        "sc2bench.models.backbone:BACKBONE_CLASS_DICT",
        "sc2bench.models.backbone:BACKBONE_FUNC_DICT",
        _MODELS,
    ),
    "detection model": (
        "torchvision.models.detection",
        "sc2bench.models.detection.registry:DETECTION_MODEL_CLASS_DICT",
        "sc2bench.models.detection.registry:DETECTION_MODEL_FUNC_DICT",
        _MODELS,
    ),
    "segmentation model": (
        "torchvision.models.segmentation",
        "sc2bench.models.segmentation.registry:SEGMENTATION_MODEL_CLASS_DICT",
        "sc2bench.models.segmentation.registry:SEGMENTATION_MODEL_FUNC_DICT",
        _MODELS,
    ),
    "quantized model": ("torchvision.models.quantization",),
}
_MODEL_KINDS = ("classification model", "detection model", "segmentation model")
_OF_LIBRARIES = (t for kind in _MODEL_KINDS for t in _TABLES[kind] if t != _MODELS)
_TABLES["model"] = (*dict.fromkeys(_OF_LIBRARIES), _MODELS)


@functools.cache
def load_libraries() -> None:
    """Import, once, everything that registers something."""
    for name in _LIBRARIES:
        import_module(name)


def entries(registry: str) -> dict[str, Callable[..., Any]]:
    """Return name -> class or function of a registry, as it is now: users' modules add to it."""
    return _read(_TABLES[registry])


def all_entries() -> list[dict[str, Callable[..., Any]]]:
    """Return the entries of each registry."""
    return [entries(registry) for registry in _TABLES]


def enter(registry: str, dotted: str, target: Callable[..., Any]) -> bool:
    """Enter what a dotted name stands for in a registry under that name: libraries look it up.

    Returns:
        Whether the registry can be added to.
    """
    table = _table(_TABLES[registry][-1])
    if not isinstance(table, dict):
        return False
    table[dotted] = target
    return True


def forget_users() -> None:
    """Forget the modules of users' own, and what they and dotted names entered anywhere."""
    shipped = _shipped()
    names = forget_own_modules()
    for entry, before in shipped.items():
        table = _table(entry)
        for key, value in list(table.items()):
            if value is not before.get(key) and getattr(value, "__module__", None) in names:
                if key in before:
                    table[key] = before[key]
                else:
                    del table[key]


@functools.cache
def _shipped() -> dict[str, dict[str, Any]]:
    """Return the tables' entries of now by table."""
    load_libraries()
    entries = dict.fromkeys(entry for tables in _TABLES.values() for entry in tables)
    tables = {entry: _table(entry) for entry in (*entries, *_OTHER_TABLES)}
    return {entry: dict(table) for entry, table in tables.items() if isinstance(table, dict)}


def model_kinds(key: str) -> list[str]:
    """Return what kinds of model a key is known as; none for a user's own, which may be any."""
    return [
        kind
        for kind in _MODEL_KINDS
        if key in _read(tuple(table for table in _TABLES[kind] if table != _MODELS))
    ]


def model_kind(key: str) -> str:
    """Return the kind that a model's key is built as: classification, detection or segmentation.

    A user's own counts as the first, like a backbone.
    """
    return (model_kinds(key) or ["classification model"])[0].split()[0]


def _read(tables: tuple[str, ...]) -> dict[str, Callable[..., Any]]:
    load_libraries()
    found: dict[str, Callable[..., Any]] = {}
    for entry in reversed(tables):
        table = _table(entry)
        if isinstance(table, ModuleType):
            table = _callables(table, len(vars(table)))
        found.update(table() if callable(table) else table)
    return found


def _table(entry: str) -> Any:
    """Return a module, a table in it, or the function there that returns one."""
    module_name, _, attribute = entry.partition(":")
    module = import_module(module_name)
    return getattr(module, attribute) if attribute else module


@functools.lru_cache(maxsize=32)
def _callables(module: ModuleType, _size: int) -> dict[str, Callable[..., Any]]:
    """Return what can be called in a module, read anew once something is added to it."""
    return {
        name: value
        for name, value in vars(module).items()
        if callable(value) and not name.startswith("_")
    }
