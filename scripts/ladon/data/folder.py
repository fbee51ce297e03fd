"""Classification data: one folder per class, as in ILSVRC 2012."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torchvision import datasets
from torchvision.datasets.folder import IMG_EXTENSIONS, has_file_allowed_extension

from ladon.data.images import MOVE_ROOT, open_image
from ladon.errors import DataError


def _empty_class_folders(root: Path, is_valid: Callable[[str], bool]) -> list[Path]:
    def holds_image(folder: Path) -> bool:
        walk = os.walk(folder, followlinks=True)
        return any(is_valid(os.path.join(top, name)) for top, _, names in walk for name in names)

    return [
        folder for folder in sorted(root.iterdir()) if folder.is_dir() and not holds_image(folder)
    ]


def _has_image_extension(path: str) -> bool:
    return has_file_allowed_extension(path, IMG_EXTENSIONS)


class ImageFolder(datasets.ImageFolder):
    """torchvision's ImageFolder whose errors name the folder or file that is wrong.

    Args:
        root: folder with one folder of images per class; `~` is expanded.
        transform: applied to the PIL image.
        target_transform: applied to the class index.
        loader: reads an image file.
        is_valid_file: decides which files are images; by extension if None.
        allow_empty: accept class folders without images.

    Raises:
        DataError: the folder is missing, has no class folders, or one of them is empty.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        transform: Callable | None = None,
        target_transform: Callable | None = None,
        loader: Callable[[str], Any] = open_image,
        is_valid_file: Callable[[str], bool] | None = None,
        allow_empty: bool = False,
    ) -> None:
        root = Path(root).expanduser()
        if not root.is_dir():
            raise DataError(
                f"image folder {root} does not exist; "
                f"put one folder per class there, set its root, {MOVE_ROOT}"
            )
        if not any(entry.is_dir() for entry in root.iterdir()):
            raise DataError(
                f"image folder {root} holds no class folders; expected {root}/CLASS/*.jpg"
            )
        try:
            super().__init__(
                str(root), transform, target_transform, loader, is_valid_file, allow_empty
            )
        except FileNotFoundError as error:
            empty = _empty_class_folders(root, is_valid_file or _has_image_extension)
            if not empty:
                raise
            more = f" (and {len(empty) - 1} more like it)" if len(empty) > 1 else ""
            raise DataError(
                f"class folder {empty[0]}{more} holds no images; fill it or remove it"
            ) from error
