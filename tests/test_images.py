"""Image files, of every mode that Pillow writes: right pixels or a refusal, whoever reads them."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from pictures import MODES, picture
from PIL import Image

from ladon.data.fast_input import read_tensor
from ladon.errors import DataError
from ladon.images import open_image, open_mask, read_size

FORMATS = ("png", "tiff", "webp", "gif", "bmp", "jpg", "jp2", "tga", "ppm", "pcx", "im", "sgi")
REFUSED = {"I", "F"}
RAMP = np.arange(256, dtype=np.uint8)[None].repeat(8, 0)


def read(reader, path):
    """Pixels uint8 [H, W, 3]; the refusal's text if it is refused."""
    try:
        found = reader(path)
    except DataError as error:
        return str(error)
    if isinstance(found, Image.Image):
        assert found.mode == "RGB"
        return np.asarray(found)
    assert str(found.dtype) == "torch.uint8"
    return found.permute(1, 2, 0).numpy()


def test_both_inputs_agree_on_every_mode_of_every_format(tmp_path):
    written = {}
    for mode in MODES:
        for ending in FORMATS:
            path = tmp_path / f"{mode.replace(';', '')}.{ending}"
            try:
                picture(mode).save(path)
            except (OSError, ValueError, KeyError, NotImplementedError):
                continue  # no such file can be written
            reference, fast = read(open_image, path), read(read_tensor, path)
            assert isinstance(reference, str) == isinstance(fast, str), path.name
            if isinstance(reference, str):
                assert reference == fast
                assert str(path) in reference
                assert "\n" not in reference
                written[mode, ending] = "refused"
                with Image.open(path) as image:
                    assert image.mode in REFUSED, path.name
                continue
            assert reference.shape == fast.shape == (24, 40, 3), path.name
            difference = np.abs(reference.astype(int) - fast.astype(int)).max()
            assert difference <= 1, (path.name, difference)
            with Image.open(path) as image:
                stored = image.mode
                if not stored.startswith("I"):
                    assert np.array_equal(reference, np.asarray(image.convert("RGB"))), path.name
                    written[mode, ending] = "read"
                    continue
            written[mode, ending] = "scaled"
            if mode == "I":  # Pillow cuts its large values off when it writes 16 bits
                continue
            grey = np.asarray(picture("RGBA").convert("L"))
            close = np.abs(reference[..., 0].astype(int) - grey.astype(int)).max()
            assert close <= 1, (path.name, stored, close)
    assert len(written) > 50
    assert written["I;16", "png"] == written["I;16B", "tiff"] == "scaled"
    assert written["F", "tiff"] == written["I", "tiff"] == "refused"
    assert written["CMYK", "jpg"] == written["LAB", "tiff"] == written["RGBA", "webp"] == "read"


@pytest.mark.parametrize("ending", ["png", "tiff", "pgm"])
def test_16_bits_of_grey_are_scaled(tmp_path, ending):
    levels = (np.arange(65536, dtype=np.uint32) % 65536).astype(np.uint16).reshape(256, 256)
    Image.fromarray(levels).save(tmp_path / f"a.{ending}")
    expected = np.round(levels / 257).astype(np.uint8)
    for reader in (open_image, read_tensor):
        assert np.array_equal(read(reader, tmp_path / f"a.{ending}")[..., 0], expected)


@pytest.mark.parametrize("levels", [RAMP, RAMP * 0, RAMP // 2 + 9])
@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_32_bits_are_read_where_they_hold_8(tmp_path, levels, dtype):
    Image.fromarray(levels.astype(dtype)).save(tmp_path / "a.tif")
    for reader in (open_image, read_tensor):
        assert np.array_equal(read(reader, tmp_path / "a.tif")[..., 0], levels)


@pytest.mark.parametrize(
    "levels",
    [
        RAMP * np.float32(257),
        RAMP / np.float32(255),
        RAMP - np.float32(9),
        RAMP * np.float32("nan"),
        RAMP + np.float32("inf"),
        (RAMP > 3).astype(np.float32),
        RAMP.astype(np.int32) * 257,
        RAMP.astype(np.int32) - 9,
        (RAMP > 3).astype(np.int32),
    ],
)
def test_32_bits_without_a_known_white_are_refused(tmp_path, levels):
    Image.fromarray(levels).save(tmp_path / "a.tif")
    for reader in (open_image, read_tensor):
        with pytest.raises(DataError, match=r"image .*a.tif has mode [IF], whose white is not"):
            reader(tmp_path / "a.tif")


def png(path, depth, colour, rows, *chunks):
    """Write a PNG by hand: what Pillow does not write itself."""

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    width = len(rows[0]) * 8 // depth // {0: 1, 2: 3}[colour]
    header = struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", data), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))


@pytest.mark.parametrize(
    ("depth", "colour", "rows", "chunks", "expected"),
    [
        (16, 2, [[0, 0, 128, 0, 255, 255]], [], (0, 128, 255)),
        (4, 0, [[0x1F]], [], (17, 17, 17)),
        (2, 0, [[0b01101100]], [], (85, 85, 85)),
        (8, 0, [[7, 9]], [(b"tRNS", b"\0\7")], (7, 7, 7)),
        (8, 2, [[1, 2, 3]], [(b"tRNS", b"\0\1\0\2\0\3")], (1, 2, 3)),
        (16, 0, [[255, 255, 0, 0]], [(b"tRNS", b"\0\0")], (255, 255, 255)),
    ],
)
def test_other_pngs(tmp_path, depth, colour, rows, chunks, expected):
    png(tmp_path / "a.png", depth, colour, rows, *chunks)
    for reader in (open_image, read_tensor):
        assert tuple(read(reader, tmp_path / "a.png")[0, 0]) == expected


@pytest.mark.parametrize("ending", ["gif", "png", "webp", "tiff"])
def test_of_an_animated_file_the_first_frame_is_read(tmp_path, ending):
    first, second = Image.new("RGB", (5, 4), (200, 0, 0)), Image.new("RGB", (5, 4), (0, 0, 200))
    path = tmp_path / f"a.{ending}"
    first.save(path, save_all=True, append_images=[second, second])
    for reader in (open_image, read_tensor):
        pixels = read(reader, path)
        assert pixels.shape == (4, 5, 3)
        assert np.abs(pixels.astype(int) - [200, 0, 0]).max() <= 3


@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_exif_orientation_is_not_heeded(tmp_path, ending):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (5, 4), (200, 0, 0)).save(tmp_path / f"a.{ending}", exif=exif)
    for reader in (open_image, read_tensor):
        assert read(reader, tmp_path / f"a.{ending}").shape == (4, 5, 3)


def test_masks_whose_class_ids_are_not_what_was_stored_are_refused(tmp_path):
    path = tmp_path / "m.png"
    for depth, row in ((4, [0x12]), (2, [0b01101100])):
        png(path, depth, 0, [row])
        with pytest.raises(DataError, match=rf"mask .*m.png .* 8 bits of grey \(L;{depth}\)"):
            open_mask(path)
    for image in (Image.fromarray(RAMP.astype(np.uint16)), Image.fromarray(RAMP).convert("1")):
        image.save(path)
        with pytest.raises(DataError, match=r"mask .*m.png has mode "):
            open_mask(path)
    Image.fromarray(RAMP).save(path, format="JPEG")
    with pytest.raises(DataError, match=r"mask .*m.png is stored as JPEG"):
        open_mask(path)
    few = Image.fromarray(RAMP % 3)
    few.putpalette([5] * 9)
    for bits in (2, 4, 8):
        few.save(path, bits=bits)
        assert np.array_equal(open_mask(path), RAMP % 3)


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_what_is_no_image_is_named(tmp_path, content):
    path = tmp_path / "x.png"
    path.write_bytes(content)
    for read in (open_image, open_mask, read_size):
        with pytest.raises(DataError, match=r"cannot read (image|mask) .*x.png: "):
            read(path)


def test_grey_images_become_rgb_and_missing_ones_are_named(tmp_path):
    Image.new("L", (3, 2), 9).save(tmp_path / "grey.png")
    assert open_image(tmp_path / "grey.png").getpixel((0, 0)) == (9, 9, 9)
    assert read_size(tmp_path / "grey.png") == (2, 3)
    with pytest.raises(DataError, match="there is no such file"):
        open_image(tmp_path / "gone.png")
