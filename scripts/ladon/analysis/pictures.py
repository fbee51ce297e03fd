"""The worst images as pictures: as the model saw them, with what is there and what was found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms import functional as F

from ladon.analysis.base import Judged
from ladon.data.class_names import base_dataset
from ladon.data.samples import IndexedDataset
from ladon.split.answers import Mask
from ladon.split.pictures import FONT, color_of, drawn, named, painted

_GAP, _HEAD, _FONT_SIZE = 8, 26, 16  # pixels


def picture_of(dataset: Any, index: int, judged: Judged, title: str) -> Image.Image:
    """Draw an image of a data set.

    Args:
        dataset: map-style, of (image, target).
        index: of the image.
        judged: what is to be shown.
        title: above it.
    """
    image = as_picture(IndexedDataset(dataset)[index][1], dataset)
    size = image.height, image.width
    pictures = []
    if judged.truth.classes:  # of the image as a whole: there is nothing to draw into it twice
        label = judged.truth.classes[0]
        truth = f"it is {named(label)}, answered with {label.score:.1%}; {judged.words}"
    else:
        pictures, truth = [drawn(image, judged.truth, size, caption="truth")], judged.words
    pictures.append(drawn(image, judged.found, size, threshold=0.0, caption=truth))
    font = ImageFont.truetype(str(FONT), _FONT_SIZE)
    masks = [one.mask for one in (judged.truth, judged.found) if one.mask is not None]
    wide = sum(picture.width + _GAP for picture in pictures) - _GAP
    width = max(wide, round(font.getlength(title)) + 2 * _GAP)
    height = _HEAD + max(picture.height for picture in pictures)
    made, left = Image.new("RGB", (width, height), "white"), 0
    ImageDraw.Draw(made).text((_GAP, 4), title, "black", font)
    for picture in pictures:
        made.paste(picture, (left, _HEAD))
        left += picture.width + _GAP
    return _with_legend(made, masks, font) if masks else made


def _with_legend(
    picture: Image.Image, masks: Sequence[Mask], font: ImageFont.FreeTypeFont
) -> Image.Image:
    """Return a picture with a line below that says which colour is which class."""
    names = {n: mask.name_of(n) or f"class {n}" for mask in masks for n in painted(mask)}
    entries, left, top = [], _GAP, 0
    for label, name in sorted(names.items()):
        width = _HEAD + round(font.getlength(name)) + _GAP
        if left > _GAP and left + width > picture.width:
            left, top = _GAP, top + _HEAD
        entries.append((label, name, left, top))
        left += width
    made = Image.new("RGB", (picture.width, picture.height + top + _HEAD), "white")
    made.paste(picture)
    draw = ImageDraw.Draw(made)
    for label, name, left, line in entries:
        top = picture.height + line
        draw.rectangle((left, top + 4, left + 14, top + 18), color_of(label))
        draw.text((left + _HEAD - 4, top + 1), name, "black", font)
    return made


def as_picture(sample: Any, dataset: Any) -> Image.Image:
    """Return an image as the dataset gives it, less its normalisation.

    Args:
        sample: a Pillow image, or a tensor [3, H, W] or [1, H, W]: uint8, or float.
        dataset: whose transforms may normalise it.
    """
    if isinstance(sample, Image.Image):
        return sample.convert("RGB")
    if not isinstance(sample, Tensor) or sample.dim() != 3:
        raise TypeError(f"a {type(sample).__name__} is no image")
    if sample.dtype == torch.uint8:
        return F.to_pil_image(sample).convert("RGB")
    pixels = sample.float()
    step = _normalization(base_dataset(dataset))
    if step is not None:
        mean, std = (torch.as_tensor(v, dtype=torch.float32).reshape(-1, 1, 1) for v in step)
        pixels = pixels * std + mean
    elif float(pixels.min()) < -0.01 or float(pixels.max()) > 1.01:  # by something unknown
        pixels = (pixels - pixels.min()) / (pixels.max() - pixels.min()).clamp(min=1e-9)
    return F.to_pil_image(pixels.clamp(0.0, 1.0)).convert("RGB")


def _normalization(step: Any, depth: int = 4) -> tuple[Any, Any] | None:
    """Find mean and standard deviation by which a dataset's transforms normalise."""
    mean, std = getattr(step, "mean", None), getattr(step, "std", None)
    if mean is not None and std is not None and not callable(mean):
        return mean, std
    for name in ("transform", "transforms") if depth else ():
        inner = getattr(step, name, None)
        for one in inner if isinstance(inner, list | tuple) else [inner]:
            found = None if one is None else _normalization(one, depth - 1)
            if found is not None:
                return found
    return None
