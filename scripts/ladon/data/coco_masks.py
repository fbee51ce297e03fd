"""The masks of COCO's objects: polygons and run lengths, checked before pycocotools gets them.

pycocotools checks neither. Runs that do not fill the image leave memory as it was found, a text of
run lengths that breaks off is read beyond its end, and a coordinate that is NaN or far from the
image ends the process or takes all its memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

# How far from the image a coordinate may lie where the file does not say how large the image is.
_MAX_DISTANCE = 2**17
# Six groups of 5 bits and a sign are more than any run length takes (cocoapi's rleToString).
_MAX_RUN_CHARACTERS = 7


def shape_problem(shape: Any, size: tuple[int, int] | None) -> str | None:
    """Say what is wrong with an annotation's `segmentation`.

    Args:
        shape: a list of polygons (empty: no pixel), or run lengths as a dict of `size` (height,
            width) and `counts`, a list of integers or cocoapi's text form of it.
        size: (height, width) of the image in pixels; None if it is not known yet.

    Returns:
        What is wrong, to be put after 'the segmentation …'; None if nothing is.
    """
    if isinstance(shape, list):
        return _polygon_problem(shape, size)
    if isinstance(shape, dict):
        return _runs_problem(shape, size)
    return "is neither a list of polygons nor run lengths"


def instance_mask(shape: Any, height: int, width: int) -> np.ndarray:
    """Rasterise a segmentation in which `shape_problem` finds nothing wrong for this size.

    Returns:
        bool [H, W].
    """
    if not shape:
        return np.zeros((height, width), dtype=bool)
    if isinstance(shape, list):
        runs = coco_mask.merge(coco_mask.frPyObjects(shape, height, width))
    else:
        counts = run_lengths(shape["counts"])
        runs = coco_mask.frPyObjects({"size": shape["size"], "counts": counts}, height, width)
    return coco_mask.decode(runs).astype(bool)


def _polygon_problem(polygons: list[Any], size: tuple[int, int] | None) -> str | None:
    around = sum(size) if size is not None else _MAX_DISTANCE
    lowest, highest = -around, 2 * around
    for polygon in polygons:
        if type(polygon) is not list or len(polygon) < 6 or len(polygon) % 2:
            return "has a polygon that is no list of x, y of at least three corners"
        try:
            total = sum(polygon)  # NaN if one of them is, which min and max may overlook
            if total == total and lowest <= min(polygon) and max(polygon) <= highest:
                continue
        except (TypeError, OverflowError):  # no number, or an integer beyond float64
            return "has a polygon with a coordinate that is no number"
        return f"has a polygon with a coordinate outside {lowest} to {highest}, or not a number"
    return None


def _runs_problem(shape: dict[str, Any], size: tuple[int, int] | None) -> str | None:
    own = shape.get("size")
    if type(own) is not list or len(own) != 2 or not all(type(v) is int and v > 0 for v in own):
        return "has run lengths without a size of height and width"
    if size is not None and tuple(own) != tuple(size):
        return f"is {own[1]}x{own[0]} pixels on an image of {size[1]}x{size[0]}"
    counts = shape.get("counts")
    try:
        counts = run_lengths(counts)
    except ValueError as error:
        return f"cannot be read: {error}"
    if any(type(v) is not int or v < 0 for v in counts):
        return "has a run length that is no integer of at least 0"
    if sum(counts) != own[0] * own[1]:
        return f"has run lengths for {sum(counts)} pixels, not for {own[1]}x{own[0]}"
    return None


def run_lengths(counts: Any) -> list[Any]:
    """Give run lengths as a list, from a list (as it is) or from cocoapi's text.

    The text (maskApi.c, rleToString) has 6 bits a character, from '0' on: 5 of the number, the low
    ones first, and one that says that more follow; from the third number on it is the difference to
    the last but one.

    Raises:
        ValueError: it is neither, or the text is damaged.
    """
    if isinstance(counts, list):
        return counts
    if not isinstance(counts, str):
        raise ValueError("its run lengths are neither a list nor text")
    numbers: list[int] = []
    value = shift = 0
    for character in counts:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift >= 5 * _MAX_RUN_CHARACTERS:
            raise ValueError("its text of run lengths is damaged")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        if len(numbers) > 2:
            value += numbers[-2]
        numbers.append(value)
        value = shift = 0
    if shift:
        raise ValueError("its text of run lengths breaks off")
    return numbers
