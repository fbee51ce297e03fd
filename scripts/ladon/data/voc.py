"""PASCAL VOC segmentation data."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from torchvision import datasets
from torchvision.datasets.voc import DATASET_YEAR_DICT

from ladon.data.images import MOVE_ROOT, open_image, open_mask, shown
from ladon.data.transforms import IGNORED_LABEL
from ladon.errors import DataError

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
        num_classes: class ids in masks must be below this, or 255 (ignored).

    Raises:
        DataError: a folder, list, image or mask is missing.
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
        num_classes: int = 21,
    ) -> None:
        year = str(year)
        if year not in DATASET_YEAR_DICT:
            raise DataError(f"PASCAL VOC has no year '{year}'; choose one of 2007 to 2012")
        root = Path(root).expanduser()
        voc_root = root / DATASET_YEAR_DICT[year]["base_dir"]
        # torchvision would extract its archive anew on every start.
        download = download and not voc_root.is_dir()
        if not download:
            _check_layout(voc_root, image_set)
            _listed_names(voc_root, image_set)  # before torchvision reads them
        super().__init__(
            str(root), year, image_set, download, transform, target_transform, transforms
        )
        self.num_classes = num_classes
        self.images, self.targets = _listed_files(voc_root, image_set)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """Read one image and its mask.

        Raises:
            DataError: a file is damaged, sizes differ, or the mask holds an impossible class id.
        """
        image = open_image(self.images[index])
        mask = open_mask(self.targets[index])
        self._check_mask(index, image, mask)
        if self.transforms is not None:
            image, mask = self.transforms(image, mask)
        return image, mask

    def _check_mask(self, index: int, image: Image.Image, mask: Image.Image) -> None:
        path = self.targets[index]
        if mask.size != image.size:
            raise DataError(
                f"mask {path} is {mask.width}x{mask.height} pixels but its image is "
                f"{image.width}x{image.height}; make them the same size"
            )
        counts = mask.histogram()
        wrong = [value for value in range(self.num_classes, IGNORED_LABEL) if counts[value]]
        if wrong:
            raise DataError(
                f"mask {path} holds class id {wrong[0]}; allowed are 0 to "
                f"{self.num_classes - 1} and {IGNORED_LABEL} (ignored): correct the mask or the "
                "number of classes"
            )


def _check_layout(voc_root: Path, image_set: str) -> None:
    if not voc_root.is_dir():
        raise DataError(
            f"PASCAL VOC folder {voc_root} does not exist; "
            f"put the dataset there, set download: true, {MOVE_ROOT}"
        )
    list_file = voc_root / "ImageSets" / "Segmentation" / f"{image_set}.txt"
    if not list_file.is_file():
        raise DataError(
            f"PASCAL VOC list {list_file} does not exist; "
            f"restore it or choose another image_set than '{image_set}'"
        )


def _listed_names(voc_root: Path, image_set: str) -> tuple[Path, list[str]]:
    """Give a list and the image ids that it holds."""
    list_file = voc_root / "ImageSets" / "Segmentation" / f"{image_set}.txt"
    try:
        text = list_file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read {list_file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{list_file} is not UTF-8 text (byte {error.start}); save it as UTF-8"
        ) from error
    names = [line.strip() for line in text.split("\n") if line.strip()]
    if not names:
        raise DataError(f"{list_file} names no images; fill it with one image id per line")
    return list_file, names


def _listed_files(voc_root: Path, image_set: str) -> tuple[list[str], list[str]]:
    """Give the paths of all images and masks that a list names, all of them there."""
    list_file, names = _listed_names(voc_root, image_set)
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
