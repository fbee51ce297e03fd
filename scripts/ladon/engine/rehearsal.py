"""A stage's forward and loss on tensors without data: what does not fit shows before a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ladon.bottlenecks import use_own_noise
from ladon.engine.criterion import described, terms_of
from ladon.engine.stage import Stage
from ladon.errors import ConfigError, LadonError, in_one_line


def rehearse(stage: Stage, batch: tuple[Any, Any]) -> None:
    """Run teacher, student and criterion of a stage once on the meta device.

    Args:
        stage: built there, in the training's precision or not.
        batch: images and targets on the meta device, as a task's `example` gives them.

    Raises:
        ConfigError: naming the module in which they do not fit, or the criterion.
    """
    images, targets = batch
    student = stage.student.model
    # meta tensors draw nothing, but ask for a generator; CompressAI's own forward reads a tensor
    use_own_noise(student, 0, torch.device("cpu"))
    models = {"student": student}
    if stage.teacher is not None:
        models["teacher"] = stage.teacher.model
    stage.begin_epoch()
    with _followed(models, terms_of(stage.loss.criterion)) as inside:
        try:
            supp: list[dict[str, Any]] = [{} for _ in range(len(targets))]
            features = stage.teacher_forward(images, targets, supp)
            inside.clear()  # a teacher may be stopped where nothing more of it is read
            stage.student_loss(images, targets, supp, features)
        except LadonError:
            raise
        except Exception as error:  # whatever a library says of shapes that it cannot use
            where = inside[-1] if inside else "the criterion"
            raise ConfigError(f"does not fit in {where}: {in_one_line(error)}") from error


@contextmanager
def _followed(models: dict[str, nn.Module], terms: dict[str, nn.Module]) -> Iterator[list[str]]:
    """Yield the names of the modules and losses that are running, the innermost last."""
    inside: list[str] = []
    handles = []

    def leave(*_: Any) -> None:  # what a forward hook returns would be the output
        inside.pop()

    def enter(path: str) -> Callable[..., None]:
        return lambda *_: inside.append(path)

    def begin(name: str) -> Callable[..., None]:
        return lambda loss, given: inside.append(described(name, loss, given))

    for label, model in models.items():
        for name, module in model.named_modules():
            path = f"{label}.{name}" if name else label
            handles.append(module.register_forward_pre_hook(enter(path)))
            handles.append(module.register_forward_hook(leave))
    for name, loss in terms.items():
        handles.append(loss.register_forward_pre_hook(begin(name)))
        handles.append(loss.register_forward_hook(leave))
    try:
        yield inside
    finally:
        for handle in handles:
            handle.remove()
