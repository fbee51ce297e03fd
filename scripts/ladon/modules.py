"""Modules of PyTorch: methods replaced for a while, and whether somebody's hook watches one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


def moved(model: nn.Module, device: torch.device, layout: torch.memory_format) -> nn.Module:
    """Move a model to a device and its weights to a memory format; return it."""
    # torch's annotations have no overload for both
    return model.to(device, memory_format=layout)  # type: ignore[call-overload]


def is_watched(module: nn.Module) -> bool:
    """Whether somebody's hook wants to see this very layer."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


@contextmanager
def override_methods(module: nn.Module, **methods: Callable[..., Any]) -> Iterator[None]:
    """Put methods into the place of a module's own, on this instance, while it is open."""
    before = {name: vars(module)[name] for name in methods if name in vars(module)}
    vars(module).update(methods)
    try:
        yield
    finally:
        for name in methods:
            del vars(module)[name]
        vars(module).update(before)
