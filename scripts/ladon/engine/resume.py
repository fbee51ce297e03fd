"""Where a training stands: everything that `last.pt` keeps, so that a resumed run goes on
exactly as if it had not been interrupted, also in the middle of an epoch."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ladon.bottlenecks import is_updated
from ladon.engine.distributed import World
from ladon.engine.last_file import FORMAT, LastFile, not_last, read_last
from ladon.engine.randomness import global_states, restore_global_states
from ladon.engine.stage import Stage
from ladon.errors import CheckpointError, UsageError
from ladon.models.checkpoint import Checkpoint, load_into

logger = logging.getLogger(__name__)

COUNTED = IMAGES, PIXELS, BITS = "images", "pixels", "bits"
"""Sums of an epoch that count something; others are averaged over its steps."""


@dataclass
class Progress:
    """How far a training is.

    Attributes:
        epoch: epoch that is being trained, counted over all stages.
        step: steps of it that are done.
        batches: batches of it that are done, by all processes together.
        best_value: best validation value so far, None before the first.
        best_epoch: the epoch that had it.
        best_dataset: the dataset it was measured on.
        loss_sum: sum of the losses of this epoch's steps.
        sums: further sums of them by name (`ladon.engine.epoch_sums`), as `loss_sum` of this
            process alone.
        seconds: training time of this epoch so far.
        finished: all epochs are done.
    """

    epoch: int = 0
    step: int = 0
    batches: int = 0
    best_value: float | None = None
    best_epoch: int | None = None
    best_dataset: str | None = None
    loss_sum: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    finished: bool = False

    def next_epoch(self) -> None:
        """Move on to the start of the next epoch."""
        self.epoch += 1
        self.step, self.batches, self.loss_sum, self.seconds = 0, 0, 0.0, 0.0
        self.sums = {}

    def bring_sums(self, states: Sequence[Mapping[str, Any]], world: World) -> None:
        """Take over what this process had summed.

        Of another number of processes each gets an equal part, so that their means stay the same.

        Args:
            states: `loss_sum` and `sums` of each process.
            world: the processes there are now.
        """
        if len(states) == world.size:
            self.loss_sum, self.sums = (states[world.rank][n] for n in ("loss_sum", "sums"))
            return
        self.loss_sum = sum(state["loss_sum"] for state in states) / len(states)
        totals: dict[str, float] = {}
        for name, value in (pair for state in states for pair in state["sums"].items()):
            totals[name] = totals.get(name, 0.0) + value
        # what is counted stays as much in all; what is averaged over steps, as much in each
        self.sums = {
            name: total / (world.size if name in COUNTED else len(states))
            for name, total in totals.items()
        }


@dataclass
class Resumed:
    """The contents of `last.pt`.

    Attributes:
        path: the file.
        progress: how far the training was.
        stage: optimizer, scheduler and gradient count; None between stages.
        generators: one entry per process: global generators, the noise generator, and what it has
            summed of the epoch.
        device: type of the device it was trained on; None if the file is too old to say.
        steps: batches of an epoch of the stage; None between stages, or if the file is too old.
        bad_samples: state of what was replaced; None if nothing can have been.
    """

    path: Path
    progress: Progress
    stage: dict[str, Any] | None
    generators: list[dict[str, Any]] = field(default_factory=list)
    device: str | None = None
    steps: int | None = None
    bad_samples: dict[str, Any] | None = None

    @property
    def processes(self) -> int:
        """How many there were."""
        return max(1, len(self.generators))

    def bring_stage(
        self, stage: Stage, name: str, done: int, batches: int, world: World, adjusts_lr: bool
    ) -> None:
        """Bring a stage to where the run goes on, in epochs of the same batches.

        Args:
            stage: as it is built.
            name: of the stage.
            done: epochs of it that are done.
            batches: of an epoch, over all processes.
            world: the processes there are now.
            adjusts_lr: learning rates are multiplied by their number.

        Raises:
            UsageError: the data has changed, where a place in it means something.
        """
        assert self.stage is not None, "between stages"
        at, before, now = self.progress, self.processes, world.size
        steps = math.ceil(batches / before)
        if self.steps not in (None, steps) and (at.step or stage.counts_steps):
            raise UsageError(
                f"--resume: an epoch of {name} has {steps} batches here and had {self.steps} when "
                f"{self.path} was written: resume with as many images as before, or leave out "
                "--resume to start anew"
            )
        if before == now:
            stage.load_state_dict(self.stage)
            return
        logger.warning(
            "Resumed with %d processes instead of %d: a step takes %d batches instead of %d, and "
            "an epoch %d steps instead of %d; the batches that are left stay the same, and the "
            "schedule goes on from the same part of the epochs%s; random draws will differ",
            *(now, before) * 2,
            math.ceil(batches / now),
            steps,
            f", with learning rates times {now}" if adjusts_lr else "",
        )
        stage.take_over(
            self.stage,
            done,
            (done * batches + at.batches) // now,
            now / before if adjusts_lr else 1.0,
        )

    def restore_sums(self, world: World) -> None:
        """Bring what this process had summed of the epoch."""
        if all("loss_sum" in state for state in self.generators):  # else of an older version
            self.progress.bring_sums(self.generators, world)

    def restore_generators(self, world: World, noise: torch.Generator | None) -> None:
        """Put this process's generators where they were."""
        if world.rank >= len(self.generators):
            return  # one more than before: it stays freshly seeded
        states, now = self.generators[world.rank], world.device.type
        before = self.device or _device_of(states["noise"]) or now
        if before == now:
            restore_global_states(states["global"], world.device)
            if noise is not None and states["noise"] is not None:
                noise.set_state(states["noise"])
            return
        # generators of different devices have nothing in common: the device's stay freshly seeded
        restore_global_states(states["global"] | {"cuda": None}, world.device)
        logger.warning(
            "resumed on %s a run that was trained on %s: random draws on the device (quantisation "
            "noise, dropout) will differ from those of an uninterrupted run",
            now,
            before,
        )


def _device_of(noise: Tensor | None) -> str | None:
    """Type of the device that a generator's state is of; None where it does not show."""
    return None if noise is None else {16: "cuda", 5056: "cpu"}.get(noise.numel())


def save_last(
    last: LastFile,
    student: nn.Module,
    stage: Stage | None,
    progress: Progress,
    world: World,
    noise: torch.Generator | None,
    *,
    identity: Mapping[str, str] | None = None,
    steps: int | None = None,
    bad_samples: Mapping[str, Any] | None = None,
    behind: bool = False,
) -> None:
    """Write `last.pt`; every process must call it.

    Args:
        last: the file.
        student: the model that learns.
        stage: the stage it is in, None between stages.
        progress: how far the training is.
        world: device and processes.
        noise: the student's own generator.
        identity: what makes the training the one that it is (`ladon.engine.identity`).
        steps: batches of an epoch of the stage.
        bad_samples: state of what was replaced.
        behind: write while the training goes on, which no failure of it ends.

    Raises:
        LadonError: if it cannot be written, and not `behind`.
    """
    states = global_states(world.device)
    own = {
        "global": states,
        "noise": None if noise is None else noise.get_state(),
        "loss_sum": progress.loss_sum,
        "sums": progress.sums,
    }
    generators = world.gather(own)
    if not world.is_main:
        return
    content = {
        "format": FORMAT,
        "model": student.state_dict(),
        "updated": is_updated(student),
        "stage": None if stage is None else stage.state_dict(),
        "progress": vars(progress).copy(),
        "generators": generators,
        "device": world.device.type,
        "identity": None if identity is None else dict(identity),
        "steps": None if stage is None else steps,
        "bad_samples": None if bad_samples is None else dict(bad_samples),
    }
    (last.write_behind if behind else last.write)(content)


def load_last(path: Path, student: nn.Module, content: dict[str, Any] | None = None) -> Resumed:
    """Read `last.pt` and load the student.

    Args:
        path: the file.
        student: the model that learns.
        content: what `read_last` returned, if it is read already.

    Raises:
        CheckpointError: if the file is damaged or belongs to another model.
    """
    content = read_last(path) if content is None else content
    try:
        if not isinstance(content["model"], dict):
            raise TypeError("model")
        # as it is: it may carry versions by which modules convert
        checkpoint = Checkpoint(path, content["model"])
        progress = Progress(**content["progress"])
        stage, generators = content["stage"], content["generators"]
        if "batches" not in content["progress"]:  # of an older version
            progress.batches = progress.step * len(generators)
        more = {name: content.get(name) for name in ("device", "steps", "bad_samples")}
    except (KeyError, TypeError, ValueError) as error:
        raise not_last(path) from error
    load_into(student, checkpoint)
    logger.info("Resuming from %s: epoch %d, step %d", path, progress.epoch, progress.step)
    return Resumed(path, progress, stage, generators, **more)


def forget_best(progress: Progress, best: Path, last: Path) -> None:
    """Let the next epoch write the best checkpoint, because there is none.

    Args:
        progress: says that there was one, or not.
        best: the checkpoint.
        last: `last.pt`.

    Raises:
        CheckpointError: if there is no next epoch.
    """
    if progress.best_epoch is None:
        return
    if progress.finished:
        raise CheckpointError(
            f"--resume: {last} says that all is done, but the best checkpoint {best} is gone: put "
            "it back, or leave out --resume to start anew"
        )
    progress.best_value = progress.best_epoch = None
    logger.warning("The best checkpoint %s is gone: the next epoch's is kept as the best", best)
