"""Channels in models' arguments, compared with what their backbone delivers and takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ladon.backbones.channels import (
    Problem,
    pyramid_problems,
    segmenter_problems,
    splittable_problems,
    stage_channels,
)
from ladon.config.core import schema
from ladon.config.validate.registries import entries
from ladon.config.validate.validator import ConfigNode, Validator
from ladon.errors import ConfigError


def check_channels(validator: Validator, node: ConfigNode) -> None:
    """Check the numbers of channels of a model, of its backbone's bottleneck and of its head."""
    try:
        section = validator.config.section(node.path)
        problems = list(_problems(validator, node, section))
    except ConfigError:  # listed where it stands
        return
    for key, text in problems:
        found = node
        for name in key.split("."):
            found = validator.child(found, name) or found
        validator.add(found, text)


def _problems(
    validator: Validator, node: ConfigNode, section: Mapping[str, Any]
) -> Iterator[Problem]:
    kwargs = section.get("kwargs")
    if not isinstance(kwargs, Mapping):
        return
    config = kwargs.get("bottleneck_config")
    key = config.get("key") if isinstance(config, Mapping) else None
    layer = entries("layer").get(key) if isinstance(key, str) else None
    yield from splittable_problems(section, layer)
    stages = _stages(validator, node, kwargs)
    if section["key"] == "faster_rcnn_model":
        fpn = kwargs.get("backbone_fpn_kwargs")
        for name, text in pyramid_problems(stages, fpn) if isinstance(fpn, Mapping) else ():
            yield f"kwargs.backbone_fpn_kwargs.{name}", text
    elif section["key"] == "deeplabv3_model":
        for name, text in segmenter_problems(stages, kwargs):
            yield f"kwargs.{name}", text


def _stages(validator: Validator, node: ConfigNode, kwargs: Mapping[str, Any]) -> dict[str, int]:
    """Return what a head's backbone delivers; a head of the three stands on the classifier."""
    backbone = kwargs.get("backbone_config")
    parent, _, place = node.path.rpartition(".")
    if backbone is None and place in schema.HEADS:
        backbone = validator.config.section(f"{parent}.classification")
    if not isinstance(backbone, Mapping) or not isinstance(backbone.get("key"), str):
        return {}
    return stage_channels(backbone)
