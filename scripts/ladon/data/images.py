"""Reading image files: every dataset opens its images and label masks here.

A damaged file must not stop a run with a library's traceback: it is named, with what to do. Of an
animated file the first frame is read. What EXIF says of an image's orientation is not heeded, as in
the published code: boxes and masks are those of the pixels as they are stored.
"""

from __future__ import annotations

import os
import struct

import numpy as np
from PIL import Image, UnidentifiedImageError

from ladon.errors import DataError

MOVE_ROOT = "or say where your datasets are with --data_root or LADON_DATA_ROOT"
"""What a person can do about a folder that is not where the config says."""

# Everything Pillow's decoders are known to raise on damaged input.
UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)

# Formats whose 16 bits Pillow gives in 32: 65535 is white in them, too.
_16_BITS_IN_32 = ("PNG", "PPM")


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
        The image, mode 'RGB'; 16 bits of grey are scaled to 8 (65535 is 255).

    Raises:
        DataError: the file is missing, truncated, no image, or of more than 8 bits a channel
            without a known white.
    """
    try:
        with Image.open(path) as image:
            if not image.mode.startswith(("I", "F")):
                return image.convert("RGB")
            image.load()
            return _as_8_bits(image, path).convert("RGB")
    except UNREADABLE as error:
        raise _unreadable("image", path, error) from error


def _as_8_bits(image: Image.Image, path: str | os.PathLike) -> Image.Image:
    """Scale grey of more than 8 bits: Pillow's own conversion takes all above 255 for white."""
    levels = np.asarray(image)
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in _16_BITS_IN_32):
        # (v + 128) // 257 is v / 257, rounded
        return Image.fromarray(((levels.astype(np.uint32) + 128) // 257).astype(np.uint8))
    # what looks like 0 to 255 in another type; only 0 and 1 might as well be black and white
    is_8_bit = levels.size and levels.min() >= 0 and 1 < levels.max() <= 255
    if (is_8_bit and np.array_equal(levels, np.floor(levels))) or not levels.any():
        return Image.fromarray(levels.astype(np.uint8))
    raise DataError(
        f"image {os.fspath(path)} has mode {image.mode}, whose white is not known; save it with 8 "
        "bits a channel, or as a 16-bit grey PNG whose white is 65535"
    )


def open_mask(path: str | os.PathLike) -> Image.Image:
    """Read and decode a label mask whose pixels are class ids.

    Args:
        path: palette ('P') or grey ('L') image file.

    Returns:
        The mask in its own mode, so that its pixel values are the class ids.

    Raises:
        DataError: the file is missing, truncated, no image, has no single 8-bit channel, or is in a
            form whose pixel values are not those that were stored.
    """
    try:
        with Image.open(path) as mask:
            altered = _alters_values(mask)
            mask.load()
            loaded = mask.copy()
    except UNREADABLE as error:
        raise _unreadable("mask", path, error) from error
    if loaded.mode not in ("P", "L"):
        raise DataError(
            f"mask {os.fspath(path)} has mode {loaded.mode}; "
            "save it as a palette or 8-bit grey PNG whose pixel values are class ids"
        )
    if altered:
        raise DataError(
            f"mask {os.fspath(path)} is stored {altered}, which changes its class ids; save it as "
            "a palette or 8-bit grey PNG"
        )
    return loaded


def _alters_values(mask: Image.Image) -> str | None:
    """Say why an opened, not yet decoded mask's pixels are not going to be what was stored."""
    if mask.format in ("JPEG", "MPO"):
        return "as JPEG"
    raw = raw_mode(mask)
    if raw is not None and raw != "L" and mask.mode == "L":  # Pillow scales them to 0 to 255
        return f"with other than 8 bits of grey ({raw})"
    return None


def raw_mode(image: Image.Image) -> str | None:
    """Give the form of the pixels in an opened, not yet decoded file: 'L;4' are 4 bits of grey."""
    for tile in image.tile:
        args = tile[3] if isinstance(tile[3], tuple | list) else (tile[3],)
        return args[0] if args and isinstance(args[0], str) else None
    return None


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
    except UNREADABLE as error:
        raise _unreadable("image", path, error) from error
