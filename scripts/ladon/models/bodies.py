"""The body of a detector or segmenter: a backbone's parts by name, and what the heads take of it.

A head is told names of parts and their channels. Where a config leaves them out they follow from
the backbone: its family's stages, or those that timm lists of a model with `features_only`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from ladon.backbones import CutFamily, family_of, family_with
from ladon.backbones.channels import (
    Problem,
    pyramid_problems,
    segmenter_problems,
    stage_channels,
)
from ladon.backbones.splittable import without_head
from ladon.errors import ConfigError

# of a pyramid, less the one that is pooled: torchvision's anchors are for five
_LEVELS = 4


def as_body(backbone: nn.Module, key: str) -> nn.Module:
    """Return a backbone whose children run one after another, each a part that a head may take.

    Args:
        backbone: a classification model.
        key: its key in the config.
    """
    family = family_of(key)
    if isinstance(family, CutFamily) and key != family.key:
        return without_head(family, backbone)
    return backbone


def channels_of(body: nn.Module, section: Mapping[str, Any]) -> dict[str, int]:
    """Return how many channels each stage delivers, by its name, as far as that is known.

    Args:
        body: the backbone by its parts.
        section: its section of the config.
    """
    children = dict(body.named_children())
    info = getattr(body, "feature_info", None)
    if info is not None and hasattr(info, "get_dicts"):  # timm's, with `features_only`
        stages = {str(d["module"]).replace(".", "_"): d["num_chs"] for d in info.get_dicts()}
        return {name: channels for name, channels in stages.items() if name in children}
    stages = stage_channels(section)
    return {name: channels for name, channels in stages.items() if name in children}


def pyramid_arguments(
    body: nn.Module, section: Mapping[str, Any], given: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """Return the arguments of a detector's pyramid, with what follows from the backbone.

    Args:
        body: the backbone by its parts.
        section: its section of the config.
        given: `backbone_fpn_kwargs`.
        where: their place in the config, for errors.

    Raises:
        ConfigError: they name a part that is not there, or leave out what the backbone cannot tell.
    """
    arguments, stages = dict(given), channels_of(body, section)
    by_number = arguments.get("returned_layers") or arguments.get("in_channels_stage2")
    if not by_number:
        if arguments.get("return_layer_dict") is None and stages:
            last = list(stages)[-_LEVELS:]
            arguments["return_layer_dict"] = {name: str(level) for level, name in enumerate(last)}
        names = list(arguments.get("return_layer_dict") or ())
        if arguments.get("in_channels_list") is None and names and stages.keys() >= set(names):
            arguments["in_channels_list"] = [stages[name] for name in names]
    check_parts(body, arguments.get("return_layer_dict") or (), f"{where}.return_layer_dict")
    _refuse(pyramid_problems(stages, given), where)
    if arguments.get("in_channels_list") is not None:
        # sc2bench would ask the backbone even where nobody needs the answer
        arguments.setdefault("in_channels_stage2", 0)
    elif not (arguments.get("in_channels_stage2") or hasattr(body, "inplanes")):
        raise ConfigError(f"{where}.in_channels_list: needed: {_parts(section['key'], body)}")
    return arguments


def segmentation_arguments(
    body: nn.Module, section: Mapping[str, Any], given: Mapping[str, Any], where: str
) -> tuple[dict[str, str], int, int]:
    """Return the parts that a segmenter's heads take, and the channels of `out` and `aux`.

    Args:
        body: the backbone by its parts.
        section: its section of the config.
        given: the segmenter's `kwargs`.
        where: their place in the config, for errors.

    Raises:
        ConfigError: they name a part that is not there, or leave out what the backbone cannot tell.
    """
    stages = channels_of(body, section)
    returned = given.get("return_layer_dict")
    if not returned:
        family = family_with({name for name, _ in body.named_children()})
        names = list(stages) or (list(family.stages) if family is not None else [])
        if len(names) < 2:
            raise ConfigError(f"{where}.return_layer_dict: needed: {_parts(section['key'], body)}")
        returned = {names[-1]: "out"} | ({names[-2]: "aux"} if given.get("uses_aux") else {})
    check_parts(body, returned, f"{where}.return_layer_dict")
    _refuse(segmenter_problems(stages, given), where)
    taken = {head: stages[name] for name, head in returned.items() if name in stages}
    return (
        returned,
        given.get("num_input_channels") or taken.get("out", 2048),
        given.get("num_aux_channels") or taken.get("aux", 1024),
    )


def _refuse(problems: Iterable[Problem], where: str) -> None:
    for key, text in problems:
        raise ConfigError(f"{where}.{key}: {text}")


def check_parts(body: nn.Module, names: Iterable[str], where: str) -> None:
    """Refuse names of parts that a backbone does not have.

    Raises:
        ConfigError: naming one, and the parts there are.
    """
    children = {name for name, _ in body.named_children()}
    missing = [name for name in names if name not in children]
    if missing:
        raise ConfigError(f"{where}: no '{missing[0]}': {_parts('the backbone', body)}")


def _parts(what: str, body: nn.Module) -> str:
    parts = ", ".join(name for name, _ in body.named_children())
    is_timms = type(body).__module__.startswith("timm.")
    hint = "; with features_only: true, timm gives its stages by name" if is_timms else ""
    return f"{what} consists of {parts}{hint}"
