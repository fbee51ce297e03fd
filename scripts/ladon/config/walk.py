"""Walks a config along its schema and collects problems; knows no library and no single check."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ladon.config import schema
from ladon.config.config import Config
from ladon.config.nodes import ConfigList, ConfigMap, Lazy, LocatedError, Mark, kind_of, suggest
from ladon.config.paths import Found
from ladon.config.registries import entries
from ladon.config.schema import Items, Named, OneOf, Rule, Section
from ladon.config.signatures import call_problems
from ladon.config.stages import is_count

Hook = Callable[["Walker", "View"], None]


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
class View:
    """A value with its path and place.

    A mapping or list is still raw inside; a scalar is final.
    """

    path: str
    value: Any
    mark: Mark | None = field(default=None)

    @property
    def is_open(self) -> bool:
        """Whether nothing can be said about the value before it is built."""
        return self.value is BROKEN or isinstance(self.value, Lazy)


class Walker:
    """Checks values against rules.

    Args:
        config: the config.
        hooks: further checks by name, called for sections that name one.
    """

    def __init__(self, config: Config, hooks: Mapping[str, Hook]) -> None:
        self.config = config
        self.problems: dict[tuple[str, int | None, str, str], Problem] = {}
        self._hooks = hooks

    def add(self, view: View, message: str) -> None:
        """List a problem; an anchored section that stands in several places is listed once."""
        mark = view.mark or Mark(str(self.config.path))
        problem = Problem(mark.file, mark.line, view.path, message)
        name = view.path.rpartition(".")[2]
        self.problems.setdefault((mark.file, mark.line, name, message), problem)

    def view(self, path: str, raw: Any, mark: Mark | None) -> View:
        """Return the view of a raw value, with references followed."""
        resolver = self.config.resolver
        try:
            found = resolver.deref(Found(raw, mark))
            if isinstance(found.value, ConfigMap | ConfigList):
                return View(path, found.value, mark)
            return View(path, resolver.resolve(found.value, found.mark), mark)
        except LocatedError:
            return View(path, BROKEN, mark)

    def root(self) -> View:
        """Return the view of the whole config."""
        return View("", self.config.root, Mark(str(self.config.path), 1))

    def children(self, view: View) -> Iterator[tuple[Any, View]]:
        """Yield the key and view of each value in a mapping or list; nothing for anything else."""
        prefix = f"{view.path}." if view.path else ""
        node = view.value
        if isinstance(node, dict):
            for key, value in node.items():
                mark = node.mark_of(key) if isinstance(node, ConfigMap) else view.mark
                yield key, self.view(f"{prefix}{key}", value, mark)
        elif isinstance(node, list):
            marks = node.marks if isinstance(node, ConfigList) else [view.mark] * len(node)
            for index, (value, mark) in enumerate(zip(node, marks, strict=True)):
                yield index, self.view(f"{prefix}{index}", value, mark)

    def child(self, view: View, key: str) -> View | None:
        """Return the view of one value, None if it is missing or empty."""
        node = view.value
        if not isinstance(node, dict) or node.get(key) is None:
            return None
        mark = node.mark_of(key) if isinstance(node, ConfigMap) else view.mark
        child = self.view(f"{view.path}.{key}" if view.path else key, node[key], mark)
        return None if child.value is None else child

    def rule(self, view: View, rule: Rule) -> None:
        """Check a value against a rule; an empty value passes (but see `required`)."""
        if view.value is None or view.is_open:
            return
        if isinstance(rule, Section):
            self.section(view, rule)
        elif isinstance(rule, Items):
            if not isinstance(view.value, list):
                self.add(view, f"must be a list, not {kind_of(view.value)}")
            for _, item in self.children(view):
                self.rule(item, rule.rule)
        elif isinstance(rule, Named):
            self.entry(view, rule.registry)
        elif isinstance(rule, OneOf):
            if view.value not in rule.words:
                hint = suggest(view.value, rule.words) if isinstance(view.value, str) else ""
                self.add(view, f"must be one of {', '.join(rule.words)}, not {view.value!r}{hint}")
        else:
            self._scalar(view, rule)

    def section(self, view: View, spec: Section) -> None:
        """Check a mapping against its section of the schema."""
        if not isinstance(view.value, dict):
            self.add(view, f"must be a mapping, not {kind_of(view.value)}")
            return
        for key, child in self.children(view):
            if str(key).startswith("_"):
                continue
            rule = spec.keys.get(key, spec.free)
            if rule is None:
                self.add(child, f"unknown key{suggest(key, spec.keys)}")
            else:
                self.rule(child, rule)
        for key in spec.required:
            if view.value.get(key) is None:
                self.add(
                    view, f'"{key}" is missing' if key not in view.value else f'"{key}" is empty'
                )
        if spec.registry is not None:
            key_view = self.child(view, "key")
            target = None if key_view is None else self.entry(key_view, spec.registry)
            if target is not None:
                self.bind(view, target, given=spec.given, derived=spec.derived)
        if spec.check is not None:
            self._hooks[spec.check](self, view)

    def entry(self, view: View, registry: str) -> Callable[..., Any] | None:
        """Look a key up in a registry; an unknown one is a problem."""
        if view.is_open:
            return None
        if not isinstance(view.value, str):
            article = "an" if registry[0] in "aeiou" else "a"
            self.add(view, f"must be the name of {article} {registry}, not {kind_of(view.value)}")
            return None
        known = entries(registry)
        if view.value not in known:
            hint = suggest(view.value, known)
            self.add(view, f'there is no {registry} "{view.value}"{hint}')
            return None
        return known[view.value]

    def bind(
        self,
        view: View,
        target: Callable[..., Any],
        *,
        given: int = 0,
        derived: Collection[str] = (),
    ) -> None:
        """Check that `target` can be called with the `args` and `kwargs` of a section."""
        args, kwargs = self.child(view, "args"), self.child(view, "kwargs")
        count = given
        if args is not None and not args.is_open:
            if not isinstance(args.value, list):
                self.add(args, f"must be a list, not {kind_of(args.value)}")
                return
            count += len(args.value)
        if (args is not None and args.is_open) or (kwargs is not None and kwargs.is_open):
            return
        self.bind_kwargs(kwargs, view, target, count, derived)

    def bind_kwargs(
        self,
        kwargs: View | None,
        owner: View,
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
        views = {} if kwargs is None else {str(key): v for key, v in self.children(kwargs)}
        values = {key: child.value for key, child in views.items()}
        for keyword, message in call_problems(target, count, values, derived=derived):
            if keyword is not None or not is_partial:
                self.add(views.get(keyword or "", kwargs or owner), message)

    def _scalar(self, view: View, rule: str) -> None:
        value = view.value
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        fits = {
            schema.ANY: True,
            schema.NUMBER: is_number,
            schema.WEIGHT: is_number or isinstance(value, dict),
            schema.COUNT: is_count(value),
            schema.WHOLE: is_count(value) or (value == 0 and isinstance(value, int)),
            schema.FLAG: isinstance(value, bool),
            schema.TEXT: isinstance(value, str),
            schema.PATHS: isinstance(value, list)
            and all(isinstance(v.value, str) or v.is_open for _, v in self.children(view)),
            schema.DATASET: isinstance(value, str),
        }
        words = {
            schema.NUMBER: "a number",
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
            self.add(view, f"must be {words.get(rule, rule)}, not {shown}")
        elif rule == schema.DATASET:
            self._dataset(view)

    def _dataset(self, view: View) -> None:
        datasets = self.child(self.root(), "datasets")
        if datasets is None or not isinstance(datasets.value, dict):
            return
        if view.value not in datasets.value:
            hint = suggest(view.value, datasets.value)
            self.add(view, f'there is no dataset "{view.value}" under datasets{hint}')
