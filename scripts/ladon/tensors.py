"""Tensors: one way through nested containers of them, and one to see whether they are finite."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


def map_tensors(function: Callable[[Any], Any], value: Any, kind: type = Tensor) -> Any:
    """Applies a function to the tensors in nested mappings, lists and tuples.

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
    """Returns whether all values are finite, a scalar on the tensor's device."""
    if tensor.numel() == 0:
        return torch.ones((), dtype=torch.bool, device=tensor.device)
    # extremes pass NaN on, and make no second tensor of the size
    return torch.stack(tensor.detach().aminmax()).isfinite().all()
