"""One sample: loaded with its own random numbers, and named if it cannot be loaded."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch.utils.data import Dataset, Subset

from ladon.data.bad_samples import MOST_IN_A_ROW, BadSample, Replacement
from ladon.data.seeding import EVALUATION, seeded_rng
from ladon.errors import DataError, in_one_line
from ladon.images import shown


class MapDataset(Protocol):
    """A dataset whose samples have numbers."""

    def __len__(self) -> int:
        """Count the samples."""

    def __getitem__(self, index: int, /) -> Any:
        """Load the sample at an index."""


class SeededDataset(Dataset):
    """Draws a sample's augmentation from (seed, epoch, index), wherever it is loaded.

    Args:
        dataset: map-style dataset.
        seed: of the run.
        requires_supp: append an empty dict to each sample, as torchdistill's training expects.
        skips_bad: give another sample in the place of one that cannot be loaded.
    """

    def __init__(
        self,
        dataset: MapDataset,
        seed: int,
        requires_supp: bool = False,
        skips_bad: bool = False,
    ) -> None:
        self.dataset = dataset
        self.seed = seed
        self.requires_supp = requires_supp
        self.skips_bad = skips_bad

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, epoch_and_index: tuple[int, int]) -> tuple:
        """Load the sample of (epoch, index), or a `Replacement` of it.

        Raises:
            DataError: it cannot be loaded, nor what was drawn in its place.
        """
        epoch, index = epoch_and_index
        try:
            return self._load(epoch, index, index)
        except DataError as error:
            if not self.skips_bad:
                raise
            return self._replacement(epoch, index, error)

    def _load(self, epoch: int, place: int, index: int) -> tuple:
        with seeded_rng(self.seed, epoch, place):
            sample = _load(self.dataset, index)
        return (*sample, {}) if self.requires_supp else tuple(sample)

    def _replacement(self, epoch: int, place: int, error: DataError) -> Replacement:
        """Load the first of some samples that can be, drawn from (seed, epoch, place)."""
        bad = [BadSample(sample_name(self.dataset, place), str(error))]
        with seeded_rng(self.seed, epoch, place, MOST_IN_A_ROW):
            drawn = torch.randint(len(self.dataset), (MOST_IN_A_ROW,)).tolist()
        for index in drawn:
            try:
                return Replacement(self._load(epoch, place, index), tuple(bad))
            except DataError as another:
                bad.append(BadSample(sample_name(self.dataset, index), str(another)))
        raise DataError(
            f"{len(bad)} samples in a row cannot be loaded, the last: {bad[-1].reason}; look "
            "whether the data set is still there, then add --resume"
        )


class IndexedDataset(Dataset):
    """Gives (index, sample, target), the same at every call even if a transform draws numbers.

    Args:
        dataset: map-style dataset of (sample, target, ...).
    """

    def __init__(self, dataset: MapDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[int, Any, Any]:
        """Load the sample at an index."""
        with seeded_rng(0, EVALUATION, index):
            sample, target, *_ = _load(self.dataset, index)
        return index, sample, target


def _load(dataset: MapDataset, index: int) -> Any:
    """Load a sample; whatever its dataset or a transform raises, say for which file.

    Raises:
        DataError: it cannot be loaded, or is no pair.
    """
    try:
        sample = dataset[index]
    except DataError:
        raise
    except Exception as error:
        name = sample_name(dataset, index)
        raise DataError(f"cannot load {name}: {in_one_line(error)}") from error
    if isinstance(sample, tuple | list) and len(sample) >= 2:
        return sample
    found = f"a {type(sample).__name__}"
    if isinstance(sample, tuple | list):
        found += f" of {len(sample)}"
    elif sample is None:
        found = "None"
    raise DataError(
        f"cannot load {sample_name(dataset, index)}: it is {found}, not a pair of image and "
        "target: let __getitem__ return both, and leave out of the dataset what has none"
    )


def sample_name(dataset: Any, index: int) -> str:
    """Name a sample by its file, if the dataset can tell, or else by its number."""
    path = sample_path(dataset, index)
    if path is not None:
        return shown(path)
    dataset, index = _within(dataset, index)
    return f"sample {index} of {type(dataset).__name__}"


def sample_path(dataset: Any, index: int) -> str | None:
    """Return a sample's file, if the dataset can tell: as ImageFolder and VOCSegmentation do."""
    dataset, index = _within(dataset, index)
    for name in ("samples", "images"):
        entries = getattr(dataset, name, None)
        if isinstance(entries, Sequence) and index < len(entries):
            entry = entries[index]
            path = entry[0] if isinstance(entry, tuple | list) and entry else entry
            if isinstance(path, str | os.PathLike):
                return os.fspath(path)
    return None


def _within(dataset: Any, index: int) -> tuple[Any, int]:
    """Return the dataset within Subsets and torchdistill's wrappers, and the index in it."""
    while True:
        if isinstance(dataset, Subset):
            dataset, index = dataset.dataset, dataset.indices[index]
        elif hasattr(dataset, "org_dataset"):
            dataset = dataset.org_dataset
        else:
            return dataset, index
