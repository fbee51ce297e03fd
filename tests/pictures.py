"""Pictures: noise, and smooth colours in every mode that Pillow writes."""

from __future__ import annotations

import numpy as np
from PIL import Image

MODES = (
    "1",
    "L",
    "P",
    "PA",
    "LA",
    "La",
    "RGB",
    "RGBA",
    "RGBa",
    "RGBX",
    "CMYK",
    "YCbCr",
    "LAB",
    "HSV",
    "I",
    "F",
    "I;16",
    "I;16L",
    "I;16B",
    "I;16N",
)


def noise(height: int = 12, width: int = 16) -> Image.Image:
    """An RGB picture, the same each time."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8))


def picture(mode: str) -> Image.Image:
    """Smooth colours, half transparent where a mode can be."""
    x, y = np.meshgrid(np.arange(40), np.arange(24))
    rgb = np.stack([x * 6, y * 10, 255 - x * 3 - y * 2], -1).astype(np.uint8)
    rgba = Image.fromarray(np.dstack([rgb, (x * 6).astype(np.uint8)]), "RGBA")
    if mode.startswith("I;16"):
        grey = np.asarray(rgba.convert("L"), dtype=np.uint16) * 257
        order = ">" if mode.endswith("B") else "<"
        return Image.frombytes(mode, rgba.size, grey.astype(f"{order}u2").tobytes())
    if mode in ("I", "F"):
        grey = np.asarray(rgba.convert("L"), dtype=np.int32 if mode == "I" else np.float32)
        return Image.fromarray(grey * 1000)
    if mode == "LAB":
        return Image.frombytes("LAB", rgba.size, rgb.tobytes())
    if mode in ("La", "PA"):
        return rgba.convert("LA" if mode == "La" else "P").convert(mode)
    if mode in ("RGBa", "LA"):
        return rgba.convert(mode)
    return rgba.convert("RGB").convert(mode) if mode != "RGBA" else rgba
