"""Tensors: one way through nested containers, one to a device, one to see if they are finite."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


def map_tensors(function: Callable[[Any], Any], value: Any, kind: type = Tensor) -> Any:
    """Apply a function to the tensors in nested mappings, lists and tuples.

    Args:
        function: called with each tensor, in order.
        value: lists, tuples, named tuples and dicts keep their types, other mappings become dicts,
            other values stay as they are.
        kind: what to apply it to, if not to tensors.
    """
    if isinstance(value, kind):
        return function(value)
    if isinstance(value, Mapping):
        pairs = ((key, map_tensors(function, item, kind)) for key, item in value.items())
        return OrderedDict(pairs) if isinstance(value, OrderedDict) else dict(pairs)
    if isinstance(value, (list, tuple)):
        items = [map_tensors(function, item, kind) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


def is_finite(tensor: Tensor) -> Tensor:
    """Return whether all values are finite, a scalar on the tensor's device."""
    if tensor.numel() == 0:
        return torch.ones((), dtype=torch.bool, device=tensor.device)
    if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        tensor = tensor.permute(0, 2, 3, 1)  # in another order than memory's it would be copied
    # extremes pass NaN on, and make no second tensor of the size
    return torch.stack(tensor.detach().aminmax()).isfinite().all()


def to_device(value: Any, device: torch.device) -> Any:
    """Move the tensors in nested lists, tuples and dicts; other values stay."""

    def move(tensor: Tensor) -> Tensor:
        if device.type == "cuda" and not tensor.is_cuda:
            tensor = tensor.pin_memory()  # only from pinned memory does a copy overlap with work
        return tensor.to(device, non_blocking=True)

    return map_tensors(move, value)
