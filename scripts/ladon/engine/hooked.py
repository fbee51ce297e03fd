"""A model as a training stage uses it: cut down, partly frozen, its layers' outputs at hand."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torchdistill.common.constant import SELF_MODULE_PATH
from torchdistill.common.module_util import (
    freeze_module_params,
    get_module,
    unfreeze_module_params,
)
from torchdistill.core.interfaces.registry import get_forward_proc_func
from torchdistill.core.util import clear_io_dict, extract_io_dict, set_hooks, update_io_dict
from torchdistill.models.util import redesign_model

from ladon.engine.module_paths import PlacedSection, path_problems
from ladon.errors import ConfigError

DEFAULT_FORWARD = "forward_batch_only"


def _paths(values: Any) -> list[str]:
    """Return module paths of a list that may be missing; torchdistill's patterns are not paths."""
    return [p for p in values or [] if not p.startswith(("instance(", "+"))]


def _refusal(section: Mapping[str, Any], label: str, key: str, text: str) -> ConfigError:
    """Return the error for a key, with its file and line where the section knows them."""
    where = section.place(key) if isinstance(section, PlacedSection) else f"train: {label}.{key}"
    return ConfigError(f"{where}: {text}")


class HookedModel:
    """A model as one stage uses it: cut down, partly frozen, its layers' outputs at hand.

    Args:
        model: the whole model; its modules and parameters are shared, not copied.
        section: the stage's `teacher`, `student` or `model` section.
        label: teacher or student, for the log.
        device: where the model is.
    """

    def __init__(
        self, model: nn.Module, section: Mapping[str, Any], label: str, device: torch.device
    ) -> None:
        if section.get("auxiliary_model_wrapper"):
            raise _refusal(section, label, "auxiliary_model_wrapper", "not supported")
        for key, text in path_problems(model, section):
            raise _refusal(section, label, key, text)
        section = {key: value for key, value in section.items() if value is not None}
        self.model = model
        self.stage_model = redesign_model(model, section, label)
        self.forward_proc = get_forward_proc_func(section.get("forward_proc") or DEFAULT_FORWARD)
        self._io: dict[str, Any] = {}
        self._handles = set_hooks(self.stage_model, model, section, self._io)
        self._device = device
        self._frozen = [get_module(model, p) for p in _paths(section.get("frozen_modules"))]
        self._freeze_batch_norm = bool(section.get("freeze_batch_norm", False))
        if not section.get("requires_grad", True):
            freeze_module_params(self.stage_model)

    def stop_after(self, paths: set[str] | None) -> None:
        """End later forward passes as soon as all of these modules have run.

        Args:
            paths: hooked modules that are read; None, or with the model itself among them, to run
                the whole model.
        """
        hooked = {path: get_module(self.model, path) for path, _ in self._handles}
        if not paths or SELF_MODULE_PATH in paths or not paths <= hooked.keys():
            return
        missing: set[str] = set(paths)

        def note(path: str) -> None:
            missing.discard(path)
            if not missing:
                missing.update(paths)
                raise _EnoughSeen

        for path in paths:
            # after torchdistill's own hook on the same module, which keeps what is read
            handle = hooked[path].register_forward_hook(lambda *_, path=path: note(path))
            self._handles.append((path, handle))

    def __call__(self, images: Any, targets: Any, supp: Any) -> tuple[Any, dict[str, Any]]:
        """Run the model; return its output and the hooked modules' inputs and outputs."""
        return self.run(self.stage_model, images, targets, supp)

    def run(
        self, module: nn.Module, images: Any, targets: Any, supp: Any
    ) -> tuple[Any, dict[str, Any]]:
        """Like calling it, with `module` in the place of the model."""
        outputs = None
        with contextlib.suppress(_EnoughSeen):
            outputs = self.forward_proc(module, images, targets, supp)
        io = extract_io_dict(self._io, self._device)
        io[SELF_MODULE_PATH]["output"] = outputs
        update_io_dict(io, extract_io_dict(self._io, self._device))
        return outputs, io

    def train(self) -> None:
        """Train mode, less the BatchNorm of frozen modules where the stage freezes it too."""
        clear_io_dict(self._io)
        self.stage_model.train()
        if self._freeze_batch_norm:
            for frozen in self._frozen:
                for module in frozen.modules():
                    if isinstance(module, nn.modules.batchnorm._BatchNorm):
                        module.eval()

    def close(self) -> None:
        """Take the hooks off and thaw the parameters."""
        for _, handle in self._handles:
            handle.remove()
        unfreeze_module_params(self.model)


class _EnoughSeen(Exception):
    """Ends a forward pass: what follows would not be read."""


def paths_read_of_teacher(criterion: Mapping[str, Any]) -> set[str] | None:
    """Return the modules of the teacher that a criterion reads ('.' for its output).

    Args:
        criterion: a stage's `criterion` section.

    Returns:
        Their paths; None if a term is of a kind whose reading is not known.
    """
    if criterion.get("key") != "WeightedSumLoss":
        return None
    read: set[str] = set()
    for term in ((criterion.get("kwargs") or {}).get("sub_terms") or {}).values():
        wrapper = term.get("criterion_wrapper") or {}
        loss = term.get("criterion") or {}
        if wrapper.get("key") in ("SimpleLossWrapper", "DictLossWrapper"):
            parts = [wrapper["kwargs"].get(name) or {} for name in ("input", "target")]
            read |= {p["module_path"] for p in parts if p.get("is_from_teacher")}
        elif not isinstance(loss, Mapping):
            return None
        elif not wrapper and loss.get("key") == "KDLoss":
            read.add((loss.get("kwargs") or {}).get("teacher_module_path", SELF_MODULE_PATH))
        elif wrapper or loss.get("key") != "BppLoss":
            return None
    return read
