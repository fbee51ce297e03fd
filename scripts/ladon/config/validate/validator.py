"""Walks a config along its schema and collects problems; knows no library and no single check."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ladon.config.core import schema
from ladon.config.core.build import lazy_target
from ladon.config.core.config import Config
from ladon.config.core.nodes import (
    ConfigList,
    ConfigMap,
    LazyCall,
    LocatedError,
    SourceLocation,
    kind_of,
    suggest,
)
from ladon.config.core.paths import Found
from ladon.config.core.schema import ListOf, OneOf, RegistryKey, Rule, Section
from ladon.config.core.update_epoch import is_count
from ladon.config.validate.registries import enter, entries
from ladon.config.validate.signatures import call_problems
from ladon.errors import ConfigError

Hook = Callable[["Validator", "ConfigNode"], None]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a config.

    Attributes:
        file: the file (or '--set', '--json').
        line: its line, None if it has none.
        key: the dotted path.
        message: what is wrong.
    """

    file: str
    line: int | None
    key: str
    message: str

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.key}: {self.message}" if self.key else f"{place}: {self.message}"


class _Broken:
    """Stands for a value that could not be resolved; the problem is listed elsewhere."""


BROKEN = _Broken()


@dataclass(frozen=True)
class ConfigNode:
    """A value with its path and place.

    A mapping or list is still raw inside; a scalar is final.
    """

    path: str
    value: Any
    mark: SourceLocation | None = field(default=None)

    @property
    def is_unresolved(self) -> bool:
        """Whether nothing can be said about the value before it is built."""
        return self.value is BROKEN or isinstance(self.value, LazyCall)


class Validator:
    """Checks values against rules.

    Args:
        config: the config.
        hooks: further checks by name, called for sections that name one.
    """

    def __init__(self, config: Config, hooks: Mapping[str, Hook]) -> None:
        self.config = config
        self.problems: dict[tuple[str, int | None, str, str], Problem] = {}
        self._hooks = hooks

    def add(self, node: ConfigNode, message: str) -> None:
        """List a problem; an anchored section that stands in several places is listed once."""
        mark = node.mark or SourceLocation(str(self.config.path))
        problem = Problem(mark.file, mark.line, node.path, message)
        name = node.path.rpartition(".")[2]
        self.problems.setdefault((mark.file, mark.line, name, message), problem)

    def node(self, path: str, raw: Any, mark: SourceLocation | None) -> ConfigNode:
        """Return the node of a raw value, with references followed."""
        resolver = self.config.resolver
        try:
            found = resolver.deref(Found(raw, mark))
            if isinstance(found.value, ConfigMap | ConfigList):
                return ConfigNode(path, found.value, mark)
            return ConfigNode(path, resolver.resolve(found.value, found.mark), mark)
        except LocatedError:
            return ConfigNode(path, BROKEN, mark)

    def root(self) -> ConfigNode:
        """Return the node of the whole config."""
        return ConfigNode("", self.config.root, SourceLocation(str(self.config.path), 1))

    def children(self, node: ConfigNode) -> Iterator[tuple[Any, ConfigNode]]:
        """Yield the key and node of each value in a mapping or list; nothing for anything else."""
        prefix = f"{node.path}." if node.path else ""
        raw = node.value
        if isinstance(raw, dict):
            for key, value in raw.items():
                mark = raw.mark_of(key) if isinstance(raw, ConfigMap) else node.mark
                yield key, self.node(f"{prefix}{key}", value, mark)
        elif isinstance(raw, list):
            marks = raw.marks if isinstance(raw, ConfigList) else [node.mark] * len(raw)
            for index, (value, mark) in enumerate(zip(raw, marks, strict=True)):
                yield index, self.node(f"{prefix}{index}", value, mark)

    def child(self, node: ConfigNode, key: str) -> ConfigNode | None:
        """Return the node of one value, None if it is missing or empty."""
        raw = node.value
        if not isinstance(raw, dict) or raw.get(key) is None:
            return None
        mark = raw.mark_of(key) if isinstance(raw, ConfigMap) else node.mark
        child = self.node(f"{node.path}.{key}" if node.path else key, raw[key], mark)
        return None if child.value is None else child

    def rule(self, node: ConfigNode, rule: Rule) -> None:
        """Check a value against a rule; an empty value passes (but see `required`)."""
        if node.value is None or node.is_unresolved:
            return
        if isinstance(rule, Section):
            self.section(node, rule)
        elif isinstance(rule, ListOf):
            if not isinstance(node.value, list):
                self.add(node, f"must be a list, not {kind_of(node.value)}")
            for _, item in self.children(node):
                self.rule(item, rule.rule)
        elif isinstance(rule, RegistryKey):
            self.entry(node, rule.registry)
        elif isinstance(rule, OneOf):
            if node.value not in rule.words:
                hint = suggest(node.value, rule.words) if isinstance(node.value, str) else ""
                self.add(node, f"must be one of {', '.join(rule.words)}, not {node.value!r}{hint}")
        else:
            self._scalar(node, rule)

    def section(self, node: ConfigNode, spec: Section) -> None:
        """Check a mapping against its section of the schema."""
        if not isinstance(node.value, dict):
            text = f"must be a mapping, not {kind_of(node.value)}"
            is_name = spec.required == ("key",) and isinstance(node.value, str)
            self.add(node, f"{text}: write {{key: {node.value}}}" if is_name else text)
            return
        for key, child in self.children(node):
            if str(key).startswith("_"):
                continue
            rule = spec.keys.get(key, spec.free)
            if rule is None:
                self.add(child, f"unknown key{suggest(key, spec.keys)}")
            else:
                self.rule(child, rule)
        for key in spec.required:
            if node.value.get(key) is None:
                self.add(
                    node, f'"{key}" is missing' if key not in node.value else f'"{key}" is empty'
                )
        if spec.registry is not None:
            key_view = self.child(node, "key")
            target = None if key_view is None else self.entry(key_view, spec.registry)
            if target is not None:
                self.bind(node, target, given=spec.given, derived=spec.derived)
        if spec.check is not None:
            self._hooks[spec.check](self, node)

    def entry(self, node: ConfigNode, registry: str) -> Callable[..., Any] | None:
        """Look a key up in a registry; an unknown one is a problem."""
        if node.is_unresolved:
            return None
        if not isinstance(node.value, str):
            article = "an" if registry[0] in "aeiou" else "a"
            self.add(node, f"must be the name of {article} {registry}, not {kind_of(node.value)}")
            return None
        known = entries(registry)
        if "." in node.value:
            return self._dotted(node, registry, known)
        if node.value not in known:
            hint = suggest(node.value, known)
            self.add(node, f'there is no {registry} "{node.value}"{hint}')
            return None
        return known[node.value]

    def _dotted(
        self, node: ConfigNode, registry: str, known: Mapping[str, Callable[..., Any]]
    ) -> Callable[..., Any] | None:
        """Import what a dotted key names and enter it in its registry."""
        try:
            target = self.config.own.resolve(node.value, node.mark)
        except ConfigError as exc:
            if node.value in known:  # registered under a name with a dot in it
                return known[node.value]
            reason = str(exc).removeprefix(f'cannot find "{node.value}": ')
            self.add(node, f'there is no {registry} "{node.value}": {reason}')
            return None
        if not callable(target):
            self.add(node, f"{node.value} is {kind_of(target)}, not a class or function")
            return None
        if not enter(registry, node.value, target):
            self.add(node, f'there is no {registry} "{node.value}"{suggest(node.value, known)}')
            return None
        return target

    def bind(
        self,
        node: ConfigNode,
        target: Callable[..., Any],
        *,
        given: int = 0,
        derived: Collection[str] = (),
    ) -> None:
        """Check that `target` can be called with the `args` and `kwargs` of a section."""
        args, kwargs = self.child(node, "args"), self.child(node, "kwargs")
        count = given
        if args is not None and not args.is_unresolved:
            if not isinstance(args.value, list):
                self.add(args, f"must be a list, not {kind_of(args.value)}")
                return
            count += len(args.value)
        if (args is not None and args.is_unresolved) or (
            kwargs is not None and kwargs.is_unresolved
        ):
            return
        self.bind_kwargs(kwargs, node, target, count, derived)

    def bind_kwargs(
        self,
        kwargs: ConfigNode | None,
        owner: ConfigNode,
        target: Callable[..., Any],
        count: int,
        derived: Collection[str] = (),
        *,
        is_partial: bool = False,
    ) -> None:
        """Check a mapping of keyword arguments beside `count` positional ones.

        Args:
            kwargs: the mapping, None if there is none.
            owner: where to list what is missing.
            target: what would be called.
            count: how many positional arguments there would be.
            derived: arguments that the program fills in.
            is_partial: whether further arguments come from elsewhere, so that none is missing.
        """
        if kwargs is not None and not isinstance(kwargs.value, dict):
            self.add(kwargs, f"must be a mapping, not {kind_of(kwargs.value)}")
            return
        nodes = {} if kwargs is None else {str(key): v for key, v in self.children(kwargs)}
        values = {key: child.value for key, child in nodes.items()}
        for keyword, message in call_problems(target, count, values, derived=derived):
            if keyword is not None or not is_partial:
                self.add(nodes.get(keyword or "", kwargs or owner), message)

    def _scalar(self, node: ConfigNode, rule: str) -> None:
        value = node.value
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        fits = {
            schema.ANY: True,
            schema.NUMBER: is_number,
            schema.NOT_NEGATIVE: is_number and value >= 0,
            schema.POSITIVE: is_number and value > 0,
            schema.WEIGHT: is_number or isinstance(value, dict),
            schema.COUNT: is_count(value),
            schema.WHOLE: is_count(value) or (value == 0 and isinstance(value, int)),
            schema.FLAG: isinstance(value, bool),
            schema.TEXT: isinstance(value, str),
            schema.PATHS: isinstance(value, list)
            and all(isinstance(v.value, str) or v.is_unresolved for _, v in self.children(node)),
            schema.DATASET: isinstance(value, str),
        }
        words = {
            schema.NUMBER: "a number",
            schema.NOT_NEGATIVE: "a number of at least 0",
            schema.POSITIVE: "a number above 0",
            schema.WEIGHT: "a number, or a number for each of the model's losses",
            schema.COUNT: "a whole number of at least 1",
            schema.WHOLE: "a whole number",
            schema.PATHS: "a list of module paths",
            schema.DATASET: "the id of a dataset",
        }
        if not fits[rule]:
            shown = (
                f"{kind_of(value)} ({value})" if isinstance(value, int | float) else kind_of(value)
            )
            shown = f'the text "{value}"' if isinstance(value, str) else shown
            self.add(node, f"must be {words.get(rule, rule)}, not {shown}")
        elif rule == schema.DATASET:
            self._dataset(node)

    def _dataset(self, node: ConfigNode) -> None:
        datasets = self.child(self.root(), "datasets")
        if datasets is None or not isinstance(datasets.value, dict):
            return
        if node.value not in datasets.value:
            hint = suggest(node.value, datasets.value)
            self.add(node, f'there is no dataset "{node.value}" under datasets{hint}')


def target_of(validator: Validator, lazy: LazyCall) -> tuple[str, Any]:
    """Return the dotted name in an `!import_*` node, and what it stands for.

    Raises:
        ConfigError: there is no such thing.
    """
    names = ("key", "package", "class_name", "method_name")
    resolve, node = validator.config.resolver.resolve, lazy.value
    entry = {name: resolve(node.get(name), node.mark_of(name)) for name in names}
    return lazy_target(lazy, entry, validator.config.own)
