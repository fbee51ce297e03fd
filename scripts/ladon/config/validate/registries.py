"""The libraries' tables of what a config names by `key`: optimizers, losses, models and so on."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

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

# 'module' stands for all that can be called in it, 'module:NAME' for a table or a function that
# returns one. The first hit counts.
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
_TABLES["model"] = tuple(dict.fromkeys(table for kind in _MODEL_KINDS for table in _TABLES[kind]))


@functools.cache
def load_libraries() -> None:
    """Import, once, everything that registers something."""
    for name in _LIBRARIES:
        import_module(name)


def entries(registry: str) -> dict[str, Callable[..., Any]]:
    """Return name -> class or function of a registry, as it is now: users' modules add to it."""
    return _read(_TABLES[registry])


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
        module_name, _, attribute = entry.partition(":")
        module = import_module(module_name)
        table = getattr(module, attribute) if attribute else _callables(module, len(vars(module)))
        found.update(table() if callable(table) else table)
    return found


@functools.lru_cache(maxsize=32)
def _callables(module: ModuleType, _size: int) -> dict[str, Callable[..., Any]]:
    """Return what can be called in a module, read anew once something is added to it."""
    return {
        name: value
        for name, value in vars(module).items()
        if callable(value) and not name.startswith("_")
    }
