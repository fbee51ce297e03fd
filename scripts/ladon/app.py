"""A run of a task script, from flags to result lines: check, build, train, test."""

from __future__ import annotations

import argparse

from torch import nn

from ladon.engine.evaluation import Evaluation
from ladon.engine.interrupt import catch_signals
from ladon.engine.joining import joined_world
from ladon.engine.origin import seconds_since_start
from ladon.engine.randomness import seed_everything
from ladon.engine.run import Run, load_run_config
from ladon.engine.student_trainer import StudentTrainer
from ladon.engine.train import train
from ladon.final_evaluation import FinalEvaluation, announce, write_results
from ladon.logs import set_up_logging
from ladon.run_models import build_student, build_teacher, dry_run, load_best
from ladon.tasks import Task


def run_task(task: Task, args: argparse.Namespace) -> None:
    """Do a task script's work.

    Args:
        task: the task.
        args: flags from `ladon.cli.build_parser`.

    Raises:
        LadonError: whatever went wrong, with an exit code.
    """
    config = load_run_config(task, args)
    with joined_world(args) as world:
        set_up_logging(is_main=world.is_main)
        with catch_signals() as stop:
            run = Run(task, args, config, world, stop)
            try:
                _work(run)
            finally:
                run.close()


def _work(run: Run) -> None:
    """Train unless told only to test; tests the teacher and the best student."""
    run.open()
    if run.args.dry_run:
        dry_run(run)
        return
    teacher = build_teacher(run) if run.wants_teacher else None
    student = build_student(run)
    test_set = FinalEvaluation.open(run)
    startup = seconds_since_start()
    if not run.args.test_only:
        _train(run, student, teacher)
    results = _test(run, student, teacher, test_set)
    write_results(run, test_set.dataset, results, startup)


def _train(run: Run, student: nn.Module, teacher: nn.Module | None) -> None:
    """Train the student; it has the best checkpoint's weights then."""
    seed_everything(run.seed + run.world.rank)
    train(StudentTrainer(run, student), teacher)
    load_best(run, student)


def _test(
    run: Run, student: nn.Module, teacher: nn.Module | None, test_set: FinalEvaluation
) -> dict[str, Evaluation]:
    """Test teacher and student, one after the other: their images/s are those of one model."""
    test_set.prepare(run, run.classes, [student])
    models = {"student": student}
    if teacher is not None and not run.args.student_only:
        models = {"teacher": teacher, "student": student}
    results = {}
    for role, model in models.items():
        announce(run, role)  # a test may take hours: say whose it is before
        (results[role],) = test_set.evaluate(run, [model])
        results[role].log()
    return results
