"""YAML text to config nodes: places kept, aliases shared, nothing imported or built."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from ladon.config.core.files import read_text, shown
from ladon.config.core.nodes import (
    MAX_DEPTH,
    TAGS,
    ConfigList,
    ConfigMap,
    LazyCall,
    LocatedError,
    SourceLocation,
    suggest,
    too_deep,
)
from ladon.errors import ConfigError

_STANDARD = "tag:yaml.org,2002:"
_SCALARS = {_STANDARD + name for name in ("null", "bool", "int", "float", "str")}
# what aliases may add to a file's own values, and a text's characters that count as one
_MAX_REPEATED, _CHARACTERS = 200_000, 20
_MAX_BITS = 1024  # beyond it Python doesn't write a number as decimals
_OCTAL = re.compile(r"^[-+]?0[0-9_]*[1-7]")
# numbers to a person and to YAML 1.2 that YAML 1.1 takes for text: 1e-3, -.5, .5e3; 0o17, 08
_FLOAT = re.compile(
    r"^[-+]?(?:\.[0-9]+(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+)$"
)
_INT = re.compile(r"^(?:[-+]?0[0-9]*[89][0-9]*|0o[0-7]+)$")


def add_numbers(cls: Any) -> None:
    """Let a YAML class read `1e-3` and the like as numbers, as people mean them."""
    cls.add_implicit_resolver(_STANDARD + "float", _FLOAT, list("-+.0123456789"))
    cls.add_implicit_resolver(_STANDARD + "int", _INT, list("-+0"))


class _SafeLoader(yaml.SafeLoader):
    """PyYAML's safe loader, used to compose the node graph and to read scalars."""


class _FastLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The same in C, ten times as fast; deep nesting overruns its stack."""


for _cls in (_SafeLoader, _FastLoader):
    # A date or a lone '=' is text here: a config has no use for either type.
    _cls.yaml_implicit_resolvers = {
        first: [
            (tag, pattern)
            for tag, pattern in resolvers
            if tag not in (_STANDARD + "timestamp", _STANDARD + "value")
        ]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    add_numbers(_cls)


def _loader_for(text: str) -> Any:
    # Each level of nesting costs a bracket or a column: few of both, and it is shallow.
    is_shallow = text.count("[") + text.count("{") + max(map(len, text.splitlines() or [""])) < 2000
    return _FastLoader(text) if is_shallow else _SafeLoader(text)


def parse_file(path: Path) -> ConfigMap:
    """Read one config file, without its bases.

    Raises:
        ConfigError: the file cannot be read, is not valid YAML, or is not a mapping.
    """
    name = shown(path)
    root = parse_text(read_text(path), name)
    if root is None:
        raise ConfigError(f"{name}: the file is empty: a config is a mapping of keys to values")
    if not isinstance(root, ConfigMap):
        raise ConfigError(f"{name}: a config must be a mapping of keys to values at its top level")
    return root


def parse_text(text: str, file: str, *, has_lines: bool = True) -> Any:
    """Parse YAML text into config nodes.

    Args:
        text: the YAML.
        file: the name that errors give, a file's or an option's.
        has_lines: whether line numbers mean something (not for the value of an option).
    """
    try:
        loader = _loader_for(text)
        try:
            node = loader.get_single_node()
            return None if node is None else _Reader(loader, file, has_lines).read(node)
        finally:
            loader.dispose()
    except yaml.reader.ReaderError as exc:
        line = text.count("\n", 0, exc.position) + 1 if has_lines else None
        raise LocatedError(SourceLocation(file, line), f"not valid YAML: {exc.reason}") from exc
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        line = mark.line + 1 if mark is not None and has_lines else None
        problem = exc.problem or exc.context or "cannot be parsed"
        lines = text.splitlines()[mark.line :][:1] if mark is not None else []
        if "${" in "".join(lines):
            problem += " (inside { } or [ ], put ${...} in quotes)"
        raise LocatedError(SourceLocation(file, line), f"not valid YAML: {problem}") from exc
    except RecursionError as exc:
        raise ConfigError(f"{file}: not valid YAML: nested too deeply") from exc


class _Reader:
    """Turns composed YAML nodes into config nodes, one object per YAML node."""

    def __init__(self, loader: Any, file: str, has_lines: bool) -> None:
        self._loader = loader
        self._file = file
        self._has_lines = has_lines
        self._done: dict[int, Any] = {}
        self._open: set[int] = set()
        # how many values there would be if aliases were written out: of each node, and so far
        self._sizes: dict[int, int] = {}
        self._size = self._repeated = 0

    def _mark(self, node: yaml.Node) -> SourceLocation:
        return SourceLocation(self._file, node.start_mark.line + 1 if self._has_lines else None)

    def read(self, node: yaml.Node) -> Any:
        """Return the config node of a YAML node; an alias yields its anchor's object."""
        if id(node) in self._done:
            self._repeat(node)
            return self._done[id(node)]
        if id(node) in self._open:
            raise LocatedError(self._mark(node), "an anchor must not contain an alias of itself")
        if len(self._open) >= MAX_DEPTH:
            raise too_deep(self._mark(node))
        self._open.add(id(node))
        before = self._size
        self._size += 1
        if isinstance(node, yaml.ScalarNode):
            self._size += len(node.value) // _CHARACTERS
        value = self._lazy(node) if node.tag.startswith("!") else self._plain(node)
        self._open.discard(id(node))
        self._done[id(node)] = value
        self._sizes[id(node)] = self._size - before
        return value

    def _repeat(self, node: yaml.Node) -> None:
        """Refuse aliases of aliases that stand for more than anybody could write ("laughs")."""
        self._size += self._sizes[id(node)]
        self._repeated += self._sizes[id(node)]
        if self._repeated > _MAX_REPEATED:
            text = "aliases repeat this anchor, and anchors in it, more than 200,000 times"
            raise LocatedError(self._mark(node), text)

    def _plain(self, node: yaml.Node) -> Any:
        if isinstance(node, yaml.MappingNode) and node.tag == _STANDARD + "map":
            return self._mapping(node)
        if isinstance(node, yaml.SequenceNode) and node.tag == _STANDARD + "seq":
            return self._sequence(node)
        if isinstance(node, yaml.ScalarNode) and node.tag in _SCALARS:
            try:
                value = self._loader.construct_object(node)
                self._refuse_other_number(node, value)
                return value
            except (ValueError, KeyError) as exc:
                text = f'"{node.value}" is not a valid {node.tag.removeprefix(_STANDARD)}'
                if _INT.match(node.value):
                    text += f': write {int(node.value)}, or "{node.value}" in quotes if it is text'
                raise LocatedError(self._mark(node), text) from exc
        tag = node.tag.replace(_STANDARD, "!!")
        if tag.startswith("!!python"):
            raise LocatedError(self._mark(node), f"tag {tag} is refused: it could run any code")
        raise LocatedError(self._mark(node), f"tag {tag} is not supported here")

    def _refuse_other_number(self, node: yaml.ScalarNode, value: Any) -> None:
        """Refuse numbers that YAML 1.1 reads otherwise than a person: 010 is 8, 1:30 is 90."""
        if node.style or type(value) not in (int, float):
            return
        if isinstance(value, int) and value.bit_length() > _MAX_BITS:
            raise LocatedError(self._mark(node), "a number of so many digits is of no use here")
        text = node.value
        if ":" in text:
            base, meant = "in base 60", f"{value}"
        elif _OCTAL.match(text) and (decimal := int(text.replace("_", ""))) != value:
            base, meant = "as octal", f"{decimal} or {value}"
        else:
            return
        raise LocatedError(
            self._mark(node),
            f"{text} would be the number {value} (YAML reads it {base}): write {meant}, or "
            f'"{text}" in quotes if it is text',
        )

    def _lazy(self, node: yaml.Node) -> LazyCall:
        mark = self._mark(node)
        if node.tag not in TAGS:
            raise LocatedError(mark, f"unknown tag {node.tag}{suggest(node.tag, TAGS)}")
        kind = TAGS[node.tag]
        if kind == "mapping" and isinstance(node, yaml.MappingNode):
            return LazyCall(node.tag, self._mapping(node), mark)
        if kind == "list" and isinstance(node, yaml.SequenceNode):
            return LazyCall(node.tag, self._sequence(node), mark)
        if kind == "text" and isinstance(node, yaml.ScalarNode):
            return LazyCall(node.tag, node.value, mark)
        raise LocatedError(mark, f"{node.tag} needs {'text' if kind == 'text' else 'a ' + kind}")

    def _sequence(self, node: yaml.SequenceNode) -> ConfigList:
        items = ConfigList(self._mark(node))
        for child in node.value:
            items.put(self.read(child), self._mark(child))
        return items

    def _mapping(self, node: yaml.MappingNode) -> ConfigMap:
        own = ConfigMap(self._mark(node))
        merged: list[ConfigMap] = []
        merge_mark: SourceLocation | None = None
        for key_node, value_node in node.value:
            mark = self._mark(key_node)
            if key_node.tag == _STANDARD + "merge":
                if merge_mark is not None:
                    raise self._duplicate("<<", mark, merge_mark)
                merge_mark = mark
                merged = self._merge_sources(value_node, mark)
                continue
            key = self.read(key_node)
            if isinstance(key, ConfigMap | ConfigList | LazyCall):
                raise LocatedError(mark, "a key must be a plain value")
            if key in own:
                raise self._duplicate(key, mark, own.marks[key])
            own.put(key, self.read(value_node), mark)
        result = ConfigMap(own.mark)
        for source in [*reversed(merged), own]:  # of several sources, the first named wins
            for key, value in source.items():
                result.put(key, value, source.marks.get(key))
        return result

    def _merge_sources(self, node: yaml.Node, mark: SourceLocation) -> list[ConfigMap]:
        value = self.read(node)
        sources = value if isinstance(value, ConfigList) else [value]
        plain = [s.value if isinstance(s, LazyCall) else s for s in sources]
        if not all(isinstance(source, ConfigMap) for source in plain):
            raise LocatedError(mark, "<< needs a mapping or a list of mappings")
        return plain

    @staticmethod
    def _duplicate(key: Any, mark: SourceLocation, first: SourceLocation | None) -> LocatedError:
        line = first.line if first else None
        return LocatedError(mark, f'key "{key}" stands twice in one mapping (first on line {line})')
