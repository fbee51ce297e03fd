"""Data of one's own in the layout that configs/own_data expect, drawn on the spot."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ["ant", "bee", "cat", "dog", "elk"]
CATEGORIES = {20: "car", 300: "bike", 7: "sign"}  # ids in the file's order
MASK_CLASSES = ["background", "road", "roof", "tree"]
_COLOURS = np.array([[70, 70, 70], [230, 40, 40], [40, 210, 60], [50, 70, 230], [220, 210, 40]])
_SIDE = 72


def _noise(rng: np.random.Generator, colour: np.ndarray) -> np.ndarray:
    return np.clip(colour + rng.normal(0, 25, (_SIDE, _SIDE, 3)), 0, 255).astype(np.uint8)


def write_classes(folder: Path, names: Sequence[str] = CLASSES, train: int = 6) -> None:
    """Folders of images, a colour for each class."""
    rng = np.random.default_rng(0)
    for part, count in (("train", train), ("val", 2)):
        for label, name in enumerate(names):
            path = folder / "images" / part / name
            path.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(_noise(rng, _COLOURS[label])).save(path / f"{number}.jpg")


def _rectangles(
    rng: np.random.Generator,
) -> tuple[np.ndarray, list[tuple[int, int, int, int, int]]]:
    """An image and its (class, x, y, width, height), classes from 1 to 3."""
    image, found = _noise(rng, _COLOURS[0]), []
    for number in range(2):
        kind = int(rng.integers(1, 4))
        x, y = int(rng.integers(0, 12)) + 36 * number, int(rng.integers(0, 40))
        width, height = (int(v) for v in rng.integers(16, 24, 2))
        image[y : y + height, x : x + width] = _COLOURS[kind]
        found.append((kind, x, y, width, height))
    return image, found


def write_boxes(folder: Path, ids: Sequence[int] = tuple(CATEGORIES), train: int = 8) -> None:
    """COCO files, whose categories have these ids in this order."""
    rng = np.random.default_rng(1)
    names = list(CATEGORIES.values())
    (folder / "boxes" / "images").mkdir(parents=True)
    for part, count in (("train", train), ("val", 4)):
        images, annotations = [], []
        for number in range(1, count + 1):
            image, found = _rectangles(rng)
            name = f"{part}{number}.png"
            Image.fromarray(image).save(folder / "boxes" / "images" / name)
            images.append({"id": number, "file_name": name, "width": _SIDE, "height": _SIDE})
            annotations += [
                {
                    "id": 10 * number + rank,
                    "image_id": number,
                    "category_id": ids[kind - 1],
                    "bbox": [x, y, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                }
                for rank, (kind, x, y, width, height) in enumerate(found)
            ]
        content = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": i, "name": n} for i, n in zip(ids, names, strict=True)],
        }
        (folder / "boxes" / f"{part}.json").write_text(json.dumps(content))


def write_masks(folder: Path, train: int = 8) -> None:
    """Images and masks of four classes."""
    rng = np.random.default_rng(2)
    for part, count in (("train", train), ("val", 3)):
        for kind in ("images", "masks"):
            (folder / "masks" / part / kind).mkdir(parents=True)
        for number in range(count):
            image, found = _rectangles(rng)
            mask = np.zeros((_SIDE, _SIDE), dtype=np.uint8)
            for label, x, y, width, height in found:
                mask[y : y + height, x : x + width] = label
            Image.fromarray(image).save(folder / "masks" / part / "images" / f"{number}.jpg")
            Image.fromarray(mask).save(folder / "masks" / part / "masks" / f"{number}.png")


def write_all(data_root: Path) -> None:
    """Everything that README's page uses, under a data root."""
    for write in (write_classes, write_boxes, write_masks):
        write(data_root / "own_data")
