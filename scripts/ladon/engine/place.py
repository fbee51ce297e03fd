"""A process's place among those of a run, as its launcher's variables give it.

torchrun sets RANK, WORLD_SIZE and LOCAL_RANK, MASTER_ADDR and MASTER_PORT. srun numbers its tasks
(SLURM_PROCID, SLURM_LOCALID) and counts them (SLURM_STEP_NUM_TASKS, SLURM_NTASKS); where they meet
follows from the step's nodes. Imports nothing heavy.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ladon.errors import UsageError

_NODES = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")
# ports below those that systems hand out by themselves (32768 on Linux, 49152 elsewhere)
_FIRST_PORT, _PORTS = 12_000, 20_000


@dataclass(frozen=True)
class Place:
    """A process's place.

    Attributes:
        rank: its number.
        size: number of processes.
        local: its number on its machine.
        local_name: the variable that says so.
        address: host and port of the first process, where they follow from SLURM's variables.
    """

    rank: int = 0
    size: int = 1
    local: int = 0
    local_name: str = "LOCAL_RANK"
    address: tuple[str, int] | None = None


def read_place(world_size: int | None = None) -> Place:
    """Read the place of this process from the environment; that of a single one without any.

    Args:
        world_size: the `--world_size` argument. srun's tasks are the processes of one run, unless
            it is 1: then each is a run of its own.

    Raises:
        UsageError: if the environment does not make sense.
    """
    env = os.environ
    if "RANK" in env and "WORLD_SIZE" in env:
        rank, size = number("RANK"), number("WORLD_SIZE")
        place = Place(rank, size, number("LOCAL_RANK", rank))
        advice = "start the processes with torchrun"
    elif "SLURM_PROCID" in env and world_size != 1 and (size := _tasks(world_size)) > 1:
        rank = number("SLURM_PROCID")
        local = number("SLURM_LOCALID", rank)
        place = Place(rank, size, local, "SLURM_LOCALID", _address())
        advice = "give srun's number of tasks as --world_size, or leave it out"
    elif world_size is not None and world_size > 1:
        raise UsageError(
            f"--world_size {world_size}: start the processes with "
            f"`torchrun --nproc_per_node {world_size} …` (or srun)"
        )
    else:
        _check_whole(env)
        return Place()
    if place.rank >= place.size:
        raise UsageError(
            f"this process is rank {place.rank} of only {place.size}: ranks count from 0; {advice}"
        )
    return place


def launched_rank(world_size: int | None = None) -> int:
    """Return this process's number as its launcher gave it; 0 if that makes no sense.

    Args:
        world_size: the `--world_size` argument.
    """
    try:
        return read_place(world_size).rank
    except UsageError:
        return 0


def _tasks(world_size: int | None) -> int:
    """Return how many processes srun started for this run.

    Raises:
        UsageError: if `--world_size` says something else.
    """
    env = os.environ
    name = next((n for n in ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS") if n in env), None)
    if name is None:
        return world_size or 1
    tasks = number(name)
    if world_size is not None:
        if world_size != tasks:
            raise UsageError(
                f"--world_size {world_size}: srun started {tasks} tasks ({name}); leave "
                "--world_size out, or start as many"
            )
        return tasks
    # A batch script is asked for tasks as well, but it is none: srun starts them. Whoever names an
    # address there means to be met.
    in_step = "SLURM_STEP_NUM_TASKS" in env or "SLURM_STEP_ID" in env or "MASTER_ADDR" in env
    return tasks if in_step or number("SLURM_PROCID") else 1


def _address() -> tuple[str, int] | None:
    """Return where srun's tasks meet: on the first of their nodes, at a port of the job's own.

    MASTER_ADDR and MASTER_PORT go before; None if nothing names a host.
    """
    env = os.environ
    host = env.get("MASTER_ADDR")
    if host is None:
        nodes = next((env[name] for name in _NODES if env.get(name)), "")
        # where srun itself was called: right where that is the job's own first node
        host = first_host(nodes) or env.get("SLURM_LAUNCH_NODE_IPADDR")
    if host is None:
        return None
    if "MASTER_PORT" in env:
        return host, number("MASTER_PORT")
    job = number("SLURM_JOB_ID", number("SLURM_JOBID", 0)) + number("SLURM_STEP_ID", 0)
    return host, _FIRST_PORT + job % _PORTS


def first_host(nodes: str) -> str:
    """Return the first host of SLURM's list: `gpu03` of 'gpu[03-05,9],login1'."""
    # a comma within brackets separates numbers, one outside separates hosts
    first = re.match(r"(?:\[[^\]]*\]|[^,\[])*", nodes.strip())
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", first[0]) if first else ""


def _check_whole(env: Mapping[str, str]) -> None:
    """Refuse half of what a launcher sets: each of several processes would run as the only one.

    Raises:
        UsageError: names what is missing.
    """
    if "RANK" in env:
        there, missing = "RANK", "WORLD_SIZE"
    elif env.get("WORLD_SIZE", "1") != "1" and "SLURM_PROCID" not in env:
        there, missing = "WORLD_SIZE", "RANK"
    else:
        return
    raise UsageError(
        f"{there}={env[there]} is set and {missing} is not: start the processes with torchrun, "
        f"which sets both, or unset {there} for a single one"
    )


def number(name: str, default: int | None = None) -> int:
    """Read a whole number from the environment.

    Raises:
        UsageError: if it is none, or not there without a default.
    """
    text = os.environ.get(name)
    if text is None and default is not None:
        return default
    if text is None or not text.isdecimal():
        raise UsageError(
            f"{name}={text}: must be a number; torchrun and srun set it, so start the processes "
            "with one of them"
        )
    return int(text)
