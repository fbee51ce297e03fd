"""Segmentation data as images and masks of the same names, and what all sets of masks check."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch.utils.data import Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS

from ladon.data.folder import visible_files
from ladon.data.transforms import IGNORED_LABEL
from ladon.errors import DataError
from ladon.images import MOVE_ROOT, open_image, open_mask, shown


class MaskFolder(Dataset):
    """Images in one folder, and in another one a PNG of the same name for each: its mask.

    Items are (PIL 'RGB' image, PIL mask of class ids), then transformed. Both folders may have
    folders in them; hidden files and files that are no images are left alone.

    Args:
        images: folder of the images; `~` is expanded.
        masks: folder of the masks: palette or 8-bit grey PNGs whose pixel values are class ids, or
            255 (ignored); `~` is expanded.
        class_names: name of each class id, background's included.
        list_file: text file with the images to take, one a line, as paths in the folder of images
            without suffix; by default all of them, in the order of their names.
        transforms: from (image, mask) to both.

    Attributes:
        images: file of each image.
        targets: file of each mask.
        class_names: name of each class id.
        num_classes: how many there are.

    Raises:
        DataError: a folder, list or mask is missing, or a class has no name of its own.
    """

    def __init__(
        self,
        images: str | os.PathLike,
        masks: str | os.PathLike,
        class_names: Sequence[str],
        list_file: str | os.PathLike | None = None,
        transforms: Callable | None = None,
    ) -> None:
        self.image_dir, self.mask_dir = Path(images).expanduser(), Path(masks).expanduser()
        self.class_names = checked_names(class_names)
        self.num_classes = len(self.class_names)
        self.transforms = transforms
        for folder, argument in ((self.image_dir, "images"), (self.mask_dir, "masks")):
            if not folder.is_dir():
                raise DataError(
                    f"folder of {argument} {shown(folder)} does not exist; put them there, set "
                    f"{argument}, {MOVE_ROOT}"
                )
        present = self._present()
        names = list(present)
        if list_file is not None:
            list_file = Path(list_file).expanduser()
            names = read_list(list_file)
            _refuse_missing(
                [str(self.image_dir / name) for name in names if name not in present],
                len(names),
                f"images that {shown(list_file)} names",
            )
        self.images = [present[name] for name in names]
        self.targets = [str(self.mask_dir / f"{name}.png") for name in names]
        _refuse_missing(
            [path for path in self.targets if not os.path.isfile(path)],
            len(names),
            f"masks of the images in {shown(self.image_dir)}",
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """Read one image and its mask.

        Raises:
            DataError: a file is damaged, sizes differ, or the mask holds an impossible class id.
        """
        image, mask = open_pair(self.images[index], self.targets[index], self.num_classes)
        return (image, mask) if self.transforms is None else self.transforms(image, mask)

    def _present(self) -> dict[str, str]:
        """Find the images, by their paths in the folder without suffix."""
        found: dict[str, str] = {}
        for path in visible_files(str(self.image_dir)):
            stem, suffix = os.path.splitext(path)
            if suffix.lower() not in IMG_EXTENSIONS:
                continue
            name = Path(stem).relative_to(self.image_dir).as_posix()
            if name in found:
                raise DataError(
                    f"{shown(found[name])} and {shown(path)} would share a mask; rename one of them"
                )
            found[name] = path
        if not found:
            raise DataError(f"folder of images {shown(self.image_dir)} holds none; fill it")
        return found


def open_pair(image_file: str, mask_file: str, num_classes: int) -> tuple[Image.Image, Image.Image]:
    """Read an image and its mask.

    Args:
        image_file: in any format Pillow reads.
        mask_file: palette or 8-bit grey.
        num_classes: class ids must be below it, or 255.

    Returns:
        The image in mode 'RGB', and the mask in its own mode, so that its values are class ids.

    Raises:
        DataError: a file is damaged, sizes differ, or the mask holds an impossible class id.
    """
    image, mask = open_image(image_file), open_mask(mask_file)
    if mask.size != image.size:
        raise DataError(
            f"mask {mask_file} is {mask.width}x{mask.height} pixels but its image is "
            f"{image.width}x{image.height}; make them the same size"
        )
    counts = mask.histogram()
    wrong = [value for value in range(num_classes, IGNORED_LABEL) if counts[value]]
    if wrong:
        raise DataError(
            f"mask {mask_file} holds class id {wrong[0]}; allowed are 0 to {num_classes - 1} and "
            f"{IGNORED_LABEL} (ignored): correct the mask or the number of classes"
        )
    return image, mask


def checked_names(class_names: Sequence[str]) -> list[str]:
    """Return the names of class ids, each of which must have one of its own.

    Raises:
        DataError: they are no list of different names, or more than masks have ids.
    """
    if isinstance(class_names, str) or not isinstance(class_names, Sequence) or not class_names:
        raise DataError(
            f"class_names is {class_names!r:.80}; give the list of names by class id, like "
            "[background, cat, dog]"
        )
    for class_id, name in enumerate(class_names):
        if not isinstance(name, str) or not name:
            raise DataError(
                f"class_names[{class_id}] is {name!r:.80}, not text; put the name into quotes"
            )
        if name in class_names[:class_id]:
            raise DataError(f"class_names[{class_id}] repeats '{name}'; give each class its own")
    if len(class_names) > IGNORED_LABEL:
        raise DataError(
            f"class_names has {len(class_names)} names, but masks hold class ids 0 to "
            f"{IGNORED_LABEL - 1}; name no more"
        )
    return list(class_names)


def read_list(list_file: Path) -> list[str]:
    """Read the names in a list, one a line.

    Raises:
        DataError: the file cannot be read, or names nothing.
    """
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
    return names


def _refuse_missing(missing: list[str], number: int, what: str) -> None:
    if missing:
        raise DataError(
            f"{shown(missing[0])} does not exist ({len(missing)} of {number} {what} are missing); "
            "restore them"
        )
