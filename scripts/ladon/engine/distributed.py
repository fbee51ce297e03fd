"""Where a run computes: its device, and its place among the processes of a distributed run."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from ladon.errors import UsageError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class World:
    """One process's view of the run.

    Attributes:
        device: device of this process.
        rank: number of this process.
        size: number of processes; 1 if the run is not distributed.
    """

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and log lines."""
        return self.rank == 0

    @property
    def distributed(self) -> bool:
        """Whether there is more than one process."""
        return self.size > 1

    def gather(self, value: Any) -> list[Any]:
        """Returns the picklable values of all processes, in order of rank, on every process."""
        if not self.distributed:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def broadcast(self, value: Any) -> Any:
        """Returns the main process's value on every process."""
        if not self.distributed:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, device=self.device)
        return values[0]

    def maximum(self, value: int) -> int:
        """Returns the largest of the processes' small integers."""
        if not self.distributed:
            return value
        tensor = torch.tensor([value], device=self.device)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return int(tensor)

    def barrier(self) -> None:
        """Waits for all processes."""
        if self.distributed:
            dist.barrier()


def choose_device(name: str) -> torch.device:
    """Returns the device asked for; ``auto`` is cuda if there is one, else cpu.

    Raises:
        UsageError: for a device that is unknown or not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    wrong = UsageError(f"--device {name}: not a device; use auto, cpu, cuda or cuda:N")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise wrong from error
    if device.type not in ("cpu", "cuda"):
        raise wrong
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count <= (device.index or 0):
            raise UsageError(
                f"--device {name}: this machine has {count} CUDA devices; "
                "use --device cpu, or auto to take what is there"
            )
    return device


def join_world(device_name: str, world_size: int, dist_url: str) -> World:
    """Joins the processes that torchrun or SLURM started, if they did.

    Args:
        device_name: the ``--device`` argument.
        world_size: number of processes, where the environment doesn't say (SLURM).
        dist_url: how the processes find each other.
    """
    env = os.environ
    if "RANK" in env and "WORLD_SIZE" in env:
        rank, world_size = int(env["RANK"]), int(env["WORLD_SIZE"])
        local_rank = int(env.get("LOCAL_RANK", rank))
    elif "SLURM_PROCID" in env and world_size > 1:
        rank = int(env["SLURM_PROCID"])
        local_rank = int(env.get("SLURM_LOCALID", rank))
    else:
        if world_size > 1:
            raise UsageError(
                f"--world_size {world_size}: start the processes with "
                f"`torchrun --nproc_per_node {world_size} …` (or srun)"
            )
        return World(choose_device(device_name))
    device = choose_device(device_name)
    if device.type == "cuda":
        device = torch.device("cuda", local_rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            init_method=dist_url,
            world_size=world_size,
            rank=rank,
        )
    return World(device, rank, world_size)


def leave_world() -> None:
    """Leaves the process group, if this process joined one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
