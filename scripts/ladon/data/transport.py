"""A batch's way from a loader's worker to the process: one block of memory, one file descriptor.

torch sends each tensor through a file of its own, which stays open as long as the tensor lives: a
batch of 400 images, or a few waiting batches of detection targets, exceed the usual limit of 1,024
open files. Here all tensors of a batch lie one behind the other in one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from ladon.tensors import map_tensors

# every dtype may begin there, and a copy runs along whole cache lines
_ALIGNMENT = 64


class _Place(NamedTuple):
    """Stands for a tensor in what is sent."""

    offset: int
    shape: torch.Size
    dtype: torch.dtype


class Packed:
    """Nested containers whose tensors lie in one block of memory.

    Args:
        content: whatever a collate function returned.
    """

    def __init__(self, content: Any) -> None:
        tensors: list[Tensor] = []
        self._size = 0

        def take(tensor: Tensor) -> Tensor | _Place:
            if type(tensor) is not Tensor or tensor.layout is not torch.strided:
                return tensor  # what it is besides its numbers would be lost
            place = _Place(self._size, tensor.shape, tensor.dtype)
            tensors.append(tensor)
            nbytes = tensor.numel() * tensor.element_size()
            self._size += -(-nbytes // _ALIGNMENT) * _ALIGNMENT
            return place

        self._content = map_tensors(take, content)
        self._block = _new_block(self._size)
        following = iter(tensors)
        map_tensors(lambda p: self._view(p).copy_(next(following)), self._content, _Place)

    def unpack(self) -> Any:
        """Return the content; its tensors are views into the block, which lives as long."""
        return map_tensors(self._view, self._content, _Place)

    def pin_memory(self, device: Any = None) -> Packed:
        """Move the block to pinned memory: torch's pin-memory thread calls it."""
        self._block = self._block.pin_memory()
        return self

    def _view(self, place: _Place) -> Tensor:
        nbytes = place.shape.numel() * place.dtype.itemsize
        part = self._block[place.offset : place.offset + nbytes]
        return part.view(place.dtype).view(place.shape)


class Packing:
    """A collate function whose batches leave the worker packed.

    Args:
        collate_fn: makes the batch.
    """

    def __init__(self, collate_fn: Callable[[Any], Any]) -> None:
        self._collate_fn = collate_fn

    def __call__(self, samples: Any) -> Any:
        """Make a batch; in a worker, packs it."""
        batch = self._collate_fn(samples)
        return batch if get_worker_info() is None else Packed(batch)


def unpacked(batch: Any) -> Any:
    """Return a batch of a loader that may have packed it."""
    return batch.unpack() if isinstance(batch, Packed) else batch


def _new_block(size: int) -> Tensor:
    if get_worker_info() is None:
        return torch.empty(size, dtype=torch.uint8)
    # shared from the start, as torch's own default_collate has it, else it were copied once more
    storage = torch.UntypedStorage._new_shared(size)
    return torch.empty(0, dtype=torch.uint8).set_(storage)
