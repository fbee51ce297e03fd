"""Reading image files: every dataset opens its images and label masks here.

A damaged file must not stop a run with a library's traceback: it is named, with what to do.
"""

from __future__ import annotations

import os
import struct

from PIL import Image, UnidentifiedImageError

from ladon.errors import DataError

MOVE_ROOT = "or say where your datasets are with --data_root or LADON_DATA_ROOT"
"""What a person can do about a folder that is not where the config says."""

# Everything Pillow's decoders are known to raise on damaged input.
_UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)


def _unreadable(what: str, path: str | os.PathLike, error: Exception) -> DataError:
    if isinstance(error, FileNotFoundError):
        reason = "there is no such file"
    elif isinstance(error, UnidentifiedImageError):
        reason = "it is not in an image format that Pillow knows"
    else:
        reason = " ".join(str(error).split()) or type(error).__name__
    return DataError(f"cannot read {what} {os.fspath(path)}: {reason}; replace or remove it")


def open_image(path: str | os.PathLike) -> Image.Image:
    """Read and decode a whole image.

    Args:
        path: image file in any format Pillow reads.

    Returns:
        The image, mode 'RGB'.

    Raises:
        DataError: the file is missing, truncated or no image.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except _UNREADABLE as error:
        raise _unreadable("image", path, error) from error


def open_mask(path: str | os.PathLike) -> Image.Image:
    """Read and decode a label mask whose pixels are class ids.

    Args:
        path: palette ('P') or grey ('L') image file.

    Returns:
        The mask in its own mode, so that its pixel values are the class ids.

    Raises:
        DataError: the file is missing, truncated, no image, or has no single 8-bit channel.
    """
    try:
        with Image.open(path) as mask:
            mask.load()
            loaded = mask.copy()
    except _UNREADABLE as error:
        raise _unreadable("mask", path, error) from error
    if loaded.mode not in ("P", "L"):
        raise DataError(
            f"mask {os.fspath(path)} has mode {loaded.mode}; "
            "save it as a palette or 8-bit grey PNG whose pixel values are class ids"
        )
    return loaded


def read_size(path: str | os.PathLike) -> tuple[int, int]:
    """Read an image's size from its header, without decoding it.

    Args:
        path: image file.

    Returns:
        (height, width) in pixels.

    Raises:
        DataError: the file is missing or no image.
    """
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except _UNREADABLE as error:
        raise _unreadable("image", path, error) from error
