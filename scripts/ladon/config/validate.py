"""A config checked before anything is built: all problems at once, with file, line and key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from ladon.config import schema
from ladon.config.aliases import import_dependency
from ladon.config.checks import check_lazy, check_train, hooks_for
from ladon.config.config import Config, is_positive_number
from ladon.config.interpolate import EndlessError, references
from ladon.config.nodes import ConfigList, ConfigMap, Lazy, LocatedError, Mark, kind_of
from ladon.config.walk import Problem, View, Walker
from ladon.errors import ConfigError

__all__ = ["Problem", "check_config", "format_report", "validate_config"]

_COMPUTED_TAGS = ("!join", "!pathjoin", "!expanduser", "!abspath", "!access_by_index_or_key")


def validate_config(config: Config, kind: str | None = None) -> list[Problem]:
    """Check a config without building anything; libraries and `dependencies` are imported.

    Args:
        config: the config.
        kind: if given ('classification', 'detection', 'segmentation'), the model must be one of it.

    Returns:
        All problems, by file and line.
    """
    walker = Walker(config, hooks_for(kind))
    _check_dependencies(walker)
    used = _check_values(walker)
    if used is None:
        return list(walker.problems.values())
    root = walker.root()
    own = {str(key): schema.ANY for key in config.root if _is_used(str(key), used)}
    walker.section(root, replace(schema.TOP, keys={**own, **schema.TOP.keys}))
    _check_top(walker, root)
    return sorted(walker.problems.values(), key=lambda p: (p.file, p.line or 0))


def check_config(config: Config, kind: str | None = None) -> None:
    """Raise one error that lists all problems, one per line.

    Raises:
        ConfigError: there is a problem.
    """
    problems = validate_config(config, kind)
    if problems:
        raise ConfigError("\n".join(str(problem) for problem in problems))


def format_report(problems: Sequence[Problem]) -> str:
    """Return the problems, one per line, and a line that counts them."""
    if not problems:
        return "no problems found"
    files = len({problem.file for problem in problems})
    count = f"{len(problems)} problem{'s' * (len(problems) != 1)}"
    return "\n".join([*map(str, problems), f"{count} in {files} file{'s' * (files != 1)}"])


def _check_dependencies(walker: Walker) -> None:
    """Import the modules that may register what the rest of the config names."""
    view = walker.child(walker.root(), "dependencies")
    if view is None or view.is_open:
        return
    # One entry need not be in a list, as torchdistill reads it.
    children = walker.children(view) if isinstance(view.value, list) else [(0, view)]
    for _, child in children:
        try:
            import_dependency(walker.config.resolver.resolve(child.value))
        except ConfigError as exc:
            walker.add(child, str(exc))


def _check_values(walker: Walker) -> set[str] | None:
    """Check every `${...}` and every tagged node; return the paths that are referred to.

    What a file refers to counts where an override replaces the reference, too: the file has no
    fault then. None if references have no end: whatever else refers to them costs as much again.
    """
    used: set[str] = set(walker.config.references)
    for view in _every_value(View("", walker.config.root), set()):
        is_text = isinstance(view.value, str)
        if is_text:
            used.update(references(view.value))
        elif view.value.tag not in _COMPUTED_TAGS:
            check_lazy(walker, view)
            continue
        try:
            walker.config.resolver.resolve(view.value, view.mark)
        except EndlessError as exc:
            walker.add(View(view.path, None, exc.mark or view.mark), exc.text)
            return None
        except LocatedError as exc:
            # What a reference leads to is checked at its own place.
            if exc.mark == view.mark or not is_text:
                walker.add(View(view.path, None, exc.mark), exc.text)
    return used


def _every_value(view: View, seen: set[int]) -> Iterator[View]:
    """Yield each text and tagged node below a raw value; a shared one at its first place only."""
    node, prefix = view.value, f"{view.path}." if view.path else ""
    if isinstance(node, str):
        yield view
        return
    if not isinstance(node, Lazy | ConfigMap | ConfigList) or id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, Lazy):
        yield view
        inner = View(view.path, node.value, view.mark)
        yield from () if isinstance(node.value, str) else _every_value(inner, seen)
        return
    items: Iterator[tuple[Any, Any, Mark | None]] = (
        ((key, value, node.mark_of(key)) for key, value in node.items())
        if isinstance(node, ConfigMap)
        else (
            (i, value, mark) for i, (value, mark) in enumerate(zip(node, node.marks, strict=True))
        )
    )
    for key, value, mark in items:
        yield from _every_value(View(f"{prefix}{key}", value, mark), seen)


def _is_used(key: str, used: set[str]) -> bool:
    return any(name == key or name.startswith(f"{key}.") for name in used)


def _check_top(walker: Walker, root: View) -> None:
    """Check what belongs together across the top-level sections."""
    beta = walker.child(root, "beta")
    if beta is not None and not beta.is_open and not is_positive_number(beta.value):
        walker.add(beta, f"must be a number above 0, not {beta.value!r}")
    train, test = walker.child(root, "train"), walker.child(root, "test")
    if train is None and test is None:
        walker.add(root, '"train" and "test" are both missing: there is nothing to run')
    if train is not None:
        check_train(walker, train)
    datasets = walker.child(root, "datasets")
    for key, child in walker.children(datasets) if datasets is not None else ():
        if not child.is_open and not str(key).startswith("_"):
            text = f"must be an !import_call of a dataset, not {kind_of(child.value)}"
            walker.add(child, text)
