"""Joining the processes of a run, and saying in words why the work of one of them ended."""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ladon.engine.deterministic import deterministic, refusal
from ladon.engine.distributed import World, abort_world, join_world, leave_world
from ladon.engine.failures import (
    ACCELERATOR_ERRORS,
    device_failure,
    is_connection_error,
    worker_failure,
)
from ladon.errors import (
    Interrupted,
    LadonError,
    UsageError,
    cannot_write,
    disk_failure,
    in_one_line,
    os_error_in,
    report,
)

logger = logging.getLogger(__name__)

# flags that may differ from machine to machine
_OWN_FLAGS = frozenset(("data_root", "device", "run_log"))
# what torch says where a worker's batch finds no room; it names a file under /dev/shm
_NO_SHARED_MEMORY = re.compile(r"[^\n]*</?torch_[^\n]*No space left on device[^\n]*")


@contextmanager
def joined_world(args: argparse.Namespace) -> Iterator[World]:
    """Device and processes; what fails on the device or elsewhere becomes an error that says so.

    An error is said before the process group is left: that may take long, and the other processes
    wait for this one, or for their device, until they hear of it.
    """
    world = join_world(args.device, args.world_size, args.dist_url)
    try:
        try:
            _check_same_command(world, args)
            with deterministic(getattr(args, "deterministic", False)):
                yield world
        except Interrupted as error:  # all processes stop together
            report(error, world.rank)
            leave_world(world)
            raise
        leave_world(world)
    except Interrupted:
        raise
    except BaseException as error:
        failure = _in_words(error, world)
        if world.distributed:
            _tell(failure, world)
            abort_world(world)
        if failure is error:
            raise
        raise failure from error


def _check_same_command(world: World, args: argparse.Namespace) -> None:
    """Refuse processes that were started for different runs, as a job's tasks may be.

    Raises:
        UsageError: names the first that differs, and how.
    """
    if not world.distributed:
        return
    given = world.gather({n: v for n, v in vars(args).items() if n not in _OWN_FLAGS})
    for rank, theirs in enumerate(given):
        changed = [name for name in given[0] if theirs.get(name) != given[0][name]]
        if changed:
            words = ", ".join(f"{n} {theirs.get(n)} instead of {given[0][n]}" for n in changed[:3])
            error = UsageError(
                f"rank {rank} was started with another command than rank 0 ({words}): start all "
                "processes of a run with the same one; with --world_size 1 each of srun's tasks is "
                "a run of its own"
            )
            error.is_said = not world.is_main  # all know it, the first one says it
            raise error


def _in_words(error: BaseException, world: World) -> BaseException:
    """Return the error that a person can read; the same one if there is no better."""
    if isinstance(error, torch.OutOfMemoryError):
        text = f"the memory of {world.device} does not suffice: lower batch_size"
        return LadonError(f"{text} ({in_one_line(error)})")
    if (refused := refusal(error)) is not None:
        return refused
    if isinstance(error, ACCELERATOR_ERRORS):
        return device_failure(error, world.device)
    if (gone := worker_failure(error)) is not None and not isinstance(error, LadonError):
        return LadonError(gone)
    if world.distributed and is_connection_error(error):
        return world.explain(error)
    if disk_failure(error) is not None and not isinstance(error, LadonError):
        return cannot_write(getattr(os_error_in(error), "filename", None) or "a file", error)
    if isinstance(error, RuntimeError) and (said := _NO_SHARED_MEMORY.search(str(error))):
        return LadonError(
            "the loader's workers have too little shared memory (/dev/shm; docker's --shm-size): "
            f"give them more, or set num_workers: 0 ({said[0]})"
        )
    return error


def _tell(failure: BaseException, world: World) -> None:
    """Say what failed, to the person and to the other processes."""
    if isinstance(failure, LadonError):
        text = str(failure)
        report(failure, world.rank)
    else:
        text = "interrupted" if isinstance(failure, KeyboardInterrupt) else in_one_line(failure)
        logger.error("%s%s", f"rank {world.rank}: " if world.rank else "", text)
    if world.board is not None:
        world.board.tell(text)
