"""What the page shows of a picture: its answers, drawn and in words, and what files of it weigh."""

from __future__ import annotations

import base64
import io
import time
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from ladon.codec import Fit, Payload
from ladon.codec.container import Size
from ladon.edge.fitting import crop_offset
from ladon.images import open_image
from ladon.split.answers import IGNORED, Answers, Found, Mask
from ladon.split.pictures import color_of, drawn, named, painted
from ladon.split.words import in_words

THRESHOLD = 0.5
"""Objects of a smaller score are not shown."""
QUALITIES = (90, 75, 50, 25)
"""Of the JPEG files that a payload is compared with."""
MOST_COMPARED = 1 << 21
"""Pixels: a larger picture becomes files only in the size that the encoder sees, which is quick."""

_SCREEN = 1280  # pixels, of the longer side of what is drawn
_MOST_JPEG_SIDE = 65500  # libjpeg's
_DRAWN: dict[str, Any] = {"format": "JPEG", "quality": 92, "subsampling": 0}


def result_of(data: bytes, payload: Payload, answers: Answers) -> dict[str, Any]:
    """Return what the page shows, in JSON's types; sizes are a width and a height.

    Args:
        data: the picture's file.
        payload: what the encoder made of it.
        answers: to that.

    Raises:
        DataError: the file cannot be read.
    """
    start = time.perf_counter()
    image = open_image(data, upright=True)
    on_screen, shown = _for_screen(image, answers)
    # the classes are in the page's own words
    picture = drawn(on_screen, replace(shown, classes=None), _size(on_screen), threshold=THRESHOLD)
    file = _file(picture, **_DRAWN)
    drawing = time.perf_counter() - start
    start = time.perf_counter()
    files = compared(image, payload)
    return {
        "picture": "data:image/jpeg;base64," + base64.b64encode(file).decode(),
        "picture_size": [picture.width, picture.height],
        "in_words": {head: in_words(answers, head, THRESHOLD) for head in answers},
        "answers": _in_tables(answers),
        "files": files,
        "fit": payload.fit.name.lower(),
        "sizes": {
            "image": payload.image_size[::-1],
            "scaled": payload.scaled_size[::-1],
            "input": payload.input_size[::-1],
            "latent": payload.shape[::-1],
        },
        "seconds": {"drawing": drawing, "comparing": time.perf_counter() - start},
    }


def compared(image: Image.Image, payload: Payload) -> list[dict[str, Any]]:
    """Return what a picture weighs as JPEG and PNG: as it is, and as its encoder saw it.

    The latter only where the picture was scaled down or cut; then a large one is left as it is.
    """
    seen = _as_seen(image, payload)
    is_smaller = seen.width * seen.height < image.width * image.height
    chosen = {"seen": seen} if is_smaller else {}
    if not is_smaller or image.width * image.height <= MOST_COMPARED:
        chosen["whole"] = image
    return [
        {
            "of": name,
            "size": [one.width, one.height],
            "jpeg": _jpegs(one),
            "png": len(_file(one, format="PNG")),
        }
        for name, one in chosen.items()
    ]


def _jpegs(image: Image.Image) -> dict[int, int]:
    if max(image.size) > _MOST_JPEG_SIDE:
        return {}
    return {q: len(_file(image, format="JPEG", quality=q, optimize=True)) for q in QUALITIES}


def _as_seen(image: Image.Image, payload: Payload) -> Image.Image:
    height, width = payload.scaled_size
    if (height, width) != _size(image):
        image = image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=3.0)
    if payload.fit is Fit.CROPPED:
        top, left = crop_offset(payload.scaled_size, payload.input_size)
        height, width = payload.input_size
        image = image.crop((left, top, left + width, top + height))
    return image


def _for_screen(image: Image.Image, answers: Answers) -> tuple[Image.Image, Answers]:
    """Return a picture and its answers in a size that fits on a screen."""
    scale = _SCREEN / max(image.size)
    if scale >= 1:
        return image, answers
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    objects, mask = answers.objects, answers.mask
    if objects is not None:
        objects = tuple(_scaled(one, scale) for one in objects)
    if mask is not None:
        labels = Image.fromarray(mask.labels).resize(size, Image.Resampling.NEAREST)
        mask = Mask(np.asarray(labels), mask.names)
    small = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
    return small, Answers(answers.classes, objects, mask)


def _scaled(found: Found, scale: float) -> Found:
    if found.box is None:
        return found
    x1, y1, x2, y2 = (scale * side for side in found.box)
    return replace(found, box=(x1, y1, x2, y2))


def _in_tables(answers: Answers) -> dict[str, Any]:
    """Return each head's answer as rows of a table."""
    tables: dict[str, Any] = {}
    if answers.classes is not None:
        tables["classification"] = [{"name": named(c), "score": c.score} for c in answers.classes]
    if answers.objects is not None:
        tables["detection"] = [
            {
                "name": named(one),
                "score": one.score,
                "box": list(one.box or ()),
                "color": _css(one.label),
            }
            for one in answers.objects
            if one.score >= THRESHOLD
        ]
    if answers.mask is not None:
        tables["segmentation"] = _areas(answers.mask)
    return tables


def _areas(mask: Mask) -> list[dict[str, Any]]:
    colored = painted(mask)
    counts = np.bincount(mask.labels.ravel(), minlength=IGNORED + 1)
    rows = [
        {
            "name": mask.name_of(label) or f"class {label}",
            "share": int(counts[label]) / mask.labels.size,
            "color": _css(label) if label in colored else None,
        }
        for label in np.flatnonzero(counts[:IGNORED]).tolist()
    ]
    if counts[IGNORED]:
        unseen = {"name": "not seen by the encoder", "color": None}
        rows.append({**unseen, "share": int(counts[IGNORED]) / mask.labels.size})
    return sorted(rows, key=lambda row: -row["share"])


def _css(label: int) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color_of(label))


def _size(image: Image.Image) -> Size:
    return image.height, image.width


def _file(image: Image.Image, **settings: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, **settings)
    return file.getvalue()
