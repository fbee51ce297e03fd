"""The one table of names: where this project keeps what published config files call otherwise."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from importlib import import_module
from types import ModuleType
from typing import Any, Protocol

from ladon.config.core.nodes import suggest
from ladon.errors import ConfigError

logger = logging.getLogger(__name__)

_said: set[str] = set()

TRANSFORMS = (
    "CustomCompose",
    "CustomRandomResize",
    "CustomRandomHorizontalFlip",
    "CustomRandomCrop",
    "CustomCenterCrop",
    "CustomToTensor",
    "CustomNormalize",
    "WrappedRandomResizedCrop",
    "WrappedResize",
)
_SAMPLERS = ("GroupedBatchSampler", "create_aspect_ratio_groups")

ALIASES = {
    "coco.dataset.coco_dataset": "ladon.data.coco.coco_dataset",
    "utils.dataset.get_num_iterations": "ladon.data.loaders.get_num_iterations",
    "torchvision.datasets.VOCSegmentation": "ladon.data.voc.VOCSegmentation",
    "torchvision.datasets.ImageFolder": "ladon.data.folder.ImageFolder",
    "torchvision.datasets.folder.ImageFolder": "ladon.data.folder.ImageFolder",
    **{f"custom.transform.{name}": f"ladon.data.transforms.{name}" for name in TRANSFORMS},
    **{f"custom.sampler.{name}": f"ladon.data.samplers.{name}" for name in _SAMPLERS},
}

# Modules that a file may name under `dependencies`.
MODULE_ALIASES = {"custom": "ladon.data"}


class Finder(Protocol):
    """Imports modules by name, from wherever it looks for them."""

    def __call__(self, name: str, package: str | None = None) -> ModuleType:
        """Import a module."""
        ...

    def choices(self) -> Iterable[str]:
        """Return names of modules that may be meant by a misspelt one."""
        ...


class _Installed:
    """Finds what Python finds by itself."""

    def __call__(self, name: str, package: str | None = None) -> ModuleType:
        """Import a module."""
        return import_module(name, package)

    def choices(self) -> Iterable[str]:
        """Return no names."""
        return ()


def resolve_name(dotted: str, finder: Finder | None = None) -> Any:
    """Import what a dotted name stands for, through the alias table.

    Args:
        dotted: 'package.module.attribute' (also of a class: 'package.module.Class.method').
        finder: imports modules; None for those that are installed.

    Raises:
        ConfigError: no such module or attribute, or the module fails to import.
    """
    target = ALIASES.get(dotted, dotted)
    parts = target.split(".") if isinstance(target, str) else []
    if len(parts) < 2 or not all(parts):
        raise ConfigError(f'"{dotted}" is not a dotted name like "package.module.name"')
    module, depth = _deepest_module(parts[:-1], dotted, finder or _Installed())
    value: Any = module
    for index, name in enumerate(parts[depth:], start=depth):
        if not hasattr(value, name):
            owner = ".".join(parts[:index])
            what = "module" if isinstance(value, ModuleType) else "class"
            raise ConfigError(
                f'cannot find "{dotted}": {what} {owner} has no "{name}"{suggest(name, dir(value))}'
            )
        value = getattr(value, name)
    return value


def _deepest_module(parts: list[str], dotted: str, finder: Finder) -> tuple[ModuleType, int]:
    for depth in range(len(parts), 0, -1):
        module = _import_if_there(".".join(parts[:depth]), dotted, finder)
        if module is not None:
            return module, depth
    hint = suggest(parts[0], finder.choices()) or suggest(dotted, ALIASES)
    raise ConfigError(f'cannot find "{dotted}": there is no module "{parts[0]}"{hint}')


def _import_if_there(name: str, wanted: str, finder: Finder) -> ModuleType | None:
    try:
        return finder(name)
    except ConfigError as exc:
        raise ConfigError(f'cannot import "{wanted}": {exc}') from exc
    except ModuleNotFoundError as exc:
        if exc.name is not None and (name == exc.name or name.startswith(f"{exc.name}.")):
            return None
        raise ConfigError(f'cannot import "{wanted}": {exc}') from exc
    except Exception as exc:  # a user's own module may fail in any way while it is imported
        raise ConfigError(f'cannot import "{wanted}": {type(exc).__name__}: {exc}') from exc


def import_dependency(entry: Any, finder: Finder) -> None:
    """Import one entry of `dependencies`: a name, `[name, package]` or `{name, package}`.

    Raises:
        ConfigError: the entry is malformed, or the module cannot be imported.
    """
    if isinstance(entry, dict):
        name, package = entry.get("name"), entry.get("package")
    elif isinstance(entry, list | tuple) and entry:
        name, package = entry[0], entry[1] if len(entry) > 1 else None
    else:
        name, package = entry, None
    if not isinstance(name, str) or not name.strip("."):
        raise ConfigError(f"a dependency names a module (name: package.module), not {entry!r}")
    name = MODULE_ALIASES.get(name, name)
    try:
        finder(name, package)
    except ModuleNotFoundError as exc:
        top = name.partition(".")[0]
        hint = suggest(top, finder.choices()) if exc.name == top else ""
        raise ConfigError(f'cannot import the dependency "{name}": {exc}{hint}') from exc
    except Exception as exc:  # a user's own module may fail in any way while it is imported
        is_plain = isinstance(exc, ImportError | ConfigError)
        reason = str(exc) if is_plain else f"{type(exc).__name__}: {exc}"
        raise ConfigError(f'cannot import the dependency "{name}": {reason}') from exc
    if name not in _said:  # each config of a process names the same ones
        _said.add(name)
        logger.info("imported %s", name)
