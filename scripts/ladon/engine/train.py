"""Training of any task: a list of stages, each built when it is entered.

Usually one student learns; those of a fused sweep share each batch and one forward pass of the
teacher, and each has the rest to itself (``ladon.engine.learner``).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, NoReturn

from torch import nn

from ladon.data.batching import iterate
from ladon.data.class_names import class_names
from ladon.data.loaders import EpochBatches, build_train_loader
from ladon.engine.distributed import Vote
from ladon.engine.evaluate import Evaluation, evaluate_all
from ladon.engine.failures import ACCELERATOR_ERRORS, device_failure
from ladon.engine.forwarding import batch_names, naming_images
from ladon.engine.learner import Learner
from ladon.engine.plan import (
    LOADERS,
    TRAIN_LOADER,
    VAL_LOADER,
    Plan,
    StagePlan,
    build_stage_section,
    read_plan,
)
from ladon.engine.stage import Stage
from ladon.errors import Interrupted, UsageError
from ladon.logs import progress as progress_bar

logger = logging.getLogger(__name__)


def train(learners: Sequence[Learner], teacher: nn.Module | None) -> None:
    """Trains students through all stages of their config; the best checkpoints are on disk then.

    One of several that fails is left out from there on; its ``run.member`` says why.

    Args:
        learners: the students; their configs agree (``together.check_agreement``).
        teacher: model they learn from, on its device, or None.

    Raises:
        Interrupted: after a signal, with ``last`` written.
        LadonError: of one learner alone, for a loss that is not finite, with ``last`` as it was.
    """
    Training(learners, teacher).run_stages()


class Training:
    """The one training loop: the learners go through it in step with each other."""

    def __init__(self, learners: Sequence[Learner], teacher: nn.Module | None) -> None:
        self._learners, self._teacher = learners, teacher
        self._run = learners[0].run  # whose data all learn from
        self._plan: Plan = read_plan(self._run.config)
        self._teaching: Stage | None = None
        self._vote = Vote(self._run.world)

    @property
    def _left(self) -> list[Learner]:
        """The learners that did not fail."""
        return [learner for learner in self._learners if learner.run.member.error is None]

    def run_stages(self) -> None:
        """Runs every stage that is not done yet."""
        start = time.perf_counter()
        for learner in self._left:
            with learner.own():
                learner.resume()
        if not self._left:
            return
        self._check_in_step()
        progress = self._left[0].progress
        epoch = self._plan.num_epochs if progress.finished else progress.epoch
        stages = [plan for plan in self._plan.stages if epoch < plan.end_epoch]
        if not stages:
            logger.info(
                "Nothing is left to train: all %d epochs are done; the test follows",
                self._plan.num_epochs,
            )
        self._open_datasets(stages)
        for plan in stages:
            self._run_stage(plan)
        for learner in self._left:
            with learner.own():
                learner.finish()
        logger.info("Training time %s", timedelta(seconds=int(time.perf_counter() - start)))
        self._run.world.barrier()

    @property
    def _at_boundary(self) -> bool:
        """Whether no learner's gradients are waiting to be accumulated further."""
        return all(learner.stage.at_boundary for learner in self._left)

    def _check_in_step(self) -> None:
        """Refuses learners that would have to go on from different places."""
        places: dict[str, list[str]] = {}
        for learner in self._left:
            at = learner.progress
            place = "the end" if at.finished else f"epoch {at.epoch}, step {at.step}"
            places.setdefault(place, []).append(str(learner.run.member.beta))
        if len(places) > 1:
            text = "; ".join(f"β {', '.join(betas)} at {place}" for place, betas in places.items())
            raise UsageError(
                f"--fused --resume: the runs stand at different places ({text}): resume them "
                "separately, without --fused"
            )

    def _open_datasets(self, stages: list[StagePlan]) -> None:
        """Builds all data that is still needed: what is missing must not show after hours."""
        for plan in stages:
            self._training_set(plan)
            validated = self._run.config.get(f"{plan.key}.{VAL_LOADER}.dataset_id")
            if validated is not None:
                self._run.dataset(validated)
        if stages:  # what is wrong with its classes shows now, too
            tested = self._run.config.get("test.test_data_loader.dataset_id")
            if tested is not None:
                self._run.dataset(tested)

    def _training_set(self, plan: StagePlan) -> Any:
        """Returns a stage's training set, which gives the labels their meaning from here on."""
        dataset_id = self._run.config.get(f"{plan.key}.{TRAIN_LOADER}.dataset_id")
        self._run.classes.take(None, "")
        dataset = self._run.dataset(dataset_id)
        for run in [self._run, *(learner.run for learner in self._left)]:
            run.classes.take(class_names(dataset), f"the training set {dataset_id}")
        return dataset

    def _run_stage(self, plan: StagePlan) -> None:
        left, run = self._left, self._run
        if not left:
            return
        train_section, val_section = (
            run.config.build(run.config.section(f"{plan.key}.{name}")) for name in LOADERS
        )
        logger.info("Started %s: epochs %d-%d", plan.name, plan.first_epoch, plan.end_epoch - 1)
        loader = build_train_loader(
            self._training_set(plan),
            train_section,
            run.seed,
            run.world.rank,
            run.world.size,
            pin_memory=run.world.device.type == "cuda",
        )
        loader.batch_sampler.set_epoch(left[0].progress.epoch)
        steps = len(loader.batch_sampler)
        try:
            for learner in left:
                with learner.own():
                    section = build_stage_section(learner.run.config, plan)
                    # one stage runs the teacher for all, even if its own student fails later
                    learner.enter(plan, section, None if self._teaching else self._teacher, steps)
                    self._teaching = self._teaching or learner.stage
            while self._left and self._left[0].progress.epoch < plan.end_epoch:
                self._run_epoch(plan, loader, val_section)
        except ACCELERATOR_ERRORS as error:
            where = f"{plan.name} on {train_section['dataset_id']}"
            raise device_failure(error, run.world.device, where) from error
        finally:
            self._teaching = None
            for learner in self._learners:
                learner.leave()

    def _run_epoch(self, plan: StagePlan, loader: Any, val_section: Mapping[str, Any]) -> None:
        self._train_epoch(plan, loader)
        for learner in self._left:
            self._run.world.share_buffers(learner.student)
            with learner.own():
                learner.check_weights()
        learners = self._left
        results = self._validate(learners, val_section)
        for learner, found in zip(learners, results, strict=True):
            with learner.own():
                steps = len(loader.batch_sampler)
                learner.end_epoch(steps, val_section.get("dataset_id"), found)

    def _train_epoch(self, plan: StagePlan, loader: Any) -> None:
        run, order = self._run, loader.batch_sampler
        at = self._left[0].progress
        order.set_epoch(at.epoch, skip=at.step)
        steps, step = len(order), at.step
        for learner in self._left:
            with learner.own():
                learner.begin_epoch(self._plan.update_epoch, order.smallest)
        with progress_bar(f"Epoch {at.epoch} ({plan.name})", steps - step) as advance:
            for batch in iterate(loader):
                self._learn(batch, step, steps, order)
                if not self._left:
                    return
                step += 1
                advance(1)
                if self._at_boundary and self._vote.ask(run.stop.signum):
                    self._interrupt()
        # asked in any case: a vote must not be left under way
        if self._vote.settle() and self._at_boundary:
            self._interrupt()
        for learner in self._left:
            with learner.own():
                learner.read_losses()

    def _learn(self, batch: Sequence[Any], step: int, steps: int, order: EpochBatches) -> None:
        """Teaches all students one batch.

        A method of its own, so that the teacher's features are gone before the next batch's come.
        """
        images, targets, supp = batch
        images, targets = self._run.task.move(images, targets, self._run.world.device)

        def names() -> str:
            indices = [index for _, index in list(order)[step - order.skip]]
            return batch_names(order.dataset, indices)

        with naming_images(names, "the teacher cannot take"):
            teacher_io = self._teaching.teacher_forward(images, targets, supp)
        for learner in self._left:
            with learner.own():
                learner.learn(images, targets, supp, teacher_io, names)
                if step % self._plan.log_freq == 0:
                    learner.log_step(steps, len(images))

    def _validate(
        self, learners: Sequence[Learner], section: Mapping[str, Any]
    ) -> Sequence[Evaluation | None]:
        """Validates the students, each image loaded once for all of them."""
        run = self._run
        if not section or not learners:
            return [None] * len(learners)
        results = evaluate_all(
            [learner.student for learner in learners],
            run.dataset(section["dataset_id"]),
            section,
            run.task,
            run.world,
            run.stop,
            options=run.options,
            mode="encode",
            precision=run.setting("precision", "train", "float32"),
            title=f"Validation {learners[0].progress.epoch}",
        )
        if results is None:
            self._interrupt()
        for learner, found in zip(learners, results, strict=True):
            with learner.own():
                found.log()
        return results

    def _interrupt(self) -> NoReturn:
        for learner in self._left:
            with learner.own():
                learner.read_losses()
                learner.check_weights()
                learner.save_last()
        signum, saved = self._run.world.maximum(self._run.stop.signum), self._left
        if not saved:
            raise Interrupted(signum, "interrupted; no run had a state that could be saved")
        at, paths = saved[0].progress, [str(learner.run.last_path) for learner in saved]
        raise Interrupted(
            signum,
            f"interrupted in epoch {at.epoch} after step {at.step}; "
            f"{' and '.join(paths)} {'is' if len(paths) == 1 else 'are'} saved: add --resume to "
            "the same command to go on",
        )
