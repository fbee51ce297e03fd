"""What follows from a backbone: channels that a bottleneck delivers and that heads take."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ladon.backbones.base import BOTTLENECK, Family, family_of, member_of

Problem = tuple[str, str]
"""A key below the section that was looked at, and what is wrong with its value."""

TARGET = "num_target_channels"
# arguments by which sc2bench's bottlenecks are told their decoder otherwise
_INSTEAD = ("decoder_channel_sizes", "g_s", "g_s_channel_sizes")


def stage_channels(section: Mapping[str, Any]) -> dict[str, int]:
    """Return the channels that each stage of a network delivers, the one at the split point first.

    Args:
        section: a classification model's section of a config.

    Returns:
        Channels by the name of the part; nothing for a network of no known family.
    """
    family = family_of(section["key"])
    known = family.members.get(member_of(section)) if family is not None else None
    if family is None or known is None:
        return {}
    first = BOTTLENECK if section["key"] == family.key else family.split
    return dict(zip((first, *family.stages), known.channels, strict=True))


def with_target_channels(
    section: Mapping[str, Any], layer: Callable[..., Any] | None
) -> dict[str, Any]:
    """Return a splittable model's `kwargs`, its bottleneck delivering what the next stage takes.

    Args:
        section: the model's section.
        layer: makes the bottleneck; one that is told its channels otherwise is left alone.
    """
    kwargs = dict(section.get("kwargs") or {})
    needed, told = _needed(section), _told(kwargs)
    if needed is None or layer is None or not _takes_target(layer) or {TARGET, *_INSTEAD} & {*told}:
        return kwargs
    bottleneck = {**kwargs["bottleneck_config"], "kwargs": {**told, TARGET: needed}}
    return {**kwargs, "bottleneck_config": bottleneck}


def splittable_problems(
    section: Mapping[str, Any], layer: Callable[..., Any] | None
) -> Iterator[Problem]:
    """Yield what of a splittable model's arguments does not fit its network.

    Args:
        section: the model's section of a config.
        layer: makes its bottleneck; None if that is not known.
    """
    kwargs, needed = section.get("kwargs") or {}, _needed(section)
    if needed is None:
        return
    family, member = _family(section), member_of(section)
    assert family is not None  # it has told what is needed
    told = _told(kwargs)
    if layer is not None and _takes_target(layer) and not {*_INSTEAD} & {*told}:
        text = f"the bottleneck must deliver what {family.stages[0]} of {member} takes"
        key = f"kwargs.bottleneck_config.kwargs.{TARGET}"
        yield from _compared(key, told.get(TARGET), needed, f"{text}: {needed}; or leave it out")
    last = family.members[member].channels[-1]
    text = f"{family.stages[-1]} of {member} delivers {last}"
    yield from _compared("kwargs.inplanes", kwargs.get("inplanes"), last, text)


def pyramid_problems(stages: Mapping[str, int], given: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what of a detector's `backbone_fpn_kwargs` does not fit its backbone.

    Args:
        stages: the backbone's, from `stage_channels`; empty if it tells nothing.
        given: the arguments.
    """
    taken = given.get("return_layer_dict")
    names = list(taken) if isinstance(taken, Mapping) and taken else list(stages)
    channels = given.get("in_channels_list")
    if not isinstance(channels, list | tuple):
        first = next(iter(stages.values()), None)
        base = given.get("in_channels_stage2")
        if first is not None and base and not taken:
            text = f"{next(iter(stages))} of the backbone delivers {first}"
            yield from _compared("in_channels_stage2", base, first, text)
        return
    if taken and len(names) != len(channels):
        yield "in_channels_list", f"needs a number for each of {', '.join(names)}"
    fitting = [stages.get(name, given) for name, given in zip(names, channels, strict=False)]
    if fitting != list(channels):
        text = ", ".join(f"{n} {c}" for n, c in zip(names, fitting, strict=False))
        yield "in_channels_list", f"the backbone delivers {text}: write {fitting}, or leave it out"


def segmenter_problems(stages: Mapping[str, int], given: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what of a `deeplabv3_model`'s arguments does not fit its backbone.

    Args:
        stages: the backbone's, from `stage_channels`; empty if it tells nothing.
        given: the arguments.
    """
    taken = given.get("return_layer_dict")
    if not isinstance(taken, Mapping) or not taken:
        taken = dict(zip(list(stages)[::-1], ("out", "aux"), strict=False))
    else:
        needed = ("out", "aux") if given.get("uses_aux") else ("out",)
        lacking = [head for head in needed if head not in taken.values()]
        if lacking:
            text = f"names no layer '{lacking[0]}', which a head reads"
            yield "return_layer_dict", f"{text}: write {_named_last(taken, needed)}"
    for name, head in taken.items():
        key = {"out": "num_input_channels", "aux": "num_aux_channels"}.get(head)
        if key is None or name not in stages or (head == "aux" and not given.get("uses_aux")):
            continue
        text = f"{name} of the backbone delivers {stages[name]}; or leave it out"
        yield from _compared(key, given.get(key), stages[name], text)


def _named_last(taken: Mapping[str, Any], heads: Sequence[str]) -> str:
    """Return the mapping as it would be with the last layers given to the heads."""
    pairs = zip(list(taken)[::-1], heads, strict=False)
    return "{" + ", ".join(f"{name}: {head}" for name, head in list(pairs)[::-1]) + "}"


def _compared(key: str, value: Any, needed: int, why: str) -> Iterator[Problem]:
    if isinstance(value, int) and not isinstance(value, bool) and value != needed:
        yield key, f"must be {needed}, not {value}: {why}"


def _family(section: Mapping[str, Any]) -> Family | None:
    """Return the family of a splittable model; None of every other one."""
    family = family_of(section["key"])
    return family if family is not None and family.key == section["key"] else None


def _needed(section: Mapping[str, Any]) -> int | None:
    family = _family(section)
    member = None if family is None else member_of(section)
    return family.target_channels(member) if family is not None and member else None


def _told(kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the arguments of a splittable model's bottleneck."""
    config = kwargs.get("bottleneck_config")
    told = config.get("kwargs") if isinstance(config, Mapping) else None
    return told if isinstance(told, Mapping) else {}


def _takes_target(layer: Callable[..., Any]) -> bool:
    try:
        return TARGET in inspect.signature(layer).parameters
    except (TypeError, ValueError):
        return False
