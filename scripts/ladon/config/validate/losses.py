"""Losses of a stage: whether its models give what they read."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ladon.config.core.nodes import LazyCall, suggest
from ladon.config.validate.registries import entries
from ladon.config.validate.reset_head import check_answer_read
from ladon.config.validate.validator import ConfigNode, Validator, target_of
from ladon.errors import ConfigError

_WRAPPERS = ("SimpleLossWrapper", "DictLossWrapper")
_PATH = re.compile(r"(student|teacher|entropy)_(?:\w+_)?path")
_SELF = "."  # the model itself, whose output is always there
_IO = ("input", "output")
# what a loss is called with: by itself, or by one of the wrappers
_GIVEN = ("student_io_dict", "teacher_io_dict", "targets")
_WRAPPED = ("input", "target")


@dataclass(frozen=True)
class _Read:
    """One tensor that a loss reads: of which model, which module, its input or its output."""

    node: ConfigNode
    model: str
    path: str
    io: str | None


def check_losses(validator: Validator, stage: ConfigNode) -> None:
    """Check that every loss of a stage reads what the stage's forward hooks give.

    Only losses of the libraries are looked into: what a user's own one reads is its own business.
    """
    criterion = validator.child(stage, "criterion")
    kwargs = criterion and _mapping(validator, criterion, "kwargs")
    if (
        criterion is None
        or kwargs is None
        or _value(validator, criterion, "key") != "WeightedSumLoss"
    ):
        return
    terms = _mapping(validator, kwargs, "sub_terms")
    student = "student" if validator.child(stage, "student") is not None else "model"
    for _, term in validator.children(terms) if terms is not None else ():
        for read in _reads(validator, term):
            _check(validator, stage, read, student if read.model == "student" else "teacher")
            if read.model == "teacher" and read.io != "input":
                check_answer_read(validator, term, read.node, read.path)


def check_loss_term(validator: Validator, term: ConfigNode) -> None:
    """Check that a loss's `forward` takes what it is called with, given its wrapper or none."""
    criterion = validator.child(term, "criterion")
    wrapper = validator.child(term, "criterion_wrapper")
    key = wrapper and _value(validator, wrapper, "key")
    if criterion is None or (wrapper is not None and key not in _WRAPPERS):
        return
    name, loss = _loss(validator, criterion)
    if loss is None or not isinstance(loss, type):  # a function may make any loss
        return
    forward = getattr(loss, "forward", None)
    if not callable(forward) or not hasattr(loss, "register_forward_hook"):
        validator.add(criterion, f"{name} is no loss: a loss is a torch.nn.Module with a forward")
        return
    given = _GIVEN if wrapper is None else _WRAPPED
    if _takes(forward, given):
        return
    text = f"{name}: forward{inspect.signature(forward)} cannot be called with ({', '.join(given)})"
    if wrapper is not None:
        hint = f"as {key} calls it: give it these two arguments"
        hint += ", or leave out criterion_wrapper" if _takes(forward, _GIVEN) else ""
    elif _takes(forward, _WRAPPED):
        hint = (
            "as a loss without criterion_wrapper is: add criterion_wrapper: {key: "
            "SimpleLossWrapper, kwargs: {input: …, target: …}}, which says what it compares"
        )
    else:
        hint = "as a loss without criterion_wrapper is: give it these arguments, or (input, target)"
    validator.add(criterion, f"{text}, {hint}")


def _loss(validator: Validator, criterion: ConfigNode) -> tuple[str, Any]:
    """Return the name of a term's loss and what makes it; None if that is not known."""
    lazy = criterion.value
    if isinstance(lazy, LazyCall):
        try:
            is_call = lazy.tag == "!import_call"
            return target_of(validator, lazy) if is_call else ("", None)
        except ConfigError:  # listed with the tagged nodes
            return "", None
    key = _value(validator, criterion, "key")
    return str(key), entries("loss term").get(key) if isinstance(key, str) else None


def _takes(forward: Callable[..., Any], given: tuple[str, ...]) -> bool:
    try:
        inspect.signature(forward).bind(None, *given)
    except TypeError:
        return False
    except ValueError:  # not written in Python
        return True
    return True


def _check(validator: Validator, stage: ConfigNode, read: _Read, name: str) -> None:
    part = validator.child(stage, name)
    if name == "teacher" and (part is None or (part.value is None)):
        validator.add(read.node, f'reads the teacher, but {stage.path} has no "teacher"')
        return
    if read.io is not None and read.io not in _IO:
        validator.add(read.node, f'reads the "{read.io}" of a module: it must be input or output')
        return
    if read.path == _SELF and read.io != "input":
        return
    places = _IO if read.io is None else (read.io,)
    hooked = [_hooked(validator, part, io) for io in places]
    if None in hooked:
        return
    given = [path for paths in hooked for path in paths or ()]
    if read.path not in given:
        what = f"{' or '.join(places)} of {read.path!r}"
        where = f"{stage.path}.{name}.forward_hook.{places[-1]}"
        hint = suggest(read.path, given)
        validator.add(read.node, f"reads the {what}, which {where} does not list{hint}")


def _hooked(validator: Validator, part: ConfigNode | None, io: str) -> list[str] | None:
    """Return the paths of a part's forward hook; None if they are not known yet."""
    hook = None if part is None or part.is_unresolved else validator.child(part, "forward_hook")
    paths = None if hook is None or hook.is_unresolved else validator.child(hook, io)
    if any(node is not None and node.is_unresolved for node in (part, hook, paths)):
        return None
    return [] if paths is None else [str(item.value) for _, item in validator.children(paths)]


def _reads(validator: Validator, term: ConfigNode) -> Iterator[_Read]:
    """Yield what a term reads, as far as its libraries say it in their arguments."""
    wrapper = validator.child(term, "criterion_wrapper")
    if wrapper is not None:
        kwargs = _mapping(validator, wrapper, "kwargs")
        if kwargs is None or _value(validator, wrapper, "key") not in _WRAPPERS:
            return
        for name in ("input", "target"):
            tensor = _mapping(validator, kwargs, name)
            path = tensor and validator.child(tensor, "module_path")
            if tensor is None or path is None or not isinstance(path.value, str):
                continue
            io = _value(validator, tensor, "io")
            is_teachers = _value(validator, tensor, "is_from_teacher") is True
            model = "teacher" if is_teachers else "student"
            yield _Read(path, model, path.value, io if isinstance(io, str) else None)
        return
    criterion = validator.child(term, "criterion")
    kwargs = criterion and _mapping(validator, criterion, "kwargs")
    key = criterion and _value(validator, criterion, "key")
    loss = entries("loss term").get(key) if isinstance(key, str) else None
    if kwargs is None or not getattr(loss, "__module__", "").startswith(("torchdistill.", "sc2b")):
        return
    for name, child in validator.children(kwargs):
        match = _PATH.fullmatch(str(name))
        if match and isinstance(child.value, str):
            is_rate = match[1] == "entropy"
            io = "output" if is_rate else _value(validator, kwargs, f"{str(name)[:-4]}io")
            model = "student" if is_rate else match[1]
            yield _Read(child, model, child.value, io if isinstance(io, str) else None)


def _mapping(validator: Validator, node: ConfigNode, key: str) -> ConfigNode | None:
    child = validator.child(node, key)
    return child if child is not None and isinstance(child.value, dict) else None


def _value(validator: Validator, node: ConfigNode, key: str) -> Any:
    child = validator.child(node, key)
    return None if child is None else child.value
