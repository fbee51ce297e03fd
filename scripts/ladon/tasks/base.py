"""What a task must say: how its batches move, what its model takes, and how it is scored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from ladon.models.ladon import ThreeHeadedLadon
from ladon.tensors import map_tensors


class Metric(ABC):
    """Scores of one evaluation, mergeable across processes.

    ``state`` returns a picklable summary of what ``update`` saw; ``compute`` turns the summaries
    of all processes into numbers, so that each image counts once wherever it was evaluated.
    """

    @abstractmethod
    def update(self, outputs: Any, targets: Any) -> None:
        """Takes a batch of model outputs and its targets."""

    @abstractmethod
    def state(self) -> Any:
        """Returns the picklable summary of this process."""

    @abstractmethod
    def compute(self, states: Sequence[Any]) -> dict[str, Any]:
        """Returns metric values by name from all processes' summaries."""

    @abstractmethod
    def lines(self, values: Mapping[str, Any]) -> list[str]:
        """Returns the published result lines for these values."""


class LabelRange:
    """The smallest and the largest label so far, kept where the labels are and read when asked."""

    def __init__(self) -> None:
        self._extremes: Tensor | None = None

    def add(self, labels: Tensor) -> None:
        """Takes labels of any shape, one at least."""
        extremes = torch.stack(labels.aminmax())
        if self._extremes is not None:
            both = torch.stack([self._extremes, extremes])
            extremes = torch.stack([both[:, 0].amin(), both[:, 1].amax()])
        self._extremes = extremes

    def outside(self, num_classes: int) -> int | None:
        """Returns a label that is not in 0..num_classes-1, None if there was none."""
        if self._extremes is None:
            return None
        lowest, highest = self._extremes.tolist()
        if lowest < 0:
            return lowest
        return highest if highest >= num_classes else None


class Task(ABC):
    """A task's adapter; everything else is the engine's.

    Attributes:
        name: name of its script and of its registry of models.
        head: the three-headed model's head that answers it.
        key_metric: the metric that chooses the best checkpoint; greater is better.
        student_sections: config sections that may hold the model to be trained or tested.
    """

    name: ClassVar[str]
    head: ClassVar[str]
    key_metric: ClassVar[str]
    student_sections: ClassVar[tuple[str, ...]] = ("student_model", "model")

    def __init__(self) -> None:
        self._padded_sizes: dict[tuple, tuple[int, ...]] = {}

    def move(self, images: Any, targets: Any, device: torch.device) -> tuple[Any, Any]:
        """Moves a collated batch to the device."""
        return to_device(images, device), to_device(targets, device)

    def predict(self, model: nn.Module, images: Any) -> Any:
        """Runs the model in evaluation; of a three-headed one, the task's own head."""
        if isinstance(model, ThreeHeadedLadon):
            return model(images, heads=(self.head,))[self.head]
        return model(images)

    def input_size(self, sample: Any, model: nn.Module) -> tuple[int, ...]:
        """Size at which the encoder sees a sample; an evaluation batch holds one size only.

        That is the sample's own size, or what the model's own transform resizes and pads it to.
        """
        size = tuple(sample.shape[-2:]) if isinstance(sample, Tensor) else tuple(sample.size)
        transform = getattr(model, "transform", None)
        if not isinstance(transform, GeneralizedRCNNTransform):
            return size
        key = (*size, transform.min_size, transform.max_size, transform.size_divisible)
        if key not in self._padded_sizes:
            resized, _ = transform.resize(torch.zeros(3, *size), None)
            step = transform.size_divisible
            self._padded_sizes[key] = tuple(-(-side // step) * step for side in resized.shape[-2:])
        return self._padded_sizes[key]

    def example(self, device: torch.device) -> tuple[Any, Any] | None:
        """Returns a small collated batch of nothing in particular, to see whether models fit.

        None where a model looks at what is in its images before it goes on.
        """
        return None

    @abstractmethod
    def metric(self, dataset: Any, options: Mapping[str, Any]) -> Metric:
        """Returns a fresh metric for a dataset.

        Args:
            dataset: the dataset that is evaluated.
            options: ``num_classes`` and ``iou_types`` as far as known.
        """


def to_device(value: Any, device: torch.device) -> Any:
    """Moves the tensors in nested lists, tuples and dicts; other values stay."""

    def move(tensor: Tensor) -> Tensor:
        if device.type == "cuda" and not tensor.is_cuda:
            tensor = tensor.pin_memory()  # only from pinned memory does a copy overlap with work
        return tensor.to(device, non_blocking=True)

    return map_tensors(move, value)
