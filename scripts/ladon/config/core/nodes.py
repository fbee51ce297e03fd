"""Nodes of a parsed config file: plain values that remember the file and line they stand on.

Mappings and lists are `dict` and `list` subclasses, a tagged node is a `LazyCall`. Strings in them
are raw: `${...}` is not filled in yet (see `interpolate`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ladon.errors import ConfigError

# torchdistill's tags and the kind of YAML node that each stands on.
TAGS = {
    "!join": "list",
    "!pathjoin": "list",
    "!expanduser": "text",
    "!abspath": "text",
    "!import_get": "mapping",
    "!import_call": "mapping",
    "!import_call_method": "mapping",
    "!call_method": "mapping",
    "!getattr": "list",
    "!setattr": "list",
    "!access_by_index_or_key": "mapping",
}


# What people write is ten levels deep; everything that walks through nodes calls itself.
MAX_DEPTH = 100


@dataclass(frozen=True, slots=True)
class SourceLocation:
    """Where a value was written: a file and line, or the option it came from (`--set`)."""

    file: str
    line: int | None = None

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file}:{self.line}"


class LocatedError(ConfigError):
    """A config error that knows its place, so that validation can list it with the others.

    Args:
        mark: the place, None if it has none.
        text: what is wrong, without the place.
    """

    def __init__(self, mark: SourceLocation | None, text: str) -> None:
        super().__init__(text if mark is None else f"{mark}: {text}")
        self.mark = mark
        self.text = text


class ConfigMap(dict[Any, Any]):
    """A mapping of a config file; `marks` says where each key stands."""

    def __init__(self, mark: SourceLocation | None = None) -> None:
        super().__init__()
        self.mark = mark
        self.marks: dict[Any, SourceLocation | None] = {}

    def put(self, key: Any, value: Any, mark: SourceLocation | None) -> None:
        """Set a key together with its place."""
        self[key] = value
        self.marks[key] = mark

    def mark_of(self, key: Any) -> SourceLocation | None:
        """Return the place of a key, or of the mapping if the key has none."""
        return self.marks.get(key) or self.mark

    def copy(self) -> ConfigMap:
        """Return a shallow copy that keeps the places."""
        other = ConfigMap(self.mark)
        other.update(self)
        other.marks = dict(self.marks)
        return other


class ConfigList(list[Any]):
    """A list of a config file; `marks` says where each item stands."""

    def __init__(self, mark: SourceLocation | None = None) -> None:
        super().__init__()
        self.mark = mark
        self.marks: list[SourceLocation | None] = []

    def put(self, value: Any, mark: SourceLocation | None) -> None:
        """Append an item together with its place."""
        self.append(value)
        self.marks.append(mark)

    def copy(self) -> ConfigList:
        """Return a shallow copy that keeps the places."""
        other = ConfigList(self.mark)
        other.extend(self)
        other.marks = list(self.marks)
        return other


class LazyCall:
    """A tagged node that imports or calls when it is built.

    An alias is the very same object as its anchor: what is built once is shared, and an override
    that goes through one of them is seen by all.

    Args:
        tag: one of `TAGS`.
        value: the raw mapping, list or text behind the tag.
        mark: where it stands.
    """

    __slots__ = ("mark", "tag", "value")

    def __init__(self, tag: str, value: Any, mark: SourceLocation | None = None) -> None:
        self.tag = tag
        self.value = value
        self.mark = mark

    @property
    def file(self) -> str:
        """The file (or option) it was written in."""
        return self.mark.file if self.mark else ""

    @property
    def line(self) -> int | None:
        """The line it was written on."""
        return self.mark.line if self.mark else None

    def __repr__(self) -> str:
        name = self.value.get("key", "") if isinstance(self.value, dict) else self.value
        return f"<{self.tag} {name} at {self.mark}>"


def from_plain(value: Any, mark: SourceLocation, depth: int = 0) -> Any:
    """Turn plain dicts and lists (a JSON object) into config nodes that all stand at `mark`.

    Raises:
        ConfigError: they are nested too deeply, or in themselves.
    """
    if depth > MAX_DEPTH:
        raise too_deep(mark)
    if isinstance(value, dict):
        node = ConfigMap(mark)
        for key, item in value.items():
            node.put(key, from_plain(item, mark, depth + 1), mark)
        return node
    if isinstance(value, list | tuple):
        items = ConfigList(mark)
        for item in value:
            items.put(from_plain(item, mark, depth + 1), mark)
        return items
    return value


def too_deep(mark: SourceLocation | None) -> LocatedError:
    """Return the error for values inside values without end."""
    return LocatedError(mark, f"nested too deeply: at most {MAX_DEPTH} levels")


def kind_of(value: Any) -> str:
    """Name the kind of a value in words for a person."""
    kinds: list[tuple[Any, str]] = [
        (type(None), "empty"),
        (bool, "true or false"),
        (int | float, "a number"),
        (str, "text"),
        (dict, "a mapping"),
        (list, "a list"),
        (LazyCall, "a tagged node"),
    ]
    return next((words for kind, words in kinds if isinstance(value, kind)), type(value).__name__)


def suggest(word: Any, choices: Iterable[Any]) -> str:
    """Return '; did you mean "X"?' for the choice nearest to a misspelt word, or nothing."""
    names = [str(choice) for choice in choices]
    near = difflib.get_close_matches(str(word), names, n=1, cutoff=0.6)
    if not near:  # "lr_rate" for "lr", "SGD" for "sgd"
        text = str(word).lower()
        near = [
            name
            for name in names
            if name.lower() == text or f"{text}_".startswith(f"{name.lower()}_")
        ]
    return f'; did you mean "{near[0]}"?' if near else ""
