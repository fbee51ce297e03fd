"""Data loaders whose order and augmentation depend on (seed, epoch, index) only.

Neither the number of workers nor where a run was interrupted changes what a sample looks like:

- training: `build_train_loader`, then per epoch `loader.batch_sampler.set_epoch(epoch, skip)` and
  `for batch in unpacked_batches(loader)`;
- evaluation: `build_eval_loader`, then `for samples in batch_by_size(loader, image_size, at_once)`
  and `collate(samples, collate_fn)`.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SequentialSampler,
)
from torchdistill.datasets.registry import get_batch_sampler, get_collate_func, get_dataset_wrapper

from ladon.data.bad_samples import Noting
from ladon.data.batching import Collate, registered
from ladon.data.samples import IndexedDataset, MapDataset, SeededDataset
from ladon.data.seeding import EVALUATION, ORDER, seeded_rng
from ladon.data.transport import Packing
from ladon.engine.interrupt import STOPPING
from ladon.errors import DataError
from ladon.process import usable_cores

logger = logging.getLogger(__name__)

# A network on the CPU shares its work equally among all cores: a worker that takes one of them for
# a while holds all up. On 2 cores, workers cost 15 ms an image of 96 ms, a thread 3 ms. One
# worker per this many cores keeps up.
_CORES_PER_WORKER = 8

# Images that a worker sends at once, of a larger batch, too: the first are there sooner, and the
# workers' shares more equal.
_MOST_SENT = 16

# Decided here, whatever a config's `kwargs` say.
_OWN_KWARGS = frozenset(
    ("batch_size", "shuffle", "sampler", "batch_sampler", "drop_last", "collate_fn")
)


def get_num_iterations(dataset: MapDataset, batch_size: int, world_size: int) -> int:
    """Count the iterations of an epoch.

    Args:
        dataset: training set.
        batch_size: samples per process and iteration.
        world_size: number of processes.

    Returns:
        Batches per process and epoch.
    """
    return math.ceil(len(dataset) / batch_size / world_size)


class EpochBatchSampler:
    """Batch sampler of one process: pairs (epoch, index), ordered by (seed, epoch) alone.

    The user's sampler and batch sampler run in every process with the same random numbers; each
    process then takes every `world_size`-th batch. The last round is filled with the epoch's first
    batches, so that all processes see equally many.

    Args:
        dataset: what the sampler is built on.
        sampler_config: {'class_or_func': class, 'kwargs': {...} or None}; random order if missing.
        batch_sampler_config: {'key': registered name, 'kwargs': {...}}; plain batches if missing.
        loader_kwargs: `batch_size` (1) and `drop_last` (False) of plain batches are read.
        seed: of the run.
        rank: of this process.
        world_size: number of processes.
        name: of the dataset, for errors.
    """

    def __init__(
        self,
        dataset: MapDataset,
        sampler_config: dict | None,
        batch_sampler_config: dict | None,
        loader_kwargs: dict | None,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        name: str = "training set",
    ) -> None:
        self.dataset = dataset
        self.name = name
        self.sampler_config = sampler_config or {}
        self.batch_sampler_config = batch_sampler_config or {}
        self.loader_kwargs = loader_kwargs or {}
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.skip = 0
        self._drawn: tuple[int, list[list[int]]] | None = None
        self._smallest = 0

    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        """Choose the epoch that the next iteration goes through.

        Args:
            epoch: 0-based, counted over the whole run.
            skip: batches of all processes together to leave out at the start, without loading them;
                it does not matter how many processes there were.
        """
        self.epoch = epoch
        self.skip = skip

    def __len__(self) -> int:
        """Count this process's batches of the whole epoch, skipped ones included."""
        return math.ceil(self.total / self.world_size)

    @property
    def total(self) -> int:
        """Batches of the whole epoch, of all processes together."""
        return len(self._batches())

    @property
    def remaining(self) -> int:
        """Batches that the next iteration yields."""
        return max(math.ceil((self.total - self.skip) / self.world_size), 0)

    @property
    def smallest(self) -> int:
        """Samples in the epoch's smallest batch, of whichever process."""
        self._batches()
        return self._smallest

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Yield lists of (epoch, index)."""
        epoch, batches, first = self.epoch, self._batches(), self.skip + self.rank
        for position in range(first, first + self.remaining * self.world_size, self.world_size):
            yield [(epoch, index) for index in batches[position % len(batches)]]

    def _batches(self) -> list[list[int]]:
        if self._drawn is None or self._drawn[0] != self.epoch:
            with seeded_rng(self.seed, self.epoch, ORDER):
                batches = [list(batch) for batch in self._build_batch_sampler()]
            if not batches:
                raise DataError(
                    f"{self.name}: {len(self.dataset)} samples fill no batch; "
                    "lower batch_size or add samples"
                )
            self._smallest = min(map(len, batches))
            self._drawn = self.epoch, batches
        return self._drawn[1]

    def _build_batch_sampler(self) -> Iterable[list[int]]:
        sampler = _build_sampler(self.dataset, self.sampler_config, RandomSampler)
        key = self.batch_sampler_config.get("key")
        if key is not None:
            kwargs = self.batch_sampler_config.get("kwargs") or {}
            return registered(get_batch_sampler, key)(sampler, **kwargs)
        return BatchSampler(
            sampler,
            self.loader_kwargs.get("batch_size") or 1,
            bool(self.loader_kwargs.get("drop_last")),
        )


def build_train_loader(
    dataset: MapDataset,
    loader_config: Mapping[str, Any],
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
    *,
    skips_bad: bool = False,
) -> DataLoader:
    """Build the loader of a training stage.

    Args:
        dataset: training set.
        loader_config: a config's `train_data_loader` section.
        seed: of the run.
        rank: of this process.
        world_size: number of processes.
        pin_memory: unless the config says.
        skips_bad: give another sample in the place of one that cannot be loaded.

    Returns:
        Loader whose `batch_sampler` is an `EpochBatchSampler`: call its `set_epoch` before each
        epoch and go through it with `unpacked_batches`, which unpacks what its workers packed.
    """
    _check_not_empty(dataset, loader_config)
    wrapped, is_wrapped = _wrap(dataset, loader_config)
    requires_supp = loader_config.get("requires_supp", True) and not is_wrapped
    kwargs = loader_config.get("kwargs") or {}
    collate_fn = registered(get_collate_func, loader_config.get("collate_fn"))
    batches = EpochBatchSampler(
        wrapped,
        loader_config.get("sampler"),
        loader_config.get("batch_sampler"),
        kwargs,
        seed,
        rank,
        world_size,
        _name(loader_config),
    )
    return DataLoader(
        SeededDataset(wrapped, seed, requires_supp, skips_bad),
        batch_sampler=batches,
        collate_fn=Packing(Noting(Collate(collate_fn))),
        **_worker_kwargs(kwargs, pin_memory, persistent=True),
    )


def build_eval_loader(
    dataset: MapDataset,
    loader_config: Mapping[str, Any],
    rank: int = 0,
    world_size: int = 1,
    *,
    network_on_cpu: bool = False,
) -> DataLoader:
    """Build the loader of an evaluation, where each sample counts once over all processes.

    Args:
        dataset: validation or test set.
        loader_config: a config's `val_data_loader` or `test_data_loader` section; its collate
            function is left to `collate`, its batch sampler is not used.
        rank: of this process.
        world_size: number of processes.
        network_on_cpu: leave the cores to the network and start few workers, maybe none; take
            the samples ahead in a thread then (`ladon.engine.pipeline.prefetch`).

    Returns:
        Loader of lists of (index, sample, target), packed by its workers, for `batch_by_size`.
    """
    _check_not_empty(dataset, loader_config)
    wrapped, _ = _wrap(dataset, loader_config)
    kwargs = loader_config.get("kwargs") or {}
    if loader_config.get("batch_sampler"):
        logger.warning("An evaluation uses each sample once: its batch_sampler is ignored")
    with seeded_rng(0, EVALUATION, ORDER):
        order = list(_build_sampler(wrapped, loader_config.get("sampler"), SequentialSampler))
    cores_per_worker = _CORES_PER_WORKER if network_on_cpu else 1
    return DataLoader(
        IndexedDataset(wrapped),
        batch_size=min(kwargs.get("batch_size") or 1, _MOST_SENT),
        sampler=order[rank::world_size],
        collate_fn=Packing(_as_list),
        **_worker_kwargs(
            kwargs, pin_memory=False, persistent=False, cores_per_worker=cores_per_worker
        ),
    )


def _name(loader_config: Mapping[str, Any]) -> str:
    return str(loader_config.get("dataset_id") or "the data set")


def _check_not_empty(dataset: MapDataset, loader_config: Mapping[str, Any]) -> None:
    if len(dataset) == 0:
        raise DataError(
            f"{_name(loader_config)}: the dataset holds no samples; add some or use another"
        )


def _build_sampler(dataset: MapDataset, config: dict | None, default: type) -> Iterable[int]:
    config = config or {}
    return (config.get("class_or_func") or default)(dataset, **(config.get("kwargs") or {}))


def _wrap(dataset: MapDataset, loader_config: Mapping[str, Any]) -> tuple[MapDataset, bool]:
    """Apply a config's `dataset_wrapper`, whose samples bring their own supplementary dict."""
    config = loader_config.get("dataset_wrapper")
    if not config:
        return dataset, False
    wrapper = registered(get_dataset_wrapper, config["key"])
    return wrapper(dataset, *(config.get("args") or ()), **(config.get("kwargs") or {})), True


def _worker_kwargs(
    kwargs: dict, pin_memory: bool, persistent: bool, cores_per_worker: int = 1
) -> dict[str, Any]:
    rest = {key: value for key, value in kwargs.items() if key not in _OWN_KWARGS}
    asked = rest.pop("num_workers", 0) or 0
    cores = usable_cores()
    num_workers = min(asked, cores // cores_per_worker)
    if num_workers < asked:
        _log_cap(asked, num_workers, cores, cores_per_worker)
    if num_workers == 0:  # torch refuses these without workers
        for key in ("prefetch_factor", "persistent_workers", "timeout", "multiprocessing_context"):
            rest.pop(key, None)
    defaults = {
        "pin_memory": pin_memory,
        "persistent_workers": persistent and num_workers > 0,
        "worker_init_fn": _start_worker,
        # Its own generator: starting an iteration must not consume the global one.
        "generator": torch.Generator().manual_seed(0),
    }
    return {**defaults, **rest, "num_workers": num_workers}


@cache
def _log_cap(asked: int, workers: int, cores: int, cores_per_worker: int) -> None:
    why = "" if cores_per_worker == 1 else ": the network needs the cores"
    logger.info("%d cores here, so %d loader workers instead of %d%s", cores, workers, asked, why)


def _start_worker(_worker_id: int) -> None:
    # What stops a run may reach the whole process group; the main process decides what to do about
    # it, and needs the batch that it waits for.
    for signum in STOPPING:
        if signum != signal.SIGTERM:
            signal.signal(signum, signal.SIG_IGN)
        elif hasattr(signal, "sigwaitinfo"):
            signal.pthread_sigmask(signal.SIG_BLOCK, {signum})
            threading.Thread(
                target=_end_when_parent_asks, args=(os.getppid(),), daemon=True
            ).start()
    torch.set_num_threads(1)


def _end_when_parent_asks(parent: int) -> None:
    """End at a SIGTERM of the main process, by which torch ends workers, or after its death."""
    while True:
        sender = signal.sigwaitinfo({signal.SIGTERM}).si_pid
        if sender == parent or os.getppid() != parent:
            os._exit(0)


def _as_list(samples: list[tuple]) -> list[tuple]:
    return samples
