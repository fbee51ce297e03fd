"""The end of an image transform, taken from the loader's workers to where the network is.

Images then travel as bytes, a quarter of what their floats take: through shared memory, pinned
memory and to a GPU. The values are those of ToTensor and Normalize to the bit, on any device.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset
from torchvision import transforms as tv
from torchvision.datasets import DatasetFolder
from torchvision.transforms import functional as F
from torchvision.transforms import v2

from ladon.data.coco import CocoDataset
from ladon.data.masks import MaskFolder
from ladon.data.transforms import CustomCompose, CustomNormalize, CustomToTensor
from ladon.data.voc import VOCSegmentation
from ladon.tensors import map_tensors


@dataclass(frozen=True)
class DeviceInput:
    """The work that is left for the images of a batch.

    Attributes:
        mean: per channel, of images in 0..1; None where nothing is normalised.
        std: likewise.
        multiplies: by 1 / 255, as torchvision's v2 scales, instead of dividing by 255: every
            second value differs by its last bit.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    multiplies: bool = False

    def __call__(self, images: Any) -> Any:
        """Turn uint8 images [..., 3, H, W] on any device into the network's input.

        Args:
            images: a batch, or a list of images.

        Returns:
            The same in float32: scaled to 0..1 and normalised.
        """
        return map_tensors(self._finish, images)

    def _finish(self, image: Tensor) -> Tensor:
        def constant(values: Any) -> Tensor:
            # from pinned memory nothing waits; as a tensor on the device, because a GPU multiplies
            # by the reciprocal of a Python number, which is not the same to the bit
            host = torch.tensor(values, dtype=torch.float32, pin_memory=image.is_cuda)
            return host.to(image.device, non_blocking=True)

        is_scaled = image.dtype is torch.uint8  # as ToTensor has it
        image = image.float()
        if is_scaled and self.multiplies:
            image.mul_(1 / 255)
        elif is_scaled:
            image.div_(constant(255.0))
        if self.mean is not None:
            image.sub_(constant(self.mean)[:, None, None]).div_(constant(self.std)[:, None, None])
        return image


def split_input(dataset: Any) -> tuple[Any, DeviceInput | None]:
    """Take the conversion to floats out of a dataset's items.

    Args:
        dataset: of images; it is left as it is.

    Returns:
        A copy whose images are uint8 [3, H, W], and what turns them into what the dataset gave;
        the dataset itself and None, where it is not known how it makes them.
    """
    if isinstance(dataset, Subset):
        inner, rest = split_input(dataset.dataset)
        return (dataset, None) if rest is None else (Subset(inner, dataset.indices), rest)
    split = _split_dataset(dataset)
    if split is None:
        return dataset, None
    changed, rest = split
    copied = copy.copy(dataset)
    vars(copied).update(changed)
    return copied, rest


def _split_dataset(dataset: Any) -> tuple[dict[str, Any], DeviceInput] | None:
    """Return the attributes of a dataset that change, and what is left to do."""
    if isinstance(dataset, CocoDataset) and not dataset.is_segment and dataset.transforms is None:
        return {"converts": F.pil_to_tensor}, DeviceInput()
    # only where it is sure that each item goes through them, and through nothing after them
    if isinstance(dataset, DatasetFolder) and _own(dataset, DatasetFolder):
        name = "transform"
    elif type(dataset) in (CocoDataset, MaskFolder, VOCSegmentation):
        name = "transforms"
    else:
        return None
    found = _split_steps(getattr(dataset, name))
    return None if found is None else ({name: found[0]}, found[1])


def _own(dataset: Any, kind: Any) -> bool:
    return type(dataset).__getitem__ is kind.__getitem__


def _split_steps(composed: Any) -> tuple[Callable, DeviceInput] | None:
    """Return a composition without its floating-point end, and that end."""
    if type(composed) not in (tv.Compose, v2.Compose, CustomCompose):
        return None
    steps = list(composed.transforms)
    mean = std = None
    if steps and type(steps[-1]) in (tv.Normalize, v2.Normalize, CustomNormalize):
        last = steps.pop()
        mean, std = (tuple(float(v) for v in values) for values in (last.mean, last.std))
    converts = steps.pop() if steps else None
    if (as_bytes := _as_bytes(converts)) is None:
        return None
    # not v2's: it must not be empty
    kind = CustomCompose if type(composed) is CustomCompose else tv.Compose
    rest = DeviceInput(mean, std, multiplies=type(converts) is v2.ToDtype)
    return kind([*steps, *as_bytes]), rest


def _as_bytes(step: Any) -> list[Callable] | None:
    """Return what takes the place of a conversion to floats; None if the step is none."""
    if type(step) is tv.ToTensor:
        return [tv.PILToTensor()]
    if type(step) is CustomToTensor and step.converts_sample:
        return [CustomToTensor(converts_target=step.converts_target, as_bytes=True)]
    if type(step) is v2.ToDtype and step.dtype is torch.float32 and step.scale:
        return []
    return None
