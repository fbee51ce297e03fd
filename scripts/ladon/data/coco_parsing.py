"""Fast reading of a COCO annotation file: the usual ones; what is odd is left to the slow way.

msgspec passes over what nobody reads, polygons above all, and makes Python objects of a few
thousand annotations at a time: 3 s and the file's own size in memory for COCO 2017's training set,
where `json` takes 20 s and 3 GB. It is as strict as `json`, but for what is looked at here first.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import UNSET, Raw, Struct, UnsetType

from ladon.data.coco_annotations import Columns, Texts, file_names
from ladon.data.coco_content import area_numbers, box_numbers, is_file_name, is_side

_AT_ONCE = 10_000
_READ = 1 << 20
# Python refuses integers of more than 4300 digits, msgspec does not: one of every so many bytes is
# looked at, and so many digits in a row are too many.
_STEP, _MOST_DIGITS = 100, 42

Number = int | float


class _File(Struct):
    images: list[Raw]
    annotations: list[Raw]
    categories: Raw


class _Image(Struct):
    id: Number
    file_name: str
    height: Number | UnsetType = UNSET
    width: Number | UnsetType = UNSET


class _Category(Struct):
    id: Number
    name: str | UnsetType = UNSET


class _Annotation(Struct):
    id: Number
    image_id: Number
    category_id: Number
    bbox: list[Number]
    area: Number | UnsetType = UNSET
    iscrowd: Number | UnsetType = UNSET
    segmentation: Raw | UnsetType = UNSET


_decode_file = msgspec.json.Decoder(_File).decode
_decode_image = msgspec.json.Decoder(_Image).decode
_decode_annotation = msgspec.json.Decoder(_Annotation).decode


class _Odd(Exception):
    """Raised for what may be wrong, and what these arrays cannot hold: the slow way tells."""


def fast_columns(path: Path, painted: Iterable[int] | None) -> Columns | None:
    """Read and check a file.

    Args:
        path: of the JSON.
        painted: ids of the categories whose segmentations are kept; None for no segmentations.

    Returns:
        What `check_content` and `columns_of` would give; None if anything is not as usual.
    """
    try:
        data = path.read_bytes()
        _check_bytes(data)
        file = _decode_file(data)
        image_ids, names, sides = _images(file.images)
        entries = msgspec.json.decode(file.categories)
        known = _ids([entry.id for entry in msgspec.convert(entries, list[_Category])])
        if len(image_ids) and not len(known) and not file.annotations:
            return None
        found = _Annotations(frozenset(painted) if painted is not None else None)
        for part in _parts(file.annotations):
            found.add(list(map(_decode_annotation, part)))
        return found.columns(image_ids, names, sides, entries, known)
    except (_Odd, msgspec.MsgspecError, OSError, UnicodeError, RecursionError, OverflowError):
        return None


def _parts(entries: Sequence[Any]) -> Iterator[list[Any]]:
    remaining = iter(entries)
    while part := list(islice(remaining, _AT_ONCE)):
        yield part


def _check_bytes(data: bytes) -> None:
    if not data.isascii():
        decoder = codecs.getincrementaldecoder("utf-8")()
        for start in range(0, len(data), _READ):
            decoder.decode(data[start : start + _READ])
        decoder.decode(b"", final=True)
    sampled = np.frombuffer(data, np.uint8)[::_STEP] - ord("0")  # below '0' it is beyond 9, too
    others = np.flatnonzero(np.concatenate([[True], sampled > 9, [True]]))
    if np.diff(others).max() > _MOST_DIGITS:
        raise _Odd


def _ids(values: list[Number]) -> np.ndarray:
    """Give different integers: int64 [N]."""
    ids = _integers(values)
    if len(np.unique(ids)) < len(ids):
        raise _Odd
    return ids


def _integers(values: list[Number]) -> np.ndarray:
    if set(map(type, values)) - {int}:
        raise _Odd
    return np.array(values, dtype=np.int64)


def _images(raw: list[Raw]) -> tuple[np.ndarray, Texts, np.ndarray]:
    ids: list[Number] = []
    sides: list[Number] = []
    names: list[str] = []
    for part in _parts(raw):
        for image in map(_decode_image, part):
            ids.append(image.id)
            names.append(image.file_name)
            for side in (image.height, image.width):
                if side is not UNSET and not is_side(side):
                    raise _Odd
                sides.append(0 if side is UNSET else side)
    if not all(map(is_file_name, names)):
        raise _Odd
    return _ids(ids), file_names(names), np.array(sides, dtype=np.int64).reshape(-1, 2)


class _Annotations:
    """Collects annotations part by part."""

    def __init__(self, painted: frozenset[int] | None) -> None:
        self._painted = painted
        self._integers: list[np.ndarray] = []
        self._boxes: list[np.ndarray] = []
        self._areas: list[np.ndarray] = []
        self._crowds: list[np.ndarray] = []
        self._buffer = bytearray()
        self._ends: list[int] = []

    def add(self, part: list[_Annotation]) -> None:
        """Take the next annotations."""
        names = ("id", "image_id", "category_id")
        columns = [_integers(list(map(attrgetter(name), part))) for name in names]
        self._integers.append(np.stack(columns))
        boxes = box_numbers([a.bbox for a in part])
        areas = area_numbers([a.bbox[2] * a.bbox[3] if a.area is UNSET else a.area for a in part])
        if boxes is None or areas is None:
            raise _Odd
        crowds = [0 if a.iscrowd is UNSET else a.iscrowd for a in part]
        if set(map(type, crowds)) - {int} or not {0, 1}.issuperset(crowds):
            raise _Odd
        self._boxes.append(boxes)
        self._areas.append(areas)
        self._crowds.append(np.array(crowds, dtype=bool))
        if self._painted is not None:
            self._keep_shapes(part)

    def _keep_shapes(self, part: list[_Annotation]) -> None:
        assert self._painted is not None
        for annotation in part:
            if annotation.category_id in self._painted:
                shape = annotation.segmentation
                self._buffer += b"null" if shape is UNSET else shape
            self._ends.append(len(self._buffer))

    def columns(
        self,
        image_ids: np.ndarray,
        names: Texts,
        sides: np.ndarray,
        entries: list[dict],
        known: np.ndarray,
    ) -> Columns:
        ids, owners, categories = np.concatenate(
            [np.empty((3, 0), dtype=np.int64), *self._integers], axis=1
        )
        if (
            len(np.unique(ids)) < len(ids)
            or not np.isin(owners, image_ids).all()
            or not np.isin(categories, known).all()
        ):
            raise _Odd
        shapes = None
        if self._painted is not None:
            shapes = Texts(self._buffer, np.array(self._ends, dtype=np.int64))
        return Columns(
            image_ids=image_ids,
            names=names,
            sides=sides,
            entries=entries,
            ids=ids,
            owners=owners,
            categories=categories,
            boxes=np.concatenate([np.empty((0, 4)), *self._boxes]),
            areas=np.concatenate([np.empty(0), *self._areas]),
            crowds=np.concatenate([np.empty(0, dtype=bool), *self._crowds]),
            shapes=shapes,
        )
