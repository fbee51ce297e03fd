"""Training of any task: a list of stages, each built when it is entered."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn, Protocol

from torch import nn

from ladon.data.bad_samples import BadSample
from ladon.data.batching import end_workers, unpacked_batches
from ladon.data.class_names import class_names
from ladon.data.loaders import EpochBatchSampler, build_train_loader
from ladon.engine.distributed import Vote
from ladon.engine.evaluate import evaluate_all
from ladon.engine.evaluation import Evaluation
from ladon.engine.failures import ACCELERATOR_ERRORS, device_failure
from ladon.engine.forwarding import TrainingBatch, batch_names, naming_images
from ladon.engine.plan import LOADERS, TRAIN_LOADER, VAL_LOADER, StagePlan
from ladon.engine.resume import Progress
from ladon.engine.run import Run
from ladon.errors import Interrupted
from ladon.logs import progress as progress_bar

logger = logging.getLogger(__name__)

# in a vote: below every signal that stops a run
_SAVE = 1


class Trainee(Protocol):
    """Whoever goes through the training loop: a `StudentTrainer`, or those of a fused sweep.

    Attributes:
        run: whose data it learns from.
    """

    run: Run

    @property
    def progress(self) -> Progress:
        """How far it is."""

    @property
    def models(self) -> list[nn.Module]:
        """The models that learn."""

    @property
    def at_boundary(self) -> bool:
        """Whether no gradients are waiting to be accumulated further."""

    def resume(self) -> None:
        """Take up what an earlier run left, if that is asked for."""

    def take_classes(self, names: Sequence[str] | None, source: str) -> None:
        """Take the names of the classes that are trained on."""

    def enter(self, plan: StagePlan, teacher: nn.Module | None, batches: int) -> None:
        """Build a stage, of so many batches an epoch over all processes."""

    def leave(self) -> None:
        """Leave the stage."""

    def begin_epoch(self, update_epoch: int | None, smallest_batch: int) -> None:
        """Get ready for an epoch."""

    def teacher_forward(self, batch: TrainingBatch) -> dict[str, Any]:
        """Return what is read of the teacher."""

    def note_bad(self, found: Sequence[BadSample], size: int) -> None:
        """Note which samples of the next batch were replaced, in a data set of this size."""

    def learn(self, batch: TrainingBatch, teacher_io: dict[str, Any]) -> None:
        """Take one step."""

    def log_step(self, steps: int, batch: int) -> None:
        """Log where the epoch stands."""

    def read_losses(self) -> Any:
        """Wait for the losses so far, and look at them."""

    def close_epoch(self) -> None:
        """Look at the weights before they are validated."""

    def end_epoch(
        self, steps: int, dataset_id: str | None, results: Sequence[Evaluation] | None
    ) -> None:
        """Keep what is best so far, and what a resumed run needs."""

    def save_within_epoch(self) -> None:
        """Save the state at a step's boundary, while the training goes on."""

    def save_interrupted(self) -> list[Path]:
        """Save the state in the middle of an epoch; return the files."""

    def finish(self) -> None:
        """Note that all stages are done."""


def train(trainee: Trainee, teacher: nn.Module | None) -> None:
    """Train a student through all stages of its config; the best checkpoint is on disk then.

    Args:
        trainee: the student, or several that share each batch.
        teacher: model it learns from, on its device, or None.

    Raises:
        Interrupted: after a signal, with `last.pt` written.
        LadonError: for a loss that is not finite, with `last.pt` as it was.
    """
    Trainer(trainee, teacher).run_stages()


class SavingTimes:
    """When `last.pt` is due within an epoch.

    Args:
        minutes: between two writes; 0: time does not matter.
        steps: between them; None: their number does not matter.
    """

    def __init__(self, minutes: float, steps: int | None) -> None:
        self._seconds = 60 * minutes
        self._most_steps = steps
        self.restart()

    def restart(self) -> None:
        """Begin to count: something was saved."""
        self._since, self._steps = time.monotonic(), 0

    def count_step(self) -> None:
        """Count a step."""
        self._steps += 1

    @property
    def is_due(self) -> bool:
        """Whether enough time has passed, or enough steps."""
        if self._most_steps is not None and self._steps >= self._most_steps:
            return True
        return 0 < self._seconds <= time.monotonic() - self._since


class Trainer:
    """The one training loop."""

    def __init__(self, trainee: Trainee, teacher: nn.Module | None) -> None:
        self._trainee, self._teacher = trainee, teacher
        self._run, self._plan = trainee.run, trainee.run.plan
        self._vote = Vote(self._run.world)
        self._saving = SavingTimes(self._plan.checkpoint_minutes, self._plan.checkpoint_steps)

    def run_stages(self) -> None:
        """Run every stage that is not done yet."""
        start = time.perf_counter()
        self._trainee.resume()
        progress = self._trainee.progress
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
        self._trainee.finish()
        logger.info("Training time %s", timedelta(seconds=int(time.perf_counter() - start)))
        self._run.world.barrier()

    def _open_datasets(self, stages: list[StagePlan]) -> None:
        """Build all data that is still needed: what is missing must not show after hours."""
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
        """Return a stage's training set, which gives the labels their meaning from here on."""
        dataset_id = self._run.config.get(f"{plan.key}.{TRAIN_LOADER}.dataset_id")
        self._run.classes.take(None, "")
        dataset = self._run.dataset(dataset_id)
        self._trainee.take_classes(class_names(dataset), f"the training set {dataset_id}")
        return dataset

    def _run_stage(self, plan: StagePlan) -> None:
        trainee, run = self._trainee, self._run
        train_section, val_section = (
            run.config.build(run.config.section(f"{plan.key}.{name}")) for name in LOADERS
        )
        logger.info("Started %s: epochs %d-%d", plan.name, plan.first_epoch, plan.end_epoch - 1)
        loader: Any = build_train_loader(
            self._training_set(plan),
            train_section,
            run.seed,
            run.world.rank,
            run.world.size,
            pin_memory=run.world.device.type == "cuda",
            skips_bad=run.skips_bad,
        )
        loader.batch_sampler.set_epoch(trainee.progress.epoch)
        try:
            trainee.enter(plan, self._teacher, loader.batch_sampler.total)
            while trainee.progress.epoch < plan.end_epoch:
                steps = self._train_epoch(plan, loader)
                trainee.close_epoch()
                results = self._validate(val_section)
                trainee.end_epoch(steps, val_section.get("dataset_id"), results)
                self._saving.restart()
        except ACCELERATOR_ERRORS as error:
            where = f"{plan.name} on {train_section['dataset_id']}"
            raise device_failure(error, run.world.device, where) from error
        finally:
            trainee.leave()
            end_workers(loader)

    def _train_epoch(self, plan: StagePlan, loader: Any) -> int:
        """Go through what is left of an epoch; return how many steps it has."""
        trainee, order, at = self._trainee, loader.batch_sampler, self._trainee.progress
        order.set_epoch(at.epoch, skip=at.batches)
        steps = at.step + order.remaining
        trainee.begin_epoch(self._plan.update_epoch, order.smallest)

        def note_bad(found: Sequence[BadSample]) -> None:
            trainee.note_bad(found, len(order.dataset))

        with progress_bar(f"Epoch {at.epoch} ({plan.name})", order.remaining) as advance:
            for number, batch in enumerate(unpacked_batches(loader, note_bad)):
                self._learn(batch, number, steps, order)
                advance(1)
                self._saving.count_step()
                if trainee.at_boundary:
                    self._save_if_asked(self._vote.ask(self._wish()))
        # asked in any case: a vote must not be left under way
        if self._vote.settle() > _SAVE and trainee.at_boundary:
            self._interrupt()
        trainee.read_losses()
        return steps

    def _wish(self) -> int:
        """Return what this process wants of all: to stop (the signal), to save, or nothing (0)."""
        run, saving = self._run, self._saving
        is_due = run.world.is_main and saving.is_due and not run.last.is_writing
        return run.stop.signum or int(is_due and _SAVE)

    def _save_if_asked(self, answer: int) -> None:
        if answer > _SAVE:
            self._interrupt()
        elif answer == _SAVE:
            self._trainee.save_within_epoch()
            self._saving.restart()

    def _learn(
        self, loaded: Sequence[Any], number: int, steps: int, order: EpochBatchSampler
    ) -> None:
        """Teach one batch.

        A method of its own, so that the teacher's features are gone before the next batch's come.
        """
        images, targets, supp = loaded
        images, targets = self._run.task.move(images, targets, self._run.world.device)

        def names() -> str:
            indices = [index for _, index in list(order)[number]]
            return batch_names(order.dataset, indices)

        batch = TrainingBatch(images, targets, supp, names)
        with naming_images(names, "the teacher cannot take"):
            teacher_io = self._trainee.teacher_forward(batch)
        self._trainee.learn(batch, teacher_io)
        if (self._trainee.progress.step - 1) % self._plan.log_freq == 0:
            self._trainee.log_step(steps, len(images))

    def _validate(self, section: Mapping[str, Any]) -> Sequence[Evaluation] | None:
        """Validate what learns, each image loaded once; None where the stage has no validation."""
        run = self._run
        if not section:
            return None
        results = evaluate_all(
            self._trainee.models,
            run.dataset(section["dataset_id"]),
            section,
            run.task,
            run.world,
            run.stop,
            options=run.options,
            mode="encode",
            precision=run.setting("precision", "train", "float32"),
            title=f"Validation {self._trainee.progress.epoch}",
        )
        if results is None:
            self._interrupt()
        return results

    def _interrupt(self) -> NoReturn:
        signum = self._run.world.maximum(self._run.stop.signum)
        at, saved = self._trainee.progress, self._trainee.save_interrupted()
        if not saved:
            raise Interrupted(signum, "interrupted; no run had a state that could be saved")
        raise Interrupted(
            signum,
            f"interrupted in epoch {at.epoch} after step {at.step}; "
            f"{' and '.join(map(str, saved))} {'is' if len(saved) == 1 else 'are'} saved: add "
            "--resume to the same command to go on",
        )
