"""Inputs as large as the published ones, made up: COCO's annotation file, ImageNet's folders."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

IMAGES, BOXES = 118_287, 860_001
"""Of COCO 2017's training set."""

FILES, FOLDERS = 1_281_167, 1_000
"""Of ILSVRC 2012's."""

_WIDTH, _HEIGHT = 640, 480
_CATEGORIES = [n for n in range(1, 91) if n not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
_CROWDS = 0.012  # of all objects, about as many as COCO has


def write_annotations(path: Path, images: int = IMAGES, boxes: int = BOXES, seed: int = 0) -> None:
    """Write an annotation file like `instances_train2017.json`, polygons and crowds included.

    Args:
        path: of the JSON file; 0.46 GB with the sizes of COCO, whose own has 0.47 GB.
        images: number of images of 640x480 pixels, `%012d.jpg`.
        boxes: number of objects; about one image in a hundred has none.
        seed: of all of it.
    """
    rng = np.random.default_rng(seed)
    ids = np.sort(rng.choice(5 * images, images, replace=False) + 1)
    with path.open("w", encoding="ascii") as file:
        file.write('{"info": {"year": 2017}, "licenses": [], "images": [')
        file.write(", ".join(json.dumps(_image(int(i))) for i in ids))
        file.write('], "annotations": [')
        drawn = ids[rng.random(images) < 0.99]
        for n, entry in enumerate(_objects(drawn, boxes, rng)):
            file.write(", " * (n > 0) + entry)
        categories = [{"supercategory": "x", "id": n, "name": f"name {n}"} for n in _CATEGORIES]
        file.write(f'], "categories": {json.dumps(categories)}}}')


def write_images(annotations: Path, folder: Path) -> None:
    """Make a link to one JPEG for each image of an annotation file."""
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (_HEIGHT // 8, _WIDTH // 8, 3), np.uint8)
    shared = folder.parent / "image.jpg"
    Image.fromarray(pixels).resize((_WIDTH, _HEIGHT)).save(shared)
    for entry in json.loads(annotations.read_text(encoding="ascii"))["images"]:
        (folder / entry["file_name"]).symlink_to(shared)


def write_folders(root: Path, files: int = FILES, folders: int = FOLDERS) -> None:
    """Make class folders of empty files, named as ILSVRC's."""
    for n in range(folders):
        folder = root / f"n{1440764 + 1000 * n:08d}"
        folder.mkdir(parents=True)
        for number in range(files * n // folders, files * (n + 1) // folders):
            os.close(os.open(folder / f"{folder.name}_{number}.JPEG", os.O_CREAT | os.O_WRONLY))


def _image(image_id: int) -> dict:
    name = f"{image_id:012d}.jpg"
    return {
        "license": 3,
        "file_name": name,
        "coco_url": f"http://images.example/train2017/{name}",
        "height": _HEIGHT,
        "width": _WIDTH,
        "date_captured": "2013-11-14 11:18:45",
        "flickr_url": f"http://flickr.example/{image_id:09d}_z.jpg",
        "id": image_id,
    }


def _objects(image_ids: np.ndarray, boxes: int, rng: np.random.Generator) -> Iterator[str]:
    """Give the objects' JSON; written by hand, as formatting each number would take minutes."""
    numbers = [f"{n / 100:.2f}" for n in range(100 * _WIDTH + 1)]
    order = rng.choice(image_ids, boxes)
    for start in range(0, boxes, 10_000):
        count = min(10_000, boxes - start)
        sides = rng.integers(200, 20_000, (count, 2))
        corners = (rng.random((count, 2)) * (100 * np.array([_WIDTH, _HEIGHT]) - sides)).astype(int)
        categories = rng.choice(_CATEGORIES, count).tolist()
        crowds = (rng.random(count) < _CROWDS).tolist()
        vertices = rng.integers(3, 50, count)
        ends = np.cumsum(vertices).tolist()
        of_vertex = np.repeat(np.arange(count), vertices)
        inside = rng.random((len(of_vertex), 2)) * sides[of_vertex]
        points = corners[of_vertex] + inside.astype(int)
        texts = [numbers[v] for v in points.ravel().tolist()]
        for n in range(count):
            (x, y), (w, h) = corners[n].tolist(), sides[n].tolist()
            polygon = ", ".join(texts[2 * (ends[n - 1] if n else 0) : 2 * ends[n]])
            shape = f"[[{polygon}]]"
            if crowds[n]:
                runs = rng.integers(1, 300, 120).tolist()
                runs.append(_WIDTH * _HEIGHT - sum(runs))
                shape = f'{{"counts": {runs}, "size": [{_HEIGHT}, {_WIDTH}]}}'
            yield (
                f'{{"segmentation": {shape}, "area": {w * h / 20000:.4f}, '
                f'"iscrowd": {int(crowds[n])}, "image_id": {order[start + n]}, '
                f'"bbox": [{numbers[x]}, {numbers[y]}, {numbers[w]}, {numbers[h]}], '
                f'"category_id": {categories[n]}, "id": {900_000 + start + n}}}'
            )
