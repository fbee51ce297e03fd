"""The names of a dataset's classes: what they are, whether two sets agree, whether a model fits.

A label is a number. Which class it stands for is a matter of the set that a model was trained on; a
set that numbers its classes by itself, as a folder of folders does, must be told.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.utils.data import Subset
from torchvision.datasets import DatasetFolder

from ladon.data.coco import CocoDataset
from ladon.data.labels import positions_of, shortened
from ladon.data.voc import VOC_CLASSES, VOCSegmentation
from ladon.errors import DataError

_MOST_LABELS = 100_000  # as a list by label; more than any set has, less than what fills memory


def base_dataset(dataset: Any) -> Any:
    """Give the dataset within Subsets and torchdistill's wrappers."""
    while True:
        if isinstance(dataset, Subset):
            dataset = dataset.dataset
        elif hasattr(dataset, "org_dataset"):
            dataset = dataset.org_dataset
        else:
            return dataset


def class_names(dataset: Any) -> list[str] | None:
    """Give the names of a dataset's classes by label.

    Args:
        dataset: a folder of images, COCO, PASCAL VOC, or one of them in Subsets and wrappers.

    Returns:
        The name of each label, '' where a label has none (COCO has such); None for other datasets,
        and for those without names.
    """
    dataset = base_dataset(dataset)
    if isinstance(dataset, VOCSegmentation) or getattr(dataset, "is_segment", False):
        return list(VOC_CLASSES)
    if isinstance(dataset, DatasetFolder):
        return list(dataset.classes)
    if isinstance(dataset, CocoDataset):
        names = {i: c.get("name", "") for i, c in dataset.coco.cats.items() if i >= 0}
        if any(names.values()) and max(names) < _MOST_LABELS:
            return [names.get(label, "") for label in range(max(names) + 1)]
    return None


def match_class_names(dataset: Any, names: Sequence[str], where: str) -> None:
    """Make a dataset's labels mean what they mean to a model.

    The labels of a folder of images become the positions of its folders' names; COCO's are given by
    the file, so that its names are compared.

    Args:
        dataset: changed in place; one of which `class_names` knows nothing is left alone.
        names: the model's, by label; '' where unknown.
        where: whose names they are, for messages: 'the training set …' or 'the checkpoint …'.

    Raises:
        DataError: the dataset has a class that is not among the names.
    """
    dataset = base_dataset(dataset)
    own = class_names(dataset)
    if own is None or list(own) == list(names):
        return
    if isinstance(dataset, DatasetFolder):
        _relabel(dataset, names, where)
        return
    used = _used_categories(dataset)
    for label, name in enumerate(own):
        theirs = names[label] if label < len(names) else ""
        if name and theirs and name != theirs and (used is None or label in used):
            raise DataError(
                f"{_source(dataset)}: class {label} is '{name}', but '{theirs}' in {where}; use a "
                "dataset with the same classes"
            )


def check_num_classes(
    dataset: Any, num_classes: int, where: str = "the model's num_classes"
) -> None:
    """See that a model has an output for each of a dataset's classes.

    Args:
        dataset: a folder of images, whose labels are 0 to K - 1, or COCO for a detector, whose
            labels are 1 to K - 1 (0 is background); anything else is left to its own checks.
        num_classes: K, the model's.
        where: what says so: the config's key, with file and line.

    Raises:
        DataError: naming a class beyond them.
    """
    dataset = base_dataset(dataset)
    if isinstance(dataset, DatasetFolder):
        count = len(dataset.classes)
        if count > num_classes:
            raise DataError(
                f"{dataset.root} has {count} classes ({shortened(dataset.classes)}), but the "
                f"model has {num_classes}; remove folders or set {where} to {count}"
            )
        return
    used = _used_categories(dataset)
    wrong = sorted(i for i in used or () if not 1 <= i < num_classes)
    if wrong:
        needed = f" to {wrong[-1] + 1}" if wrong[-1] >= num_classes else ""
        raise DataError(
            f"{_source(dataset)}: annotations have category_id {wrong[0]} ({len(wrong)} such ids), "
            f"but a detector of num_classes {num_classes} has labels 1 to {num_classes - 1}; "
            f"number the categories so or set {where}{needed}"
        )


def _relabel(dataset: DatasetFolder, names: Sequence[str], where: str) -> None:
    present = sorted({label for _, label in dataset.samples})
    found = [dataset.classes[label] for label in present]
    new = dict(zip(present, positions_of(found, names, dataset.root, where), strict=True))
    dataset.samples = [(path, new[label]) for path, label in dataset.samples]
    dataset.targets = [label for _, label in dataset.samples]
    if hasattr(dataset, "imgs"):
        dataset.imgs = dataset.samples
    dataset.classes = list(names)
    dataset.class_to_idx = {name: label for label, name in enumerate(names)}


def _used_categories(dataset: Any) -> set[int] | None:
    """Category ids of a COCO detection set's objects; None for any other dataset."""
    coco = getattr(dataset, "coco", None)
    if coco is None or getattr(dataset, "is_segment", False):
        return None
    return {category for category, images in coco.catToImgs.items() if images}


def _source(dataset: Any) -> str:
    source = getattr(dataset, "annotation_file", None) or getattr(dataset, "root", None)
    return str(source or type(dataset).__name__)
