"""The names of a dataset's classes: what they are, whether two sets agree, whether a model fits.

A label is a number. Which class it stands for is a matter of the set that a model was trained on; a
set that numbers its classes by itself, as a folder of folders does, must be told.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.utils.data import Subset
from torchvision.datasets import DatasetFolder

from ladon.data.coco_annotations import Annotations, annotations_of
from ladon.data.coco_categories import Categories
from ladon.data.labels import name_problem, positions_of, shortened
from ladon.data.listing import Samples
from ladon.data.masks import MaskFolder
from ladon.data.voc import VOC_CLASSES, VOCSegmentation
from ladon.errors import DataError


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
        dataset: a folder of images, or a dataset with a list `class_names` (COCO, masks, one's
            own), or one of them in Subsets and wrappers.

    Returns:
        The name of each label, '' where a label has none (COCO has such); None for other datasets,
        and for those without names.
    """
    dataset = base_dataset(dataset)
    names = getattr(dataset, "class_names", None)
    if isinstance(dataset, DatasetFolder):
        names = dataset.classes
    is_list = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    return list(names) if names and is_list else None


def categories_of(dataset: Any) -> Categories | None:
    """Return the categories of a COCO detection set, whose labels depend on the model."""
    found = getattr(base_dataset(dataset), "categories", None)
    return found if isinstance(found, Categories) else None


def match_class_names(dataset: Any, names: Sequence[str], where: str) -> None:
    """Make a dataset's labels mean what they mean to a model.

    The labels of a folder of images become the positions of its folders' names; elsewhere the
    names are compared. COCO's categories take labels by `Categories.assign`.

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
    problem = name_problem(dict(enumerate(own)), names, where)
    if problem is not None:
        raise DataError(f"{_source(dataset)}: {problem}")


def check_num_classes(
    dataset: Any, num_classes: int, where: str = "the model's num_classes"
) -> None:
    """See that a model has an output for each of a dataset's classes.

    Args:
        dataset: a folder of images, whose labels are 0 to K - 1, or masks with names of their own,
            likewise, or a detection set whose labels are the category ids of its `coco`, 1 to K - 1
            (0 is background); anything else is left to its own checks.
        num_classes: K, the model's.
        where: what says so: the config's key, with file and line.

    Raises:
        DataError: naming a class beyond them.
    """
    dataset = base_dataset(dataset)
    coco = annotations_of(dataset)
    if isinstance(dataset, DatasetFolder):
        advice = "remove folders or set"
    elif isinstance(dataset, MaskFolder | VOCSegmentation):
        advice = "set"
    elif coco is not None and not getattr(dataset, "is_segment", False):
        if isinstance(coco, Annotations):
            entries, used = coco.entries, coco.used_ids
        else:
            entries = list(coco.cats.values())
            used = [category for category, images in coco.catToImgs.items() if images]
        Categories(entries, used, _source(dataset), where).keep_ids(num_classes)
        return
    else:
        return
    names = class_names(dataset)
    # VOC's names are the default of masks that hold fewer classes, too
    if names is None or names == list(VOC_CLASSES) or len(names) <= num_classes:
        return
    raise DataError(
        f"{_source(dataset)} has {len(names)} classes ({shortened(names)}), but the model has "
        f"{num_classes}; {advice} {where} to {len(names)}"
    )


def _relabel(dataset: DatasetFolder, names: Sequence[str], where: str) -> None:
    present = sorted(set(dataset.targets))
    found = [dataset.classes[label] for label in present]
    new = dict(zip(present, positions_of(found, names, dataset.root, where), strict=True))
    if isinstance(dataset.samples, Samples):
        dataset.samples = dataset.samples.relabelled(new)
    else:
        dataset.samples = [(path, new[label]) for path, label in dataset.samples]
    dataset.targets = [new[label] for label in dataset.targets]
    if hasattr(dataset, "imgs"):
        dataset.imgs = dataset.samples
    dataset.classes = list(names)
    dataset.class_to_idx = {name: label for label, name in enumerate(names)}


def _source(dataset: Any) -> str:
    names = ("annotation_file", "image_dir", "root")
    source = next((found for name in names if (found := getattr(dataset, name, None))), None)
    return str(source or type(dataset).__name__)
