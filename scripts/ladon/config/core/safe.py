"""`--safe`: what a config may import and call where its author is not trusted.

`!import_call` and its kin run whatever they name; here they may name classes and functions that a
config has a use for, by where those are *defined*: a module re-exports much (`torch.os.system`),
and most of what these packages hold is no part of a model (loaders of pickles, compilers, programs
that are started). Nothing beside the config is imported.

It is no sandbox: what is let in is trusted, and files are read and written where the config says.
"""

from __future__ import annotations

import enum
import importlib
import inspect
import os
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

from ladon.config.core.aliases import ALIASES, MODULE_ALIASES, resolve_name
from ladon.config.core.nodes import LazyCall, LocatedError, SourceLocation
from ladon.errors import ConfigError

VARIABLE = "LADON_SAFE"
"""Environment variable: 1 for every config that this process and its children read."""

PACKAGES = ("torch", "torchvision", "torchdistill", "sc2bench", "timm", "ladon")
"""Packages whose modules a config may name, also under `dependencies`."""

# where what a config calls is defined: layers, losses, optimizers, transforms, data
_PARTS = (
    "torch.nn",
    "torch.optim",
    "torch.utils.data.dataset",
    "torch.utils.data.distributed",
    "torch.utils.data.sampler",
    "torchvision.datasets.coco",
    "torchvision.datasets.fakedata",
    "torchvision.datasets.folder",
    "torchvision.datasets.voc",
    "torchvision.models",
    "torchvision.ops",
    "torchvision.transforms",
    "torchdistill.datasets.collator",
    "torchdistill.datasets.sampler",
    "torchdistill.datasets.transform",
    "torchdistill.datasets.wrapper",
    "torchdistill.losses",
    "torchdistill.optim",
    "sc2bench.loss",
    "sc2bench.transforms.collator",
    "sc2bench.transforms.misc",
    "timm.data.auto_augment",
    "timm.data.random_erasing",
    "timm.data.transforms",
    "timm.layers",
    "timm.loss",
    "timm.models",
    "timm.optim",
    "timm.scheduler",
    "ladon.bottlenecks",
    "ladon.data",
    "ladon.metrics",
)
# of these: what writes files, or compiles text that a config could have written
_NOT = ("ladon.data.digits", "torchvision.models.feature_extraction", "timm.layers.trace_utils")
# modules whose name begins with an underscore hold loaders and builders, with one exception
_UNDERSCORED = ("torchvision.transforms.v2.", "torchvision.transforms._presets")
# of what a registry knows by a plain name, which the libraries and this project have entered
_REGISTERED = (*PACKAGES, "compressai")
_NEVER = "repo_or_dir"  # torch.hub runs the file hubconf.py that it finds there
_REFUSED_TAGS = ("!import_call_method", "!call_method", "!setattr")
_PLAIN = (type(None), bool, int, float, str)
_SAFE_WORDS = "--safe: an author who is not trusted could run anything with it"


def is_safe_mode() -> bool:
    """Whether configs are read as a stranger's: `LADON_SAFE` says so."""
    return os.environ.get(VARIABLE, "").lower() not in ("", "0", "off", "no", "false")


def check_tag(lazy: LazyCall) -> None:
    """Refuse tags that call methods: any object leads to any other by its attributes.

    Raises:
        ConfigError: it is one of them.
    """
    if lazy.tag in _REFUSED_TAGS:
        raise LocatedError(lazy.mark, f"{lazy.tag} is refused by {_SAFE_WORDS}")


def check_attribute(name: str, value: Any, mark: SourceLocation | None) -> None:
    """Refuse what `!getattr` finds unless it is a plain value or a member of an enumeration.

    Raises:
        ConfigError: it is something else.
    """
    if name.startswith("_") or not (isinstance(value, _PLAIN) or _is_member(value)):
        raise LocatedError(mark, f'!getattr of "{name}" is refused by {_SAFE_WORDS}')


def resolve_safely(dotted: str) -> Any:
    """Import what a dotted name stands for, if a stranger's config may name it.

    Args:
        dotted: as `resolve_name` takes it.

    Raises:
        ConfigError: it may not, or there is no such thing.
    """
    if not isinstance(dotted, str) or not _may_import(ALIASES.get(dotted, dotted)):
        raise ConfigError(f'"{dotted}" is refused by --safe: {_named()}')
    target = resolve_name(dotted)
    if not _is_harmless(target):
        raise ConfigError(
            f'"{dotted}" is refused by --safe: it is none of the classes and functions that '
            f"models, losses and data are made of ({_place(target)})"
        )
    return target


def import_safely(name: Any) -> None:
    """Import a module that a stranger's config names under `dependencies`.

    Raises:
        ConfigError: it may not be named, or cannot be imported.
    """
    written = MODULE_ALIASES.get(name, name) if isinstance(name, str) else None
    if written is None or not _may_import(written):
        raise ConfigError(f"the dependency {name!r} is refused by --safe: {_named()}")
    try:
        importlib.import_module(written)
    except ImportError as error:
        raise ConfigError(f'cannot import the dependency "{written}": {error}') from error


def check_built(value: Any, tables: Iterable[Mapping[str, Any]]) -> None:
    """Refuse names in a section, once it is built, under which libraries would run more.

    Args:
        value: what was built.
        tables: what is registered under plain names.

    Raises:
        ConfigError: naming the key.
    """
    tables = list(tables)
    _check_built(value, tables, set())


def _check_built(value: Any, tables: list[Mapping[str, Any]], seen: set[int]) -> None:
    if not isinstance(value, Mapping | list | tuple) or id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Mapping):
        if value.get(_NEVER) is not None:
            raise ConfigError(f"{_NEVER}: {value[_NEVER]} is refused by {_SAFE_WORDS}")
        key = value.get("key")
        if isinstance(key, str):  # one with dots was resolved before it was entered
            found = [table[key] for table in tables if key in table]
            bad = [target for target in found if not _is_registered(target)]
            if bad:
                raise ConfigError(f"key: {key} is refused by {_SAFE_WORDS} ({_place(bad[0])})")
    for child in value.values() if isinstance(value, Mapping) else value:
        _check_built(child, tables, seen)


def _may_import(name: str) -> bool:
    """Whether a name, as it is written, is of the packages and of nothing private."""
    parts = name.split(".")
    return parts[0] in PACKAGES and not any(part.startswith("_") for part in parts)


def _is_harmless(target: Any) -> bool:
    if isinstance(target, _PLAIN) or _is_member(target):
        return True
    if not (inspect.isclass(target) or inspect.isfunction(target)):
        return type(target).__module__ == "torch" and type(target).__name__ == "dtype"
    if "." in target.__qualname__:  # a method, or something made within a function
        return False
    module = target.__module__ or ""
    return _is_below(module, _PARTS) and not _is_below(module, _NOT) and not _is_private(module)


def _is_member(value: Any) -> bool:
    """Whether a value is a member of an enumeration of torchvision's, such as its weights."""
    return isinstance(value, enum.Enum) and _is_below(type(value).__module__, ("torchvision",))


def _is_registered(target: Any) -> bool:
    module = getattr(target, "__module__", None) or ""
    return _is_below(module, _REGISTERED) and not _is_private(module)


def _is_private(module: str) -> bool:
    is_let_in = any(module.startswith(prefix) for prefix in _UNDERSCORED)
    return not is_let_in and any(part.startswith("_") for part in module.split("."))


def _is_below(module: str, prefixes: Iterable[str]) -> bool:
    return any(module == prefix or module.startswith(f"{prefix}.") for prefix in prefixes)


def _named() -> str:
    return (
        f"a stranger's config may name public modules of {', '.join(PACKAGES)} only; leave --safe "
        "out once you have read what the config names"
    )


def _place(target: Any) -> str:
    if isinstance(target, ModuleType):
        return f"the module {target.__name__}"
    module = getattr(target, "__module__", None) or type(target).__module__
    return f"defined in {module}"
