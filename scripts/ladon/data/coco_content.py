"""The check of a COCO annotation file: once, when it is read, every field that is read later.

A file has up to a million annotations, so that a loop which looks at one after the other would
take as long as reading the JSON. Each field is taken from all entries at once and judged as a
whole; only when something is wrong is it looked for.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from ladon.errors import DataError

# What is larger was not meant as pixels; sums and products of such numbers stay exact enough.
_MAX_COORDINATE = 2.0**31
_MAX_AREA = _MAX_COORDINATE**2
_MAX_SIDE = 2**31


def check_content(content: Any, path: Path) -> None:
    """See that the JSON is COCO's, and fill in what annotations may leave out.

    Missing are allowed: an annotation's `iscrowd` (then 0) and `area` (then that of its box), an
    image's `width` and `height`.

    Args:
        content: the parsed JSON; filled in in place.
        path: its file, for messages.

    Raises:
        DataError: naming the entry.
    """
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(f"{path} has no list '{key}'; use a COCO instances file")
    image_ids = _check_images(_Entries(path, "images", content["images"]))
    category_ids = _check_categories(_Entries(path, "categories", content["categories"]))
    annotations = _Entries(path, "annotations", content["annotations"])
    if image_ids and not category_ids and not annotations.entries:
        raise DataError(
            f"{path} has neither categories nor annotations: there is nothing to learn or to "
            "compare with; use a COCO instances file"
        )
    _check_annotations(annotations, image_ids, category_ids)


class _Entries:
    """One list of the file, whose entries are checked a field at a time."""

    def __init__(self, path: Path, name: str, entries: list[Any]) -> None:
        self.path, self.name, self.entries = path, name, entries
        if set(map(type, entries)) - {dict}:
            self.refuse_first(entries, lambda entry: type(entry) is dict, "is {}, not an object")

    def refusal(self, position: int, problem: str) -> DataError:
        """Give the error that names an entry."""
        return DataError(f"{self.path}: {self.name}[{position}] {problem}; correct or remove it")

    def refuse_first(
        self, values: Sequence[Any], is_right: Callable[[Any], bool], problem: str
    ) -> None:
        """Raise for the first wrong value, which takes the place of {} in the problem."""
        for position, value in enumerate(values):
            if not is_right(value):
                raise self.refusal(position, problem.format(_shown(value)))

    def values(self, key: str) -> list[Any]:
        """Give a field that no entry may leave out."""
        try:
            return list(map(itemgetter(key), self.entries))
        except KeyError:
            self.refuse_first(self.entries, lambda entry: key in entry, f"lacks '{key}'")
            raise

    def present(self, key: str) -> list[tuple[int, Any]]:
        """Give (position, value) of a field that entries may leave out."""
        return [(n, entry[key]) for n, entry in enumerate(self.entries) if key in entry]

    def integers(self, key: str) -> list[int]:
        """Give a field of integers; True is none."""
        values = self.values(key)
        if set(map(type, values)) - {int}:
            self.refuse_first(values, lambda v: type(v) is int, f"has {key} {{}}, not an integer")
        return values

    def ids(self) -> dict[int, int]:
        """Give the position of each id; none may be there twice."""
        values = self.integers("id")
        positions = dict(zip(values, range(len(values)), strict=True))
        if len(positions) < len(values):
            first: dict[int, int] = {}
            for n, value in enumerate(values):
                if value in first:
                    before = f"{self.name}[{first[value]}]"
                    raise self.refusal(n, f"repeats the id {_shown(value)} of {before}")
                first[value] = n
        return positions

    def references(self, key: str, ids: dict[int, int], whose: str) -> None:
        """See that a field holds ids of another list."""
        values = self.integers(key)
        if set(values) - ids.keys():
            self.refuse_first(
                values, lambda v: v in ids, f"has {key} {{}}, which is no id in '{whose}'"
            )


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _check_images(images: _Entries) -> dict[int, int]:
    ids = images.ids()
    names = images.values("file_name")
    if set(map(type, names)) - {str} or not all(map(is_file_name, names)):
        images.refuse_first(
            names,
            lambda name: isinstance(name, str) and is_file_name(name),
            "has file_name {}, not the name of a file",
        )
    for key in ("width", "height"):
        for position, side in images.present(key):
            if not is_side(side):
                raise images.refusal(position, f"has {key} {_shown(side)}, not a number of pixels")
    return ids


def is_side(side: Any) -> bool:
    """Whether a value is a number of pixels."""
    return type(side) is int and 0 < side <= _MAX_SIDE


def is_file_name(name: str) -> bool:
    """Whether a text can be the name of a file."""
    try:
        os.fsencode(name)
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return bool(name) and "\0" not in name


def _check_categories(categories: _Entries) -> dict[int, int]:
    ids = categories.ids()
    for position, name in categories.present("name"):
        if not isinstance(name, str):
            raise categories.refusal(position, f"has name {_shown(name)}, not text")
    return ids


def _check_annotations(
    annotations: _Entries, image_ids: dict[int, int], category_ids: dict[int, int]
) -> None:
    annotations.ids()
    annotations.references("image_id", image_ids, "images")
    annotations.references("category_id", category_ids, "categories")
    boxes = annotations.values("bbox")
    if box_numbers(boxes) is None:
        problem = (
            "has bbox {}, not x, y, width and height in pixels: finite, width and height at least 0"
        )
        annotations.refuse_first(boxes, lambda box: box_numbers([box]) is not None, problem)
    for entry in annotations.entries:
        if "iscrowd" not in entry:
            entry["iscrowd"] = 0
        if "area" not in entry:
            entry["area"] = entry["bbox"][2] * entry["bbox"][3]
    crowds = annotations.values("iscrowd")
    if set(map(type, crowds)) - {int} or not {0, 1}.issuperset(crowds):
        annotations.refuse_first(
            crowds, lambda v: type(v) is int and v in (0, 1), "has iscrowd {}, not 0 or 1"
        )
    areas = annotations.values("area")
    if area_numbers(areas) is None:
        annotations.refuse_first(
            areas,
            lambda area: area_numbers([area]) is not None,
            "has area {}, not a finite number, at least 0",
        )


def box_numbers(boxes: list[Any]) -> np.ndarray | None:
    """Give boxes as float64 [N, 4]; None if one is no x, y, width and height in pixels."""
    if set(map(type, boxes)) - {list} or set(map(len, boxes)) - {4}:
        return None
    numbers = _numbers(list(chain.from_iterable(boxes)))
    if numbers is None:
        return None
    found = numbers.reshape(-1, 4)
    is_right = (np.abs(numbers) <= _MAX_COORDINATE).all() and (found[:, 2:] >= 0).all()
    return found if is_right else None


def area_numbers(areas: list[Any]) -> np.ndarray | None:
    """Give areas as float64 [N]; None if one is no finite number of at least 0."""
    numbers = _numbers(areas)
    is_right = numbers is not None and ((numbers >= 0) & (numbers <= _MAX_AREA)).all()
    return numbers if is_right else None


def _numbers(values: list[Any]) -> np.ndarray | None:
    """Give float64 [N], or None if a value is no number; a NaN compares as wrong later."""
    if set(map(type, values)) - {int, float}:
        return None
    try:
        return np.array(values, dtype=np.float64)
    except OverflowError:  # an integer beyond float64
        return None
