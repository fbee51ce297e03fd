"""Answers drawn into their image: mask, boxes with names, and the most likely classes below."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms import functional as F
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from ladon.split.answers import IGNORED, Answers, Found, Mask

FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
"""It has the letters of most languages that classes are named in."""

_SHORT_SIDE, _MOST_ENLARGED = 480, 8  # pixels of a picture that names can be read in
_MASK_ALPHA = 0.55
_BACKGROUND = "background"


def drawn(
    image: Image.Image | None,
    answers: Answers,
    size: tuple[int, int],
    *,
    threshold: float = 0.5,
    caption: str = "",
) -> Image.Image:
    """Return an image with its answers drawn.

    Args:
        image: mode 'RGB'; None where only its payload is here: a grey one takes its place.
        answers: of it.
        size: height and width of the image.
        threshold: objects of a smaller score are left out.
        caption: a first line below.
    """
    image = image or Image.new("RGB", (size[1], size[0]), (128, 128, 128))
    scale = max(1, min(_MOST_ENLARGED, round(_SHORT_SIDE / min(size))))
    pixels = F.pil_to_tensor(image)
    if answers.mask is not None:
        pixels = _with_mask(pixels, answers.mask)
    pixels = pixels.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    font_size = max(11, min(pixels.shape[1:]) // 32)
    if answers.objects is not None:
        sure = [one for one in answers.objects if one.score >= threshold]
        pixels = _with_boxes(pixels, sure, scale, font_size)
    lines = [caption] if caption else []
    lines += [f"{named(one)}  {one.score:.1%}" for one in answers.classes or ()]
    picture = F.to_pil_image(pixels)
    return _with_lines(picture, lines, font_size) if lines else picture


def named(found: Found) -> str:
    """Return a class's name, or its number if it has none."""
    return f"class {found.label}" if found.name is None else found.name


def color_of(label: int) -> tuple[int, int, int]:
    """Return a label's color: hues a golden angle apart, so that neighbours differ."""
    red, green, blue = colorsys.hsv_to_rgb(label * 0.381966 % 1, 0.85, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def painted(mask: Mask) -> list[int]:
    """Return the labels of a mask whose pixels are painted: not the background's."""
    labels = [n for n in np.unique(mask.labels).tolist() if n != IGNORED]
    return [n for n in labels if mask.name_of(n) != _BACKGROUND and (n or mask.names)]


def _with_mask(pixels: Tensor, mask: Mask) -> Tensor:
    shown = painted(mask)
    if not shown:
        return pixels
    areas = torch.from_numpy(np.stack([mask.labels == n for n in shown]))
    return draw_segmentation_masks(pixels, areas, _MASK_ALPHA, [color_of(n) for n in shown])


def _with_boxes(pixels: Tensor, objects: Sequence[Found], scale: int, font_size: int) -> Tensor:
    boxes = [one.box for one in objects if one.box is not None]
    if not boxes:
        return pixels
    colors = [color_of(one.label) for one in objects]
    return draw_bounding_boxes(
        pixels,
        torch.tensor(boxes) * scale,
        [f"{named(one)} {one.score:.2f}" for one in objects],
        colors,
        width=max(2, font_size // 6),
        font=str(FONT),
        font_size=font_size,
        fill_labels=True,
    )


def _with_lines(picture: Image.Image, lines: Sequence[str], font_size: int) -> Image.Image:
    """Return a picture with lines of text in a strip below."""
    font = ImageFont.truetype(str(FONT), font_size)
    margin, step = font_size // 2, round(font_size * 1.35)
    needed = max(round(font.getlength(line)) for line in lines) + 2 * margin
    width, height = max(picture.width, needed), picture.height + len(lines) * step + 2 * margin
    made = Image.new("RGB", (width, height), "white")
    made.paste(picture)
    draw = ImageDraw.Draw(made)
    for number, line in enumerate(lines):
        draw.text((margin, picture.height + margin + number * step), line, "black", font)
    return made
