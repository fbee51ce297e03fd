"""A config back to YAML: references filled in, tagged nodes kept, shared ones as anchors."""

from __future__ import annotations

from typing import Any

import yaml

from ladon.config.core.interpolate import Resolver, escape
from ladon.config.core.nodes import LazyCall, LocatedError
from ladon.config.core.parse import add_numbers


class _Dumper(yaml.SafeDumper):
    """The safe dumper, which also quotes text that our reader would take for a number."""


add_numbers(_Dumper)


def dump_yaml(resolver: Resolver, value: Any) -> str:
    """Return the YAML of a value.

    Args:
        resolver: of the value's config.
        value: what the resolver made of a raw value.

    Raises:
        ConfigError: a reference cannot be resolved.
    """
    node = _Writer(resolver).write(value, keeps_private=False)
    return yaml.serialize(node, Dumper=_Dumper, width=4096, allow_unicode=True)


class _Writer:
    """Turns resolved values into YAML nodes; one `LazyCall` is one node, anchored if shared."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._scalars = yaml.representer.SafeRepresenter()
        self._done: dict[int, yaml.Node] = {}
        self._open: set[int] = set()

    def write(self, value: Any, *, keeps_private: bool) -> yaml.Node:
        """Return the YAML node of a resolved value.

        Args:
            value: the value.
            keeps_private: keep keys that begin with '_': they are arguments, not there for anchors.
        """
        if isinstance(value, LazyCall):
            return self._lazy(value)
        if isinstance(value, dict):
            pairs = [
                (self._scalar(key), self.write(item, keeps_private=key == "kwargs"))
                for key, item in value.items()
                if keeps_private or not str(key).startswith("_")
            ]
            return yaml.MappingNode("tag:yaml.org,2002:map", pairs, flow_style=not pairs)
        if isinstance(value, list | tuple):
            items = [self.write(item, keeps_private=False) for item in value]
            is_flat = all(isinstance(item, yaml.ScalarNode) for item in items)
            return yaml.SequenceNode("tag:yaml.org,2002:seq", items, flow_style=is_flat)
        return self._scalar(escape(value) if isinstance(value, str) else value)

    def _scalar(self, value: Any) -> yaml.Node:
        # Forgets what it saw: two equal texts must not become an anchor and an alias.
        self._scalars.represented_objects.clear()
        return self._scalars.represent_data(value)

    def _lazy(self, lazy: LazyCall) -> yaml.Node:
        if id(lazy) in self._done:
            return self._done[id(lazy)]
        if id(lazy) in self._open:
            raise LocatedError(lazy.mark, f"{lazy.tag} needs itself to be built")
        self._open.add(id(lazy))
        node = self.write(self._resolver.resolve(lazy.value, lazy.mark), keeps_private=False)
        node.tag = lazy.tag
        self._open.discard(id(lazy))
        self._done[id(lazy)] = node
        return node
