"""Checks of models built without weights: module paths, class layers, an ignorant teacher."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from ladon.config import Config, LazyCall
from ladon.config.validate.registries import entries, model_kind
from ladon.engine.module_paths import optimizer_problems, path_problems, place
from ladon.engine.plan import read_plan, teacher_problem
from ladon.errors import LadonError
from ladon.models.build import build_model, class_layers, without_paths
from ladon.models.meta_device import on_meta_device

_LIBRARIES = ("torchvision.", "timm.", "sc2bench.", "ladon.")
_CALLS = ("!import_call", "!import_call_method", "!call_method", "!setattr")
_PARTS = {"teacher": ("teacher_model",), "student": ("student_model", "model")}


class Precheck:
    """Checks configs against their models on the meta device, each distinct one built once.

    Models of a user's own code are not built, nor those whose section calls something, nor what
    cannot be built there: a dry run does that.
    """

    def __init__(self) -> None:
        self._models: dict[str, nn.Module | None] = {}

    def check(self, config: Config) -> list[str]:
        """Return the problems of a config that has none by itself, with file, line and key."""
        text = teacher_problem(config)
        problems = ([] if text is None else [text]) + list(self._reset_problems(config))
        seen: set[tuple[str, str, str]] = set()
        for key, text in self._path_problems(config):
            # an anchored section of several stages is listed once
            name = key.rpartition(".")[0].rpartition(".")[2]
            if (found := (config.where(key), name, text)) not in seen:
                seen.add(found)
                problems.append(f"{place(config, key)}: {text}")
        return problems

    def _reset_problems(self, config: Config) -> Iterator[str]:
        """Yield what is wrong where a model without class layers is to start without them."""
        for key in (f"models.{name}" for names in _PARTS.values() for name in names):
            architecture = self._architecture(config, key)
            if architecture is None or config.section(key).get("reset_head") is not True:
                continue
            try:
                class_layers(architecture, model_kind(architecture["key"]), key)
            except LadonError as error:
                yield f"{config.where(f'{key}.reset_head')}: {error}"

    def _path_problems(self, config: Config) -> Iterator[tuple[str, str]]:
        """Yield (key, what is wrong) for each module path that leads nowhere."""
        for plan in read_plan(config).stages if config.section("train") else ():
            student_part = "student" if config.get(f"{plan.key}.student") else "model"
            student = _plain(config, f"{plan.key}.{student_part}")
            teacher = _plain(config, f"{plan.key}.teacher")
            optimizer = _plain(config, f"{plan.key}.optimizer")
            modules = optimizer.get("module_wise_kwargs") or optimizer.get("module_wise_configs")
            if _names_modules(teacher) and (model := self._model(config, "teacher")) is not None:
                for key, text in path_problems(model, teacher):
                    yield f"{plan.key}.teacher.{key}", text
            if not _names_modules(student) and not modules:
                continue
            if (model := self._model(config, "student")) is not None:
                for key, text in path_problems(model, student):
                    yield f"{plan.key}.{student_part}.{key}", text
                for key, text in optimizer_problems(model, student, optimizer):
                    yield f"{plan.key}.optimizer.{key}", text

    def _model(self, config: Config, role: str) -> nn.Module | None:
        """Return a config's model on the meta device; None if it is not built here."""
        key = next((f"models.{n}" for n in _PARTS[role] if config.section(f"models.{n}")), None)
        if key is None:
            return None
        architecture = self._architecture(config, key)
        if architecture is None:
            return None
        identity = repr(architecture)
        if identity not in self._models:
            kind = model_kind(architecture["key"])
            try:
                with on_meta_device():
                    model = build_model(architecture, kind, key, load_weights=False)
            except LadonError:
                model = None
            self._models[identity] = model
        return self._models[identity]

    def _architecture(self, config: Config, key: str) -> dict[str, Any] | None:
        """Return what a model's section says of its architecture; None if it is not built here."""
        section = config.section(key)
        found = {k: v for k, v in section.items() if k in ("key", "kwargs", "quantized")}
        if not _is_known(found) or section.get("repo_or_dir") or _calls(found):
            return None
        return without_paths(config.build(found))


def _plain(config: Config, key: str) -> dict[str, Any]:
    """Return a section less what has to be built before anything can be said."""
    return {k: v for k, v in config.section(key).items() if v is not None and not _calls(v)}


def _names_modules(section: Mapping[str, Any]) -> bool:
    return any(section.get(key) for key in ("sequential", "frozen_modules", "forward_hook"))


def _is_known(section: Mapping[str, Any]) -> bool:
    """Whether a model and the backbone inside it are of the libraries."""
    key = section.get("key")
    target = entries("model").get(key) if isinstance(key, str) and key != "ladon" else None
    if target is None or not target.__module__.startswith(_LIBRARIES):
        return False
    inner = (section.get("kwargs") or {}).get("backbone_config")
    return not isinstance(inner, dict) or _is_known(inner)


def _calls(value: Any) -> bool:
    """Whether a value holds a node that would run something."""
    if isinstance(value, LazyCall):
        return value.tag in _CALLS or _calls(value.value)
    if isinstance(value, Mapping):
        return any(map(_calls, value.values()))
    return isinstance(value, list | tuple) and any(map(_calls, value))
