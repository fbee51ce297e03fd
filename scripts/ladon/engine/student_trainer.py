"""A student that is trained, with everything that is its own: stage, progress, noise, files."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

from torch import nn

from ladon.bottlenecks import find_bottleneck, update_bottleneck, use_own_noise
from ladon.bottlenecks.entropy import set_tables, tables
from ladon.data.bad_samples import BadSample
from ladon.engine.earlier import bring_best
from ladon.engine.epoch_sums import EpochMeans, EpochMeter
from ladon.engine.evaluation import Evaluation
from ladon.engine.finite import not_finite
from ladon.engine.forwarding import TrainingBatch, naming_images
from ladon.engine.loss_meter import LossMeter
from ladon.engine.plan import StagePlan, build_stage_section
from ladon.engine.resume import Progress, Resumed, forget_best, load_last, save_last
from ladon.engine.run import Run
from ladon.engine.stage import Stage, setting_up
from ladon.errors import LadonError
from ladon.models.checkpoint import write_checkpoint

logger = logging.getLogger(__name__)


class StudentTrainer:
    """A student in training.

    Attributes:
        run: its run.
        student: the model that learns.
        progress: how far it is.
        stage: the stage it is in, None between stages.

    Args:
        run: the run; its best checkpoint is written in the published format.
        student: model that learns, on its device.
    """

    stage: Stage | None = None
    _plan: StagePlan
    _losses: LossMeter
    _steps: int | None = None  # batches of an epoch of the stage
    _foresees = False  # whether the epoch's first batch tells if one of a single image would fail
    _begun: tuple[float, float, int]  # clock, seconds and steps of the epoch when it was taken up

    def __init__(self, run: Run, student: nn.Module) -> None:
        self.run, self.student = run, student
        self._best_path = run.best_path
        self._noise = use_own_noise(
            student, run.seed * 1_000_003 + run.world.rank, run.world.device
        )
        self._resumed: Resumed | None = None
        self.progress = Progress(epoch=run.args.start_epoch)
        self._identity = run.identity
        # a mask of infinities that a model is built with is not what learning has spoilt
        learnt = {name for name, _ in student.named_parameters()}
        self._never_finite = {name for name in not_finite(student) if name not in learnt}
        self._meter, self._within = EpochMeter(), ExitStack()  # what lasts as long as a stage

    @property
    def models(self) -> list[nn.Module]:
        """The models that learn."""
        return [self.student]

    @property
    def _entered(self) -> Stage:
        assert self.stage is not None, "no stage has been entered"
        return self.stage

    @property
    def at_boundary(self) -> bool:
        """Whether no gradients are waiting to be accumulated further."""
        return self._entered.at_boundary

    def take_classes(self, names: Sequence[str] | None, source: str) -> None:
        """Take the names of the classes that are trained on."""
        self.run.classes.take(names, source)

    def resume(self) -> None:
        """Take up what `last.pt` holds, if it is asked for and there."""
        run = self.run
        there = run.world.broadcast(run.last_path.is_file())
        if run.args.resume and there:
            self._resumed = load_last(run.last_path, self.student, run.take_last())
            self.progress = self._resumed.progress
        elif run.args.resume:
            logger.info("Nothing to resume: %s does not exist; starting anew", run.last_path)
        if self._resumed is not None:
            self._bring_files()
        else:
            run.journal.begin(self.progress.epoch)

    def go_back_to(self, epoch: int, step: int) -> None:
        """Go back to the one before `last.pt` if that was saved there.

        Students that share their batches save at the same places, one after the other: a kill
        between them leaves some a save ahead.
        """
        last, at = self.run.last, self.progress
        if (at.epoch, at.step, at.finished) == (epoch, step, False) or not last.backup.is_file():
            return
        found = load_last(last.backup, self.student)
        if (found.progress.epoch, found.progress.step) == (epoch, step):
            last.go_back()
            self._resumed, self.progress = found, found.progress
            self._bring_files()

    def _bring_files(self) -> None:
        """Bring the files of the run to where it goes on."""
        run = self.run
        if self._resumed is not None:
            self._resumed.restore_sums(run.world)
        run.journal.begin(self.progress.epoch)
        if run.world.is_main:
            run.bad_samples.load(None if self._resumed is None else self._resumed.bad_samples)
            if self.progress.best_epoch is not None and run.best_before is not None:
                bring_best(run.best_before, self._best_path)
        if not run.world.broadcast(self._best_path.is_file()):
            forget_best(self.progress, self._best_path, run.last_path)

    def enter(self, plan: StagePlan, teacher: nn.Module | None, batches: int) -> None:
        """Build a stage, or bring it to where the run goes on.

        Args:
            plan: the stage's place in the training.
            teacher: the teacher, if it is this stage that runs it.
            batches: of an epoch, over all processes.

        Raises:
            ConfigError: if the stage cannot be built.
            UsageError: if it cannot be gone on with.
        """
        run, self._plan = self.run, plan
        steps = math.ceil(batches / run.world.size)
        section = build_stage_section(run.config, plan)
        lr_factor = float(run.world.size) if run.args.adjust_lr else 1.0
        with setting_up(run.place(plan.key)):
            self.stage = Stage(
                section,
                self.student,
                teacher,
                steps,
                run.world,
                lr_factor,
                precision=run.setting("precision", "train", "float32"),
                compile_layers=run.setting("compile", "train", False),
                greater_is_better=run.task.decisive.greater_is_better,
            )
        self._within.enter_context(self._meter.watching(self.student))
        done, self._steps = self.progress.epoch - plan.first_epoch, steps
        if self._resumed is not None:
            if self._resumed.stage is not None and (done or self.progress.step):
                self._resumed.bring_stage(
                    self._entered, self._plan.name, done, batches, run.world, run.args.adjust_lr
                )
            self._resumed.restore_generators(run.world, self._noise)
            self._resumed = None
        elif done:
            self._entered.skip_epochs(done, steps)

    def leave(self) -> None:
        """Leave the stage."""
        self._within.close()
        if self.stage is not None:
            self.stage.close()
            self.stage = None

    def begin_epoch(self, update_epoch: int | None, smallest_batch: int = 0) -> None:
        """Entropy coding begins when it is due; then the student is put into train mode.

        Args:
            update_epoch: the epoch in which it is due.
            smallest_batch: images in the epoch's smallest batch, if known.
        """
        progress = self.progress
        self._foresees = smallest_batch == 1
        if update_epoch is not None and progress.epoch >= update_epoch:
            self._update_bottleneck()
        self._entered.begin_epoch()
        self._begun = time.perf_counter(), progress.seconds, progress.step
        self._losses = LossMeter(progress.loss_sum, progress.step, self.run.world.device)
        self._meter.begin(progress, self.run.world.device)

    def _update_bottleneck(self) -> None:
        """Build the CDF tables and turn entropy coding on; equal tables in every process."""
        bottleneck = find_bottleneck(self.student)
        if bottleneck is None or bottleneck.updated:
            return
        logger.info("Updating entropy bottleneck")
        update_bottleneck(self.student)
        built = {name: table.cpu() for name, table in tables(bottleneck).items()}
        set_tables(bottleneck, self.run.world.broadcast(built))

    def teacher_forward(self, batch: TrainingBatch) -> dict[str, Any]:
        """Return what the stage's losses read of the teacher."""
        return self._entered.teacher_forward(batch.images, batch.targets, batch.supp)

    def note_bad(self, found: Sequence[BadSample], size: int) -> None:
        """Note which samples of the next batch were replaced.

        Args:
            found: the samples.
            size: of their data set.

        Raises:
            DataError: there are too many.
        """
        self.run.bad_samples.take(found, size)

    def learn(self, batch: TrainingBatch, teacher_io: dict[str, Any]) -> None:
        """Take one step on a batch.

        Args:
            batch: on the student's device.
            teacher_io: what the teacher made of it.

        Raises:
            LadonError: for a batch that the student cannot take, and for a loss that is not finite,
                before it is learnt from on a CPU.
        """
        progress = self.progress
        with ExitStack() as within:
            what = f"{self._plan.name}: the student or its losses cannot take"
            within.enter_context(naming_images(batch.names, what))
            if self._foresees:
                key = f"{self._plan.key}.train_data_loader.kwargs.batch_size"
                where = self.run.place(key)
                number = len(batch.images)
                within.enter_context(self._entered.foreseeing_single_image(number, where))
                self._foresees = False
            loss = self._entered.student_loss(batch.images, batch.targets, batch.supp, teacher_io)
        self._losses.add(loss)
        if self.run.world.device.type == "cpu":  # reading a loss makes nothing wait here
            self.read_losses()
        stage = self._entered
        stage.step(loss)
        self._meter.add(batch.images, stage.loss.weighted_terms(), stage.auxiliary)
        progress.step += 1
        progress.batches += self.run.world.size
        clock, seconds, _ = self._begun
        progress.seconds = seconds + time.perf_counter() - clock

    def read_losses(self) -> float:
        """Wait for the losses so far; return the last one.

        Raises:
            LadonError: if one of them was not finite.
        """
        value, self.progress.loss_sum, bad = self._losses.read()
        if bad is None:
            return value
        terms = ", ".join(f"{name} {v:g}" for name, v in self._entered.loss.terms().items())
        raise LadonError(
            f"loss is {bad[1]} in {self._plan.name}, epoch {self.progress.epoch}, step {bad[0]} "
            f"(last batch: {terms}); {self._kept}. "
            "Lower the learning rate or look at the data"
        )

    @property
    def _kept(self) -> str:
        """Says what is left of the run that fails."""
        path = self.run.last_path
        return f"{path} keeps the last good state" if path.is_file() else "nothing was saved yet"

    def close_epoch(self) -> None:
        """Share what the processes hold apart, and look at all weights before they are validated.

        Raises:
            LadonError: if one is not finite.
        """
        self.run.world.share_buffers(self.student)
        self.check_weights()

    def check_weights(self) -> None:
        """Look at all weights, before they are validated or saved.

        Raises:
            LadonError: if one is not finite.
        """
        bad = [name for name in not_finite(self.student) if name not in self._never_finite]
        if not bad:
            return
        at = self.progress
        more = f" and {len(bad) - 1} more tensors" if len(bad) > 1 else ""
        raise LadonError(
            f"weights are not finite (NaN or infinite) in {self._plan.name}, epoch {at.epoch}, "
            f"after step {at.step - 1}: {bad[0]}{more}; they are not saved, {self._kept}. "
            "Lower the learning rate or look at the data"
        )

    def log_step(self, steps: int, batch: int) -> None:
        """Log where the epoch stands.

        Args:
            steps: of the epoch.
            batch: number of images in the last batch.
        """
        progress, loss, lr = self.progress, self.read_losses(), self._entered.learning_rates[0]
        clock, _, first_step = self._begun
        steps_per_s = (progress.step - first_step) / (time.perf_counter() - clock)
        eta = timedelta(seconds=int((steps - progress.step) / steps_per_s))
        logger.info(
            "Epoch: [%d]\t[%d/%d]\teta: %s\tlr: %.6g\timg/s: %.2f\tloss: %.4f (%.4f)",
            progress.epoch,
            progress.step - 1,
            steps,
            eta,
            lr,
            steps_per_s * batch,
            loss,
            progress.loss_sum / progress.step,
        )
        self.run.journal.step({"loss": loss, "lr": lr}, progress.epoch * steps + progress.step)

    def end_epoch(
        self, steps: int, dataset_id: str | None, results: Sequence[Evaluation] | None
    ) -> None:
        """Keep the student if it is the best so far, and all that a resumed run needs.

        Args:
            steps: of the epoch.
            dataset_id: what it was validated on.
            results: the validation of `models`, None where the stage has none.
        """
        progress = self.progress
        found = None if results is None else results[0]
        if found is not None:
            found.log()
        value = None if found is None else float(found.metrics[self.run.task.decisive.key])
        is_best = self._keep_best(dataset_id, value)
        # counted before the schedule moves on, with the learning rates of this epoch
        self._record(steps, found, is_best)
        self._entered.end_epoch(value)
        progress.next_epoch()
        self.save_last(between_stages=progress.epoch == self._plan.end_epoch)

    def _keep_best(self, dataset_id: str | None, value: float | None) -> bool:
        """Write the best checkpoint if this epoch is better on the same validation set."""
        progress = self.progress
        if dataset_id != progress.best_dataset:
            progress.best_value, progress.best_dataset = None, dataset_id
        score = self.run.task.decisive
        best = progress.best_value
        if value is not None and best is not None and not score.is_better(value, than=best):
            return False
        if value is not None:
            was = "none" if progress.best_value is None else f"{progress.best_value:.4f}"
            logger.info("Best %s: %s -> %.4f", score.key, was, value)
        progress.best_value, progress.best_epoch = value, progress.epoch
        if self.run.world.is_main:
            state = self._entered.state_dict()
            write_checkpoint(
                self._best_path,
                self.student,
                optimizer=state["optimizer"],
                lr_scheduler=state["scheduler"],
                best_value=value,
                args=self.run.args,
                classes=self.run.classes.names,
            )
        return True

    def _record(self, steps: int, found: Evaluation | None, is_best: bool) -> None:
        progress = self.progress
        progress.sums = self._meter.read()
        record = {
            "stage": self._plan.number,
            "epoch": progress.epoch,
            "steps": steps,
            "lr": self._entered.learning_rates,
            **EpochMeans.of(progress, self.run.world).record(progress.seconds),
            "best": is_best,
        }
        if self.run.skips_bad:
            record["skipped"] = self.run.share_bad().in_epoch
            self.run.bad_samples.in_epoch = 0
        if found is not None:
            record |= found.record()
        self.run.log_epoch(record)

    def save_last(self, *, between_stages: bool = False, behind: bool = False) -> None:
        """Write what a resumed run goes on from."""
        run, stage = self.run, None if between_stages else self.stage
        save_last(
            run.last,
            self.student,
            stage,
            self.progress,
            run.world,
            self._noise,
            identity=self._identity,
            steps=self._steps,
            bad_samples=run.share_bad().state() if run.skips_bad else None,
            behind=behind,
        )

    def save_interrupted(self) -> list[Path]:
        """Save what a resumed run goes on from in the middle of an epoch; return where.

        Raises:
            LadonError: if a loss or a weight is not finite.
        """
        self.save_within_epoch(behind=False)
        return [self.run.last_path]

    def save_within_epoch(self, *, behind: bool = True) -> None:
        """Save what a resumed run goes on from, at a step's boundary.

        Args:
            behind: while the training goes on.

        Raises:
            LadonError: if a loss or a weight is not finite, which is not saved.
        """
        self.read_losses()
        self.progress.sums = self._meter.read()
        self.check_weights()
        self.save_last(behind=behind)

    def finish(self) -> None:
        """Note that all stages are done."""
        self.progress.finished = True
        self.save_last()
