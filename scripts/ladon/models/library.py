"""Models that the libraries build, and the weights that those start from.

The libraries' loaders only log a missing checkpoint and unpickle it unsafely, so every checkpoint
path is taken out of what they are given and read by `ladon.models.checkpoint`.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from sc2bench.models.detection.registry import load_detection_model
from sc2bench.models.layer import LAYER_CLASS_DICT, LAYER_FUNC_DICT
from sc2bench.models.registry import load_classification_model
from sc2bench.models.segmentation.registry import load_segmentation_model
from torch import nn
from torchvision import models

from ladon.backbones import BOTTLENECK, member_of
from ladon.backbones.channels import with_target_channels
from ladon.backbones.splittable import builders
from ladon.errors import CheckpointError, ConfigError
from ladon.models.checkpoint import Checkpoint, check_finite, read_checkpoint
from ladon.models.meta_device import on_meta_device
from ladon.models.pretrained import as_if_pretrained, with_local_file
from ladon.models.reset_head import (
    ClassLayers,
    find_class_layers,
    load_without,
    of_other_classes,
    report,
)

_WEIGHT_KEYS = ("weights", "weights_backbone", "pretrained", "pretrained_backbone")
_ORIGINAL, _STRICT = "org_model_ckpt_file_path_or_url", "org_ckpt_strict"
_LIBRARY_LOADERS = {
    "classification": lambda config, device: load_classification_model(config, device, False),
    "detection": load_detection_model,
    "segmentation": load_segmentation_model,
}


def has_pretrained_weights(section: Mapping[str, Any]) -> bool:
    """Whether a model section asks for weights that come with the library."""
    kwargs = section.get("kwargs") or {}
    return any(kwargs.get(key) for key in (*_WEIGHT_KEYS, _ORIGINAL))


def is_from_library(section: Mapping[str, Any]) -> bool:
    """Whether a model starts from weights that come with its library."""
    kwargs = section.get("kwargs") or {}
    return bool(kwargs.get("weights") or kwargs.get("pretrained")) and not kwargs.get(_ORIGINAL)


def from_library(
    section: Mapping[str, Any], kind: str, where: str, *, load_weights: bool
) -> nn.Module:
    """Build a model that a library knows by its key, with the library's weights if it wants any.

    Args:
        section, kind, where, load_weights: as for `ladon.models.build.build_model`.
    """
    kwargs = with_target_channels(section, _bottleneck(section))
    original = kwargs.pop(_ORIGINAL, None)
    kwargs.pop(_STRICT, None)
    if original or not load_weights:
        kwargs = _without_weights(kwargs)
    kwargs = with_local_file(member_of(section), kwargs)
    config = {k: v for k, v in section.items() if k not in ("src_ckpt", "dst_ckpt")}
    if (
        not load_weights
        and _has_backbone_weights(config["key"])
        and "pretrained_backbone" not in kwargs
    ):
        kwargs["weights_backbone"] = None  # torchvision's default would fetch ImageNet's
    with warnings.catch_warnings():
        # published files say `pretrained`, which torchvision still takes
        old = "The parameter 'pretrained|Arguments other than a weight enum"
        warnings.filterwarnings("ignore", message=old, category=UserWarning)
        own = builders().get(config["key"])
        config |= {"kwargs": kwargs}
        model = (
            _LIBRARY_LOADERS[kind](config, torch.get_default_device())
            if own is None
            else own(**kwargs)
        )
    if model is None:
        raise ConfigError(f"{where}: no model called {section['key']}")
    return model


def _bottleneck(section: Mapping[str, Any]) -> Callable[..., Any] | None:
    """Return what makes a splittable model's bottleneck, None if it has none."""
    config = (section.get("kwargs") or {}).get("bottleneck_config") or {}
    return {**LAYER_FUNC_DICT, **LAYER_CLASS_DICT}.get(config.get("key"))


def _has_backbone_weights(key: str) -> bool:
    modules = (models.detection, models.segmentation)
    builders = [vars(m)[key] for m in modules if callable(vars(m).get(key))]
    return bool(builders) and "weights_backbone" in inspect.signature(builders[0]).parameters


def load_original(
    model: nn.Module, section: Mapping[str, Any], where: str, find: Callable[[], ClassLayers]
) -> None:
    """Load a plain network's weights into the stages that a splittable model took from it.

    Args:
        model: the splittable model.
        section: its section of the config, which names the plain network's checkpoint or none.
        where: the section's place in the config.
        find: finds the model's class layers.

    Raises:
        CheckpointError: the checkpoint is missing, or does not fit.
    """
    kwargs = section.get("kwargs") or {}
    if not kwargs.get(_ORIGINAL):
        return
    checkpoint = read_checkpoint(kwargs[_ORIGINAL], f"{where}.kwargs.{_ORIGINAL}")
    own = model.state_dict()
    names = getattr(model, "plain_names", None) or {name: name for name in own}
    given = {n: checkpoint.model[p] for n, p in names.items() if p in checkpoint.model}
    layers = find() if section.get("reset_head") else None
    left_out = {n for n in own if layers is not None and layers.holds(n)}
    taken = {n: t for n, t in given.items() if n not in left_out}
    missing = [n for n in own if n not in {*taken, *left_out} and _is_plain(n)]
    if kwargs.get(_STRICT, True) and missing:
        raise CheckpointError(
            f"{checkpoint.path}: made for another model: lacks {len(missing)} tensors "
            f"({', '.join(missing[:3])}, …)"
        )
    odd = [n for n, t in taken.items() if t.shape != own[n].shape]
    if odd:
        advice = of_other_classes(given, own, odd, find, where)
        raise CheckpointError(
            f"{checkpoint.path}: made for another model: {odd[0]} "
            f"{tuple(taken[odd[0]].shape)} instead of {tuple(own[odd[0]].shape)}{advice}"
        )
    check_finite(taken, checkpoint.path, own)
    nn.Module.load_state_dict(model, taken, strict=False)
    if layers is not None:
        report(layers, given, own, str(checkpoint.path), where)


def _is_plain(tensor: str) -> bool:
    return not tensor.startswith(f"{BOTTLENECK}.")


def _without_weights(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments that build the same architecture with random weights."""
    kept = {k: v for k, v in kwargs.items() if k not in _WEIGHT_KEYS}
    if "weights" in kwargs and not any("pretrained" in k for k in kwargs):
        kept["weights"] = None
    if "pretrained" in kwargs:
        kept["pretrained"] = False
        kept |= {"pretrained_backbone": False} if "pretrained_backbone" in kwargs else {}
    return kept


def with_library_weights(section: Mapping[str, Any], kind: str, where: str) -> nn.Module:
    """Return a library's model with its pretrained weights, but for the class layers.

    The weights are loaded into a model of their own number of classes, as strictly as ever, and
    the rest is taken from there. Both are drawn alike: a bottleneck has its first weights.
    """
    kwargs = dict(section.get("kwargs") or {})
    num_classes = kwargs.pop("num_classes", None)

    def build(number: int | None) -> nn.Module:
        chosen = {} if number is None else {"num_classes": number}
        with as_if_pretrained(number):
            of_number = {**section, "kwargs": {**kwargs, **chosen}}
            return from_library(of_number, kind, where, load_weights=True)

    def build_on_meta(number: int) -> nn.Module:
        with on_meta_device():
            return build(number)

    layers = find_class_layers(build_on_meta, f"{where}.reset_head: {section['key']}")
    with torch.random.fork_rng(devices=[]):
        source = from_library({**section, "kwargs": kwargs}, kind, where, load_weights=True)
    model = build(num_classes)
    weights = Checkpoint(Path(f"the pretrained {section['key']}"), source.state_dict())
    load_without(model, weights, layers, where)
    return model
