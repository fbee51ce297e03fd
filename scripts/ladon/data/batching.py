"""Batches as loaders give them: unpacked, of one size each, collated.

for samples in batch_by_size(build_eval_loader(...), image_size, at_once):
    indices, batch, targets = collate(samples, collate_fn)
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate
from torchdistill.datasets.registry import get_collate_func

from ladon.data.bad_samples import BadSample, NotedBatch
from ladon.data.transport import unpacked
from ladon.errors import ConfigError, DataError, in_one_line
from ladon.tensors import map_tensors

# A worker's batch is kept while some of its images wait for others of their size; if they wait for
# so many batches, they are copied. To copy all that wait takes a core, which then sets the pace.
_MOST_WAITING = 8


class Collate:
    """A collate function that says of which samples it could not make a batch.

    Args:
        collate_fn: the function; None stacks tensors.
    """

    def __init__(self, collate_fn: Callable[..., Any] | None) -> None:
        self.collate_fn: Callable[..., Any] = collate_fn or default_collate

    def __call__(self, samples: Sequence[tuple]) -> Any:
        """Make a batch of samples."""
        try:
            return self.collate_fn(samples)
        except Exception as error:
            shapes = {str(list(getattr(sample[0], "shape", ()))) for sample in samples}
            raise DataError(
                f"cannot make a batch of samples of shape {' and '.join(sorted(shapes)[:3])}: "
                f"{in_one_line(error)}; give them one size by a transform, or choose a collate_fn "
                "that pads"
            ) from error


def registered(get: Callable[[Any], Any], key: str | None) -> Any:
    """Look a name up in one of torchdistill's registries.

    Raises:
        ConfigError: nothing of that name was registered.
    """
    try:
        return get(key)
    except ValueError as error:
        raise ConfigError(
            f"{error}: check its spelling, or name the module that registers it in `dependencies`"
        ) from None


def unpacked_batches(
    loader: Iterable, note_bad: Callable[[Sequence[BadSample]], None] | None = None
) -> Iterator[Any]:
    """Go through a loader; a worker's DataError arrives as the one line it was raised with.

    Args:
        loader: a DataLoader or its iterator, whose batches are unpacked and yielded.
        note_bad: is told, before a batch is yielded, what was replaced in it.

    Raises:
        DataError: a sample cannot be used; the loader's workers are ended.
    """
    batches = iter(loader)
    try:
        for batch in map(unpacked, batches):
            if isinstance(batch, NotedBatch):
                if note_bad is not None:
                    note_bad(batch.bad)
                batch = batch.batch
            yield batch
    except DataError as error:
        end_workers(batches)
        end_workers(loader)
        own = unwrap_worker_error(error)
        if own is error:
            raise
        raise own from None


def end_workers(loader: Any) -> None:
    """End the worker processes of a loader that keeps them, or of an iterator, if there are any.

    A traceback holds the iterator until it is collected as garbage, in a notebook for long. That
    takes 5 s for each worker: the queue by which torch asks it to end is collected before.
    """
    iterator = loader
    if isinstance(loader, DataLoader):
        iterator, loader._iterator = loader._iterator, None  # the next epoch starts new ones
    if hasattr(iterator, "_shutdown_workers"):
        iterator._shutdown_workers()


def batch_by_size(
    loader: Iterable[list[tuple]],
    size_key: Callable[[Any], Hashable],
    batch_size: Callable[[Any], int],
) -> Iterator[list[tuple]]:
    """Regroup samples so that a batch holds one size only and needs no padding.

    Args:
        loader: from `build_eval_loader`, or its iterator.
        size_key: from a sample (the image, not the triple) to its size, e.g. `image_size`.
        batch_size: from a size to the most samples per list; with 1 the order stays the loader's.

    Yields:
        Lists of (index, sample, target): a full list at once, the rest at the end.

    Raises:
        DataError: a sample cannot be used.
    """
    buckets: dict[Hashable, list[tuple]] = defaultdict(list)
    since: dict[Hashable, int] = {}  # which of the loader's batches they wait in
    for number, samples in enumerate(unpacked_batches(loader)):
        for triple in samples:
            key = size_key(triple[1])
            buckets[key].append(triple)
            since.setdefault(key, number)
            if len(buckets[key]) >= batch_size(key):
                del since[key]
                yield buckets.pop(key)
        for key in [key for key, first in since.items() if number - first >= _MOST_WAITING]:
            buckets[key] = map_tensors(_own, buckets[key])
            since[key] = number
    yield from buckets.values()


def _own(tensor: Tensor) -> Tensor:
    """Give a tensor memory of its own: one that waits must not keep its whole batch's."""
    return tensor.clone() if tensor.is_shared() else tensor


def collate(
    samples: Sequence[tuple], collate_fn: str | Callable | None = None, *, pin_memory: bool = False
) -> tuple[list[int], Any, Any]:
    """Make a batch of what `batch_by_size` yields.

    Args:
        samples: (index, sample, target) triples.
        collate_fn: function or registered name, given (sample, target) pairs; None stacks tensors.
        pin_memory: stack into memory that a GPU copies from.

    Returns:
        (indices, batch, targets), the latter two as the collate function makes them.
    """
    function = collate_fn
    if isinstance(function, str):
        function = registered(get_collate_func, function)
    if function is None and pin_memory:
        function = _stack_pinned
    pairs = [(sample, target) for _, sample, target in samples]
    batch, targets, *_ = Collate(function)(pairs)
    return [index for index, _, _ in samples], batch, targets


def _stack_pinned(pairs: Sequence[tuple[Any, Any]]) -> tuple[Any, Any]:
    """Do what torch's default_collate does, into pinned memory.

    That is kept and used again, while new memory for each batch costs thousands of page faults.
    """
    samples, targets = zip(*pairs, strict=True)
    if not all(isinstance(sample, Tensor) for sample in samples):
        return default_collate(list(samples)), default_collate(list(targets))
    shape = (len(samples), *samples[0].shape)
    stacked = torch.empty(shape, dtype=samples[0].dtype, pin_memory=True)
    return torch.stack(samples, out=stacked), default_collate(list(targets))


def unwrap_worker_error(error: DataError) -> DataError:
    """Recover the message that a worker process raised from torch's wrapping of its traceback.

    Args:
        error: as caught in the main process, wrapped or not.

    Returns:
        The error with its own one-line message.
    """
    messages = re.findall(r"^(?:[\w.]+\.)?DataError: (.*)$", str(error), flags=re.MULTILINE)
    return DataError(messages[-1]) if messages else error
