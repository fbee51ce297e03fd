"""An image classifier's input on uint8 tensors instead of PIL images: faster, not pixel-equal.

torchvision's antialiased resize of tensors rounds about one pixel in 5,000 to the neighbouring
level; everything else is equal. That is why PIL stays the default, and `scripts/benchmark.py`
prints what the difference does to the accuracy.
"""

from __future__ import annotations

import logging
import os
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset
from torchvision import datasets, io
from torchvision import transforms as tv
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.functional import pil_to_tensor

from ladon.data.transforms import WrappedResize
from ladon.errors import DataError
from ladon.images import open_image, opened, raw_mode

logger = logging.getLogger(__name__)

_RESIZES = (InterpolationMode.BILINEAR, InterpolationMode.BICUBIC)


def use_fast_input(dataset: Any) -> bool:
    """Make a folder of images decode, resize and crop on uint8 tensors.

    Args:
        dataset: changed in place, if it is an ImageFolder whose transforms are resizing, central
            cropping, `ToTensor` and `Normalize`; else left as it is, with a warning.

    Returns:
        Whether it was changed (or had been before).
    """
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    if getattr(dataset, "loader", None) is read_tensor:
        return True
    steps = getattr(getattr(dataset, "transform", None), "transforms", None)
    fast = [_fast_form(step) for step in steps or []]
    if not isinstance(dataset, datasets.DatasetFolder) or not fast or None in fast:
        odd = [type(s).__name__ for s, f in zip(steps or [], fast, strict=True) if f is None]
        logger.warning(
            "input: fast has no form for %s%s: using the reference",
            type(dataset).__name__,
            f" with {', '.join(odd)}" if odd else "",
        )
        return False
    dataset.loader, dataset.transform = read_tensor, v2.Compose(fast)
    return True


def read_tensor(path: str | os.PathLike) -> Tensor:
    """Read an image as uint8 [3, H, W], RGB; of other than plain files the reference's pixels.

    Raises:
        DataError: the reference refuses the file.
    """
    if _is_plain(path):
        try:
            return io.decode_image(os.fspath(path), mode=io.ImageReadMode.RGB)
        except RuntimeError:  # damaged: the reference says how
            pass
    return pil_to_tensor(open_image(path))


def _is_plain(path: str | os.PathLike) -> bool:
    """Whether a file is JPEG, grey or RGB of 8 bits, which all decoders read alike.

    Elsewhere they differ: torchvision gives 16 bits as they are and all frames of an animation, and
    lays transparent pixels over another colour. A damaged PNG ends its process (0.29: libpng's
    errors are a segmentation fault), so that PNGs are left to Pillow.
    """
    try:
        with opened(path) as image:  # reads the header only
            return (
                image.format == "JPEG"
                and image.mode in ("L", "RGB")
                and raw_mode(image) == image.mode
            )
    except DataError:  # the reference says why
        return False


def _fast_form(step: Any) -> Any:
    """Return the same transform on uint8 tensors; None where there is none."""
    if type(step) in (tv.Resize, WrappedResize) and step.interpolation in _RESIZES:
        return v2.Resize(step.size, step.interpolation, step.max_size, antialias=True)
    if type(step) is tv.CenterCrop:
        return v2.CenterCrop(step.size)
    if type(step) is tv.ToTensor:
        return v2.ToDtype(torch.float32, scale=True)
    if type(step) is tv.Normalize:
        return v2.Normalize(step.mean, step.std, inplace=True)
    return None
