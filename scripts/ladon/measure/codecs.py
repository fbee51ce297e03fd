"""Picture codecs as the alternative to a learnt payload: JPEG and WebP, by Pillow."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, features

from ladon.errors import UsageError

FORMATS = {"JPEG": 95, "WebP": 100}
"""Names of the codecs, and the highest quality of each."""


@dataclass(frozen=True)
class PictureCodec:
    """A codec at a quality, its other settings Pillow's defaults.

    Attributes:
        format: one of `FORMATS`.
        quality: 1 (worst) to its highest.
    """

    format: str
    quality: int

    def __post_init__(self) -> None:
        best = FORMATS[self.format]
        if not 1 <= self.quality <= best:
            raise UsageError(
                f"--{self.format.lower()} {self.quality}: a quality is 1 to {best} here"
            )
        if self.format == "WebP" and not features.check("webp"):
            raise UsageError("--webp: this Pillow was built without WebP: leave it out")

    @property
    def name(self) -> str:
        """Such as 'JPEG q50'."""
        return f"{self.format} q{self.quality}"

    def encode(self, pixels: np.ndarray) -> bytes:
        """Return the file of pixels [H, W, 3] uint8."""
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format=self.format.upper(), quality=self.quality)
        return buffer.getvalue()

    @staticmethod
    def decode(data: bytes) -> np.ndarray:
        """Return the pixels [H, W, 3] uint8 of a file."""
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))
