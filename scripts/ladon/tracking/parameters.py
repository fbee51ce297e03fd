"""What a tracking client is told of a run: its config and where it runs, without secrets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

HIDDEN = "(hidden)"
_SECRET = re.compile(r"passw|secret|token|credential|api_?key|access_?key|private_?key|auth", re.I)
# what stands before the host of an address, and behind its path: both may hold a key
_USER, _QUERY = re.compile(r"(?<=://)[^/\s@]+@"), re.compile(r"(\w://[^\s?#]+)[?#]\S*")


class _Plain(yaml.SafeLoader):
    """Reads what a config dumps; what a tag would import is its plain value."""


def _untagged(loader: yaml.SafeLoader, _suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return node.value


_Plain.add_multi_constructor("!", _untagged)


def parameters(config: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's parameters by dotted name.

    Args:
        config: the resolved config, YAML.
        facts: about the run, such as its seed.

    Returns:
        Numbers, texts and true or false; of a name that sounds like a secret's, `HIDDEN`, and of
        addresses neither user nor query.
    """
    content = _Plain(config).get_single_data() or {}
    return dict(_flat({**facts, "config": content}, ""))


def _flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
        for number, item in enumerate(value):
            yield from _flat(item, f"{name}.{number}")
    elif isinstance(value, bool | int | float):
        yield name, value
    elif _SECRET.search(name) and value is not None:
        yield name, HIDDEN
    elif value is not None:
        yield name, _QUERY.sub(r"\1", _USER.sub("", str(value)))
