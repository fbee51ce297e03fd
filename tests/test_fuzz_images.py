"""Image files of every mode and format that Pillow writes, whole and damaged: right or refused."""

from __future__ import annotations

import functools
import io
import os
import struct
import warnings
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from fuzzing import DAMAGES, damaged, folder, fuzz, in_child, refusals
from hypothesis import strategies as st
from pictures import MODES, picture
from PIL import Image

from ladon.data.fast_input import read_tensor
from ladon.errors import DataError
from ladon.images import open_image, open_mask, read_size

Image.init()
FORMATS = sorted({*Image.SAVE, "JPEG2000", "GIF"} - {"PDF", "PALM", "XBM"})


@functools.cache
def whole_files() -> dict[tuple[str, str], bytes]:
    """A file of each mode in each format that takes it."""
    made = {}
    for mode in MODES:
        for form in FORMATS:
            buffer = io.BytesIO()
            try:
                picture(mode).save(buffer, form)
            except (OSError, ValueError, KeyError, NotImplementedError, AttributeError, TypeError):
                continue
            made[mode, form] = buffer.getvalue()
    return made


# Made when first drawn from: only the child needs them.
NAMES = st.deferred(lambda: st.sampled_from(sorted(whole_files())))


def written(content: bytes) -> Path:
    path = folder() / "a.png"
    path.write_bytes(content)
    return path


def read(path: Path) -> dict[str, np.ndarray | tuple]:
    """What each reader makes of a file; those that refuse it are not there."""
    found: dict = {}
    for reader in (open_image, read_tensor, open_mask, read_size):
        with warnings.catch_warnings(), refusals() as said:
            warnings.simplefilter("ignore")
            made = reader(path)
            if reader is open_image:
                assert made.mode == "RGB"
                found["image"] = np.asarray(made)
            elif reader is read_tensor:
                found["tensor"] = made.permute(1, 2, 0).numpy()
            elif reader is open_mask:
                assert made.mode in ("P", "L")
                found["mask"] = np.asarray(made)
            else:
                found["size"] = made
        if said:
            assert str(path) in said[0]
    for key in ("image", "tensor"):
        if key in found:
            assert found[key].dtype == np.uint8
            assert found[key].shape[2:] == (3,)
    return found


@fuzz(NAMES, 500, ("I;16", "ICNS"), ("RGBA", "ICNS"), ("L", "EPS"))
def whole(case):
    """A file in order is read as Pillow reads it, by both inputs, or refused by both."""
    form = case[1]
    found = read(written(whole_files()[case]))
    assert ("image" in found) == ("tensor" in found)
    if form == "EPS":  # Ghostscript would draw it
        assert not found
        return
    with Image.open(io.BytesIO(whole_files()[case])) as stored:
        stored.load()
        if "image" in found and not stored.mode.startswith(("I", "F")):
            assert np.array_equal(found["image"], np.asarray(stored.convert("RGB")))
        if "image" in found and stored.mode.startswith("I;16"):
            expected = np.round(np.asarray(stored).astype(float) / 257)
            assert np.array_equal(found["image"][..., 0], expected)
        if "mask" in found:
            assert np.array_equal(found["mask"], np.asarray(stored))
        if "size" in found:
            assert found["size"] == (stored.height, stored.width)
    if "image" in found:
        difference = np.abs(found["image"].astype(int) - found["tensor"].astype(int)).max()
        assert difference <= 1
    else:
        assert stored.mode in ("I", "F")


@fuzz(
    st.tuples(NAMES, DAMAGES),
    400,
    (("L", "PNG"), [("flip", 0.77, 4)]),  # a segmentation fault of torchvision's decoder
    (("RGB", "PNG"), [("cut", 0.5, 0)]),
    (("1", "AVIF"), [("flip", 91, 0)]),  # a RuntimeError of Pillow
)
def damage(case):
    name, damages = case
    content = damaged(whole_files()[name], damages)
    found = read(written(content))
    assert ("image" in found) == ("tensor" in found), found.keys()
    if "image" in found:
        assert found["image"].shape == found["tensor"].shape


def png_of(width: int, height: int, data: bytes = b"") -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@fuzz(
    st.tuples(st.sampled_from(["PNG", "PGM", "GIF"]), *[st.integers(0, 2**16 - 1)] * 2),
    30,
    ("PNG", 9_000, 9_000),
    ("PNG", 12_000, 12_000),
    ("PNG", 2**31 - 1, 2**31 - 1),
    ("PGM", 10**9, 10**9),
    ("GIF", 65_535, 65_535),
)
def claims(case):
    """A header that claims many pixels above a few bytes takes neither memory nor time."""
    form, width, height = case
    if form == "PNG":
        content = png_of(width, height, b"x")
    elif form == "PGM":
        content = b"P5 %d %d 255 abc" % (width, height)
    else:
        size = struct.pack("<HH", width, height)
        content = b"GIF89a" + size + b"\0\0\0," + bytes(4) + size + b"\0\2\1\0\0;"
    found = read(written(content))
    assert not {"image", "tensor", "mask"} & found.keys() or width * height <= 4096


def test_more_pixels_than_memory_should_hold_are_refused(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png_of(9460, 9460))
    for reader in (open_image, read_tensor, read_size):
        with pytest.raises(
            DataError, match=r"cannot read image .*a\.png: 9460x9460 pixels are more"
        ):
            reader(path)


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    for reader in (open_image, read_tensor, read_size):
        with pytest.raises(DataError, match=r"cannot read image .*a\.png: it is not a file; rep"):
            reader(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"cannot read mask .*a\.png: it is not a file; replace"):
        open_mask(tmp_path / "a.png")


def test_no_other_program_is_started_to_draw_an_image(tmp_path):
    picture("RGB").save(tmp_path / "a.jpg", "EPS")
    with pytest.raises(DataError, match=r"a\.jpg: EPS is drawn by another program; replace"):
        open_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_what_is_looked_at_by_bands_is_looked_at_as_a_whole(tmp_path, dtype):
    """Levels of 32 bits are taken for 0 to 255 where all of them are: the last row counts too."""
    levels = np.zeros((1400, 1000), dtype)
    levels[-1, -1] = 200
    Image.fromarray(levels).save(tmp_path / "a.tif")
    assert np.array_equal(np.asarray(open_image(tmp_path / "a.tif"))[..., 0], levels)
    levels[0, 0] = 256
    Image.fromarray(levels).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match="white is not known"):
        open_image(tmp_path / "a.tif")


def test_image_files(tmp_path):
    in_child(__name__, tmp_path)
