"""Dotted paths into config nodes, like `datasets.ilsvrc2012/val.init.kwargs.root`.

A key may itself contain dots and slashes (`coco2017/val`, `v1.2`): at each mapping the longest run
of path pieces that is a key wins. A number indexes a list. A path walks through a tagged node into
what stands behind its tag.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ladon.config.core.nodes import (
    ConfigList,
    ConfigMap,
    LazyCall,
    SourceLocation,
    kind_of,
    suggest,
)
from ladon.errors import ConfigError


@dataclass(frozen=True)
class Found:
    """A value, and where its key stands."""

    value: Any
    mark: SourceLocation | None


class NoSuchPathError(Exception):
    """A path that leads nowhere; `mark` is the nearest place, `hint` a did-you-mean."""

    def __init__(self, mark: SourceLocation | None, hint: str) -> None:
        super().__init__(hint)
        self.mark = mark
        self.hint = hint


def match_key(node: ConfigMap, pieces: Sequence[str]) -> tuple[Any, list[str]] | None:
    """Return the longest key of a mapping that the pieces start with, and the pieces left over."""
    by_text = {str(key): key for key in node}
    for length in range(len(pieces), 0, -1):
        text = ".".join(pieces[:length])
        if text in by_text:
            return by_text[text], list(pieces[length:])
    return None


def find(root: ConfigMap, dotted: str, deref: Callable[[Found], Found] | None = None) -> Found:
    """Walk to a value.

    Args:
        root: where to start.
        dotted: the path.
        deref: follows a `${...}` that stands for a whole section on the way.

    Raises:
        NoSuchPathError: there is no such key.
    """
    here = Found(root, root.mark)
    pieces = dotted.split(".")
    while pieces:
        if deref is not None:
            here = deref(here)
        node = here.value.value if isinstance(here.value, LazyCall) else here.value
        if isinstance(node, ConfigMap):
            match = match_key(node, pieces)
            if match is None:
                raise NoSuchPathError(here.mark, suggest(pieces[0], node))
            key, pieces = match
            here = Found(node[key], node.mark_of(key))
        elif isinstance(node, ConfigList) and pieces[0].isdecimal() and int(pieces[0]) < len(node):
            here = Found(node[int(pieces[0])], node.marks[int(pieces[0])])
            pieces = pieces[1:]
        else:
            raise NoSuchPathError(here.mark, "")
    return here


def nearest_mark(root: ConfigMap, dotted: str) -> SourceLocation | None:
    """Return the place of a key, or of the closest section above it that exists."""
    try:
        return find(root, dotted).mark
    except NoSuchPathError as miss:
        return miss.mark


def set_in(
    node: Any, pieces: Sequence[str], value: Any, mark: SourceLocation, done: str = ""
) -> Any:
    """Return `node` with the value at the path set.

    Mappings and lists on the way are copied, so that another alias of them keeps its data; a tagged
    node on the way is changed in place, so that every alias of the object follows.

    Raises:
        ConfigError: the path steps into a scalar or past the end of a list.
    """
    if isinstance(node, LazyCall) and isinstance(node.value, ConfigMap | ConfigList):
        node.value = set_in(node.value, pieces, value, mark, done)
        return node
    if isinstance(node, ConfigMap):
        key, rest = match_key(node, pieces) or (pieces[0], list(pieces[1:]))
        changed = node.copy()
        if not rest:
            changed.put(key, value, mark)
            return changed
        child = node.get(key)
        is_new = child is None
        child = ConfigMap(mark) if is_new else child
        inner = set_in(child, rest, value, mark, f"{done}{key}.")
        changed.put(key, inner, mark if is_new else node.mark_of(key))
        return changed
    if isinstance(node, ConfigList):
        piece = pieces[0]
        if not piece.isdecimal() or int(piece) >= len(node):
            items = f"{done.rstrip('.')} is a list of {len(node)} items, numbered from 0"
            raise ConfigError(f'{mark}: no item "{piece}": {items}')
        index, copied = int(piece), node.copy()
        copied[index] = (
            set_in(node[index], pieces[1:], value, mark, f"{done}{piece}.")
            if len(pieces) > 1
            else value
        )
        copied.marks[index] = mark
        return copied
    where = done.rstrip(".")
    raise ConfigError(f'{mark}: no "{pieces[0]}" in {where}: {where} is {kind_of(node)}')
