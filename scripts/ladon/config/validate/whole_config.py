"""A config checked before anything is built: all problems at once, with file, line and key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from ladon.config.core import schema
from ladon.config.core.config import Config, beta_problem
from ladon.config.core.files import shown
from ladon.config.core.interpolate import EndlessError, references
from ladon.config.core.nodes import (
    ConfigList,
    ConfigMap,
    LazyCall,
    LocatedError,
    SourceLocation,
    kind_of,
)
from ladon.config.validate.checks import check_lazy, hooks_for
from ladon.config.validate.classes import check_dataset_classes
from ladon.config.validate.train_section import check_train
from ladon.config.validate.validator import ConfigNode, Problem, Validator
from ladon.errors import ConfigError

__all__ = ["Problem", "check_config", "format_report", "validate_config"]

_COMPUTED_TAGS = ("!join", "!pathjoin", "!expanduser", "!abspath", "!access_by_index_or_key")


def validate_config(config: Config, kind: str | None = None) -> list[Problem]:
    """Check a config without building anything; libraries and `dependencies` are imported.

    Args:
        config: the config.
        kind: if given ('classification', 'detection', 'segmentation'), the model must be one of it.

    Returns:
        All problems by file and line, those of the config's own file first.
    """
    validator = Validator(config, hooks_for(kind))
    _check_dependencies(validator)
    used = _check_values(validator)
    if used is None:
        return list(validator.problems.values())
    root = validator.root()
    own = {str(key): schema.ANY for key in config.root if _is_used(str(key), used)}
    validator.section(root, replace(schema.TOP, keys={**own, **schema.TOP.keys}))
    _check_top(validator, root)
    own_file = shown(config.path)
    return sorted(
        validator.problems.values(), key=lambda p: (p.file != own_file, p.file, p.line or 0)
    )


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


def _check_dependencies(validator: Validator) -> None:
    """Import the modules that may register what the rest of the config names."""
    node = validator.child(validator.root(), "dependencies")
    if node is None or node.is_unresolved:
        return
    # One entry need not be in a list, as torchdistill reads it.
    children = validator.children(node) if isinstance(node.value, list) else [(0, node)]
    for _, child in children:
        try:
            entry = validator.config.resolver.resolve(child.value)
            validator.config.own.import_dependency(entry, child.mark)
        except ConfigError as exc:
            validator.add(child, str(exc))


def _check_values(validator: Validator) -> set[str] | None:
    """Check every `${...}` and every tagged node; return the paths that are referred to.

    What a file refers to counts where an override replaces the reference, too: the file has no
    fault then. None if references have no end: whatever else refers to them costs as much again.
    """
    used: set[str] = set(validator.config.references)
    for node in _every_value(ConfigNode("", validator.config.root), set()):
        is_text = isinstance(node.value, str)
        if is_text:
            used.update(references(node.value))
        elif node.value.tag not in _COMPUTED_TAGS:
            check_lazy(validator, node)
            continue
        try:
            validator.config.resolver.resolve(node.value, node.mark)
        except EndlessError as exc:
            validator.add(ConfigNode(node.path, None, exc.mark or node.mark), exc.text)
            return None
        except LocatedError as exc:
            # What a reference leads to is checked at its own place.
            if exc.mark == node.mark or not is_text:
                validator.add(ConfigNode(node.path, None, exc.mark), exc.text)
    return used


def _every_value(node: ConfigNode, seen: set[int]) -> Iterator[ConfigNode]:
    """Yield each text and tagged node below a raw value; a shared one at its first place only."""
    raw, prefix = node.value, f"{node.path}." if node.path else ""
    if isinstance(raw, str):
        yield node
        return
    if not isinstance(raw, LazyCall | ConfigMap | ConfigList) or id(raw) in seen:
        return
    seen.add(id(raw))
    if isinstance(raw, LazyCall):
        yield node
        inner = ConfigNode(node.path, raw.value, node.mark)
        yield from () if isinstance(raw.value, str) else _every_value(inner, seen)
        return
    items: Iterator[tuple[Any, Any, SourceLocation | None]] = (
        ((key, value, raw.mark_of(key)) for key, value in raw.items())
        if isinstance(raw, ConfigMap)
        else ((i, value, mark) for i, (value, mark) in enumerate(zip(raw, raw.marks, strict=True)))
    )
    for key, value, mark in items:
        yield from _every_value(ConfigNode(f"{prefix}{key}", value, mark), seen)


def _is_used(key: str, used: set[str]) -> bool:
    return any(name == key or name.startswith(f"{key}.") for name in used)


def _check_top(validator: Validator, root: ConfigNode) -> None:
    """Check what belongs together across the top-level sections."""
    beta = validator.child(root, "beta")
    if beta is not None and not beta.is_unresolved:
        problem = beta_problem(beta.value)
        if problem is not None:
            validator.add(beta, problem)
    train, test = validator.child(root, "train"), validator.child(root, "test")
    if train is None and test is None:
        validator.add(root, '"train" and "test" are both missing: there is nothing to run')
    if train is not None:
        check_train(validator, train)
    check_dataset_classes(validator)
    datasets = validator.child(root, "datasets")
    for key, child in validator.children(datasets) if datasets is not None else ():
        if not child.is_unresolved and not str(key).startswith("_"):
            text = f"must be an !import_call of a dataset, not {kind_of(child.value)}"
            validator.add(child, text)
