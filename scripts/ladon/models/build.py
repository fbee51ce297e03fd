"""Builds models from config sections through sc2bench's and torchdistill's registries.

The libraries' loaders only log a missing checkpoint and unpickle it unsafely, so every checkpoint
path is taken out of what they are given and read by `ladon.models.checkpoint`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from sc2bench.models.backbone import FeatureExtractionBackbone
from sc2bench.models.detection.rcnn import BaseRCNN, create_faster_rcnn_fpn
from sc2bench.models.segmentation.deeplabv3 import create_deeplabv3
from torch import nn
from torchvision.ops.misc import FrozenBatchNorm2d

from ladon.backbones import BOTTLENECK, FAMILIES, Family, family_of, member_of
from ladon.choices import HEADS
from ladon.errors import CheckpointError, ConfigError, LadonError, in_one_line
from ladon.models.bodies import as_body, pyramid_arguments, segmentation_arguments
from ladon.models.checkpoint import Checkpoint, load_into, read_checkpoint
from ladon.models.describe import num_classes_of
from ladon.models.ladon import ThreeHeadedLadon, assemble, segmentation_checkpoint
from ladon.models.library import (
    from_library,
    is_from_library,
    load_original,
    with_library_weights,
)
from ladon.models.meta_device import on_meta_device
from ladon.models.pretrained import naming_missing_files, refusing_other_classes
from ladon.models.reset_head import ClassLayers, find_class_layers, load_without, start_hint


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
        missing = naming_missing_files(section["key"], member_of(section), where)
        with missing, refusing_other_classes():
            if builder is not None:
                return builder(section, where, load_weights)
            if load_weights and section.get("reset_head") and is_from_library(section):
                return with_library_weights(section, kind, where)
            model = from_library(section, kind, where, load_weights=load_weights)
            if load_weights:
                find = functools.partial(class_layers, section, kind, where)
                load_original(model, section, where, find)
            return model
    except LadonError:
        raise
    except Exception as error:  # whatever a library makes of arguments that it cannot use
        reason = in_one_line(error)
        if load_weights and is_from_library(section) and "num_classes" in reason:
            is_backbone = where.endswith(".backbone_config")
            advice = f"write reset_head: true in {where} to start without their class layers"
            reason += f"; {'a backbone needs none: leave it out' if is_backbone else advice}"
        raise ConfigError(f"{where}: cannot build {section['key']}: {reason}") from error


def class_layers(section: Mapping[str, Any], kind: str, where: str) -> ClassLayers:
    """Return the layers of a section's model whose outputs count its classes.

    Args:
        section, kind, where: as for `build_model`.

    Raises:
        ConfigError: the model has none.
    """

    def build(num_classes: int) -> nn.Module:
        kwargs = {**(section.get("kwargs") or {}), "num_classes": num_classes}
        with on_meta_device():
            return build_model({**section, "kwargs": kwargs}, kind, where, load_weights=False)

    return find_class_layers(build, f"{where}.reset_head: {section['key']}")


def start_from(
    model: nn.Module,
    checkpoint: Checkpoint,
    section: Mapping[str, Any],
    kind: str,
    where: str,
    **options: bool,
) -> None:
    """Load what a model starts from, less its class layers if its section has `reset_head`.

    Args:
        model: just built; of no use any more where the checkpoint does not fit.
        checkpoint: the checkpoint.
        section, kind, where: as for `build_model`.
        options: of `load_into`.

    Raises:
        CheckpointError: it does not fit.
        ConfigError: the model has no class layer that could be left out.
    """
    if section.get("reset_head"):
        load_without(model, checkpoint, class_layers(section, kind, where), where)
        return
    try:
        load_into(model, checkpoint, **options)
    except CheckpointError as error:
        find = functools.partial(class_layers, section, kind, where)
        found = start_hint(model, checkpoint, find, where, **options)
        raise CheckpointError(f"{error}{found}") from error


def _backbone(section: Mapping[str, Any], where: str, load_weights: bool) -> nn.Module:
    """Return a classification model as a body, from its own checkpoint if it names one."""
    where = f"{where}.kwargs.backbone_config"
    source = section.get("src_ckpt")
    backbone = build_model(
        section, "classification", where, load_weights=load_weights and source is None
    )
    if source is not None and load_weights:
        checkpoint = read_checkpoint(source, f"{where}.src_ckpt")
        start_from(backbone, checkpoint, section, "classification", where, absent_modules_ok=True)
    return as_body(backbone, section["key"])


def _from_checkpoint(
    model: nn.Module, path: str | None, section: Mapping[str, Any], kind: str, where: str
) -> nn.Module:
    if path is not None:
        checkpoint = read_checkpoint(path, f"{where}.kwargs.start_ckpt_file_path")
        start_from(model, checkpoint, section, kind, where)
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
    return _from_checkpoint(model, start if load_weights else None, section, "detection", where)


def _deeplabv3(section: Mapping[str, Any], where: str, load_weights: bool) -> nn.Module:
    """sc2bench's `deeplabv3_model` with checkpoints read by our reader."""
    kwargs = dict(section.get("kwargs") or {})
    if kwargs.get("pretrained") and kwargs.get("pretrained_backbone_name"):
        raise ConfigError(
            f"{where}.kwargs.pretrained: only the backbone's src_ckpt or start_ckpt_file_path "
            "can give deeplabv3_model its weights"
        )
    backbone_section = kwargs["backbone_config"]
    backbone = _backbone(backbone_section, where, load_weights)
    returned, num_input_channels, num_aux_channels = segmentation_arguments(
        backbone, backbone_section, kwargs, f"{where}.kwargs"
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
    start = kwargs.get("start_ckpt_file_path") if load_weights else None
    return _from_checkpoint(model, start, section, "segmentation", where)


def _three_headed(section: Mapping[str, Any], where: str, load_weights: bool) -> nn.Module:
    """Return the three-headed model from its three checkpoints (or without them)."""
    classifier = section["classification"]
    family = family_of(classifier["key"])
    if family is None or family.key != classifier["key"]:
        known = ", ".join(f.key for f in FAMILIES.values())
        raise ConfigError(
            f"{where}.classification.key: {classifier['key']}: three heads stand on a splittable "
            f"model of a known family ({known}, and those of modules under dependencies)"
        )
    parts, checkpoints = _three_parts(section, where, load_weights)
    classifier = parts["classification"]
    built = {
        "classification": from_library(classifier, "classification", where, load_weights=False)
    }
    skipped = [n for n in family.head if getattr(built["classification"], n, None) is None]
    if skipped:
        raise ConfigError(
            f"{where}.classification.kwargs: skips {skipped[0]}, which its head needs"
        )
    for head, build in (("detection", _faster_rcnn), ("segmentation", _deeplabv3)):
        # both heads stand on the classifier's own architecture
        kwargs = {**parts[head]["kwargs"], "backbone_config": classifier}
        built[head] = build({**parts[head], "kwargs": kwargs}, f"{where}.{head}", False)
    body = section.get("body") or "classification"
    _check_body(built, family, body, where)
    if not load_weights:
        return ThreeHeadedLadon(
            built["classification"], family, built["detection"], built["segmentation"]
        )
    return assemble(built, family, checkpoints, body)


def _three_parts(
    section: Mapping[str, Any], where: str, load_weights: bool
) -> tuple[dict[str, dict[str, Any]], dict[str, Checkpoint]]:
    """Return the parts' sections, which name no checkpoint any more, and the checkpoints.

    A part that does not say its number of classes has that of its checkpoint.

    Args:
        section, where, load_weights: as for `build_model`.

    Raises:
        CheckpointError: a checkpoint is not named, not there or of no use.
    """
    parts: dict[str, dict[str, Any]] = {}
    checkpoints: dict[str, Checkpoint] = {}
    for head in HEADS:
        part = dict(section[head])
        kwargs = part["kwargs"] = dict(part.get("kwargs") or {})
        if head == "classification":
            name, source = "src_ckpt", part.pop("src_ckpt", None)
        else:
            name = "kwargs.start_ckpt_file_path"
            source = kwargs.pop("start_ckpt_file_path", None)
        parts[head] = part
        if not load_weights:
            continue
        if source is None:
            raise CheckpointError(f"{where}.{head}.{name}: names no checkpoint")
        file = segmentation_checkpoint(source) if head == "segmentation" else source
        checkpoints[head] = read_checkpoint(file, f"{where}.{head}.{name}")
        count = num_classes_of(checkpoints[head].model)
        if count is not None:
            kwargs.setdefault("num_classes", count)
    return parts, checkpoints


def _check_body(built: Mapping[str, Any], family: Family, body: str, where: str) -> None:
    """Refuse heads that read what no body has, and a shared body that lacks its last stages.

    Args:
        built: model by head.
        family: their backbone's.
        body: the head whose checkpoint gives the shared body.
        where: the three-headed model's section.

    Raises:
        ConfigError: naming the key.
    """
    if body not in HEADS:
        raise ConfigError(f"{where}.body: {body} is none of {', '.join(HEADS)}")
    levels = (BOTTLENECK, *family.stages)
    places = {
        "detection": ("kwargs.backbone_fpn_kwargs", built["detection"].backbone.body),
        "segmentation": ("kwargs", built["segmentation"].backbone),
    }
    for head, (place, own) in places.items():
        behind = [layer for layer in own.return_layer_dict if layer not in levels]
        if behind:
            raise ConfigError(
                f"{where}.{head}.{place}.return_layer_dict: {behind[0]} is no part of the body: "
                f"name some of {', '.join(levels)}"
            )
        if head == body and not hasattr(own, levels[-1]):
            raise ConfigError(
                f"{where}.body: the {body} model has no {levels[-1]}, which classification reads: "
                "name another head, whose model has the whole body"
            )


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
