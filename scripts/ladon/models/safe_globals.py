"""Stand-ins for each name that a checkpoint's pickle may hold.

Every function here is our own: it takes what torch, numpy and the published files write, and
refuses the rest before anything is allocated. Tensors are views of storages whose bytes come from
the file, so that all of them together cannot be larger than it.
"""

from __future__ import annotations

import argparse
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.ops.misc import FrozenBatchNorm2d

from ladon.models.safe_pickle import Call, Refused, check_key

MAX_TENSORS = 100_000
_MAX_DIMENSIONS = 32
_MAX_SIDE = 1 << 40
# copying every tensor out of its storage may take this much more than the file; tied weights do
_COPIES = 8
_ALWAYS = 1 << 24

_STORAGES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexFloat": torch.complex64,
    "ComplexDouble": torch.complex128,
}
# plain numbers of a fixed length, and nothing that holds references or text
_NUMBERS = ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "b1")


@dataclass(frozen=True)
class StorageType:
    """The stand-in for `torch.FloatStorage` and its like; None for bytes without a type."""

    dtype: torch.dtype | None


@dataclass(frozen=True)
class Storage:
    """Bytes of the file, and the type that the file gives them (None: the tensor says it)."""

    raw: Tensor
    dtype: torch.dtype | None


class Builder:
    """The functions, with the account of one file.

    Args:
        file_size: bytes of the file, beyond which nothing grows.
    """

    def __init__(self, file_size: int) -> None:
        self._num_tensors, self._num_bytes = 0, 0
        self._max_bytes = _COPIES * file_size + _ALWAYS

    def names(self) -> dict[str, Any]:
        """Return what stands for each name; `<build>` is called to give an object its state."""
        calls: dict[str, Callable[..., Any]] = {
            "torch._utils._rebuild_tensor": self._tensor,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_tensor_v3": self._typed_tensor,
            "torch._utils._rebuild_parameter": _parameter,
            "torch.Size": _size,
            "torch.device": _device,
            "collections.OrderedDict": _ordered,
            "collections.Counter": _counter,
            "_codecs.encode": _encode,
            "numpy.dtype": _dtype,
            "numpy.core.multiarray.scalar": _scalar,
            "numpy._core.multiarray.scalar": _scalar,
        }
        for module in ("__builtin__", "builtins"):
            calls[f"{module}.set"] = _set
            calls[f"{module}.complex"] = _complex
        names: dict[str, Any] = {name: Call(name, function) for name, function in calls.items()}
        names["argparse.Namespace"] = Call("argparse.Namespace", argparse.Namespace, new=True)
        # COCO's published arguments hold the class itself; nothing may be made of it
        for module in ("torchvision.ops.misc", "torchvision.ops._register_onnx_ops"):
            names[f"{module}.FrozenBatchNorm2d"] = FrozenBatchNorm2d
        names |= {f"torch.{n}Storage": StorageType(dtype) for n, dtype in _STORAGES.items()}
        names |= {f"torch.storage.{n}Storage": StorageType(d) for n, d in _STORAGES.items()}
        names["torch.storage.UntypedStorage"] = StorageType(None)
        names |= {f"torch.{name}": value for name, value in vars(torch).items() if _is_dtype(value)}
        names["<build>"] = _build
        return names

    def _tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
        if not isinstance(storage, Storage) or storage.dtype is None:
            raise Refused("refused: a tensor without a storage")
        return self._view(storage.raw, storage.dtype, offset, size, stride)

    def _typed_tensor(
        self, storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any
    ) -> Tensor:
        if not isinstance(storage, Storage) or not _is_dtype(dtype):
            raise Refused("refused: a tensor without a storage or type")
        return self._view(storage.raw, dtype, offset, size, stride)

    def _view(self, raw: Tensor, dtype: torch.dtype, offset: Any, size: Any, stride: Any) -> Tensor:
        """Return a tensor over bytes of the file, after its place in them was worked out."""
        if type(size) not in (tuple, torch.Size) or type(stride) is not tuple:
            raise Refused("refused: a tensor of no shape")
        numbers = (offset, *size, *stride)
        if len(size) != len(stride) or len(size) > _MAX_DIMENSIONS:
            raise Refused(f"refused: a tensor of {len(size)} sizes and {len(stride)} strides")
        if any(type(n) is not int or not 0 <= n <= _MAX_SIDE for n in numbers):
            raise Refused("refused: a tensor of an impossible shape")
        count = 1
        for side in size:
            count *= side
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        held = len(raw) // dtype.itemsize
        if (count and last >= held) or offset > held:
            raise Refused(
                f"refused: a tensor of shape {tuple(size)} needs more numbers than its storage "
                f"of {held} holds"
            )
        self._num_tensors += 1
        self._num_bytes += count * dtype.itemsize
        if self._num_tensors > MAX_TENSORS or self._num_bytes > self._max_bytes:
            raise Refused(
                "refused: its tensors unfold to much more than the file's own size "
                f"({self._num_tensors} tensors, the last of shape {tuple(size)})"
            )
        flat = raw[: held * dtype.itemsize].view(dtype)
        return flat.as_strided(size, stride, offset)


def _is_dtype(value: Any) -> bool:
    return isinstance(value, torch.dtype)


def _parameter(data: Any, *_: Any) -> Tensor:
    if not isinstance(data, Tensor):
        raise Refused("refused: a parameter without a tensor")
    return data


def _size(sides: Any = ()) -> torch.Size:
    if any(type(side) is not int or not 0 <= side <= _MAX_SIDE for side in sides):
        raise Refused("refused: an impossible torch.Size")
    return torch.Size(sides)


def _device(kind: Any, index: Any = None) -> torch.device:
    if type(kind) is not str or len(kind) > 32 or type(index) not in (int, type(None)):
        raise Refused("refused: an odd torch.device")
    return torch.device(kind) if index is None else torch.device(kind, index)


def _ordered(pairs: Any = ()) -> OrderedDict:
    if type(pairs) not in (list, tuple):
        raise Refused("refused: an OrderedDict of something else than pairs")
    made: OrderedDict = OrderedDict()
    for key, value in pairs:
        check_key(key)
        made[key] = value
    return made


def _counter(counts: Any = None) -> Counter:
    if counts is not None and type(counts) is not dict:
        raise Refused("refused: a Counter of something else than counts")
    return Counter(counts)


def _set(items: Any = ()) -> set:
    if type(items) is not list:
        raise Refused("refused: a set of something else than a list")
    for item in items:
        check_key(item)
    return set(items)


def _complex(real: Any, imaginary: Any) -> complex:
    if type(real) is not float or type(imaginary) is not float:
        raise Refused("refused: a complex number of no numbers")
    return complex(real, imaginary)


def _encode(text: Any, encoding: Any) -> bytes:
    """How pickle's protocol 2 writes bytes."""
    if type(text) is not str or encoding != "latin1":
        raise Refused("refused: bytes in another form than pickle writes them")
    return text.encode("latin1")


def _dtype(text: Any, align: Any = False, copy: Any = True) -> np.dtype:
    if type(text) is not str or text not in _NUMBERS:
        raise Refused(f"refused: a numpy number of type {text!r:.40}; plain numbers only")
    return np.dtype(text)


def _scalar(dtype: Any, data: Any) -> np.generic:
    if not isinstance(dtype, np.dtype) or type(data) is not bytes or len(data) != dtype.itemsize:
        raise Refused("refused: a numpy number of another length than its type")
    return np.frombuffer(data, dtype)[0]


def _build(target: Any, state: Any) -> None:
    """Give an object its state; of torch's state dicts that is the modules' versions."""
    if isinstance(target, argparse.Namespace) and type(state) is dict:
        if not all(type(name) is str for name in state):
            raise Refused("refused: arguments without names")
        vars(target).update(state)
    elif isinstance(target, OrderedDict) and type(state) is dict:
        metadata = state.get("_metadata")
        if isinstance(metadata, Mapping):
            target._metadata = metadata  # type: ignore[attr-defined]
    elif isinstance(target, np.dtype) and type(state) is tuple:
        # version, byte order, and no fields, names, shape, size, alignment or flags
        order, *others = state[1:]
        if state[0] not in (3, 4) or order not in ("<", "|") or others[:3] != [None] * 3:
            raise Refused("refused: a numpy number of another byte order or of several fields")
    else:
        raise Refused(f"refused: it gives a state to a {type(target).__name__}")
