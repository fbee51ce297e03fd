"""Picture codecs as the alternative to a learnt payload: JPEG, WebP, and PNG without loss."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, features

from ladon.errors import UsageError

FORMATS = {"JPEG": 95, "WebP": 100, "PNG": None}
"""Names of the codecs, and the highest quality of each; PNG has none, it loses nothing."""


@dataclass(frozen=True)
class PictureCodec:
    """A codec at a quality, by Pillow, its other settings the defaults.

    Attributes:
        format: one of `FORMATS`.
        quality: 1 (worst) to its highest; None of PNG.

    Raises:
        UsageError: it has no such quality, or Pillow not the codec.
    """

    format: str
    quality: int | None = None

    def __post_init__(self) -> None:
        best = FORMATS[self.format]
        if best is not None and not 1 <= (self.quality or 0) <= best:
            raise UsageError(
                f"--{self.format.lower()} {self.quality}: a quality is 1 to {best} here"
            )
        if self.format == "WebP" and not features.check("webp"):
            raise UsageError("--webp: this Pillow was built without WebP: leave it out")

    @property
    def name(self) -> str:
        """Such as 'JPEG q50'."""
        return self.format if self.quality is None else f"{self.format} q{self.quality}"

    def encode(self, pixels: np.ndarray) -> bytes:
        """Return the file of pixels [H, W, 3] uint8."""
        buffer = io.BytesIO()
        settings = {} if self.quality is None else {"quality": self.quality}
        Image.fromarray(pixels).save(buffer, format=self.format.upper(), **settings)
        return buffer.getvalue()

    @staticmethod
    def decode(data: bytes) -> np.ndarray:
        """Return the pixels [H, W, 3] uint8 of a file."""
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))
