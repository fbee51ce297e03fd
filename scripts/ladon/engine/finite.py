"""Whether numbers are finite: looked at on the device, read as rarely as can be."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork

from ladon.modules import override_methods
from ladon.tensors import is_finite, map_tensors


def not_finite(model: nn.Module) -> list[str]:
    """Return the names of what a model's checkpoint would hold of NaN or infinite tensors.

    The device is waited for once.
    """
    tensors = {n: t for n, t in model.state_dict().items() if t.is_floating_point() and t.numel()}
    if not tensors:
        return []
    flags = torch.stack([is_finite(tensor) for tensor in tensors.values()]).tolist()
    return [name for name, flag in zip(tensors, flags, strict=True) if not flag]


def _floats(value: Any) -> list[Tensor]:
    found: list[Tensor] = []
    map_tensors(lambda t: found.append(t) if t.is_floating_point() else None, value)
    return found


class Watch(threading.local):
    """Whether what a thread's forward passes computed was finite, by what it is called."""

    def __init__(self) -> None:
        self._flags: dict[str, Tensor] = {}

    def note(self, what: str, value: Any) -> None:
        """Look at the tensors in a nested value."""
        for tensor in _floats(value):
            flag, before = is_finite(tensor), self._flags.get(what)
            self._flags[what] = flag if before is None else before & flag

    def pop(self) -> dict[str, Tensor]:
        """Return what this thread noted since its last call, and forget it."""
        flags, self._flags = self._flags, {}
        return flags


@contextmanager
def watching_detections(model: nn.Module, watch: Watch) -> Iterator[None]:
    """Look at a detector's scores and boxes before it drops those that are no numbers.

    torchvision keeps what scores above a threshold: of NaN nothing is left that would show.
    """

    def watched(what: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            watch.note(what, (args, kwargs))
            return method(*args, **kwargs)

        return call

    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, RegionProposalNetwork):
                name, what = "filter_proposals", "proposed boxes or their scores"
            elif isinstance(module, RoIHeads):
                name, what = "postprocess_detections", "boxes or scores"
            else:
                continue
            method = watched(what, getattr(module, name))
            stack.enter_context(override_methods(module, **{name: method}))
        yield


class FiniteRecord:
    """The first batch in which something was not finite; kept on the device until it is read."""

    def __init__(self) -> None:
        self._first: dict[str, Tensor] = {}

    def add(self, flags: Mapping[str, Tensor], index: int) -> None:
        """Take what `Watch.pop` returned of a batch.

        Args:
            flags: by what they are of.
            index: of the batch's first sample.
        """
        for what, flag in flags.items():
            first = self._first.get(what)
            if first is None:
                first = torch.full((), -1, dtype=torch.int64, device=flag.device)
            self._first[what] = torch.where((first < 0) & ~flag, index, first)

    def read(self) -> tuple[str, int] | None:
        """Wait for the device; return what was not finite, and in which batch, or None."""
        if not self._first:
            return None
        firsts = torch.stack(list(self._first.values())).tolist()
        return next((pair for pair in zip(self._first, firsts, strict=True) if pair[1] >= 0), None)
