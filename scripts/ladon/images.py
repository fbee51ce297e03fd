"""Reading image files: every dataset opens its images and label masks here.

A damaged file must not stop a run with a library's traceback: it is named, with what to do. Of an
animated file the first frame is read. What EXIF says of an image's orientation is not heeded unless
it is asked for, as in the published code: boxes and masks are those of the pixels as they are
stored.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from ladon.errors import DataError, in_one_line

ImageLike = str | os.PathLike | Image.Image | np.ndarray
"""What `as_image` takes."""

MOVE_ROOT = "or say where your datasets are with --data_root or LADON_DATA_ROOT"
"""Advice where a folder is not where the config says."""

MAX_PIXELS = 89_478_485
"""An image has no more, so that a small file cannot take all memory; from here on Pillow warns."""

_AT_ONCE = 1 << 20  # pixels
# Pillow starts Ghostscript for the one and asks Windows for the other.
_DRAWN = ("EPS", "WMF")
# What ends a line besides the control characters, as `str.splitlines` sees it.
_BREAKS = (0x7F, 0x85, 0x2028, 0x2029)

# Formats whose 16 bits Pillow gives in 32: 65535 is white in them, too.
_16_BITS_IN_32 = ("PNG", "PPM")


Source = str | os.PathLike | bytes
"""An image's file, or the bytes of one."""


def shown(path: Source) -> str:
    """Give a path so that a message stays in one line, whatever the file is called."""
    if isinstance(path, bytes):
        return f"of {len(path):,} bytes"
    return "".join("?" if ord(c) < 32 or ord(c) in _BREAKS else c for c in os.fspath(path))


@contextmanager
def opened(path: Source, what: str = "image") -> Iterator[Image.Image]:
    """Open an image file, of which only the header is read.

    Args:
        path: image file, or the bytes of one.
        what: it is, for messages.

    Raises:
        DataError: the file is missing, no image, or too large; or whatever Pillow raised of it
            within the `with`.
    """
    try:
        file = io.BytesIO(path) if isinstance(path, bytes) else path
        if file is path and not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would be waited for
            raise OSError("it is not a file")
        with Image.open(file) as image:
            if image.format in _DRAWN:
                raise ValueError(f"{image.format} is drawn by another program")
            if not image.width * image.height:
                raise ValueError("it has no pixels")
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(
                    f"{image.width}x{image.height} pixels are more than {MAX_PIXELS:,}"
                )
            yield image
    except DataError:
        raise
    except Exception as error:  # damaged bytes end Pillow's decoders in arbitrary ways
        raise _unreadable(what, path, error) from error


def _unreadable(what: str, path: Source, error: Exception) -> DataError:
    if isinstance(error, FileNotFoundError):
        reason = "there is no such file"
    elif isinstance(error, UnidentifiedImageError):
        reason = "it is not in an image format that Pillow knows"
    elif isinstance(error, OSError | ValueError | SyntaxError) and str(error).strip():
        reason = " ".join(str(error).split())
    else:
        reason = in_one_line(error)
    return DataError(f"cannot read {what} {shown(path)}: {reason}; replace or remove it")


def open_image(path: Source, *, upright: bool = False) -> Image.Image:
    """Read and decode a whole image.

    Args:
        path: image file in any format Pillow reads, or the bytes of one.
        upright: turn it as its EXIF data say, as a person sees it.

    Returns:
        The image, mode 'RGB'; 16 bits of grey are scaled to 8 (65535 is 255).

    Raises:
        DataError: the file is missing, truncated, no image, or of more than 8 bits a channel
            without a known white.
    """
    with opened(path) as image:
        image.load()  # only now some formats know their mode
        if upright and image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            form = image.format
            image = ImageOps.exif_transpose(image)
            image.format = form
        if not image.mode.startswith(("I", "F")):
            return image.convert("RGB")
        return _as_8_bits(image, path).convert("RGB")


def as_image(image: ImageLike) -> Image.Image:
    """Return an image in mode 'RGB'.

    Args:
        image: a file, whose EXIF orientation counts; a Pillow image; or pixels, uint8,
            [H, W, 3] or [H, W] of grey.

    Raises:
        DataError: it cannot be read, is too large, or no image.
    """
    if isinstance(image, (str, os.PathLike)):
        return open_image(image, upright=True)
    if isinstance(image, np.ndarray):
        is_grey = image.ndim == 2
        is_image = is_grey or (image.ndim == 3 and image.shape[2] == 3)
        if image.dtype != np.uint8 or not is_image or not image.size:
            raise DataError(
                f"an array {image.shape} of {image.dtype} is no image: [H, W, 3] or [H, W] of "
                "uint8 is one"
            )
        image = Image.fromarray(np.ascontiguousarray(image))
    if not isinstance(image, Image.Image):
        raise DataError(
            f"a {type(image).__name__} is no image: give a path, a Pillow image or an array"
        )
    if image.width * image.height > MAX_PIXELS:
        raise DataError(f"{image.width}x{image.height} pixels are more than {MAX_PIXELS:,}")
    return image if image.mode == "RGB" else image.convert("RGB")


def _as_8_bits(image: Image.Image, path: Source) -> Image.Image:
    """Scale grey of more than 8 bits: Pillow's own conversion takes all above 255 for white."""
    is_16_bit = image.mode.startswith("I;16")
    if is_16_bit or (image.mode == "I" and image.format in _16_BITS_IN_32):
        # (v + 128) // 257 is v / 257, rounded
        return _by_bands(image, lambda levels: (levels.astype(np.uint32) + 128) // 257)
    highest, is_whole = 0, True
    for _, levels in _bands(image):
        is_whole &= bool((levels >= 0).all() and (levels == np.floor(levels)).all())
        highest = max(highest, levels.max(initial=0))  # of NaN it matters only that it is not whole
    # what looks like 0 to 255 in another type; only 0 and 1 might as well be black and white
    if is_whole and (highest == 0 or 1 < highest <= 255):
        return _by_bands(image, lambda levels: levels)
    raise DataError(
        f"image {shown(path)} has mode {image.mode}, whose white is not known; save it with 8 "
        "bits a channel, or as a 16-bit grey PNG whose white is 65535"
    )


def _bands(image: Image.Image) -> Iterator[tuple[int, np.ndarray]]:
    """Give rows of an image as arrays, each with its first row's number: not all at once."""
    rows = max(1, _AT_ONCE // max(1, image.width))
    for top in range(0, image.height, rows):
        part = image.crop((0, top, image.width, min(image.height, top + rows)))
        yield top, np.asarray(part)


def _by_bands(image: Image.Image, levels_of: Callable[[np.ndarray], np.ndarray]) -> Image.Image:
    made = np.empty((image.height, image.width), np.uint8)
    for top, levels in _bands(image):
        made[top : top + len(levels)] = levels_of(levels)
    return Image.fromarray(made)


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
    with opened(path, "mask") as mask:
        altered = _alters_values(mask)
        mask.load()
        loaded = mask.copy()
    if loaded.mode not in ("P", "L"):
        raise DataError(
            f"mask {shown(path)} has mode {loaded.mode}; "
            "save it as a palette or 8-bit grey PNG whose pixel values are class ids"
        )
    if altered:
        raise DataError(
            f"mask {shown(path)} is stored {altered}, which changes its class ids; save it as "
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
    for tile in getattr(image, "tile", ()):
        args = tile[3] if isinstance(tile[3], tuple | list) else (tile[3],)
        return args[0] if args and isinstance(args[0], str) else None
    return None


def read_size(path: Source) -> tuple[int, int]:
    """Read an image's size from its header, without decoding it.

    Args:
        path: image file, or the bytes of one.

    Returns:
        (height, width) in pixels.

    Raises:
        DataError: the file is missing or no image.
    """
    with opened(path) as image:
        if image.format == "ICNS":  # its header counts points, which may be of two pixels
            image.load()
        return image.height, image.width
