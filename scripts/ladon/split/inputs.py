"""The fitting of a model's inputs, read from the test transforms that its config names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torchvision import transforms as tv
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms import InterpolationMode, v2

from ladon.config import Config, LazyCall
from ladon.data.transforms import (
    CustomCenterCrop,
    CustomCompose,
    CustomNormalize,
    CustomRandomResize,
    CustomToTensor,
)
from ladon.edge.fitting import Fitting, Resize
from ladon.errors import ConfigError

_TO_TENSOR = (tv.ToTensor, tv.PILToTensor, CustomToTensor, v2.PILToTensor, v2.ToImage, v2.ToDtype)
_TRANSFORMS = ("transform", "transforms")


def fitting_of(config: Config, network: nn.Module) -> Fitting:
    """Return how images become a model's inputs in its test.

    A model that resizes and normalises images by itself (a detector, three heads) does so whatever
    its data's transforms are.

    Args:
        config: names the test's dataset; the dataset itself need not be there.
        network: the model.

    Raises:
        ConfigError: the transforms are none that a device can be told.
    """
    transform = getattr(network, "transform", None)
    if isinstance(transform, GeneralizedRCNNTransform):
        return _of_detector(transform)
    place = f"datasets.{config.get('test.test_data_loader.dataset_id')}"
    node = config.get(place)
    if not isinstance(node, LazyCall):
        raise ConfigError(
            f"{config.path}: has no test.test_data_loader with a dataset: nothing says how images "
            "become the model's input"
        )
    kwargs = (node.value.get("init") or {}).get("kwargs") or {}
    name = next((name for name in _TRANSFORMS if kwargs.get(name) is not None), None)
    if name is None:
        raise ConfigError(
            f"{config.where(place)}: {place} has neither transform nor transforms: nothing says "
            "how images become the model's input"
        )
    where = f"{place}.init.kwargs.{name} in {config.where(f'{place}.init.kwargs.{name}')}"
    return _of_steps(_steps(config.build(kwargs[name])), where)


def _of_detector(transform: GeneralizedRCNNTransform) -> Fitting:
    mean, std = transform.image_mean, transform.image_std
    common = Fitting(mean=_three(mean), std=_three(std), multiple=transform.size_divisible)
    if transform.fixed_size is not None:
        width, height = transform.fixed_size
        return replace(common, resize=Resize((height, width), of_tensors=True))
    smallest = transform.min_size[-1]  # the one that torchvision takes in evaluation
    return replace(common, resize=Resize(smallest, transform.max_size, of_tensors=True))


def _steps(transform: Any) -> list[Any]:
    """Return the transforms of a composition, one after another."""
    if isinstance(transform, (tv.Compose, v2.Compose, CustomCompose)):
        return [step for inner in transform.transforms for step in _steps(inner)]
    return [transform]


def _of_steps(steps: Iterable[Any], where: str) -> Fitting:
    fitting = Fitting()
    for step in steps:
        if isinstance(step, (tv.Resize, v2.Resize)):
            change: dict[str, Any] = {"resize": _resize(step, where)}
        elif isinstance(step, CustomRandomResize) and step.min_size == step.max_size:
            size = step.min_size
            if step.jpeg_quality is not None:
                raise _not_told(step, where)
            change = {"resize": Resize((size, size) if step.square else size)}
        elif isinstance(step, (tv.CenterCrop, v2.CenterCrop, CustomCenterCrop)):
            change = {"crop": _two(step.size)}
        elif isinstance(step, (tv.Normalize, v2.Normalize, CustomNormalize)):
            change = {"mean": _three(step.mean), "std": _three(step.std)}
        elif isinstance(step, _TO_TENSOR):
            continue
        else:
            raise _not_told(step, where)
        if any(getattr(fitting, name) is not None for name in change) or (
            "resize" in change and fitting.crop is not None
        ):
            raise _not_told(step, where)
        fitting = replace(fitting, **change)
    return fitting


def _not_told(step: Any, where: str) -> ConfigError:
    return ConfigError(
        f"{where}: {type(step).__name__} is nothing that can be told to a device, at least not at "
        "this place: Resize, then CenterCrop, ToTensor and Normalize are, each once"
    )


def _resize(step: Any, where: str) -> Resize:
    mode = InterpolationMode(step.interpolation)
    if mode is InterpolationMode.NEAREST_EXACT:
        raise _not_told(step, where)
    size = step.size
    if not isinstance(size, int):
        size = int(size[0]) if len(size) == 1 else _two(size)
    return Resize(size, step.max_size, mode.value)


def _two(size: int | Sequence[int]) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    return int(size[0]), int(size[-1])


def _three(values: torch.Tensor | Sequence[float]) -> tuple[float, float, float]:
    first, second, third = map(float, values)
    return first, second, third
