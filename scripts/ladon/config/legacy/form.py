"""Renaming by table: what a mapping of the legacy schema is called and holds now."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ladon.config.core import schema
from ladon.config.core.interpolate import Resolver
from ladon.config.core.nodes import (
    ConfigList,
    ConfigMap,
    LocatedError,
    SourceLocation,
    kind_of,
    suggest,
)
from ladon.config.core.schema import Section
from ladon.config.core.update_epoch import STAGE

LEGACY, CURRENT = "legacy", "current"


@dataclass(frozen=True)
class Form:
    """The current name and keys of a mapping of the legacy schema.

    Attributes:
        names: current name of each legacy key; None if `change` moves or drops it.
        inside: forms of the values, by legacy or current key.
        each: form of every item, where people choose the names, or of a list.
        now: its section of the current schema: any other key may be a misspelt legacy one.
        marks: keys that only the current schema has, besides those of `names`.
        has_stages: whether `stage1`, `stage2`, … in it have the same form.
        change: does to the renamed mapping what renaming cannot; it may change it in place.
    """

    names: Mapping[str, str | None] = field(default_factory=dict)
    inside: Mapping[str, Form] = field(default_factory=dict)
    each: Form | None = None
    now: Section | None = None
    marks: tuple[str, ...] = ()
    has_stages: bool = False
    change: Callable[[Upgrade, ConfigMap, str], ConfigMap] | None = None

    def items(self, node: Any) -> Iterator[tuple[Any, str | None, Any, Form | None]]:
        """Yield (key or index, current key, value, the value's form) of a mapping or list."""
        if isinstance(node, ConfigList):
            yield from ((index, None, value, self.each) for index, value in enumerate(node))
        elif isinstance(node, ConfigMap):
            for key, value in node.items():
                new = self.names.get(key, key)
                is_stage = self.has_stages and STAGE.fullmatch(str(key))
                inner = self if is_stage else self.inside.get(new or key, self.each)
                yield key, new, value, inner

    def schemas(self, node: Any) -> Iterator[str]:
        """Yield the schema of every key in and below a node that only one of the two has."""
        only_now = {*self.names.values(), *self.marks}
        for key, new, value, inner in self.items(node):
            if isinstance(node, ConfigMap) and (key != new or key in only_now):
                yield LEGACY if key != new else CURRENT
            if inner is not None:
                yield from inner.schemas(value)


COMPONENT = {"name": "key", "type": "key", "params": "kwargs"}
PART = Form(COMPONENT, now=schema.component(""))


def map_at(mark: SourceLocation | None, **values: Any) -> ConfigMap:
    """Return a mapping whose keys all stand at one place."""
    node = ConfigMap(mark)
    for key, value in values.items():
        node.put(key, value, mark)
    return node


def take(node: ConfigMap, key: str) -> Any:
    """Take a key out; None if it is missing."""
    node.marks.pop(key, None)
    return node.pop(key, None)


class Upgrade:
    """The upgrade of one config's sections.

    Args:
        root: the whole config: a section may refer to others.
    """

    def __init__(self, root: ConfigMap) -> None:
        self.problems: list[str] = []
        self.resolver = Resolver(root)

    def apply(self, node: Any, form: Form, path: str) -> Any:
        """Return the upgraded copy of a mapping or list, anything else as it is."""
        if isinstance(node, ConfigList):
            items = ConfigList(node.mark)
            for index, _, value, inner in form.items(node):
                value = value if inner is None else self.apply(value, inner, f"{path}.{index}")
                items.put(value, node.marks[index])
            return items
        if not isinstance(node, ConfigMap):
            return node
        result = ConfigMap(node.mark)
        for key, new, value, inner in form.items(node):
            self._check_key(key, form, node.mark_of(key), path)
            new = new or key
            value = value if inner is None else self.apply(value, inner, f"{path}.{key}")
            if new != key and new in node:
                text = f'"{key}" and "{new}" are the same: leave one of them out'
                raise LocatedError(node.mark_of(key), f"{path}: {text}")
            result.put(new, value, node.mark_of(key))
        if form.change is None:
            return result
        return form.change(self, result, path)

    def _check_key(self, key: Any, form: Form, mark: SourceLocation | None, path: str) -> None:
        """List a key that is almost a legacy one; all others are left to validation."""
        if form.now is None or key in form.names or key in form.now.keys or str(key)[:1] == "_":
            return
        if near := suggest(key, form.names):
            self.problems.append(f"{mark}: {path}.{key}: unknown key{near}")

    def text(self, value: Any, mark: SourceLocation | None, what: str) -> str:
        """Return a value that has to be known already, like a dataset's id."""
        text = self.resolver.resolve(value, mark)
        if not isinstance(text, str) or not text:
            raise LocatedError(mark, f"{what} must be text, not {kind_of(text)}")
        return text
