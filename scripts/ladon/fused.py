"""A fused sweep: several β at once in this process, sharing each batch and the teacher's forward.

Each run keeps what is its own: its log, its random draws, its end if it fails. It learns what it
would have learnt alone.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from ladon.config import Config
from ladon.data.bad_samples import BadSample
from ladon.engine.classes import common_classes
from ladon.engine.evaluation import Evaluation
from ladon.engine.forwarding import TrainingBatch
from ladon.engine.hooked import paths_read_of_teacher
from ladon.engine.interrupt import catch_signals
from ladon.engine.joining import joined_world
from ladon.engine.origin import seconds_since_start
from ladon.engine.plan import TEACHER, StagePlan
from ladon.engine.randomness import global_states, restore_global_states, seed_everything
from ladon.engine.resume import Progress
from ladon.engine.run import Run, load_run_config
from ladon.engine.student_trainer import StudentTrainer
from ladon.engine.train import train
from ladon.errors import Interrupted, LadonError, UsageError
from ladon.final_evaluation import FinalEvaluation, announce, write_results
from ladon.logs import log_context, set_up_logging
from ladon.run_models import build_student, build_teacher, dry_run, load_best
from ladon.tasks import Task

logger = logging.getLogger(__name__)

_Value = TypeVar("_Value")

_TESTED = (
    "test.test_data_loader",
    "test.evaluation",
    "test.precision",
    "test.compile",
    "test.input",
    "models.model.key",
    "models.model.kwargs.num_classes",
)
# β's weights, the optimizers and their schedules may differ: every student has its own
_TRAINED = ("num_epochs", "train_data_loader", "val_data_loader", "teacher", "criterion")
_TRAIN = (
    "train.log_freq",
    "train.epoch_to_update",
    "train.precision",
    "train.compile",
    "train.checkpoint_every",
    "train.checkpoint_steps",
    "train.on_bad_sample",
)


def run_fused(task: Task, flags: Mapping[str, argparse.Namespace]) -> dict[str, int]:
    """Do a task script's work for several β at once; one that fails does not stop the others.

    Args:
        task: the task.
        flags: parsed flags by β; they differ in `config` and `run_log` only.

    Returns:
        Exit codes by β, as those of separate runs.

    Raises:
        LadonError: what concerns all of them.
    """
    set_up_logging()
    scopes, stopped = Scopes(), 0
    with suppress(_NoneLeft):
        configs = scopes.each(lambda beta: load_run_config(task, flags[beta]), flags)
        try:
            _run_all(scopes, task, flags, configs)
        except Interrupted as error:
            logger.error("%s", error)
            stopped = error.exit_code
    failed = {beta: error.exit_code for beta, error in scopes.errors.items()}
    return {beta: failed.get(beta, stopped) for beta in flags}


def _run_all(
    scopes: Scopes,
    task: Task,
    flags: Mapping[str, argparse.Namespace],
    configs: Mapping[str, Config],
) -> None:
    args = next(iter(flags.values()))
    with joined_world(args) as world, suppress(_NoneLeft), catch_signals() as stop:
        if world.distributed:
            raise UsageError("--fused: runs in one process; leave it out under torchrun or srun")
        check_agreement(configs, test_only=args.test_only)
        runs = {}
        for beta, config in configs.items():
            others = tuple(other for other in flags if other != beta)
            runs[beta] = Run(task, flags[beta], config, world, stop, beta, others)
        try:
            _work(scopes, runs)
        finally:
            for run in runs.values():
                run.close()


class _NoneLeft(Exception):
    """Every run has failed, and has said so."""


class Scopes:
    """Where errors of one run stay that run's.

    Attributes:
        errors: what ended runs, by β.
    """

    def __init__(self) -> None:
        self.errors: dict[str, LadonError] = {}

    @contextmanager
    def scope(self, beta: str) -> Iterator[None]:
        """Within it, log lines and failures concern one run; a signal concerns all."""
        with log_context(beta):
            try:
                yield
            except Interrupted:
                raise
            except LadonError as error:
                logger.error("%s", error)
                self.errors[beta] = error

    def left(self, by_beta: Mapping[str, _Value]) -> dict[str, _Value]:
        """Return what belongs to runs that did not fail.

        Raises:
            _NoneLeft: there is none.
        """
        left = {beta: value for beta, value in by_beta.items() if beta not in self.errors}
        if not left:
            raise _NoneLeft
        return left

    def each(self, function: Callable[[str], _Value], betas: Iterable[str]) -> dict[str, _Value]:
        """Call a function for each run that is left, within its scope; return what it returned.

        Raises:
            _NoneLeft: there is no run left, before or after.
        """
        results = {}
        for beta in self.left(dict.fromkeys(betas)):
            with self.scope(beta):
                results[beta] = function(beta)
        return self.left(results)


def _work(scopes: Scopes, runs: Mapping[str, Run]) -> None:
    """Do what `ladon.app` does for one run."""
    scopes.each(lambda beta: runs[beta].open(), runs)
    first = next(iter(runs.values()))
    if first.args.dry_run:
        scopes.each(lambda beta: dry_run(runs[beta]), runs)
        return
    teachers = _build_teachers(scopes, scopes.left(runs))
    students = scopes.each(lambda beta: build_student(runs[beta]), runs)
    first = runs[next(iter(students))]
    final_evaluation = FinalEvaluation.open(first)
    startup = seconds_since_start()
    if not first.args.test_only:
        students = _train(scopes, runs, students, teachers)
    if first.args.student_only:
        teachers = {}
    results = _test(scopes, runs, students, teachers, final_evaluation)
    tested_on = final_evaluation.dataset
    scopes.each(lambda beta: write_results(runs[beta], tested_on, results[beta], startup), results)


def _build_teachers(scopes: Scopes, runs: Mapping[str, Run]) -> dict[str, nn.Module]:
    """Build one teacher for all, or one each where their configs name different ones."""
    wanting = {beta: run for beta, run in runs.items() if run.wants_teacher}
    if len({run.config.dump(TEACHER) for run in wanting.values()}) == 1:
        first = next(iter(wanting.values()))
        teacher = build_teacher(first)
        for run in wanting.values():
            run.tested_files["teacher"] = first.tested_files["teacher"]
        return dict.fromkeys(wanting, teacher)
    return scopes.each(lambda beta: build_teacher(wanting[beta]), wanting) if wanting else {}


def _train(
    scopes: Scopes,
    runs: Mapping[str, Run],
    students: Mapping[str, nn.Module],
    teachers: Mapping[str, nn.Module],
) -> dict[str, nn.Module]:
    """Train the students; return those that have the best checkpoints' weights then."""
    first = next(iter(students))
    seed_everything(runs[first].seed)
    trainers = {beta: StudentTrainer(runs[beta], student) for beta, student in students.items()}
    train(FusedTrainer(scopes, trainers), teachers.get(first))

    def take_best(beta: str) -> nn.Module:
        load_best(runs[beta], students[beta])
        return students[beta]

    return scopes.each(take_best, students)


def _test(
    scopes: Scopes,
    runs: Mapping[str, Run],
    students: Mapping[str, nn.Module],
    teachers: Mapping[str, nn.Module],
    final_evaluation: FinalEvaluation,
) -> dict[str, dict[str, Evaluation]]:
    """Test teachers and students in one pass over the data; return results by β and role."""
    run = runs[next(iter(students))]
    classes = common_classes([runs[beta].classes for beta in students])
    final_evaluation.prepare(run, classes, list(students.values()))
    teachers = {beta: teacher for beta, teacher in teachers.items() if beta in students}
    models = list({id(model): model for model in (*teachers.values(), *students.values())}.values())
    found = dict(zip(map(id, models), final_evaluation.evaluate(run, models), strict=True))
    results: dict[str, dict[str, Evaluation]] = {}
    for beta, student in students.items():
        tested = {"teacher": teachers[beta]} if beta in teachers else {}
        results[beta] = {role: found[id(m)] for role, m in (tested | {"student": student}).items()}
    for beta, by_role in results.items():
        for role, evaluation in by_role.items():
            with scopes.scope(beta):
                announce(runs[beta], role)
                evaluation.log()
    return results


class FusedTrainer:
    """Students that go through the training loop in step with each other.

    One that fails is left out from there on.

    Args:
        scopes: where it is kept why one failed.
        trainers: by β; their configs agree (`check_agreement`).
    """

    def __init__(self, scopes: Scopes, trainers: Mapping[str, StudentTrainer]) -> None:
        self._scopes, self._trainers = scopes, trainers
        self.run = next(iter(trainers.values())).run  # whose data all learn from
        self._device = self.run.world.device
        self._generators = dict.fromkeys(trainers, global_states(self._device))
        self._teaching: StudentTrainer | None = None

    def _each(self, function: Callable[[StudentTrainer], _Value]) -> dict[str, _Value]:
        """Call a function for each student that is left, which draws from its own generators."""

        def call(beta: str) -> _Value:
            restore_global_states(self._generators[beta], self._device)
            result = function(self._trainers[beta])
            self._generators[beta] = global_states(self._device)
            return result

        return self._scopes.each(call, self._trainers)

    @property
    def _left(self) -> dict[str, StudentTrainer]:
        return self._scopes.left(self._trainers)

    @property
    def progress(self) -> Progress:
        """How far all of them are."""
        return next(iter(self._left.values())).progress

    @property
    def models(self) -> list[nn.Module]:
        """The models that learn."""
        return [trainer.student for trainer in self._left.values()]

    @property
    def at_boundary(self) -> bool:
        """Whether no gradients are waiting to be accumulated further."""
        return all(trainer.at_boundary for trainer in self._left.values())

    def take_classes(self, names: Sequence[str] | None, source: str) -> None:
        """Take the names of the classes that are trained on."""
        for trainer in self._trainers.values():
            trainer.take_classes(names, source)

    def resume(self) -> None:
        """Take up what earlier runs left, if that is asked for.

        Raises:
            UsageError: they would have to go on from different places.
        """
        self._each(StudentTrainer.resume)
        progresses = [trainer.progress for trainer in self._left.values()]
        first = min(progresses, key=lambda at: (at.epoch, at.step, at.finished))
        if not first.finished:
            self._each(lambda trainer: trainer.go_back_to(first.epoch, first.step))
        places: dict[str, list[str]] = {}
        for beta, trainer in self._left.items():
            at = trainer.progress
            place = "the end" if at.finished else f"epoch {at.epoch}, step {at.step}"
            places.setdefault(place, []).append(beta)
        if len(places) > 1:
            text = "; ".join(f"β {', '.join(betas)} at {place}" for place, betas in places.items())
            raise UsageError(
                f"--fused --resume: the runs stand at different places ({text}): resume them "
                "separately, without --fused"
            )

    def enter(self, plan: StagePlan, teacher: nn.Module | None, batches: int) -> None:
        """Build a stage for each; one runs the teacher for all, even if its student fails later."""
        self._teaching = None

        def enter(trainer: StudentTrainer) -> None:
            trainer.enter(plan, None if self._teaching else teacher, batches)
            self._teaching = self._teaching or trainer

        self._each(enter)

    def leave(self) -> None:
        """Leave the stage."""
        self._teaching = None
        for trainer in self._trainers.values():
            trainer.leave()

    def begin_epoch(self, update_epoch: int | None, smallest_batch: int) -> None:
        """Get ready for an epoch."""
        self._each(lambda trainer: trainer.begin_epoch(update_epoch, smallest_batch))

    def teacher_forward(self, batch: TrainingBatch) -> dict[str, Any]:
        """Return what is read of the teacher."""
        assert self._teaching is not None, "no stage has been entered"
        return self._teaching.teacher_forward(batch)

    def note_bad(self, found: Sequence[BadSample], size: int) -> None:
        """Note which samples of the next batch were replaced."""
        self._each(lambda trainer: trainer.note_bad(found, size))

    def learn(self, batch: TrainingBatch, teacher_io: dict[str, Any]) -> None:
        """Take one step."""
        self._each(lambda trainer: trainer.learn(batch, teacher_io))

    def log_step(self, steps: int, batch: int) -> None:
        """Log where the epoch stands."""
        self._each(lambda trainer: trainer.log_step(steps, batch))

    def read_losses(self) -> None:
        """Wait for the losses so far, and look at them."""
        self._each(StudentTrainer.read_losses)

    def close_epoch(self) -> None:
        """Look at the weights before they are validated."""
        self._each(StudentTrainer.close_epoch)

    def end_epoch(
        self, steps: int, dataset_id: str | None, results: Sequence[Evaluation] | None
    ) -> None:
        """Keep what is best so far, and what resumed runs need."""
        by_student = dict(zip(map(id, self.models), results or [], strict=False))

        def end(trainer: StudentTrainer) -> None:
            found = by_student.get(id(trainer.student))
            trainer.end_epoch(steps, dataset_id, None if found is None else [found])

        self._each(end)

    def save_interrupted(self) -> list[Path]:
        """Save the states in the middle of an epoch; return the files of those that could be."""
        try:
            saved = self._each(StudentTrainer.save_interrupted)
        except _NoneLeft:
            return []
        return [path for paths in saved.values() for path in paths]

    def save_within_epoch(self) -> None:
        """Save the states at a step's boundary, while the training goes on."""
        self._each(StudentTrainer.save_within_epoch)

    def finish(self) -> None:
        """Note that all stages are done."""
        self._each(StudentTrainer.finish)


def check_agreement(configs: Mapping[str, Config], *, test_only: bool) -> None:
    """Compare what runs share when their data is loaded once.

    Args:
        configs: by β.
        test_only: nothing is trained.

    Raises:
        UsageError: names the first key that differs, and where.
    """
    (beta, first), *others = configs.items()
    for other_beta, other in others:
        for key in _shared_keys([first, other], test_only):
            if _value(first, key) != _value(other, key):
                raise UsageError(
                    f"--fused: {key} differs between β {beta} ({first.where(key)}) and β "
                    f"{other_beta} ({other.where(key)}), but the runs would share it; leave out "
                    "--fused to run them one by one"
                )
    if not test_only:
        _check_own_checkpoints(configs)


def _value(config: Config, key: str) -> Any:
    """Return a key's text, resolved; of a criterion only what it reads of a teacher."""
    if key.endswith(".criterion"):
        return paths_read_of_teacher(config.section(key))
    return config.dump(key)


def _shared_keys(configs: Sequence[Config], test_only: bool) -> list[str]:
    keys = list(_TESTED)
    if not test_only:
        stages = [
            f"train.{name}" if str(name).startswith("stage") else "train"
            for config in configs
            for name in config.section("train")
        ]
        keys += [f"{stage}.{name}" for stage in dict.fromkeys(stages) for name in _TRAINED]
        keys += [*_TRAIN, "models.teacher_model"]
    loaders = [key for key in keys if key.endswith("data_loader")]
    ids = [config.get(f"{key}.dataset_id") for key in loaders for config in configs]
    return keys + [f"datasets.{name}" for name in dict.fromkeys(ids) if name is not None]


def _check_own_checkpoints(configs: Mapping[str, Config]) -> None:
    """Refuse two students with one place for their best checkpoint."""
    taken: dict[str, str] = {}
    for beta, config in configs.items():
        for key in ("models.student_model.dst_ckpt", "models.model.dst_ckpt"):
            path = config.get(key)
            if path is not None and taken.setdefault(path, beta) != beta:
                raise UsageError(
                    f"--fused: {key} is {path} for β {taken[path]} and β {beta} "
                    f"({config.where(key)}): each needs its own"
                )
