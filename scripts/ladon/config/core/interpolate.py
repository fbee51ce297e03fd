"""Raw config nodes to plain values: `${...}` filled in, `!join` and its kin computed.

`${dotted.path}` names a value of the final config. Text that is exactly one `${x}` takes the
value's type; elsewhere the value's text is inserted. `$${` stands for a literal `${`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

from ladon.config.core.nodes import (
    MAX_DEPTH,
    ConfigList,
    ConfigMap,
    LazyCall,
    LocatedError,
    SourceLocation,
    kind_of,
    too_deep,
)
from ladon.config.core.paths import Found, NoSuchPathError, find

OnLazy = Callable[[LazyCall], Any]

# References that lead to references; what one value may cost: a copied value or a reference is
# one, so are 20 characters of text. The shipped files need 5 and 1,000.
MAX_LINKS = 50
MAX_WORK = 100_000
_CHARACTERS = 20

_WHOLE = re.compile(r"\$\{([^{}]*)\}")
_PIECE = re.compile(r"\$\$\{|\$\{(?:([^{}]*)\})?")


def references(text: str) -> list[str]:
    """Return the paths that a string refers to."""
    return [match[1].strip() for match in _PIECE.finditer(text) if match[1] is not None]


def references_in(node: Any, found: set[str], seen: set[int] | None = None) -> None:
    """Add to `found` the paths that all text in and below a raw value refers to."""
    seen = set() if seen is None else seen
    if isinstance(node, str):
        found.update(references(node))
        return
    if not isinstance(node, LazyCall | ConfigMap | ConfigList) or id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, LazyCall):
        references_in(node.value, found, seen)
        return
    for child in node.values() if isinstance(node, ConfigMap) else node:
        references_in(child, found, seen)


def escape(text: str) -> str:
    """Write text so that it is taken literally."""
    return text.replace("${", "$${")


class EndlessError(LocatedError):
    """References that lead on and on, or become more than anybody could write."""


class Resolver:
    """Resolves raw values against the root of one config.

    Args:
        root: the merged config.
    """

    def __init__(self, root: ConfigMap) -> None:
        self.root = root
        self._active: list[str] = []
        self._depth = self._work = 0
        self._origin: SourceLocation | None = None

    def resolve(
        self, value: Any, mark: SourceLocation | None = None, on_lazy: OnLazy | None = None
    ) -> Any:
        """Copy a raw value into plain dicts and lists, with text interpolated.

        A plain dict or list (one that came out of here before) is copied too; its text is final.

        Args:
            value: any raw value.
            mark: its place, for errors.
            on_lazy: what to do with a node that imports or calls; without it they stay as they are.

        Raises:
            ConfigError: an unknown or circular reference, or a tag that cannot be computed.
        """
        if isinstance(value, str):
            return self._text(value, mark, on_lazy)
        if not isinstance(value, LazyCall | dict | list | tuple):
            return value
        if self._depth > MAX_DEPTH:
            raise too_deep(self._origin if self._active else mark)
        self._begin()
        self._depth += 1
        try:
            if isinstance(value, LazyCall):
                return self._tagged(value, on_lazy)
            if self._active:
                self._count(len(value))
            return self._copy(value, on_lazy)
        finally:
            self._depth -= 1

    def _copy(self, value: Any, on_lazy: OnLazy | None) -> Any:
        if isinstance(value, ConfigMap):
            return {k: self.resolve(v, value.mark_of(k), on_lazy) for k, v in value.items()}
        if isinstance(value, ConfigList):
            return [self.resolve(v, m, on_lazy) for v, m in zip(value, value.marks, strict=True)]
        if isinstance(value, dict):
            return {k: self._final(v, on_lazy) for k, v in value.items()}
        if type(value) in (list, tuple):
            return type(value)(self._final(v, on_lazy) for v in value)
        return value

    def _begin(self) -> None:
        """Count anew if nothing is being resolved yet."""
        if not self._active and not self._depth:
            self._work = 0

    def _count(self, work: int) -> None:
        """Refuse what would become more than anybody could write ("billion laughs")."""
        self._work += work
        if self._work > MAX_WORK:
            text = "this would become too much: ${...} repeat others, and these others again"
            raise EndlessError(self._origin, text)

    def _final(self, value: Any, on_lazy: OnLazy | None) -> Any:
        return value if isinstance(value, str) else self.resolve(value, None, on_lazy)

    def locate(self, dotted: str) -> Found:
        """Return the raw value at a path, following `${...}` on the way but not at its end.

        Raises:
            NoSuchPathError: there is no such key.
        """
        return find(self.root, dotted, self.deref)

    def deref(self, found: Found) -> Found:
        """Follow text that is exactly one `${x}` to the raw value that it stands for."""
        depth = len(self._active)
        try:
            while isinstance(found.value, str) and (whole := _WHOLE.fullmatch(found.value)):
                name = whole[1].strip()
                self._enter(name, found.mark)
                found = self._find_reference(name, found.mark)
            return found
        finally:
            del self._active[depth:]

    def _enter(self, name: str, mark: SourceLocation | None) -> None:
        if name in self._active:
            circle = " -> ".join([*self._active[self._active.index(name) :], name])
            raise LocatedError(mark, f"${{{name}}} refers to itself: {circle}")
        if not self._active:
            self._origin = mark
            self._begin()
        if len(self._active) >= MAX_LINKS:
            text = f"${{{self._active[0]}}}: a chain of more than {MAX_LINKS} references"
            raise EndlessError(self._origin, text)
        self._count(1)
        self._active.append(name)

    def _find_reference(self, name: str, mark: SourceLocation | None) -> Found:
        try:
            return self.locate(name)
        except NoSuchPathError as miss:
            raise LocatedError(mark, f"${{{name}}}: no such key in the config{miss.hint}") from None

    def _reference(self, name: str, mark: SourceLocation | None, on_lazy: OnLazy | None) -> Any:
        self._enter(name, mark)
        try:
            found = self._find_reference(name, mark)
            return self.resolve(found.value, found.mark, on_lazy)
        finally:
            self._active.pop()

    def _text(self, text: str, mark: SourceLocation | None, on_lazy: OnLazy | None) -> Any:
        if "${" not in text:
            return text
        if whole := _WHOLE.fullmatch(text):
            return self._reference(whole[1].strip(), mark, on_lazy)

        def fill(match: re.Match[str]) -> str:
            if match[0] == "$${":
                return "${"
            if match[1] is None:
                raise LocatedError(mark, f'"{text}": ${{ without its }} (a literal one is $${{)')
            name = match[1].strip()
            inserted = _as_text(self._reference(name, mark, on_lazy), name, mark)
            self._count(len(inserted) // _CHARACTERS)
            return inserted

        return _PIECE.sub(fill, text)

    def _tagged(self, lazy: LazyCall, on_lazy: OnLazy | None) -> Any:
        if lazy.tag in ("!expanduser", "!abspath"):
            text = str(self._text(lazy.value, lazy.mark, on_lazy))
            change = os.path.expanduser if lazy.tag == "!expanduser" else os.path.abspath
            return change(text)
        if lazy.tag in ("!join", "!pathjoin"):
            parts = self.resolve(lazy.value, lazy.mark, on_lazy)
            if any(isinstance(part, LazyCall) for part in parts):
                return lazy
            if lazy.tag == "!join":
                return "".join(str(part) for part in parts)
            if not parts:
                raise LocatedError(lazy.mark, "!pathjoin needs at least one part")
            return os.path.expanduser(os.path.join(*(str(part) for part in parts)))
        if lazy.tag == "!access_by_index_or_key":
            return self._access(lazy, on_lazy)
        return lazy if on_lazy is None else on_lazy(lazy)

    def _access(self, lazy: LazyCall, on_lazy: OnLazy | None) -> Any:
        missing = [name for name in ("data", "index_or_key") if name not in lazy.value]
        if missing:
            raise LocatedError(lazy.mark, f"{lazy.tag} needs {' and '.join(missing)}")
        data = self.deref(Found(lazy.value["data"], lazy.mark)).value
        index = self.resolve(lazy.value["index_or_key"], lazy.mark, on_lazy)
        if isinstance(data, LazyCall):
            data = self.resolve(data, data.mark, on_lazy)
            if isinstance(data, LazyCall):  # has to be built before it can be indexed
                return lazy
        try:
            item = data[index]
        except (LookupError, TypeError) as exc:
            size = f" of length {len(data)}" if isinstance(data, list | dict | str) else ""
            text = f"{lazy.tag}: no item {index!r} in {kind_of(data)}{size}"
            raise LocatedError(lazy.mark, text) from exc
        raw = isinstance(data, ConfigMap | ConfigList)
        return self.resolve(item, lazy.mark, on_lazy) if raw else self._final(item, on_lazy)


def _as_text(value: Any, name: str, mark: SourceLocation | None) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float):
        return str(value)
    text = f"${{{name}}} is {kind_of(value)}: only text and numbers go into text"
    raise LocatedError(mark, text)
