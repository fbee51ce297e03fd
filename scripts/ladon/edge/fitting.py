"""How a picture becomes an encoder's input; both halves do it here, by numpy and Pillow.

The values are those of the evaluation's own transforms: Pillow's resizing to the bit, torch's
resizing of tensors (a detector's) up to float32's rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image

from ladon.codec.container import MOST_INPUT_PIXELS, Fit, Size
from ladon.errors import DataError

FILTERS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
"""Pillow's, by torchvision's names."""


@dataclass(frozen=True)
class Resize:
    """A resizing.

    Attributes:
        size: a side in pixels for the shorter side; or a height and a width.
        longest: the longer side gets no more pixels than this; None: any number.
        filter: one of `FILTERS`.
        of_tensors: as torchvision's detectors resize: bilinear between neighbours, without
            antialiasing, sides rounded down, and smaller than `size` where `longest` says so.
    """

    size: int | Size
    longest: int | None = None
    filter: str = "bilinear"
    of_tensors: bool = False

    def target(self, height: int, width: int) -> Size:
        """Return the height and width that an image of a size is scaled to."""
        if not isinstance(self.size, int):
            return self.size
        short, long = min(height, width), max(height, width)
        if self.of_tensors:
            scale = self.size / short
            if self.longest is not None:
                scale = min(scale, self.longest / long)
            return max(1, int(height * scale)), max(1, int(width * scale))
        new_short, new_long = self.size, int(self.size * long / short)
        if self.longest is not None and new_long > self.longest:
            new_short, new_long = int(self.longest * new_short / new_long), self.longest
        new_short = max(1, new_short)
        return (new_short, new_long) if height <= width else (new_long, new_short)


@dataclass(frozen=True)
class Fitted:
    """An encoder's input, and how it came about.

    Attributes:
        input: [3, H, W] float32, normalised.
        image_size, scaled_size, input_size, fit: as in `ladon.codec.container.Payload`.
    """

    input: np.ndarray
    image_size: Size
    scaled_size: Size
    input_size: Size
    fit: Fit


@dataclass(frozen=True)
class Fitting:
    """How images of any size become an encoder's input.

    Attributes:
        resize: scales the image; None: it stays as it is.
        crop: height and width that are then cut out of the middle, as torchvision does it.
        multiple: or else each side is padded by zeros, below and on the right, to a multiple of it.
        mean: of each channel, of values in 0..1; subtracted before all padding.
        std: likewise, divided by.
    """

    resize: Resize | None = None
    crop: Size | None = None
    multiple: int = 1
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None

    def __call__(self, image: Image.Image) -> Fitted:
        """Fit an image.

        Args:
            image: mode 'RGB'.

        Raises:
            DataError: the input would be too large, or the image is too small for the crop.
        """
        size = image.height, image.width
        scaled = size if self.resize is None else self.resize.target(*size)
        _check_number(scaled, size)
        if self.resize is not None and self.resize.of_tensors and scaled != size:
            values = resized_as_tensor(np.asarray(image), scaled, self._normalized)
        else:
            if self.resize is not None and scaled != size:
                chosen = Image.Resampling[self.resize.filter.upper()]
                image = image.resize((scaled[1], scaled[0]), chosen)
            values = self._normalized(np.asarray(image))
        if self.crop is not None:
            values = _cropped(values, self.crop)
        elif self.multiple > 1:
            values = _padded(values, self.multiple)
        seen = values.shape[1], values.shape[2]
        _check_number(seen, size)
        if self.crop is not None and seen != scaled:
            fit = Fit.CROPPED
        elif seen != scaled:
            fit = Fit.PADDED
        else:
            fit = Fit.NONE if scaled == size else Fit.RESIZED
        return Fitted(np.ascontiguousarray(values), size, scaled, seen, fit)

    def _normalized(self, pixels: np.ndarray) -> np.ndarray:
        """Return pixels [H, W, 3] uint8 as [3, H, W] float32, as ToTensor and Normalize do."""
        values = pixels.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
        if self.mean is not None and self.std is not None:
            mean, std = (np.array(v, np.float32)[:, None, None] for v in (self.mean, self.std))
            values = (values - mean) / std
        return values

    def to_plain(self) -> dict[str, Any]:
        """Return it as `from_plain` reads it, in JSON's types."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Fitting:
        """Read what `to_plain` gave, after JSON made lists of its tuples."""
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in plain.items()
        }
        if values.get("resize") is not None:
            resize = dict(values["resize"])
            if isinstance(resize["size"], list):
                resize["size"] = tuple(resize["size"])
            values["resize"] = Resize(**resize)
        return cls(**values)


def resized_as_tensor(
    pixels: np.ndarray, size: Size, normalized: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Resize as torch's `interpolate(mode="bilinear")` does it with normalised tensors.

    Only the rows that are needed become floats: a camera's picture has many more.

    Args:
        pixels: [H, W, 3] uint8.
        size: height and width.
        normalized: makes [3, H, W] float32 of pixels, one by one.

    Returns:
        [3, *size] float32.
    """
    before, after, share = _neighbours(len(pixels), size[0])
    share = share[:, None]
    values = normalized(pixels[before]) * (1 - share) + normalized(pixels[after]) * share
    before, after, share = _neighbours(values.shape[2], size[1])
    return values.take(before, 2) * (1 - share) + values.take(after, 2) * share


def _neighbours(count: int, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return, for each of `side` new places, the two old ones around it and the second's share."""
    at = (np.arange(side, dtype=np.float32) + np.float32(0.5)) * np.float32(count / side)
    at = np.maximum(at - np.float32(0.5), np.float32(0))
    before = at.astype(np.int64)
    return before, np.minimum(before + 1, count - 1), at - before.astype(np.float32)


def _cropped(values: np.ndarray, crop: Size) -> np.ndarray:
    height, width = values.shape[1:]
    if height < crop[0] or width < crop[1]:
        raise DataError(
            f"an image of {height}x{width} (once scaled) is smaller than the {crop[0]}x{crop[1]} "
            "that are cut out of it: take a larger one"
        )
    top, left = crop_offset((height, width), crop)
    return values[:, top : top + crop[0], left : left + crop[1]]


def crop_offset(scaled: Size, crop: Size) -> Size:
    """Return the first row and column of torchvision's `CenterCrop`."""
    return round((scaled[0] - crop[0]) / 2), round((scaled[1] - crop[1]) / 2)


def _padded(values: np.ndarray, multiple: int) -> np.ndarray:
    below, right = (-side % multiple for side in values.shape[1:])
    return np.pad(values, ((0, 0), (0, below), (0, right))) if below or right else values


def _check_number(size: Size, image: Size) -> None:
    if size[0] * size[1] > MOST_INPUT_PIXELS or max(size) > 0xFFFF:
        raise DataError(
            f"an image of {image[0]}x{image[1]} would become an encoder's input of "
            f"{size[0]}x{size[1]}, more than {MOST_INPUT_PIXELS:,} pixels: crop it, or make it "
            "smaller"
        )
