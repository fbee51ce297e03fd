"""A loaded config: values by dotted path, sections as plain dicts, objects built on first use."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from ladon.config.core.build import Builder
from ladon.config.core.dump import dump_yaml
from ladon.config.core.interpolate import Resolver
from ladon.config.core.nodes import ConfigMap, LocatedError, kind_of
from ladon.config.core.own_modules import OwnModules
from ladon.config.core.paths import NoSuchPathError, nearest_mark
from ladon.config.core.schema import TOP
from ladon.errors import ConfigError


class Config:
    """One config after all its layers.

    Attributes:
        path: the file it was loaded from.
        root: the raw nodes, for validation; everyone else uses the methods.
        resolver: fills in `${...}`.
        references: what its files refer to, even where an override replaced the reference.
        own: finds the modules that it names.

    Args:
        root: the merged raw nodes.
        path: the file.
        references: see above.
        folders: absolute ones of its files, by the files' names in messages.
        safe: its author is not trusted (`ladon.config.core.safe`).
    """

    def __init__(
        self,
        root: ConfigMap,
        path: Path,
        references: Collection[str],
        folders: Mapping[str, Path],
        *,
        safe: bool = False,
    ) -> None:
        self.root = root
        self.references = references
        self.path = path
        self.resolver = Resolver(root)
        self.own = OwnModules(folders, path.parent.resolve(), safe=safe)
        self._builder = Builder(self.resolver, self.own)

    def get(self, dotted: str, default: Any = None) -> Any:
        """Return the value at a path like `train.stage1.optimizer`, interpolated and copied.

        Nodes that import or call stay `LazyCall`.

        Args:
            dotted: the path; keys with dots or slashes in them are found too, numbers index lists.
            default: returned if there is no such key (a key that is there but empty is None).

        Raises:
            ConfigError: the value refers to something that does not exist.
        """
        try:
            found = self.resolver.locate(dotted)
        except NoSuchPathError:
            return default
        return self.resolver.resolve(found.value, found.mark)

    def __contains__(self, dotted: str) -> bool:
        try:
            self.resolver.locate(dotted)
        except NoSuchPathError:
            return False
        return True

    def section(self, dotted: str) -> dict[Any, Any]:
        """Return a section as a plain dict; {} if it is missing or empty.

        Raises:
            ConfigError: there is something else than a mapping.
        """
        value = self.get(dotted)
        if value is None:
            return {}
        if not isinstance(value, dict):
            mark = nearest_mark(self.root, dotted)
            raise LocatedError(mark, f"{dotted} must be a mapping, not {kind_of(value)}")
        return value

    def build(self, value: Any) -> Any:
        """Build every tagged node in a value of `get` or `section`, each node once for this config.

        Raises:
            ConfigError: a name cannot be imported, or what it names failed; with file and line.
        """
        return self._builder.build(value)

    def where(self, dotted: str) -> str:
        """Return 'configs/x.yaml:12' for a key (of the nearest section above it if it is missing).

        A value from an override is at '--json', '--set' or '--data_root'.
        """
        return str(nearest_mark(self.root, dotted) or self.path)

    def located(self, text: str) -> str:
        """Return a message that begins with a key, after the file and line of that key.

        Args:
            text: 'models.model.kwargs.fpn: …', or anything else, which is left as it is.
        """
        key = text.partition(":")[0]
        is_key = "." in key and key.partition(".")[0] in self.root and " " not in key
        return f"{self.where(key)}: {text}" if is_key else text

    def dump(self, dotted: str | None = None, *, variables: bool = True) -> str:
        """Return the resolved config as YAML that `load_config` reads back, or the value of a key.

        Args:
            dotted: the key; equal texts mean equal values, what is built included.
            variables: with the config's own variables. Nothing refers to them any more, so that
                only without them the text is a config that runs as it is.
        """
        value = self.get(dotted) if dotted is not None else self.resolver.resolve(self.root)
        if not variables:
            value = {key: item for key, item in value.items() if key in TOP.keys}
            if self.own.found:  # it is to be read from another folder
                value["dependencies"] = self.own.recorded(value.get("dependencies"))
        return dump_yaml(self.resolver, value)

    @property
    def beta(self) -> float | None:
        """The weight of the rate term; None where the config has none, or a range of it.

        Raises:
            ConfigError: it is neither a number above zero nor such a range.
        """
        value = self.get("beta")
        problem = None if value is None else beta_problem(value)
        if problem is not None:
            raise LocatedError(nearest_mark(self.root, "beta"), f"beta {problem}")
        return None if value is None or self.is_for_every_rate else float(value)

    @property
    def is_for_every_rate(self) -> bool:
        """Whether β is a range: one model has all its rates."""
        return isinstance(self.get("beta"), Mapping)

    @property
    def name(self) -> str | None:
        """The config's own name for its model, if it has one."""
        value = self.get("name")
        return None if value is None else str(value)

    @property
    def dependencies(self) -> list[Any]:
        """The modules to import before anything is built, as written."""
        value = self.get("dependencies")
        if value is None:
            return []
        return value if isinstance(value, list) else [value]

    def import_dependencies(self) -> None:
        """Import the modules named in `dependencies`, so that what they register can be used.

        Raises:
            ConfigError: one cannot be imported.
        """
        for index, entry in enumerate(self.dependencies):
            mark = nearest_mark(self.root, f"dependencies.{index}")
            try:
                self.own.import_dependency(entry, mark)
            except ConfigError as exc:
                raise LocatedError(mark, str(exc)) from exc


def beta_problem(value: Any) -> str | None:
    """Return what is wrong with a config's β; None if nothing is.

    Args:
        value: a number, or of a variable-rate model its range, {low: …, high: …}.
    """
    if not isinstance(value, Mapping):
        return None if is_positive_number(value) else f"must be a number above 0, not {value!r}"
    low, high = value.get("low"), value.get("high")
    if len(value) == 2 and is_positive_number(low) and is_positive_number(high) and low < high:
        return None
    return f"must be a number, or {{low: …, high: …}} with 0 < low < high, not {dict(value)!r}"


def is_positive_number(value: Any) -> TypeGuard[float]:
    """Whether a value is a finite number above zero (true and false are not numbers)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and value > 0
