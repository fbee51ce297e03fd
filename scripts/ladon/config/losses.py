"""What a stage's losses read of its models, and whether the stage gives it to them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ladon.config.nodes import suggest
from ladon.config.registries import entries
from ladon.config.walk import View, Walker

_WRAPPERS = ("SimpleLossWrapper", "DictLossWrapper")
_PATH = re.compile(r"(student|teacher|entropy)_(?:\w+_)?path")
_SELF = "."  # the model itself, whose output is always there
_IO = ("input", "output")


@dataclass(frozen=True)
class _Read:
    """One tensor that a loss reads: of which model, which module, its input or its output."""

    view: View
    model: str
    path: str
    io: str | None


def check_losses(walker: Walker, stage: View) -> None:
    """Check that every loss of a stage reads what the stage's forward hooks give.

    Only losses of the libraries are looked into: what a user's own one reads is its own business.
    """
    criterion = walker.child(stage, "criterion")
    kwargs = criterion and _mapping(walker, criterion, "kwargs")
    if criterion is None or kwargs is None or _value(walker, criterion, "key") != "WeightedSumLoss":
        return
    terms = _mapping(walker, kwargs, "sub_terms")
    student = "student" if walker.child(stage, "student") is not None else "model"
    for _, term in walker.children(terms) if terms is not None else ():
        for read in _reads(walker, term):
            _check(walker, stage, read, student if read.model == "student" else "teacher")


def _check(walker: Walker, stage: View, read: _Read, name: str) -> None:
    part = walker.child(stage, name)
    if name == "teacher" and (part is None or (part.value is None)):
        walker.add(read.view, f'reads the teacher, but {stage.path} has no "teacher"')
        return
    if read.io is not None and read.io not in _IO:
        walker.add(read.view, f'reads the "{read.io}" of a module: it must be input or output')
        return
    if read.path == _SELF and read.io != "input":
        return
    places = _IO if read.io is None else (read.io,)
    hooked = [_hooked(walker, part, io) for io in places]
    if None in hooked:
        return
    given = [path for paths in hooked for path in paths or ()]
    if read.path not in given:
        what = f"{' or '.join(places)} of {read.path!r}"
        where = f"{stage.path}.{name}.forward_hook.{places[-1]}"
        hint = suggest(read.path, given)
        walker.add(read.view, f"reads the {what}, which {where} does not list{hint}")


def _hooked(walker: Walker, part: View | None, io: str) -> list[str] | None:
    """Return the paths of a part's forward hook; None if they are not known yet."""
    hook = None if part is None or part.is_open else walker.child(part, "forward_hook")
    paths = None if hook is None or hook.is_open else walker.child(hook, io)
    if any(view is not None and view.is_open for view in (part, hook, paths)):
        return None
    return [] if paths is None else [str(item.value) for _, item in walker.children(paths)]


def _reads(walker: Walker, term: View) -> Iterator[_Read]:
    """Yield what a term reads, as far as its libraries say it in their arguments."""
    wrapper = walker.child(term, "criterion_wrapper")
    if wrapper is not None:
        kwargs = _mapping(walker, wrapper, "kwargs")
        if kwargs is None or _value(walker, wrapper, "key") not in _WRAPPERS:
            return
        for name in ("input", "target"):
            tensor = _mapping(walker, kwargs, name)
            path = tensor and walker.child(tensor, "module_path")
            if tensor is None or path is None or not isinstance(path.value, str):
                continue
            io = _value(walker, tensor, "io")
            is_teachers = _value(walker, tensor, "is_from_teacher") is True
            model = "teacher" if is_teachers else "student"
            yield _Read(path, model, path.value, io if isinstance(io, str) else None)
        return
    criterion = walker.child(term, "criterion")
    kwargs = criterion and _mapping(walker, criterion, "kwargs")
    key = criterion and _value(walker, criterion, "key")
    loss = entries("loss term").get(key) if isinstance(key, str) else None
    if kwargs is None or not getattr(loss, "__module__", "").startswith(("torchdistill.", "sc2b")):
        return
    for name, child in walker.children(kwargs):
        match = _PATH.fullmatch(str(name))
        if match and isinstance(child.value, str):
            is_rate = match[1] == "entropy"
            io = "output" if is_rate else _value(walker, kwargs, f"{str(name)[:-4]}io")
            model = "student" if is_rate else match[1]
            yield _Read(child, model, child.value, io if isinstance(io, str) else None)


def _mapping(walker: Walker, view: View, key: str) -> View | None:
    child = walker.child(view, key)
    return child if child is not None and isinstance(child.value, dict) else None


def _value(walker: Walker, view: View, key: str) -> Any:
    child = walker.child(view, key)
    return None if child is None else child.value
