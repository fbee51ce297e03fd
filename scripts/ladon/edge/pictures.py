"""What a device encodes: image files, folders of them, a camera, a video."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ladon.errors import DataError, UsageError
from ladon.images import ImageLike, shown

Picture = tuple[str, ImageLike]
"""A name, and the image: a path, which is not read yet, or pixels [H, W, 3] uint8."""


def find_files(
    sources: Iterable[str | os.PathLike], more: Collection[str] = (), what: str = "pictures"
) -> list[Path]:
    """Return the files that are named, and those in folders that are named, by their names.

    In a folder, files count that end like pictures, and do not begin with a dot.

    Args:
        sources: files and folders.
        more: further endings, such as '.ladon'.
        what: is looked for, for messages.

    Raises:
        UsageError: a folder has none.
    """
    endings = {*Image.registered_extensions(), *more}
    found: list[Path] = []
    for source in sources:
        path = Path(source).expanduser()
        if not path.is_dir():
            found.append(path)
            continue
        inside = [
            file
            for file in sorted(path.iterdir())
            if file.suffix.lower() in endings and not file.name.startswith(".") and file.is_file()
        ]
        if not inside:
            raise UsageError(f"{shown(path)}: the folder has no {what}")
        found += inside
    return found


def of_camera(number: int) -> Iterator[Picture]:
    """Yield a camera's frames, as long as it gives any."""
    yield from _frames(number, f"camera {number}")


def of_video(path: str) -> Iterator[Picture]:
    """Yield a video's frames."""
    if not Path(path).is_file():
        raise DataError(f"cannot read video {shown(path)}: there is no such file")
    yield from _frames(path, shown(Path(path).name))


def _frames(source: int | str, name: str) -> Iterator[Picture]:
    with _opened(source, name) as capture:
        number = 0
        while True:
            is_read, pixels = capture.read()
            if not is_read:
                break
            number += 1
            # OpenCV's order is blue, green, red
            yield f"{name} {number:06d}", np.ascontiguousarray(pixels[:, :, ::-1])
    if not number:
        raise DataError(f"{name}: gives no picture")


@contextmanager
def _opened(source: int | str, name: str) -> Iterator[Any]:
    try:
        import cv2
    except ImportError as error:
        raise UsageError(
            "cameras and videos are read by OpenCV: pip install opencv-python-headless"
        ) from error
    capture = cv2.VideoCapture(source)
    try:
        if not capture.isOpened():
            raise DataError(f"{name}: cannot be opened")
        yield capture
    finally:
        capture.release()
