"""PASCAL VOC segmentation data."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torchvision import datasets
from torchvision.datasets.voc import DATASET_YEAR_DICT

from ladon.data.masks import checked_names, open_pair, read_list
from ladon.errors import DataError
from ladon.images import MOVE_ROOT, shown

VOC_CLASSES = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
"""Names of the class ids in masks."""


class VOCSegmentation(datasets.VOCSegmentation):
    """torchvision's VOCSegmentation that checks what it finds.

    Items are (PIL 'RGB' image, PIL mask of class ids), then transformed.

    Args:
        root: folder that holds `VOCdevkit`; `~` is expanded.
        year: '2007' to '2012'.
        image_set: 'train', 'trainval' or 'val'.
        download: fetch the archive, unless the year's folder is already in place.
        transform: applied to the image.
        target_transform: applied to the mask.
        transforms: applied to both.
        num_classes: class ids in masks must be below this, or 255 (ignored); by default as many as
            there are names, or VOC's 21.
        class_names: name of each class id, background's included; by default VOC's, if there are
            21 classes.

    Attributes:
        class_names: name of each class id, None if they are not known.

    Raises:
        DataError: a folder, list, image or mask is missing, or names and number of classes
            disagree.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        year: str = "2012",
        image_set: str = "train",
        download: bool = False,
        transform: Callable | None = None,
        target_transform: Callable | None = None,
        transforms: Callable | None = None,
        num_classes: int | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        self.class_names, self.num_classes = _classes(class_names, num_classes)
        year = str(year)
        if year not in DATASET_YEAR_DICT:
            raise DataError(f"PASCAL VOC has no year '{year}'; choose one of 2007 to 2012")
        root = Path(root).expanduser()
        voc_root = root / DATASET_YEAR_DICT[year]["base_dir"]
        # torchvision would extract its archive anew on every start.
        download = download and not voc_root.is_dir()
        if not download:
            _check_layout(voc_root, image_set)
            read_list(_list_file(voc_root, image_set))  # before torchvision reads them
        super().__init__(
            str(root), year, image_set, download, transform, target_transform, transforms
        )
        self.images, self.targets = _listed_files(voc_root, image_set)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """Read one image and its mask.

        Raises:
            DataError: a file is damaged, sizes differ, or the mask holds an impossible class id.
        """
        image, mask = open_pair(self.images[index], self.targets[index], self.num_classes)
        if self.transforms is not None:
            image, mask = self.transforms(image, mask)
        return image, mask


def _classes(
    class_names: Sequence[str] | None, num_classes: int | None
) -> tuple[list[str] | None, int]:
    """Return the names of the classes, None if unknown, and how many there are."""
    if class_names is not None:
        names = checked_names(class_names)
        if num_classes not in (None, len(names)):
            raise DataError(
                f"class_names has {len(names)} names, but num_classes is {num_classes}; leave "
                "num_classes out or make them agree"
            )
        return names, len(names)
    number = len(VOC_CLASSES) if num_classes is None else num_classes
    return (list(VOC_CLASSES) if number == len(VOC_CLASSES) else None), number


def _check_layout(voc_root: Path, image_set: str) -> None:
    if not voc_root.is_dir():
        raise DataError(
            f"PASCAL VOC folder {voc_root} does not exist; "
            f"put the dataset there, set download: true, {MOVE_ROOT}"
        )
    list_file = _list_file(voc_root, image_set)
    if not list_file.is_file():
        raise DataError(
            f"PASCAL VOC list {list_file} does not exist; "
            f"restore it or choose another image_set than '{image_set}'"
        )


def _list_file(voc_root: Path, image_set: str) -> Path:
    return voc_root / "ImageSets" / "Segmentation" / f"{image_set}.txt"


def _listed_files(voc_root: Path, image_set: str) -> tuple[list[str], list[str]]:
    """Give the paths of all images and masks that a list names, all of them there."""
    list_file = _list_file(voc_root, image_set)
    names = read_list(list_file)
    paths = []
    for folder, suffix in (
        (voc_root / "JPEGImages", ".jpg"),
        (voc_root / "SegmentationClass", ".png"),
    ):
        files = [name + suffix for name in names]
        present = set(os.listdir(folder)) if folder.is_dir() else set()
        missing = [name for name in files if name not in present]
        if missing:
            raise DataError(
                f"{shown(folder / missing[0])} does not exist ({len(missing)} of {len(files)} "
                f"files that {list_file} names are missing); restore them or edit the list"
            )
        paths.append([str(folder / name) for name in files])
    return paths[0], paths[1]
