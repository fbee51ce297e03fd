"""A stage's criterion, built from its section: torchdistill's losses, and a user's own modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchdistill.losses.mid_level import SimpleLossWrapper
from torchdistill.losses.registry import get_high_level_loss, get_loss_wrapper

from ladon.errors import ConfigError


def build_criterion(section: Mapping[str, Any], device: torch.device) -> nn.Module:
    """Build a criterion; a loss that is built already is wrapped like one that is named by `key`.

    Args:
        section: a stage's `criterion`, built.
        device: gets the weights that a loss may have.

    Raises:
        ConfigError: a term is no module.
    """
    kwargs = section.get("kwargs") or {}
    terms = kwargs.get("sub_terms")
    if section["key"] == "WeightedSumLoss" and terms:
        made = {name: _term(name, term) for name, term in terms.items()}
        section = {**section, "kwargs": {**kwargs, "sub_terms": made}}
    criterion = get_high_level_loss(section)
    for loss in (criterion, *terms_of(criterion).values()):
        loss.to(device)
    return criterion


def terms_of(criterion: nn.Module) -> dict[str, nn.Module]:
    """Return the losses of a weighted sum by their names; of another criterion none."""
    return {name: term for name, (term, _) in getattr(criterion, "term_dict", {}).items()}


def _term(name: str, term: Mapping[str, Any]) -> dict[str, Any]:
    loss, wrapper = term["criterion"], term.get("criterion_wrapper")
    if isinstance(loss, Mapping):
        return {**term, "criterion": {**loss, "kwargs": loss.get("kwargs") or {}}}
    if not isinstance(loss, nn.Module):
        kind = type(loss).__name__
        raise ConfigError(f"the criterion's term {name!r} is a {kind}, not a torch.nn.Module")
    return {**term, "criterion": get_loss_wrapper(loss, wrapper) if wrapper else loss}


def described(name: str, loss: nn.Module, given: Sequence[Any]) -> str:
    """Return a term of the criterion in words, with what it compares.

    Args:
        name: the term's.
        loss: its loss, wrapped or not.
        given: what the loss was called with: student's and teacher's inputs and outputs, targets.
    """
    inner = getattr(loss, "low_level_loss", loss)
    text = f"the criterion's term {name!r} ({type(inner).__name__})"
    if not isinstance(loss, SimpleLossWrapper) or len(given) != 3:
        return text
    student, teacher, targets = given
    sides = [(loss.is_input_from_teacher, loss.input_module_path, loss.input_key)]
    if loss.target_module_path is not None:
        sides.append((loss.is_target_from_teacher, loss.target_module_path, loss.target_key))
    words = []
    for is_teachers, path, io in sides:
        value = ((teacher if is_teachers else student).get(path) or {}).get(io)
        whose = "teacher" if is_teachers else "student"
        what = f"{whose}'s {io}" if path == "." else f"{io} of the {whose}'s {path!r}"
        words.append(f"the {what}{_shape(value)}")
    if len(sides) == 1:
        words.append(f"the targets{_shape(targets)}")
    return f"{text}, which compares {' with '.join(words)}"


def _shape(value: Any) -> str:
    if isinstance(value, Mapping):
        return f" {{{', '.join(f'{key}:{_shape(item)}' for key, item in value.items())}}}"
    return f" {list(value.shape)}" if isinstance(value, Tensor) else ""
