"""A COCO annotation file as flat arrays: what training and evaluation read of it, and no more.

As Python objects the file of COCO 2017's training set takes 3 GB, and every worker that looks at
them makes pages of its own, as looking counts references. Arrays take 50 MB that all share.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import msgspec
import numpy as np

from ladon.data.coco_content import area_numbers, box_numbers


class Texts(Sequence[bytes]):
    """Many short texts in one buffer.

    Args:
        buffer: the texts, one after the other.
        ends: int64 [N], where each ends.
    """

    def __init__(self, buffer: bytes | bytearray, ends: np.ndarray) -> None:
        self._buffer, self._ends = buffer, ends

    @classmethod
    def of(cls, texts: Iterable[bytes]) -> Texts:
        """Join texts."""
        buffer, ends = bytearray(), []
        for text in texts:
            buffer += text
            ends.append(len(buffer))
        return cls(buffer, np.array(ends, dtype=np.int64))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: Any) -> Any:
        """Give a text by its number, from 0 on."""
        start = self._ends[index - 1] if index else 0
        return bytes(self._buffer[start : self._ends[index]])


@dataclass
class Columns:
    """What is taken of a file, in its order.

    Attributes:
        image_ids: int64 [M].
        names: UTF-8 of each image's file name, half surrogates included.
        sides: int64 [M, 2], height and width in pixels, 0 where they are not given.
        entries: the categories, as they are in the file.
        ids: of the annotations, [N]: int64, or Python's integers.
        owners: int64 [N], the image id of each annotation.
        categories: [N], the category id of each annotation: int64, or Python's integers.
        boxes: float64 [N, 4], x, y, width and height in pixels.
        areas: float64 [N].
        crowds: bool [N].
        shapes: the JSON of each annotation's segmentation, b'' of those that are not painted; None
            if none is.
    """

    image_ids: np.ndarray
    names: Texts
    sides: np.ndarray
    entries: list[dict[str, Any]]
    ids: np.ndarray
    owners: np.ndarray
    categories: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowds: np.ndarray
    shapes: Texts | None


class Shape(NamedTuple):
    """An object's segmentation.

    Attributes:
        id: of the annotation.
        image: place of its image in `Annotations.image_ids`.
        category_id: the file's.
        parsed: as in the JSON.
    """

    id: int
    image: int
    category_id: int
    parsed: Any


class Annotations:
    """The images of a COCO file in the order of their ids, and the objects in them.

    Args:
        columns: what the file says.

    Attributes:
        image_ids: int64 [M], ascending.
        sides: int64 [M, 2], height and width of each image in pixels, 0 where it is not given.
        boxes: float64 [N, 4], x, y, width and height in pixels; an image's objects follow each
            other in the file's order.
        areas: float64 [N].
        crowds: bool [N].
        entries: the categories, as they are in the file.
    """

    def __init__(self, columns: Columns) -> None:
        self.entries = columns.entries
        self._images = np.argsort(columns.image_ids)
        self.image_ids = columns.image_ids[self._images]
        self.sides = columns.sides[self._images]
        self._names = columns.names
        owners = np.searchsorted(self.image_ids, columns.owners)
        order = np.argsort(owners, kind="stable")
        self._first = np.searchsorted(owners[order], np.arange(len(self.image_ids) + 1))
        self.boxes, self.areas = columns.boxes[order], columns.areas[order]
        self.crowds = columns.crowds[order]
        places = {entry["id"]: place for place, entry in enumerate(self.entries)}
        place_of = map(places.__getitem__, columns.categories.tolist())
        self._categories = np.fromiter(place_of, np.int32, len(order))[order]
        self._shapes = columns.shapes
        if columns.shapes is not None:  # for which alone a message names an annotation
            self._order, self._ids = order, columns.ids

    def __len__(self) -> int:
        """Count the objects."""
        return len(self.areas)

    def __contains__(self, image_id: int) -> bool:
        """Whether the file lists an image."""
        place = np.searchsorted(self.image_ids, image_id)
        return bool(place < len(self.image_ids) and self.image_ids[place] == image_id)

    @cached_property
    def category_ids(self) -> list[int]:
        """Id of each category, in the file's order."""
        return [entry["id"] for entry in self.entries]

    @property
    def used_ids(self) -> list[int]:
        """Ids of the categories that objects have."""
        return [self.category_ids[place] for place in np.unique(self._categories)]

    def place(self, image_id: int) -> int:
        """Give an image's place in `image_ids` and `sides`."""
        return int(np.searchsorted(self.image_ids, image_id))

    def file_name(self, image_id: int) -> str:
        """Give an image's file name."""
        return self._names[self._images[self.place(image_id)]].decode("utf-8", "surrogatepass")

    def rows(self, image_id: int) -> slice:
        """Give the place of an image's objects in `boxes`, `areas` and `crowds`."""
        place = self.place(image_id)
        return slice(int(self._first[place]), int(self._first[place + 1]))

    def categories(self, rows: slice) -> list[int]:
        """Give the category ids of objects."""
        return [self.category_ids[place] for place in self._categories[rows]]

    def objects(self, image_id: int) -> list[dict[str, Any]]:
        """Give an image's objects as COCO has them, `bbox`, `area`, `iscrowd`, `category_id`."""
        rows = self.rows(image_id)
        columns = (
            self.boxes[rows].tolist(),
            self.areas[rows].tolist(),
            self.crowds[rows].astype(int).tolist(),
            self.categories(rows),
        )
        keys = ("bbox", "area", "iscrowd", "category_id")
        return [dict(zip(keys, values, strict=True)) for values in zip(*columns, strict=True)]

    def count(self, chosen: np.ndarray) -> np.ndarray:
        """Count each image's objects among the chosen ones.

        Args:
            chosen: bool [N].

        Returns:
            int64 [M].
        """
        before = np.concatenate([[0], np.cumsum(chosen)])
        return before[self._first[1:]] - before[self._first[:-1]]

    def shapes(self, rows: Iterable[int] | None = None) -> Iterator[Shape]:
        """Give the kept segmentations of objects.

        Args:
            rows: of which objects; all in the file's order by default.
        """
        assert self._shapes is not None  # else nobody asks
        for row in np.argsort(self._order).tolist() if rows is None else rows:
            place = self._order[row]
            text = self._shapes[place]
            if text:
                image = int(np.searchsorted(self._first, row, side="right")) - 1
                category_id = self.category_ids[self._categories[row]]
                yield Shape(self._ids[place], image, category_id, _parsed(text))


def columns_of(content: Mapping[str, Any], painted: Iterable[int] | None) -> Columns:
    """Take the columns out of a checked file's JSON.

    Args:
        content: as `ladon.data.coco_content.check_content` leaves it, image ids within int64.
        painted: ids of the categories whose segmentations are kept; None for no segmentations.
    """
    images, annotations = content["images"], content["annotations"]
    sides = [[entry.get(key, 0) for key in ("height", "width")] for entry in images]
    shapes = None
    if painted is not None:
        kept = set(painted)
        shapes = Texts.of(
            json.dumps(a.get("segmentation")).encode() if a["category_id"] in kept else b""
            for a in annotations
        )
    boxes = box_numbers([a["bbox"] for a in annotations])
    areas = area_numbers([a["area"] for a in annotations])
    assert boxes is not None  # they were checked
    assert areas is not None
    return Columns(
        image_ids=np.array([entry["id"] for entry in images], dtype=np.int64),
        names=file_names(entry["file_name"] for entry in images),
        sides=np.array(sides, dtype=np.int64).reshape(-1, 2),
        entries=content["categories"],
        ids=np.array([a["id"] for a in annotations], dtype=object),
        owners=np.array([a["image_id"] for a in annotations], dtype=np.int64),
        categories=np.array([a["category_id"] for a in annotations], dtype=object),
        boxes=boxes,
        areas=areas,
        crowds=np.array([a["iscrowd"] for a in annotations], dtype=bool),
        shapes=shapes,
    )


def file_names(names: Iterable[str]) -> Texts:
    """Join file names."""
    return Texts.of(name.encode("utf-8", "surrogatepass") for name in names)


def annotations_of(dataset: Any) -> Any:
    """Give the annotations that a detection set is evaluated with.

    Args:
        dataset: COCO's, or one of somebody's own with a `coco`.

    Returns:
        `Annotations`; or pycocotools' object, where the dataset has none or where somebody asked
        for it and may have changed it; None if it has neither.
    """
    own = getattr(dataset, "annotations", None)
    if isinstance(own, Annotations) and "coco" not in vars(dataset):
        return own
    return getattr(dataset, "coco", None)


def _parsed(text: bytes) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):  # Python's JSON has NaN
        return json.loads(text)
