"""Building: the only place where a config imports and calls; each node once, when first used."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ladon.config.core.interpolate import Resolver
from ladon.config.core.nodes import LazyCall, LocatedError, kind_of, suggest
from ladon.config.core.own_modules import OwnModules
from ladon.config.core.safe import check_attribute, check_built, check_tag
from ladon.distrust import running_nothing
from ladon.errors import ConfigError, LadonError

logger = logging.getLogger(__name__)


def lazy_target(lazy: LazyCall, entry: dict[Any, Any], own: OwnModules) -> tuple[str, Any]:
    """Import what an `!import_*` node names, without calling it.

    Args:
        lazy: the node.
        entry: its mapping, resolved.
        own: finds the module.

    Returns:
        The dotted name, and the class, function or method.

    Raises:
        ConfigError: the name is missing or cannot be found; file and line are named.
    """
    if lazy.tag == "!import_call_method":
        pieces = [entry.get("package"), entry.get("class_name"), entry.get("method_name")]
        needed = "package"
    else:
        pieces = [entry.get("package"), entry.get("key")]
        needed = "key"
    if not isinstance(entry.get(needed), str):
        raise LocatedError(lazy.mark, f'{lazy.tag} needs "{needed}", the dotted name to import')
    name = ".".join(piece for piece in pieces if piece)
    try:
        return name, own.resolve(name, lazy.value.mark_of(needed))
    except LocatedError:
        raise
    except ConfigError as exc:
        raise LocatedError(lazy.value.mark_of(needed), str(exc)) from exc


class Builder:
    """Builds the tagged nodes of one config, each once.

    Args:
        resolver: resolves the values on the way.
        own: finds what nodes name.
    """

    def __init__(self, resolver: Resolver, own: OwnModules) -> None:
        self._resolver, self._own = resolver, own
        # Keyed by identity; the node is kept beside its object so that its id cannot be given away.
        self._built: dict[int, tuple[LazyCall, Any]] = {}
        self._open: list[int] = []

    def build(self, value: Any) -> Any:
        """Resolve a raw value or a section deeply, building every node in it."""
        if isinstance(value, str):
            return value
        built = self._resolver.resolve(value, None, self._lazy)
        if self._own.safe:
            check_built(built, _registered())
        return built

    def _lazy(self, lazy: LazyCall) -> Any:
        if id(lazy) in self._built:
            return self._built[id(lazy)][1]
        if id(lazy) in self._open:
            raise LocatedError(lazy.mark, f"{lazy.tag} needs itself to be built")
        self._open.append(id(lazy))
        try:
            result = self._dispatch(lazy)
        finally:
            self._open.pop()
        self._built[id(lazy)] = (lazy, result)
        return result

    def _dispatch(self, lazy: LazyCall) -> Any:
        if self._own.safe:
            check_tag(lazy)
        if lazy.tag in ("!getattr", "!setattr"):
            return self._attribute(lazy)
        if lazy.tag == "!call_method":
            return self._call_method(lazy)
        names = ("key", "package", "class_name", "method_name")
        name, target = lazy_target(lazy, {n: self._field(lazy, n) for n in names}, self._own)
        if lazy.tag == "!import_get":
            return target
        init = self._field(lazy, "init") or {}
        if not isinstance(init, dict):
            text = f"{lazy.tag} {name}: init must be a mapping of args and kwargs"
            raise LocatedError(lazy.mark, f"{text}, not {kind_of(init)}")
        return self._call(lazy, name, target, init.get("args"), init.get("kwargs"))

    def _field(self, lazy: LazyCall, name: str) -> Any:
        value = lazy.value.get(name)
        return self._resolver.resolve(value, lazy.value.mark_of(name), self._lazy)

    def _call(
        self, lazy: LazyCall, name: str, target: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        args, kwargs = [] if args is None else args, {} if kwargs is None else kwargs
        if not isinstance(args, list | tuple) or not isinstance(kwargs, dict):
            text = f"{lazy.tag} {name}: args must be a list and kwargs a mapping"
            raise LocatedError(lazy.mark, text)
        logger.debug("%s: building %s", lazy.mark, name)
        try:
            with running_nothing():
                return target(*args, **kwargs)
        except LadonError:
            raise
        except Exception as exc:  # whatever the called object raises, say which node called it
            text = f"building {name} failed: {type(exc).__name__}: {exc}"
            raise LocatedError(lazy.mark, text) from exc

    def _attribute(self, lazy: LazyCall) -> Any:
        values = self._resolver.resolve(lazy.value, lazy.mark, self._lazy)
        is_get = lazy.tag == "!getattr"
        if len(values) not in ((2, 3) if is_get else (3,)) or not isinstance(values[1], str):
            needs = "[object, name]" if is_get else "[object, name, value]"
            raise LocatedError(lazy.mark, f"{lazy.tag} needs {needs}")
        obj, name = values[:2]
        if not is_get:
            self._call(lazy, f"setattr {name}", setattr, values, {})
            return obj
        if not hasattr(obj, name) and len(values) == 2:
            owner = getattr(obj, "__name__", type(obj).__name__)
            raise LocatedError(lazy.mark, f'{owner} has no "{name}"{suggest(name, dir(obj))}')
        found = getattr(obj, name, *values[2:])
        if self._own.safe:
            check_attribute(name, found, lazy.mark)
        return found

    def _call_method(self, lazy: LazyCall) -> Any:
        obj, name = self._field(lazy, "obj"), self._field(lazy, "method_name")
        if obj is None or not isinstance(name, str):
            raise LocatedError(lazy.mark, '!call_method needs "obj" and "method_name"')
        if not callable(getattr(obj, name, None)):
            text = f'{type(obj).__name__} has no method "{name}"{suggest(name, dir(obj))}'
            raise LocatedError(lazy.mark, text)
        args, kwargs = self._field(lazy, "args"), self._field(lazy, "kwargs")
        result = self._call(lazy, f"{type(obj).__name__}.{name}", getattr(obj, name), args, kwargs)
        return obj if self._field(lazy, "returns_obj") else result


def _registered() -> list[dict[str, Any]]:
    """Return the tables of what a section names by a plain key."""
    from ladon.config.validate.registries import all_entries  # seconds of imports

    return all_entries()
