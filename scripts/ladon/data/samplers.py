"""Batches of images that have about the same aspect ratio, so that padding wastes little."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from typing import Any

import numpy as np
from torch.utils.data import BatchSampler, Sampler, Subset
from torchdistill.datasets.registry import register_batch_sampler

from ladon.data.samples import MapDataset
from ladon.images import read_size

logger = logging.getLogger(__name__)


@register_batch_sampler
class GroupedBatchSampler(BatchSampler):
    """Batches whose samples all belong to one group, in about the sampler's order.

    There are `len(sampler) // batch_size` batches. A group's full batches are yielded as soon as
    they fill up; at the end, the fullest unfinished ones are completed with earlier members of
    their group.

    Args:
        sampler: yields indices into `group_ids`.
        group_ids: group of each sample.
        batch_size: samples per batch.
    """

    def __init__(self, sampler: Sampler[int], group_ids: Sequence[int], batch_size: int) -> None:
        super().__init__(sampler, batch_size, drop_last=True)
        self.group_ids = group_ids

    def __iter__(self) -> Iterator[list[int]]:
        """Yield lists of `batch_size` indices."""
        members: dict[int, list[int]] = defaultdict(list)
        missing = len(self)
        for index in self.sampler:
            group = members[self.group_ids[index]]
            group.append(index)
            if len(group) % self.batch_size == 0:
                missing -= 1
                yield group[-self.batch_size :]
        unfinished = [group for group in members.values() if len(group) % self.batch_size]
        unfinished.sort(key=lambda group: len(group) % self.batch_size, reverse=True)
        for group in unfinished[:missing]:
            rest = group[-(len(group) % self.batch_size) :]
            yield rest + list(islice(cycle(group), self.batch_size - len(rest)))


def _image_sizes(dataset: Any) -> list[tuple[int, int]]:
    """Find each image's (height, width) in the cheapest way the dataset offers."""
    if isinstance(dataset, Subset):
        sizes = _image_sizes(dataset.dataset)
        return [sizes[index] for index in dataset.indices]
    if hasattr(dataset, "sizes"):
        return list(dataset.sizes)
    if hasattr(dataset, "org_dataset"):
        return _image_sizes(dataset.org_dataset)
    if hasattr(dataset, "samples"):
        return [read_size(path) for path, *_ in dataset.samples]
    if hasattr(dataset, "images"):
        return [read_size(path) for path in dataset.images]
    logger.info("Reading all %d images of %s for their sizes", len(dataset), type(dataset).__name__)
    return [image_size(dataset[index][0]) for index in range(len(dataset))]


def image_size(image: Any) -> tuple[int, int]:
    """Give the size of a PIL image or a tensor [..., H, W].

    Args:
        image: PIL image or tensor.

    Returns:
        (height, width) in pixels.
    """
    if hasattr(image, "shape"):
        return int(image.shape[-2]), int(image.shape[-1])
    return image.height, image.width


def create_aspect_ratio_groups(
    dataset: MapDataset, aspect_ratio_group_factor: int = 3
) -> list[int]:
    """Sort images into groups by width / height.

    Args:
        dataset: COCO, VOC, ImageFolder, a Subset of them, or any dataset of (image, target).
        aspect_ratio_group_factor: k; the 2 k + 1 edges between groups lie evenly in the logarithm
            from 1/2 to 2. With 0, the one edge is 1.

    Returns:
        Group of each sample, 0 (narrowest) to 2 k + 1.
    """
    edges = 2.0 ** np.linspace(-1, 1, 2 * aspect_ratio_group_factor + 1)
    if aspect_ratio_group_factor == 0:
        edges = np.ones(1)
    ratios = [width / height for height, width in _image_sizes(dataset)]
    groups = np.digitize(ratios, edges)
    counts = np.bincount(groups, minlength=len(edges) + 1).tolist()
    logger.info("Images per aspect-ratio group, narrow to wide: %s", counts)
    return groups.tolist()
