"""Training of any task: a list of stages, each built when it is entered."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from torch import nn

from ladon.data.loaders import build_train_loader, iterate
from ladon.engine.evaluate import Evaluation, evaluate
from ladon.engine.losses import LossRecord
from ladon.engine.plan import LOADERS, Plan, StagePlan, build_stage_section, read_plan
from ladon.engine.run import Run
from ladon.engine.stage import Stage
from ladon.engine.state import Progress, Resumed, load_last, save_last
from ladon.errors import ConfigError, Interrupted, LadonError, in_one_line
from ladon.logs import progress as progress_bar
from ladon.models.bottleneck import CDF_TABLES, find_bottleneck, update_bottleneck, use_own_noise
from ladon.models.checkpoint import write_checkpoint

logger = logging.getLogger(__name__)


def train(run: Run, student: nn.Module, teacher: nn.Module | None, best_path: Path) -> None:
    """Trains a student through all stages of its config; the best checkpoint is on disk then.

    Args:
        run: the run.
        student: model that learns, on its device.
        teacher: model it learns from, on its device, or None.
        best_path: where the best checkpoint goes, in the published format.

    Raises:
        Interrupted: after a signal, with ``last`` written.
        LadonError: for a loss that is not finite, with ``last`` as it was.
    """
    Training(run, student, teacher, best_path).run_stages()


class Training:
    """The state of one training: models, plan, progress, and what a resumed run brought along."""

    def __init__(
        self, run: Run, student: nn.Module, teacher: nn.Module | None, best_path: Path
    ) -> None:
        self._run = run
        self._student, self._teacher = student, teacher
        self._best_path = best_path
        self._plan: Plan = read_plan(run.config)
        self._noise = use_own_noise(
            student, run.seed * 1_000_003 + run.world.rank, run.world.device
        )
        self._resumed: Resumed | None = None
        self._progress = Progress(epoch=run.args.start_epoch)
        self._writer = _tensorboard(run)

    def run_stages(self) -> None:
        """Runs every stage that is not done yet."""
        run, start = self._run, time.perf_counter()
        self._resume()
        done = self._progress.finished
        stages = [p for p in self._plan.stages if self._progress.epoch < p.end_epoch and not done]
        self._open_datasets(stages)
        for plan in stages:
            self._run_stage(plan)
        self._progress.finished = True
        self._save_last(None)
        if self._writer is not None:
            self._writer.close()
        logger.info("Training time %s", timedelta(seconds=int(time.perf_counter() - start)))
        run.world.barrier()

    def _resume(self) -> None:
        run = self._run
        there = run.world.broadcast(run.last_path.is_file())
        if run.args.resume and there:
            self._resumed = load_last(run.last_path, self._student)
            self._progress = self._resumed.progress
        elif run.args.resume:
            logger.info("Nothing to resume: %s does not exist; starting anew", run.last_path)
        elif there:
            logger.warning("Starting anew over %s (--resume would go on from it)", run.last_path)
        if self._resumed is None and run.world.is_main:
            (run.folder / "metrics.jsonl").unlink(missing_ok=True)

    def _open_datasets(self, stages: list[StagePlan]) -> None:
        """Builds all data that is still needed: what is missing must not show after hours."""
        for plan in stages:
            for name in LOADERS:
                dataset_id = self._run.config.get(f"{plan.key}.{name}.dataset_id")
                if dataset_id is not None:
                    self._run.dataset(dataset_id)

    def _run_stage(self, plan: StagePlan) -> None:
        run, progress = self._run, self._progress
        section = build_stage_section(run.config, plan)
        dataset_id = section["train_data_loader"]["dataset_id"]
        logger.info("Started %s: epochs %d-%d", plan.name, plan.first_epoch, plan.end_epoch - 1)
        loader = build_train_loader(
            run.dataset(dataset_id),
            section["train_data_loader"],
            run.seed,
            run.world.rank,
            run.world.size,
            pin_memory=run.world.device.type == "cuda",
        )
        loader.batch_sampler.set_epoch(progress.epoch)
        steps = len(loader.batch_sampler)
        lr_factor = float(run.world.size) if run.args.adjust_lr else 1.0
        precision = run.setting("precision", "train", "float32")
        try:
            stage = Stage(
                *(section, self._student, self._teacher, steps, run.world, lr_factor, precision)
            )
        except LadonError:
            raise
        except Exception as error:  # whatever a library makes of arguments that it cannot use
            where = f"{plan.key} in {run.config.where(plan.key)}"
            raise ConfigError(f"{where}: cannot set up: {in_one_line(error)}") from error
        try:
            self._take_up(stage, plan, steps)
            while progress.epoch < plan.end_epoch:
                self._run_epoch(stage, plan, loader, section)
        finally:
            stage.close()

    def _take_up(self, stage: Stage, plan: StagePlan, steps: int) -> None:
        """Brings a stage to where the run goes on."""
        done = self._progress.epoch - plan.first_epoch
        if self._resumed is not None:
            if self._resumed.stage is not None and (done or self._progress.step):
                stage.load_state_dict(self._resumed.stage)
            self._resumed.restore_generators(self._run.world, self._noise)
            self._resumed = None
        elif done:
            stage.skip_epochs(done, steps)

    def _update_bottleneck(self) -> None:
        """Builds the CDF tables and turns entropy coding on; equal tables in every process."""
        bottleneck = find_bottleneck(self._student)
        due = self._plan.update_epoch is not None and (
            self._progress.epoch >= self._plan.update_epoch
        )
        if bottleneck is None or bottleneck.updated or not due:
            return
        logger.info("Updating entropy bottleneck")
        update_bottleneck(self._student)
        coder, device = bottleneck.entropy_bottleneck, self._run.world.device
        tables = {name: getattr(coder, name).cpu() for name in CDF_TABLES}
        for name, table in self._run.world.broadcast(tables).items():
            setattr(coder, name, table.to(device))

    def _run_epoch(self, stage: Stage, plan: StagePlan, loader: Any, section: Mapping) -> None:
        run, progress = self._run, self._progress
        self._update_bottleneck()
        self._train_epoch(stage, plan, loader)
        found = self._validate(stage, section)
        value = None if found is None else float(found.metrics[run.task.key_metric])
        is_best = self._keep_best(stage, section, value)
        # counted before the schedule moves on, with the learning rates of this epoch
        self._record(stage, plan, len(loader.batch_sampler), found, is_best)
        stage.end_epoch(value)
        progress.next_epoch()
        at_end = progress.epoch == plan.end_epoch
        self._save_last(None if at_end else stage)

    def _train_epoch(self, stage: Stage, plan: StagePlan, loader: Any) -> None:
        run, progress = self._run, self._progress
        order, device = loader.batch_sampler, run.world.device
        order.set_epoch(progress.epoch, skip=progress.step)
        steps, log_freq = len(order), self._plan.log_freq
        stage.begin_epoch()
        start, title = time.perf_counter(), f"Epoch {progress.epoch} ({plan.name})"
        before, first_step = progress.seconds, progress.step
        losses = LossRecord(progress.loss_sum, progress.step, device)
        with progress_bar(title, steps - progress.step) as advance:
            for images, targets, supp in iterate(loader):
                images, targets = run.task.move(images, targets, device)
                teacher_io = stage.teacher_forward(images, targets, supp)
                loss = stage.student_loss(images, targets, supp, teacher_io)
                losses.add(loss)
                if device.type == "cpu":  # reading a loss makes nothing wait here
                    self._read_losses(losses, stage, plan)
                stage.step(loss)
                progress.step += 1
                progress.seconds = before + time.perf_counter() - start
                advance(1)
                if (progress.step - 1) % log_freq == 0:
                    value = self._read_losses(losses, stage, plan)
                    done = progress.step - first_step
                    speed = done / (time.perf_counter() - start)
                    self._log_step(stage, steps, value, speed, len(images))
                if stage.at_boundary and run.world.maximum(run.stop.signum):
                    self._read_losses(losses, stage, plan)
                    self._interrupt(stage)
        self._read_losses(losses, stage, plan)

    def _read_losses(self, losses: LossRecord, stage: Stage, plan: StagePlan) -> float:
        """Waits for the losses so far; returns the last one.

        Raises:
            LadonError: if one of them was not finite.
        """
        value, self._progress.loss_sum, bad = losses.read()
        if bad is not None:
            self._stop_not_finite(stage, plan, *bad)
        return value

    def _log_step(
        self, stage: Stage, steps: int, loss: float, steps_per_s: float, batch: int
    ) -> None:
        progress = self._progress
        eta = timedelta(seconds=int((steps - progress.step) / steps_per_s))
        logger.info(
            "Epoch: [%d]\t[%d/%d]\teta: %s\tlr: %.6g\timg/s: %.2f\tloss: %.4f (%.4f)",
            *(progress.epoch, progress.step - 1, steps, eta, stage.learning_rates[0]),
            *(steps_per_s * batch, loss, progress.loss_sum / progress.step),
        )
        if self._writer is not None:
            global_step = progress.epoch * steps + progress.step
            self._writer.add_scalar("train/loss", loss, global_step)
            self._writer.add_scalar("train/lr", stage.learning_rates[0], global_step)

    def _stop_not_finite(self, stage: Stage, plan: StagePlan, step: int, value: float) -> None:
        progress = self._progress
        terms = ", ".join(f"{name} {v:g}" for name, v in stage.loss.terms().items())
        raise LadonError(
            f"loss is {value} in {plan.name}, epoch {progress.epoch}, step {step} "
            f"(last batch: {terms}); {self._run.last_path} keeps the last good state. "
            "Lower the learning rate or look at the data"
        )

    def _validate(self, stage: Stage, section: Mapping[str, Any]) -> Evaluation | None:
        run = self._run
        loader = section.get("val_data_loader")
        if not loader:
            return None
        found = evaluate(
            self._student,
            run.dataset(loader["dataset_id"]),
            loader,
            run.task,
            run.world,
            run.stop,
            options=run.options,
            mode="encode",
            precision=run.setting("precision", "train", "float32"),
            title=f"Validation {self._progress.epoch}",
        )
        if found is None:
            self._interrupt(stage)
        else:
            found.log()
        return found

    def _keep_best(self, stage: Stage, section: Mapping[str, Any], value: float | None) -> bool:
        """Writes the best checkpoint if this epoch is better on the same validation set."""
        progress = self._progress
        dataset = (section.get("val_data_loader") or {}).get("dataset_id")
        if dataset != progress.best_dataset:
            progress.best_value, progress.best_dataset = None, dataset
        better = value is None or progress.best_value is None or value > progress.best_value
        if not better:
            return False
        name = self._run.task.key_metric
        if value is not None:
            was = "none" if progress.best_value is None else f"{progress.best_value:.4f}"
            logger.info("Best %s: %s -> %.4f", name, was, value)
        progress.best_value, progress.best_epoch = value, progress.epoch
        if self._run.world.is_main:
            state = stage.state_dict()
            write_checkpoint(
                self._best_path,
                self._student,
                optimizer=state["optimizer"],
                lr_scheduler=state["scheduler"],
                best_value=value,
                args=self._run.args,
            )
        return True

    def _record(
        self, stage: Stage, plan: StagePlan, steps: int, found: Evaluation | None, is_best: bool
    ) -> None:
        progress = self._progress
        record = {
            "stage": plan.number,
            "epoch": progress.epoch,
            "steps": steps,
            "lr": stage.learning_rates,
            "train_loss": progress.loss_sum / max(1, progress.step),
            "train_seconds": round(progress.seconds, 3),
            "best": is_best,
        }
        if found is not None:
            record["val"] = found.metrics
            record["val_seconds"] = round(found.seconds, 3)
            if self._writer is not None:
                for name, value in found.metrics.items():
                    if isinstance(value, float):
                        self._writer.add_scalar(f"val/{name}", value, progress.epoch)
        self._run.log_epoch(record)

    def _save_last(self, stage: Stage | None) -> None:
        run = self._run
        save_last(run.last_path, self._student, stage, self._progress, run.world, self._noise)

    def _interrupt(self, stage: Stage) -> None:
        self._save_last(stage)
        signum = self._run.world.maximum(self._run.stop.signum)
        raise Interrupted(
            signum,
            f"interrupted in epoch {self._progress.epoch} after step {self._progress.step}; "
            f"{self._run.last_path} is saved: add --resume to the same command to go on",
        )


def _tensorboard(run: Run) -> Any:
    if not run.args.tensorboard or not run.world.is_main:
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise LadonError("--tensorboard needs the package tensorboard") from error
    return SummaryWriter(str(run.folder / "tensorboard"))
