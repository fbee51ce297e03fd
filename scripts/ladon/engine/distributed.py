"""Where a run computes: its device, and its place among the processes of a distributed run."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ladon.engine.failures import connection_reason, is_connection_error
from ladon.engine.noticeboard import Noticeboard, silence_limit
from ladon.engine.place import Place, number, read_place
from ladon.errors import LadonError, UsageError

logger = logging.getLogger(__name__)

# how long the processes wait for each other: parts of a validation may differ by many minutes
TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True)
class World:
    """One process's view of the run.

    What processes tell each other is in the hosts' memory and goes over gloo: asking must make no
    GPU wait. Only gradients and buffers go from device to device.

    Attributes:
        device: device of this process.
        rank: number of this process.
        size: number of processes; 1 if the run is not distributed.
        group: gloo group of all processes; None if that is the default group.
        board: where processes say that they failed; None if the run is not distributed.
    """

    device: torch.device
    rank: int = 0
    size: int = 1
    group: Any = field(default=None, compare=False)
    board: Noticeboard | None = field(default=None, compare=False)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and log lines."""
        return self.rank == 0

    @property
    def distributed(self) -> bool:
        """Whether there is more than one process."""
        return self.size > 1

    def gather(self, value: Any) -> list[Any]:
        """Return the picklable values of all processes, in order of rank, on every process."""
        if not self.distributed:
            return [value]
        values: list[Any] = [None] * self.size
        with self.explained():
            dist.all_gather_object(values, value, group=self.group)
        return values

    def broadcast(self, value: Any) -> Any:
        """Return the main process's value on every process."""
        if not self.distributed:
            return value
        values = [value]
        with self.explained():
            dist.broadcast_object_list(values, src=0, group=self.group, device=torch.device("cpu"))
        return values[0]

    def maximum(self, value: int) -> int:
        """Return the largest of the processes' small integers."""
        vote = Vote(self)
        vote.ask(value)
        return vote.settle()

    def barrier(self) -> None:
        """Wait for all processes."""
        self.maximum(0)

    def share_buffers(self, model: nn.Module) -> None:
        """Give all processes the main one's buffers.

        Running statistics follow from each process's own batches until the next training step
        makes them equal: without this, what is validated would not be what is saved.
        """
        if not self.distributed:
            return
        alike: dict[torch.dtype, list[Tensor]] = defaultdict(list)
        for buffer in model.buffers():
            if buffer.numel() and buffer.dtype != torch.bool:
                alike[buffer.dtype].append(buffer)
        with torch.no_grad(), self.explained():
            for buffers in alike.values():
                joined = torch.cat([buffer.reshape(-1) for buffer in buffers])
                dist.broadcast(joined, src=0)
                parts = joined.split([buffer.numel() for buffer in buffers])
                for buffer, part in zip(buffers, parts, strict=True):
                    buffer.copy_(part.view(buffer.shape))

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Within it, an operation that fails for another process says which one it was.

        Raises:
            LadonError: naming the rank that failed or did not answer.
        """
        try:
            yield
        except RuntimeError as error:
            if not is_connection_error(error):
                raise
            raise self.explain(error) from error

    def explain(self, error: BaseException) -> LadonError:
        """Return which process it was that an operation failed for."""
        if self.board is None:
            return LadonError(f"the other processes do not answer: {connection_reason(error)}")
        return self.board.explain(error)


class Vote:
    """The largest of the processes' small integers, asked for at every step of a training.

    Nobody waits: each step is told the answer to the step before, all processes the same one.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._asked: tuple[Tensor, Any] | None = None
        self._answer = 0

    def ask(self, value: int) -> int:
        """Start a vote, unless the one before has an answer other than 0; return that answer.

        A process on its own is answered at once.
        """
        if not self._world.distributed:
            self._answer = value
            return value
        before = self.settle()
        if not before:
            asked = torch.tensor([value], dtype=torch.int64, device="cpu")
            with self._world.explained():
                work = dist.all_reduce(
                    asked, op=dist.ReduceOp.MAX, group=self._world.group, async_op=True
                )
            self._asked = asked, work
        return before

    def settle(self) -> int:
        """Wait for the vote that is under way; return the last answer."""
        if self._asked is not None:
            asked, work = self._asked
            self._asked = None
            with self._world.explained():
                work.wait()
            self._answer = int(asked)
        answer, self._answer = self._answer, 0
        return answer


def choose_device(name: str) -> torch.device:
    """Return the device asked for; `auto` is cuda if there is one, else cpu.

    A CUDA device has its index: `cuda` is `cuda:0`.

    Raises:
        UsageError: for a device that is unknown or not there.
    """
    if name == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    wrong = UsageError(f"--device {name}: not a device; use auto, cpu, cuda or cuda:N")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise wrong from error
    if device.type not in ("cpu", "cuda"):
        raise wrong
    if device.type == "cpu":
        return device
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = device.index or 0
    if count <= index:
        raise UsageError(
            f"--device {name}: this machine has {count} CUDA devices; "
            "use --device cpu, or auto to take what is there"
        )
    return torch.device("cuda", index)


def _own_gpu(name: str, place: Place) -> torch.device:
    """Return the GPU of one of several processes.

    Raises:
        UsageError: if there is none for it.
    """
    if name.startswith("cuda:"):
        raise UsageError(
            f"--device {name}: {place.size} processes cannot share one GPU; use --device cuda "
            f"(each takes the GPU of its {place.local_name})"
        )
    count = torch.cuda.device_count()
    if place.local_name == "SLURM_LOCALID" and count == 1:
        return torch.device("cuda", 0)  # srun --gpus-per-task shows each process its own alone
    if place.local >= count:
        raise UsageError(
            f"{place.local_name}={place.local}: this machine has {count} CUDA devices, and each "
            "process needs its own; start as many processes as there are devices"
        )
    return torch.device("cuda", place.local)


def join_world(device_name: str, world_size: int | None, dist_url: str) -> World:
    """Join the processes that torchrun or SLURM started, if they did.

    Args:
        device_name: the `--device` argument.
        world_size: the `--world_size` argument (`ladon.engine.place`).
        dist_url: how the processes find each other.

    Raises:
        UsageError: if device, environment or address cannot be used.
        LadonError: if the other processes do not come.
    """
    place = read_place(world_size)
    device = choose_device(device_name)
    if device.type == "cuda":
        if place.size > 1:
            device = _own_gpu(device_name, place)
        torch.cuda.set_device(device)
    if place.size == 1:
        return World(device)
    silence = silence_limit()
    store, group = _meet(place, device, dist_url)
    board = Noticeboard(store, place.rank, place.size, silence)
    return World(device, place.rank, place.size, group, board)


def _meet(place: Place, device: torch.device, dist_url: str) -> tuple[Any, Any]:
    """Form the process groups; return the store and the gloo group beside that of the GPUs.

    Raises:
        UsageError: if the address cannot be used.
        LadonError: if the other processes do not come.
    """
    if dist_url.startswith("env://") and os.environ.get("MASTER_PORT"):
        number("MASTER_PORT")
    if dist_url == "env://" and place.address is not None:
        dist_url = "tcp://{}:{}".format(*place.address)
    on_gpu = device.type == "cuda"
    try:
        store = next(dist.rendezvous(dist_url, place.rank, place.size, timeout=TIMEOUT))[0]
        dist.init_process_group(
            "nccl" if on_gpu else "gloo",
            store=store,
            world_size=place.size,
            rank=place.rank,
            **({"device_id": device} if on_gpu else {"timeout": TIMEOUT}),
        )
        return store, dist.new_group(backend="gloo", timeout=TIMEOUT) if on_gpu else None
    except (ValueError, RuntimeError) as error:
        if isinstance(error, ValueError) or "rendezvous handler" in str(error):
            raise UsageError(
                f"--dist_url {dist_url}: {' '.join(str(error).split())}; start the processes with "
                "torchrun, which sets what is needed"
            ) from error
        where = "MASTER_ADDR and MASTER_PORT" if dist_url.startswith("env://") else dist_url
        raise LadonError(
            f"rank {place.rank} cannot meet the other processes: {connection_reason(error)}; look "
            f"whether all of them run and reach {where}"
        ) from error


def leave_world(world: World) -> None:
    """Leave the process group, if this process joined one, once all have come here.

    Raises:
        LadonError: if another process fails before.
    """
    if world.board is None:
        return
    world.barrier()
    world.board.close()
    world.barrier()  # the store goes with rank 0: not before the last one has stopped to look
    dist.destroy_process_group()


def abort_world(world: World) -> None:
    """Leave the process group without waiting for what is under way, after a failure."""
    if world.board is None:
        return
    abort = getattr(dist.distributed_c10d, "_abort_process_group", dist.destroy_process_group)
    try:
        abort()
    except Exception as error:  # the reason for leaving matters more
        logger.debug("the process group could not be aborted: %s", error)
    world.board.close()
