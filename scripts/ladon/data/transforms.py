"""Transforms named by users' configs: joint ones for (image, label mask), and two for images.

A joint transform takes a PIL image and a PIL mask of class ids ('L' or 'P') of the same size, and
returns both. Random draws come from torch's global generator, which the loaders seed per sample.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision import transforms as tv
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

IGNORED_LABEL = 255
"""Class id of pixels that take no part in the loss or the measure."""

logger = logging.getLogger(__name__)


def recompress_jpeg(image: Image.Image, quality: int) -> Image.Image:
    """Encode an image as JPEG in memory and decode it again.

    Args:
        image: PIL image, 'RGB' or 'L'.
        quality: JPEG quality, 1 (worst) to 95.

    Returns:
        The decoded image, as a receiver of the JPEG file would see it.
    """
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=quality)
    decoded = Image.open(buffer)
    decoded.load()
    return decoded


def _height_width(size: int | Sequence[int]) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    height, width = size if len(size) == 2 else (size[0], size[0])
    return int(height), int(width)


def _pad_to(image: Image.Image, height: int, width: int, fill: int) -> Image.Image:
    """Extend an image to the right and below, if it is smaller than height x width."""
    if image.height >= height and image.width >= width:
        return image
    size = (max(image.width, width), max(image.height, height))
    padded = Image.new(image.mode, size, fill if len(image.getbands()) == 1 else (fill,) * 3)
    palette = image.getpalette() if image.mode == "P" else None
    if palette is not None:
        padded.putpalette(palette)
    padded.paste(image, (0, 0))
    return padded


class CustomCompose:
    """Apply joint transforms one after another.

    Args:
        transforms: callables from (image, target) to (image, target).
    """

    def __init__(self, transforms: Sequence[Callable]) -> None:
        self.transforms = transforms

    def __call__(self, image: Any, target: Any) -> tuple[Any, Any]:
        """Transform a pair."""
        for transform in self.transforms:
            image, target = transform(image, target)
        return image, target


class CustomRandomResize:
    """Resize image (bilinear, antialiased) and mask (nearest) to a size drawn uniformly.

    Args:
        min_size: smallest size in pixels.
        max_size: largest size in pixels, inclusive; `min_size` if None.
        jpeg_quality: recompress the image as JPEG first; None leaves it alone.
        square: make both sides the drawn size; else the shorter side, keeping the aspect.
    """

    def __init__(
        self,
        min_size: int,
        max_size: int | None = None,
        jpeg_quality: int | None = None,
        square: bool = False,
    ) -> None:
        self.min_size = min_size
        self.max_size = min_size if max_size is None else max_size
        self.jpeg_quality = jpeg_quality
        self.square = square
        if not 0 < self.min_size <= self.max_size:
            raise ValueError(f"min_size {min_size} and max_size {max_size} span no sizes")

    def __call__(self, image: Image.Image, target: Image.Image) -> tuple[Image.Image, Image.Image]:
        """Transform a pair of PIL images."""
        if self.jpeg_quality is not None:
            image = recompress_jpeg(image, self.jpeg_quality)
        drawn = int(torch.randint(self.min_size, self.max_size + 1, ()))
        size = [drawn, drawn] if self.square else [drawn]
        image = F.resize(image, size, InterpolationMode.BILINEAR, antialias=True)
        return image, F.resize(target, size, InterpolationMode.NEAREST)


class CustomRandomHorizontalFlip:
    """Mirror image and mask left to right with a given probability.

    Args:
        p: probability, 0 to 1.
    """

    def __init__(self, p: float) -> None:
        self.p = p

    def __call__(self, image: Any, target: Any) -> tuple[Any, Any]:
        """Transform a pair."""
        if float(torch.rand(())) < self.p:
            return F.hflip(image), F.hflip(target)
        return image, target


class CustomRandomCrop:
    """Cut the same random window out of image and mask.

    A smaller image is first padded to the right and below: the image with 0, the mask with 255.

    Args:
        size: side of the window in pixels, or (height, width).
    """

    def __init__(self, size: int | Sequence[int]) -> None:
        self.size = _height_width(size)

    def __call__(self, image: Image.Image, target: Image.Image) -> tuple[Image.Image, Image.Image]:
        """Transform a pair of PIL images."""
        image = _pad_to(image, *self.size, fill=0)
        target = _pad_to(target, *self.size, fill=IGNORED_LABEL)
        window = tv.RandomCrop.get_params(image, self.size)
        return F.crop(image, *window), F.crop(target, *window)


class CustomCenterCrop:
    """Cut the central window out of image and mask, padded like `CustomRandomCrop`.

    Args:
        size: side of the window in pixels, or (height, width).
    """

    def __init__(self, size: int | Sequence[int]) -> None:
        self.size = _height_width(size)

    def __call__(self, image: Image.Image, target: Image.Image) -> tuple[Image.Image, Image.Image]:
        """Transform a pair of PIL images."""
        image = _pad_to(image, *self.size, fill=0)
        target = _pad_to(target, *self.size, fill=IGNORED_LABEL)
        return F.center_crop(image, self.size), F.center_crop(target, self.size)


class CustomToTensor:
    """Turn a PIL image and a PIL mask into tensors.

    Args:
        converts_sample: make the image float32 [3, H, W] in 0..1; else leave it alone (codecs).
        converts_target: make the mask int64 [H, W]; else leave it alone.
        as_bytes: leave the converted image uint8, in 0..255.
    """

    def __init__(
        self, converts_sample: bool = True, converts_target: bool = True, as_bytes: bool = False
    ) -> None:
        self.converts_sample = converts_sample
        self.converts_target = converts_target
        self.as_bytes = as_bytes

    def __call__(self, image: Any, target: Any) -> tuple[Any, Any]:
        """Transform a pair."""
        if self.converts_sample:
            image = F.pil_to_tensor(image) if self.as_bytes else F.to_tensor(image)
        if self.converts_target:
            target = torch.from_numpy(np.array(target, dtype=np.int64))
        return image, target


class CustomNormalize:
    """Normalise the image per channel; the target passes through.

    Args:
        mean: one value per channel.
        std: one value per channel.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean = list(mean)
        self.std = list(std)

    def __call__(self, image: torch.Tensor, target: Any) -> tuple[torch.Tensor, Any]:
        """Transform a pair whose image is a float tensor [3, H, W]."""
        return F.normalize(image, self.mean, self.std), target


def without_normalization(dataset: Any) -> None:
    """Take normalisation out of a dataset's transforms, for a model that normalises by itself.

    The published three-headed VOC files normalised twice; said in the log where it is found.

    Args:
        dataset: changed in place: its `transform` or `transforms`, where that is a composition.
    """
    for name in ("transform", "transforms"):
        steps = getattr(getattr(dataset, name, None), "transforms", None)
        if not isinstance(steps, list):
            continue
        kept = [step for step in steps if not isinstance(step, CustomNormalize | tv.Normalize)]
        if len(kept) < len(steps):
            logger.warning("The model normalises images itself: the dataset's own is left out")
            steps[:] = kept


def _interpolation(name: str | InterpolationMode | None) -> InterpolationMode:
    """Look up an interpolation by its name in YAML; None is torchvision's default, bilinear."""
    if name is None:
        return InterpolationMode.BILINEAR
    try:
        return InterpolationMode(name)
    except ValueError:
        known = ", ".join(mode.value for mode in InterpolationMode)
        raise ValueError(f"interpolation '{name}' is none of {known}") from None


class WrappedRandomResizedCrop(tv.RandomResizedCrop):
    """torchvision's RandomResizedCrop with the interpolation given by name.

    Args:
        interpolation: 'nearest', 'bilinear', 'bicubic', 'box', 'hamming' or 'lanczos'.
        **kwargs: torchvision's own (`size`, `scale`, `ratio`, ...).
    """

    def __init__(self, interpolation: str | InterpolationMode | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs, interpolation=_interpolation(interpolation))


class WrappedResize(tv.Resize):
    """torchvision's Resize with the interpolation given by name.

    Args:
        interpolation: 'nearest', 'bilinear', 'bicubic', 'box', 'hamming' or 'lanczos'.
        **kwargs: torchvision's own (`size`, `max_size`, ...).
    """

    def __init__(self, interpolation: str | InterpolationMode | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs, interpolation=_interpolation(interpolation))
