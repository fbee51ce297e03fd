"""Builds models from config sections through sc2bench's and torchdistill's registries.

The libraries' loaders only log a missing checkpoint and unpickle it unsafely, so every checkpoint
path is taken out of what they are given and read by `ladon.models.checkpoint`.
"""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from sc2bench.models import backbone as backbone_module
from sc2bench.models.backbone import FeatureExtractionBackbone
from sc2bench.models.detection.rcnn import BaseRCNN, create_faster_rcnn_fpn
from sc2bench.models.detection.registry import load_detection_model
from sc2bench.models.layer import LAYER_CLASS_DICT, LAYER_FUNC_DICT
from sc2bench.models.registry import load_classification_model
from sc2bench.models.segmentation.deeplabv3 import create_deeplabv3
from sc2bench.models.segmentation.registry import load_segmentation_model
from torch import nn
from torch.overrides import TorchFunctionMode
from torchvision import models
from torchvision.ops.misc import FrozenBatchNorm2d

from ladon.backbones import BOTTLENECK, FAMILIES, family_of, member_of
from ladon.backbones.channels import with_target_channels
from ladon.backbones.splittable import builders
from ladon.errors import CheckpointError, ConfigError, LadonError, in_one_line
from ladon.models.bodies import as_body, pyramid_arguments, segmentation_arguments
from ladon.models.checkpoint import check_finite, load_into, read_checkpoint
from ladon.models.ladon import ThreeHeadedLadon, assemble, segmentation_checkpoint
from ladon.models.pretrained import naming_missing_files, with_local_file

logger = logging.getLogger(__name__)

_WEIGHT_KEYS = ("weights", "weights_backbone", "pretrained", "pretrained_backbone")
_DRAWS = {"normal_", "uniform_", "trunc_normal_", "kaiming_uniform_", "kaiming_normal_"}
_ORIGINAL = "org_model_ckpt_file_path_or_url"
_LIBRARY_LOADERS = {
    "classification": lambda config, device: load_classification_model(config, device, False),
    "detection": load_detection_model,
    "segmentation": load_segmentation_model,
}


@contextmanager
def on_meta_device() -> Iterator[None]:
    """Let `build_model` build architectures without memory or initialisation, in no time.

    The bottleneck is built on the CPU and moved: CompressAI mixes devices in its constructors.
    First weights are not drawn: on the meta device that took two thirds of the time.
    """
    original = backbone_module.get_layer

    def get_layer(*args: Any, **kwargs: Any) -> nn.Module:
        with torch.device("cpu"):
            layer = original(*args, **kwargs)
        return layer.to("meta")

    backbone_module.get_layer = get_layer
    try:
        with torch.device("meta"), _NoDraws():
            yield
    finally:
        backbone_module.get_layer = original


class _NoDraws(TorchFunctionMode):
    """Leaves out what fills a tensor that has no memory with random numbers."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        tensor = args[0] if args else (kwargs or {}).get("tensor")
        if getattr(func, "__name__", "") in _DRAWS and getattr(tensor, "is_meta", False):
            return tensor
        return func(*args, **(kwargs or {}))


def without_paths(value: Any) -> Any:
    """Return a model's arguments less what names checkpoints: that changes no architecture."""
    if isinstance(value, Mapping):
        items = (
            (k, v) for k, v in value.items() if not str(k).endswith(("_ckpt", "_path", "_url"))
        )
        return {k: without_paths(v) for k, v in items}
    if isinstance(value, (list, tuple)):
        return type(value)(map(without_paths, value))
    return value


def has_pretrained_weights(section: Mapping[str, Any]) -> bool:
    """Whether a model section asks for weights that come with the library."""
    kwargs = section.get("kwargs") or {}
    return any(kwargs.get(key) for key in (*_WEIGHT_KEYS, _ORIGINAL))


def build_model(
    section: Mapping[str, Any], kind: str, where: str, *, load_weights: bool = True
) -> nn.Module:
    """Build a model on the CPU, with the weights it starts from.

    Args:
        section: `key`, `kwargs` and so on, built (no lazy nodes).
        kind: which of the libraries' registries has it, `Task.model_kind`.
        where: the section's place in the config, for errors.
        load_weights: load (and download) those that its section names; False where a checkpoint
            will replace them all.

    Raises:
        ConfigError: for a key that no registry knows, or arguments it does not take.
        CheckpointError: for weights that are missing or do not fit.
    """
    if not section.get("key"):
        raise ConfigError(f"{where}: a model needs a 'key'")
    builders = {
        "faster_rcnn_model": _faster_rcnn,
        "deeplabv3_model": _deeplabv3,
        "ladon": _three_headed,
    }
    builder = builders.get(section["key"])
    try:
        with naming_missing_files(section["key"], member_of(section), where):
            if builder is not None:
                return builder(section, where, load_weights)
            return _from_library(section, kind, where, load_weights)
    except LadonError:
        raise
    except Exception as error:  # whatever a library makes of arguments that it cannot use
        reason = in_one_line(error)
        raise ConfigError(f"{where}: cannot build {section['key']}: {reason}") from error


def _from_library(
    section: Mapping[str, Any], kind: str, where: str, load_weights: bool
) -> nn.Module:
    kwargs = with_target_channels(section, _bottleneck(section))
    original = kwargs.pop(_ORIGINAL, None)
    strict = kwargs.pop("org_ckpt_strict", True)
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
    if original and load_weights:
        checkpoint = read_checkpoint(original, f"{where}.kwargs.{_ORIGINAL}")
        _load_original(model, checkpoint, strict)
    return model


def _bottleneck(section: Mapping[str, Any]) -> Callable[..., Any] | None:
    """Return what makes a splittable model's bottleneck, None if it has none."""
    config = (section.get("kwargs") or {}).get("bottleneck_config") or {}
    return {**LAYER_FUNC_DICT, **LAYER_CLASS_DICT}.get(config.get("key"))


def _has_backbone_weights(key: str) -> bool:
    modules = (models.detection, models.segmentation)
    builders = [vars(m)[key] for m in modules if callable(vars(m).get(key))]
    return bool(builders) and "weights_backbone" in inspect.signature(builders[0]).parameters


def _load_original(model: nn.Module, checkpoint: Any, strict: bool) -> None:
    """Load a plain network's weights into the stages that a splittable model took from it."""
    own = model.state_dict()
    names = getattr(model, "plain_names", None) or {name: name for name in own}
    taken = {n: checkpoint.model[p] for n, p in names.items() if p in checkpoint.model}
    missing = [n for n in own if n not in taken and not n.startswith(f"{BOTTLENECK}.")]
    if strict and missing:
        raise CheckpointError(
            f"{checkpoint.path}: made for another model: lacks {len(missing)} tensors "
            f"({', '.join(missing[:3])}, …)"
        )
    odd = [n for n, t in taken.items() if t.shape != own[n].shape]
    if odd:
        raise CheckpointError(
            f"{checkpoint.path}: made for another model: {odd[0]} "
            f"{tuple(taken[odd[0]].shape)} instead of {tuple(own[odd[0]].shape)}"
        )
    check_finite(taken, checkpoint.path, own)
    nn.Module.load_state_dict(model, taken, strict=False)


def _without_weights(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments that build the same architecture with random weights."""
    kept = {k: v for k, v in kwargs.items() if k not in _WEIGHT_KEYS}
    if "weights" in kwargs and not any("pretrained" in k for k in kwargs):
        kept["weights"] = None
    if "pretrained" in kwargs:
        kept["pretrained"] = False
        kept |= {"pretrained_backbone": False} if "pretrained_backbone" in kwargs else {}
    return kept


def _backbone(section: Mapping[str, Any], where: str, load_weights: bool) -> nn.Module:
    """Return a classification model as a body, from its own checkpoint if it names one."""
    where = f"{where}.kwargs.backbone_config"
    source = section.get("src_ckpt")
    backbone = build_model(
        section, "classification", where, load_weights=load_weights and source is None
    )
    if source is not None and load_weights:
        checkpoint = read_checkpoint(source, f"{where}.src_ckpt")
        load_into(backbone, checkpoint, absent_modules_ok=True)
    return as_body(backbone, section["key"])


def _start_from(model: nn.Module, path: str | None, where: str, load_weights: bool) -> nn.Module:
    if path is not None and load_weights:
        load_into(model, read_checkpoint(path, f"{where}.kwargs.start_ckpt_file_path"))
    return model


def _faster_rcnn(section: Mapping[str, Any], where: str, load_weights: bool) -> nn.Module:
    """sc2bench's `faster_rcnn_model` with its checkpoints and normalisation done right.

    sc2bench passes the class FrozenBatchNorm2d as `norm_layer`, which torchvision's networks ignore
    and timm's choke on (timm >= 1.0). Here the backbone is built with BatchNorm2d and loaded, and
    then converted where its family says so.
    """
    kwargs = dict(section.get("kwargs") or {})
    backbone_section = kwargs.pop("backbone_config")
    start = kwargs.pop("start_ckpt_file_path", None)
    fpn_kwargs = kwargs.pop("backbone_fpn_kwargs", None) or {}
    analysis_config = kwargs.pop("analysis_config", None)
    for key in ("pretrained", "pretrained_backbone_name", "progress"):
        if kwargs.pop(key, None) and key != "progress":
            raise ConfigError(
                f"{where}.kwargs.{key}: only the backbone's src_ckpt or start_ckpt_file_path "
                "can give faster_rcnn_model its weights"
            )
    backbone = _backbone(backbone_section, where, load_weights)
    family = family_of(backbone_section["key"])
    if family is not None and family.freezes_batch_norm:
        backbone = freeze_batch_norm(backbone)
    fpn_kwargs = pyramid_arguments(
        backbone, backbone_section, fpn_kwargs, f"{where}.kwargs.backbone_fpn_kwargs"
    )
    model = BaseRCNN(create_faster_rcnn_fpn(backbone, **fpn_kwargs, **kwargs), analysis_config)
    return _start_from(model, start, where, load_weights)


def _deeplabv3(section: Mapping[str, Any], where: str, load_weights: bool) -> nn.Module:
    """sc2bench's `deeplabv3_model` with checkpoints read by our reader."""
    kwargs = dict(section.get("kwargs") or {})
    if kwargs.get("pretrained") and kwargs.get("pretrained_backbone_name"):
        raise ConfigError(
            f"{where}.kwargs.pretrained: only the backbone's src_ckpt or start_ckpt_file_path "
            "can give deeplabv3_model its weights"
        )
    section = kwargs["backbone_config"]
    backbone = _backbone(section, where, load_weights)
    returned, num_input_channels, num_aux_channels = segmentation_arguments(
        backbone, section, kwargs, f"{where}.kwargs"
    )
    analysis = kwargs.get("analysis_config") or {}
    body = FeatureExtractionBackbone(
        backbone,
        returned,
        analysis.get("analyzer_configs", []),
        analysis.get("analyzes_after_compress", False),
        analyzable_layer_key=kwargs.get("analyzable_layer_key"),
    )
    model = create_deeplabv3(
        body,
        num_input_channels=num_input_channels,
        uses_aux=kwargs.get("uses_aux", False),
        num_aux_channels=num_aux_channels,
        num_classes=kwargs.get("num_classes", 21),
    )
    return _start_from(model, kwargs.get("start_ckpt_file_path"), where, load_weights)


def _three_headed(section: Mapping[str, Any], where: str, load_weights: bool) -> nn.Module:
    """Return the three-headed model from its three checkpoints (or without them)."""
    classifier = dict(section["classification"])
    family = family_of(classifier["key"])
    if family is None or family.key != classifier["key"]:
        known = ", ".join(f.key for f in FAMILIES.values())
        raise ConfigError(
            f"{where}.classification.key: {classifier['key']}: three heads stand on a splittable "
            f"model of a known family ({known}, and those of modules under dependencies)"
        )
    sources = {
        "classification": classifier.pop("src_ckpt", None),
        "detection": (section["detection"].get("kwargs") or {}).get("start_ckpt_file_path"),
        "segmentation": segmentation_checkpoint(
            (section["segmentation"].get("kwargs") or {}).get("start_ckpt_file_path")
        ),
    }
    built = {"classification": _from_library(classifier, "classification", where, False)}
    skipped = [n for n in family.head if getattr(built["classification"], n, None) is None]
    if skipped:
        raise ConfigError(
            f"{where}.classification.kwargs: skips {skipped[0]}, which its head needs"
        )
    for head, build in (("detection", _faster_rcnn), ("segmentation", _deeplabv3)):
        part = dict(section[head])
        # both heads stand on the classifier's own architecture
        kwargs = dict(part.get("kwargs") or {}) | {"backbone_config": classifier}
        kwargs.pop("start_ckpt_file_path", None)
        part["kwargs"] = kwargs
        built[head] = build(part, f"{where}.{head}", False)
    if not load_weights:
        return ThreeHeadedLadon(
            built["classification"], family, built["detection"], built["segmentation"]
        )
    checkpoints = {}
    for head, source in sources.items():
        name = "src_ckpt" if head == "classification" else "kwargs.start_ckpt_file_path"
        if source is None:
            raise CheckpointError(f"{where}.{head}.{name}: names no checkpoint")
        checkpoints[head] = read_checkpoint(source, f"{where}.{head}.{name}")
    return assemble(built, family, checkpoints, section.get("body") or "classification")


def freeze_batch_norm(module: nn.Module) -> nn.Module:
    """Return the module with every BatchNorm2d replaced by an equal FrozenBatchNorm2d."""
    if isinstance(module, nn.BatchNorm2d):
        frozen = FrozenBatchNorm2d(module.num_features, eps=module.eps)
        own = frozen.state_dict()
        frozen.load_state_dict({n: t for n, t in module.state_dict().items() if n in own})
        return frozen
    for name, child in list(module.named_children()):
        setattr(module, name, freeze_batch_norm(child))
    return module
