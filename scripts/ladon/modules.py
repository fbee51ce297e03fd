"""Modules of PyTorch: methods replaced for a while, and whether somebody's hook watches one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
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


def tensor_bytes(model: nn.Module) -> int:
    """Return the bytes of a model's tensors and arrays, registered or not, shared ones once."""
    found: dict[int, int] = {}
    for module in model.modules():
        _add_tensors({k: v for k, v in vars(module).items() if k != "_modules"}, found)
    return sum(found.values())


def _add_tensors(value: Any, found: dict[int, int]) -> None:
    """Add the memory of what is in a value, by where it is."""
    if isinstance(value, torch.Tensor) and value.is_mkldnn:  # its layout's padding is not told
        found[id(value)] = value.numel() * value.element_size()
    elif isinstance(value, torch.Tensor):
        storage = value.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
    elif isinstance(value, np.ndarray):
        found[value.ctypes.data] = value.nbytes
    elif isinstance(value, (list, tuple)):
        for item in value:
            _add_tensors(item, found)
    elif isinstance(value, dict):
        _add_tensors(list(value.values()), found)
