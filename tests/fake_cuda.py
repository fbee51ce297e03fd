"""A CUDA device that is not there: tensors without memory that say where they would be.

Under `FakeTensorMode` an operator works out shape, type and device of its result and computes
nothing. It refuses operands of two devices; `NoWaiting` on top of it refuses what makes the host
wait, and says where that was asked for.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
import torchvision  # noqa: F401  (registers its operators)
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

CUDA = torch.device("cuda", 0)
META = torch.device("meta")
_MASKS = (torch.bool, torch.uint8)
_UNKNOWN = {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output}
aten = torch.ops.aten


class HostWaitsError(AssertionError):
    """Something made the host wait for the device."""


def fake_tensors() -> FakeTensorMode:
    """Return a mode in which `cuda` is there; real CPU tensors become fake ones, on the CPU."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def move(model: nn.Module, device: torch.device) -> nn.Module:
    """Move a model as `Module.to` does, which cannot exchange real tensors for fake ones.

    What a module doesn't register (a constant, say) stays where it is.
    """
    for module in model.modules():
        for name, own in module._parameters.items():
            if own is not None:
                moved = nn.Parameter(own.detach().to(device), own.requires_grad)
                module._parameters[name] = moved
        for name, own in module._buffers.items():
            if own is not None:
                module._buffers[name] = own.to(device)
    return model


@contextmanager
def cuda_autocast() -> Iterator[None]:
    """Let `torch.autocast("cuda")` have effect; it asks whether there is a device."""
    with (
        mock.patch("torch.cuda.amp.common.amp_definitely_not_available", return_value=False),
        mock.patch("torch.cuda.is_bf16_supported", return_value=True),
    ):
        yield


class NoWaiting(TorchDispatchMode):
    """Refuses operators for whose result, on a GPU, the host would have to wait.

    That is reading a value (`item`, `bool`, `tolist`, `equal`), a result whose size depends
    on values (`nonzero`, masks as indices, `unique`), and copies between host and device that
    do not ask for `non_blocking`.

    torchvision's detectors do all of this, and nothing here can change it. What they ask for is
    counted and answered: the value 0, every element as if it were found, every box as if it were
    kept. A wait that one of their callers asks for is refused as everywhere.

    Attributes:
        torchvisions: how often torchvision made the host wait, by operator.
    """

    def __init__(self) -> None:
        super().__init__()
        self.torchvisions: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.is_inference_mode_enabled() and _is_composite(func):
            with self:  # only autograd would have taken it apart
                return func.decompose(*args, **kwargs)
        if func is aten.index_put_.default and _is_masked_fill(*args):
            return aten.masked_fill_(args[0], args[1][0], args[2])  # what a GPU runs for it
        if not _makes_wait(func, args, kwargs):
            kinds = _copies_between(func, args, kwargs)
            if kinds is not None and kinds[0] != kinds[1]:
                return _copied(func, args, kwargs)
            try:
                return func(*args, **kwargs)
            except DataDependentOutputException:  # a value on the host that only real tensors have
                if _asked_for_by()[0].partition(".")[0] != "torchvision":
                    raise
                return 0
        module, place = _asked_for_by()
        if module.partition(".")[0] != "torchvision":
            raise HostWaitsError(f"{func} makes the host wait for the device, at {place}")
        self.torchvisions[str(func)] += 1
        if func is aten._local_scalar_dense.default:
            return 0
        if func is aten.nonzero.default:
            size = args[0].numel(), args[0].dim()
            return torch.zeros(size, dtype=torch.int64, device=args[0].device)
        if func is torch.ops.torchvision.nms.default:
            return torch.arange(len(args[0]), device=args[0].device)
        return _copied(func, args, kwargs)


def _is_composite(func: Any) -> bool:
    key = "CompositeImplicitAutograd"
    return func.namespace == "aten" and torch._C._dispatch_has_kernel_for_dispatch_key(
        func.name(), key
    )


def _on_device(value: Any) -> bool:
    return isinstance(value, Tensor) and value.device.type in ("cuda", "meta")


def _copies_between(func: Any, args: Any, kwargs: Any) -> tuple[str, str] | None:
    """Kind of device that a copy is from and to; None for any other operator."""
    if func is aten.copy_.default:
        return args[1].device.type, args[0].device.type
    if func is aten._to_copy.default:
        target = kwargs.get("device")
        return args[0].device.type, torch.device(target or args[0].device).type
    return None


def _copied(func: Any, args: Any, kwargs: Any) -> Any:
    """The result of a copy between host and device.

    Fake tensors remember the values of small constants, and would really copy those.
    """
    if func is aten.copy_.default:
        return args[0]
    dtype = kwargs.get("dtype") or args[0].dtype
    return torch.empty(args[0].shape, dtype=dtype, device=kwargs["device"])


def _makes_wait(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether the host waits for a CUDA device in this operator."""
    kinds = _copies_between(func, args, kwargs)
    if kinds is not None:
        asynchronous = kwargs.get("non_blocking") or any(a is True for a in args[2:])
        return "cpu" in kinds and kinds[0] != kinds[1] and not asynchronous
    if not args or not any(map(_on_device, args)):
        return False
    if func in (aten.index.Tensor, aten.index_put.default, aten.index_put_.default):
        indices = [i for i in args[1] if i is not None]
        return any(i.dtype in _MASKS or not _on_device(i) for i in indices)
    return bool(_UNKNOWN & set(func.tags)) or func is torch.ops.torchvision.nms.default


def _is_masked_fill(target: Tensor, indices: Any, value: Tensor, *_: Any) -> bool:
    """Whether `target[indices] = value` is one mask and one value."""
    mask = indices[0]
    return _on_device(target) and len(indices) == 1 and mask.dtype in _MASKS and value.numel() == 1


def _asked_for_by() -> tuple[str, str]:
    """Module and line of the nearest frame that is not PyTorch's (or this file's)."""
    frame: Any = sys._getframe(1)
    while frame.f_back is not None:
        module = frame.f_globals.get("__name__", "")
        if module != __name__ and module.partition(".")[0] != "torch":
            return module, f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back
    return "", "an unknown place"
