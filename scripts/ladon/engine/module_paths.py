"""Module paths in a stage's config: where they stand, and whether the model has such modules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn
from torchdistill.common.constant import SELF_MODULE_PATH

from ladon.config import Config
from ladon.config.core.nodes import suggest

_INSTANCE = "instance("


class PlacedSection(dict[str, Any]):
    """A section of a config that knows where its keys stand.

    Args:
        config: the config.
        key: the section's path in it.
        values: what is in the section, built.
    """

    def __init__(self, config: Config, key: str, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self.config, self.key = config, key

    def place(self, key: str) -> str:
        """Return 'configs/x.yaml:12: train.student.KEY' for a key below the section."""
        return place(self.config, f"{self.key}.{key}")


def place(config: Config, key: str) -> str:
    """Return file, line and path of a key."""
    return f"{config.where(key)}: {key}"


def find_module(model: nn.Module, path: str) -> Any:
    """Return the module or parameter at a path as torchdistill finds it, None if there is none."""
    found: Any = model
    for name in path.split("."):
        if hasattr(found, name):
            found = getattr(found, name)
        elif isinstance(found, nn.Sequential | nn.ModuleList) and name.lstrip("-").isdecimal():
            if not -len(found) <= int(name) < len(found):
                return None
            found = found[int(name)]
        else:
            return None
    return found if isinstance(found, nn.Module | nn.Parameter) else None


def path_problems(model: nn.Module, section: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (key below the section, what is wrong) for paths that lead nowhere.

    torchdistill would go on without freezing or hooking, or fail without a word of the key.

    Args:
        model: the whole model.
        section: a stage's `teacher`, `student` or `model` section.
    """
    hooks = section.get("forward_hook") or {}
    named = {key: section.get(key) for key in ("sequential", "frozen_modules")}
    named |= {f"forward_hook.{key}": hooks.get(key) for key in ("input", "output")}
    for key, paths in named.items():
        for index, path in enumerate(paths or []):
            text = None
            if key == "frozen_modules" and path.startswith(_INSTANCE):
                text = _class_problem(path, bool(section.get("sequential")))
            elif not path.startswith("+") and path != SELF_MODULE_PATH:  # + is an adaptation
                text = module_problem(model, path)
            if text is not None:
                yield f"{key}.{index}", text


def module_problem(model: nn.Module, path: str, *, or_parameter: bool = False) -> str | None:
    """Say that the model has no such module and which one may be meant; None if it has."""
    found = find_module(model, path)
    if isinstance(found, nn.Module) or (or_parameter and found is not None):
        return None
    names = [name for name, _ in model.named_modules() if name.count(".") == path.count(".")]
    parts = ", ".join(name for name, _ in model.named_children())
    return f"the model has no module {path!r}{suggest(path, names) or f' (it has {parts})'}"


def _class_problem(pattern: str, is_sequential: bool) -> str | None:
    """Say what is wrong with a pattern like `instance(BatchNorm2d)`, if anything is."""
    name = pattern[len(_INSTANCE) :].removesuffix(")")
    if is_sequential:
        return f"{pattern!r} is no module path: beside sequential, name the modules"
    if not pattern.endswith(")") or not isinstance(vars(nn).get(name), type):
        return f"torch.nn has no class {name!r}{suggest(name, vars(nn))}"
    return None


def optimizer_problems(
    model: nn.Module, student: Mapping[str, Any], optimizer: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """Yield (key below `optimizer`, what is wrong) for modules that would not be trained.

    Args:
        model: the whole student.
        student: the stage's section of it.
        optimizer: the stage's section.
    """
    parts = student.get("sequential") or []
    name = "module_wise_kwargs" if optimizer.get("module_wise_kwargs") else "module_wise_configs"
    for index, group in enumerate(optimizer.get(name) or []):
        path = group["module"]
        if path.split(".")[0].lstrip("-").isdecimal():
            continue  # counts the modules of a sequence
        text = module_problem(model, path, or_parameter=True)
        if text is None and parts and not any(_overlap(path, part) for part in parts):
            text = f"{path!r} is not in the student's sequential ({', '.join(parts)})"
        if text is not None:
            yield f"{name}.{index}.module", text


def _overlap(path: str, other: str) -> bool:
    return f"{path}.".startswith(f"{other}.") or f"{other}.".startswith(f"{path}.")
