"""The runs of a task script, from flags to result lines: check, build, train, test.

Usually there is one; a fused sweep has one per β, which share data and teacher.
"""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ladon.data.fast_input import use_fast_input
from ladon.data.transforms import without_normalization
from ladon.engine.classes import common_classes
from ladon.engine.distributed import World, abort_world, join_world, leave_world
from ladon.engine.evaluate import evaluate_all
from ladon.engine.failures import ACCELERATOR_ERRORS, device_failure, is_connection_error
from ladon.engine.interrupt import catch_signals
from ladon.engine.learner import Learner
from ladon.engine.plan import TEACHER
from ladon.engine.randomness import seed_everything
from ladon.engine.run import seconds_since_start
from ladon.engine.together import Member, check_agreement
from ladon.engine.train import train
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
from ladon.logs import set_up_logging
from ladon.models import update_bottleneck
from ladon.models.ladon import ThreeHeadedLadon
from ladon.session import Session
from ladon.tasks import Task

logger = logging.getLogger(__name__)

# what torch says where a worker's batch finds no room; it names a file under /dev/shm
_NO_SHARED_MEMORY = re.compile(r"[^\n]*</?torch_[^\n]*No space left on device[^\n]*")


def run_task(task: Task, args: argparse.Namespace) -> None:
    """Runs a task script's work.

    Args:
        task: the task.
        args: flags from ``ladon.cli.build_parser``.

    Raises:
        LadonError: whatever went wrong, with an exit code.
    """
    session = Session(task, args, Member())
    session.load_config()
    with _world(args) as world:
        set_up_logging(is_main=world.is_main)
        _work_alone([session], world)


def run_fused(task: Task, runs: Mapping[str, argparse.Namespace]) -> dict[str, int]:
    """Runs a task script's work for several β at once; one that fails does not stop the others.

    Args:
        task: the task.
        runs: flags by β; they differ in ``config`` and ``run_log`` only.

    Returns:
        Exit codes by β, as those of separate runs.

    Raises:
        LadonError: what concerns all of them.
    """
    set_up_logging()
    sessions = [
        Session(task, args, Member(beta, tuple(b for b in runs if b != beta)))
        for beta, args in runs.items()
    ]
    for session in sessions:
        with session.member.own():
            session.load_config()
    args = sessions[0].args
    stopped = 0
    with _world(args) as world:
        if world.distributed:
            raise UsageError("--fused: runs in one process; leave it out under torchrun or srun")
        left = _left(sessions)
        if left:
            check_agreement({s.member.beta: s.config for s in left}, test_only=args.test_only)
        try:
            _work_alone(left, world)
        except Interrupted as error:
            logger.error("%s", error)
            stopped = error.exit_code
    return {
        session.member.beta: stopped if (error := session.member.error) is None else error.exit_code
        for session in sessions
    }


@contextmanager
def _world(args: argparse.Namespace) -> Iterator[World]:
    """Device and processes; what fails on the device or elsewhere becomes an error that says so.

    An error is said before the process group is left: that may take long, and the other processes
    wait for this one, or for their device, until they hear of it.
    """
    world = join_world(args.device, args.world_size, args.dist_url)
    try:
        try:
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


def _in_words(error: BaseException, world: World) -> BaseException:
    """Returns the error that a person can read; the same one if there is no better."""
    if isinstance(error, torch.OutOfMemoryError):
        text = f"the memory of {world.device} does not suffice: lower batch_size"
        return LadonError(f"{text} ({in_one_line(error)})")
    if isinstance(error, ACCELERATOR_ERRORS):
        return device_failure(error, world.device)
    if world.distributed and is_connection_error(error):
        return world.explain(error)
    if disk_failure(error) is not None and not isinstance(error, LadonError):
        return cannot_write(getattr(os_error_in(error), "filename", None) or "a file", error)
    if isinstance(error, RuntimeError) and _NO_SHARED_MEMORY.search(str(error)):
        return LadonError(
            "the loader's workers have too little shared memory (/dev/shm; docker's --shm-size): "
            f"give them more, or set num_workers: 0 ({_NO_SHARED_MEMORY.search(str(error))[0]})"
        )
    return error


def _tell(failure: BaseException, world: World) -> None:
    """Says what failed, to the person and to the other processes."""
    if isinstance(failure, LadonError):
        text = str(failure)
        report(failure, world.rank)
    else:
        text = "interrupted" if isinstance(failure, KeyboardInterrupt) else in_one_line(failure)
        logger.error("%s%s", f"rank {world.rank}: " if world.rank else "", text)
    world.board.tell(text)


def _left(sessions: Sequence[Session]) -> list[Session]:
    """The sessions that did not fail."""
    return [session for session in sessions if session.member.error is None]


@dataclass
class _Teacher:
    """A teacher and the sessions whose teacher it is."""

    model: nn.Module
    sessions: list[Session]


def _work_alone(sessions: Sequence[Session], world: World) -> None:
    """Works, and lets other runs use folders and checkpoints afterwards."""
    try:
        _work(sessions, world)
    finally:
        for session in sessions:
            session.close()


def _work(sessions: Sequence[Session], world: World) -> None:
    """Trains unless told only to test; tests the teacher and the best students."""
    with catch_signals() as stop:
        for session in sessions:
            with session.member.own():
                session.open(world, stop)
                if session.args.dry_run:
                    session.dry_run()
        left = _left(sessions)
        if not left or left[0].args.dry_run:
            return
        teachers = _build_teachers(left)
        for session in _left(left):
            with session.member.own():
                session.build_student()
        left = _left(left)
        if not left:
            return
        test_set = left[0].test_set()  # before the training, so that what it lacks is known
        startup = seconds_since_start()
        if not left[0].args.test_only:
            _train(left, teachers[0].model if teachers else None)
        _test(_left(left), [] if left[0].args.student_only else teachers, *test_set)
        for session in _left(left):
            with session.member.own():
                session.write(startup)


def _build_teachers(sessions: Sequence[Session]) -> list[_Teacher]:
    """Builds one teacher for all, or one each where their configs name different ones."""
    wanting = [session for session in sessions if session.wants_teacher]
    if len({session.config.dump(TEACHER) for session in wanting}) == 1:
        return [_Teacher(wanting[0].build_teacher(), wanting)]
    teachers = []
    for session in wanting:
        with session.member.own():
            teachers.append(_Teacher(session.build_teacher(), [session]))
    return teachers


def _train(sessions: Sequence[Session], teacher: nn.Module | None) -> None:
    """Trains the students; they have the best checkpoints' weights then."""
    run = sessions[0].run
    seed_everything(run.seed + run.world.rank)
    train([Learner(s.run, s.student, s.best_path) for s in sessions], teacher)
    for session in _left(sessions):
        with session.member.own():
            session.take_best()


def _test(
    sessions: Sequence[Session], teachers: Sequence[_Teacher], loader: dict[str, Any], dataset: Any
) -> None:
    """Tests teachers and students; several runs' in one pass over the data."""
    if not sessions:
        return
    run = sessions[0].run
    classes = common_classes([session.run.classes for session in sessions])
    classes.hold(dataset)
    classes.doubt(dataset)
    if any(isinstance(session.student, ThreeHeadedLadon) for session in sessions):
        without_normalization(dataset)
    if run.setting("input", "test", "reference") == "fast":
        use_fast_input(dataset)
    for session in sessions:  # a checkpoint of the early epochs has no CDF tables yet
        update_bottleneck(session.student)
    first = [("teacher", teacher.model, _left(teacher.sessions)) for teacher in teachers]
    second = [("student", session.student, [session]) for session in sessions]
    # one after the other where there is one run: its images/s are those of one model
    passes = [first, second] if run.member.is_alone else [first + second]
    for tested in filter(None, passes):
        if run.member.is_alone:  # a test may take hours: say whose it is before
            sessions[0].announce(tested[0][0])
        found = evaluate_all(
            *([model for _, model, _ in tested], dataset, loader, run.task, run.world, run.stop),
            options=run.options,
            mode=run.setting("evaluation", "test", "full"),
            precision=run.setting("precision", "test", "float32"),
            compiled=run.setting("compile", "test", False),
        )
        if found is None:
            signum = run.world.maximum(run.stop.signum)
            raise Interrupted(signum, "interrupted during the test; run it again with -test_only")
        for (role, _, concerned), evaluation in zip(tested, found, strict=True):
            for session in concerned:
                with session.member.own():
                    if not session.member.is_alone:  # in its own log, above its own results
                        session.announce(role)
                    session.take_result(role, evaluation)
