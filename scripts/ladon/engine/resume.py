"""Where a training stands: everything that `last.pt` keeps, so that a resumed run goes on
exactly as if it had not been interrupted, also in the middle of an epoch."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ladon.bottlenecks import is_updated
from ladon.engine.distributed import World
from ladon.engine.randomness import global_states, restore_global_states
from ladon.engine.stage import Stage
from ladon.errors import CheckpointError
from ladon.models.checkpoint import Checkpoint, load_into, load_safely, save_atomically

logger = logging.getLogger(__name__)

_FORMAT = 1


@dataclass
class Progress:
    """How far a training is.

    Attributes:
        epoch: epoch that is being trained, counted over all stages.
        step: batches of it that are done.
        best_value: best validation value so far, None before the first.
        best_epoch: the epoch that had it.
        best_dataset: the dataset it was measured on.
        loss_sum: sum of the losses of this epoch's steps.
        seconds: training time of this epoch so far.
        finished: all epochs are done.
    """

    epoch: int = 0
    step: int = 0
    best_value: float | None = None
    best_epoch: int | None = None
    best_dataset: str | None = None
    loss_sum: float = 0.0
    seconds: float = 0.0
    finished: bool = False

    def next_epoch(self) -> None:
        """Move on to the start of the next epoch."""
        self.epoch += 1
        self.step, self.loss_sum, self.seconds = 0, 0.0, 0.0


@dataclass
class Resumed:
    """The contents of `last.pt`.

    Attributes:
        progress: how far the training was.
        stage: optimizer, scheduler and gradient count; None between stages.
        generators: one entry per process: global generators and the noise generator.
        device: type of the device it was trained on; None if the file is too old to say.
        steps: batches of an epoch of the stage; None between stages, or if the file is too old.
    """

    progress: Progress
    stage: dict[str, Any] | None
    generators: list[dict[str, Any]] = field(default_factory=list)
    device: str | None = None
    steps: int | None = None

    def restore_generators(self, world: World, noise: torch.Generator | None) -> None:
        """Put this process's generators where they were."""
        if world.rank >= len(self.generators):
            logger.warning("resumed with more processes than before: random draws will differ")
            return
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
    path: Path,
    student: nn.Module,
    stage: Stage | None,
    progress: Progress,
    world: World,
    noise: torch.Generator | None,
    *,
    identity: Mapping[str, str] | None = None,
    steps: int | None = None,
) -> None:
    """Write `last.pt`; every process must call it.

    Args:
        path: the file.
        student: the model that learns.
        stage: the stage it is in, None between stages.
        progress: how far the training is.
        world: device and processes.
        noise: the student's own generator.
        identity: what makes the training the one that it is (`ladon.engine.identity`).
        steps: batches of an epoch of the stage.

    Raises:
        LadonError: if it cannot be written.
    """
    states = global_states(world.device)
    own = {"global": states, "noise": None if noise is None else noise.get_state()}
    generators = world.gather(own)
    if not world.is_main:
        return
    content = {
        "format": _FORMAT,
        "model": student.state_dict(),
        "updated": is_updated(student),
        "stage": None if stage is None else stage.state_dict(),
        "progress": vars(progress).copy(),
        "generators": generators,
        "device": world.device.type,
        "identity": None if identity is None else dict(identity),
        "steps": None if stage is None else steps,
    }
    save_atomically(content, path)


def read_last(path: Path) -> dict[str, Any]:
    """Read `last.pt`.

    Raises:
        CheckpointError: if the file is damaged or another one.
    """
    content = load_safely(path)
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise _not_last(path)
    return content


def _not_last(path: Path) -> CheckpointError:
    return CheckpointError(f"{path}: not a file to resume from; delete it to start anew")


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
        device, steps = content.get("device"), content.get("steps")
    except (KeyError, TypeError, ValueError) as error:
        raise _not_last(path) from error
    load_into(student, checkpoint)
    logger.info("Resuming from %s: epoch %d, step %d", path, progress.epoch, progress.step)
    return Resumed(progress, stage, generators, device, steps)
