"""What a device encodes: image files, folders of them, a camera, a video."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ladon.errors import DataError, UsageError
from ladon.images import ImageLike, shown

ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Of the files of a folder that are taken."""

Picture = tuple[str, ImageLike]
"""A name, and the image: a path, which is not read yet, or pixels [H, W, 3] uint8."""


def of_files(places: Sequence[str]) -> list[Picture]:
    """Return images by what a person names: files, and folders whose image files are taken.

    Raises:
        UsageError: a folder holds none.
    """
    found: list[Picture] = []
    for place in map(Path, places):
        if not place.is_dir():
            found.append((shown(place), place))
            continue
        files = sorted(p for p in place.iterdir() if p.suffix.lower() in ENDINGS)
        if not files:
            raise UsageError(f"{place}: no image in that folder ({', '.join(ENDINGS)})")
        found += [(shown(path), path) for path in files]
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
