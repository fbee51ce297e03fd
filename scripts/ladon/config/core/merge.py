"""Layers over layers: a file over its bases, `--json` over the file, `--set` over all."""

from __future__ import annotations

from typing import Any

from ladon.config.core.files import shown
from ladon.config.core.nodes import (
    MAX_DEPTH,
    ConfigList,
    ConfigMap,
    LazyCall,
    SourceLocation,
    too_deep,
)
from ladon.config.core.parse import parse_text
from ladon.config.core.paths import set_in
from ladon.errors import ConfigError

DELETE = "_delete_"


def merge(base: ConfigMap, layer: ConfigMap) -> ConfigMap:
    """Return `base` with `layer` merged over it.

    Mappings merge key by key; lists, scalars and null replace. A mapping merged onto a tagged node
    goes inside that node, in place, so that all its aliases follow. A tagged node replaces one with
    another tag or another `key`. `_delete_: true` in a mapping makes it replace what was there.
    """
    result = base.copy()
    for key, new in layer.items():
        old = base.get(key)
        combined = _combine(old, new)
        was_replaced = combined is new or key not in base
        result.put(key, combined, layer.mark_of(key) if was_replaced else base.mark_of(key))
    return result


def _combine(old: Any, new: Any) -> Any:
    if isinstance(new, ConfigMap) and new.get(DELETE) is not True:
        if isinstance(old, ConfigMap):
            return merge(old, new)
        if isinstance(old, LazyCall) and isinstance(old.value, ConfigMap):
            old.value = merge(old.value, new)
            return old
    if isinstance(new, LazyCall) and isinstance(old, LazyCall) and _same_callable(old, new):
        old.value = merge(old.value, new.value)
        return old
    return new


def _same_callable(old: LazyCall, new: LazyCall) -> bool:
    if old.tag != new.tag or not isinstance(old.value, ConfigMap):
        return False
    if not isinstance(new.value, ConfigMap) or new.value.get(DELETE) is True:
        return False
    return all(new.value.get(k, old.value.get(k)) == old.value.get(k) for k in ("key", "package"))


def drop_delete_marks(node: Any, seen: set[int] | None = None) -> None:
    """Remove `_delete_` keys once the layers are merged: no callable must see them."""
    seen = set() if seen is None else seen
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, LazyCall):
        drop_delete_marks(node.value, seen)
    elif isinstance(node, ConfigMap):
        node.pop(DELETE, None)
        for child in node.values():
            drop_delete_marks(child, seen)
    elif isinstance(node, ConfigList):
        for child in node:
            drop_delete_marks(child, seen)


def parse_assignment(text: str) -> tuple[list[str], Any]:
    """Split `a.b.c=VALUE` into the path's pieces and the value (YAML: `1e-3`, `[1, 2]`, `null`).

    Raises:
        ConfigError: there is no `=`, no path, or the value is not YAML.
    """
    path, equals, value = text.partition("=")
    path = path.strip()
    if not equals:
        raise ConfigError(f'--set {text}: write it as PATH=VALUE, e.g. "train.log_freq=100"')
    if not path or not all(path.split(".")):
        raise ConfigError(f"--set {text}: the path before the = is empty or has an empty piece")
    if path.count(".") >= MAX_DEPTH:
        raise too_deep(SourceLocation(f"--set {shown(path)}"))
    return path.split("."), parse_text(value, f"--set {path}", has_lines=False)


def assign(root: ConfigMap, pieces: list[str], value: Any) -> ConfigMap:
    """Return the root with one `--set` applied."""
    return set_in(root, pieces, value, SourceLocation("--set"))
