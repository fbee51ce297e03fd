"""Inputs as large as the published ones, made up: COCO's annotation file, ImageNet's folders.

They are never committed. `python tests/large_inputs.py FOLDER` makes both in a folder (0.5 GB; on
a tmpfs, as the folders hold 1.3 million empty files), if they are not there, and prints what
torchvision's and Ladon's datasets take, each in a process of its own: seconds to the dataset and to
the first batch of four workers, and the most memory that its processes held together (PSS).
Folders are known again no sooner than an hour after they were made.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader

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


def say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def boxes_of(folder: Path, way: str) -> None:
    annotations, images = folder / "annotations.json", folder / "images"
    if way == "torchvision":
        from torchvision.datasets import CocoDetection
        from torchvision.transforms.functional import to_tensor

        dataset = CocoDetection(images, annotations, transform=to_tensor)
    else:
        from ladon.data.coco import coco_dataset

        dataset = coco_dataset(images, annotations, False, is_segment=way == "segmentation")
    say(f"dataset after {time.perf_counter() - START:.1f} s, ")
    batches = iter(DataLoader(dataset, 4, shuffle=True, num_workers=4, collate_fn=list))
    next(batches)
    say(f"first batch after {time.perf_counter() - START:.1f} s, ")
    for _ in range(100):
        next(batches)


def folders_of(folder: Path, way: str) -> None:
    from torchvision import datasets

    from ladon.data.folder import ImageFolder

    start = time.perf_counter()
    made = (datasets.ImageFolder if way == "torchvision" else ImageFolder)(folder / "classes")
    say(f"{len(made)} files after {time.perf_counter() - start:.1f} s, ")


def memory_mib(pid: int) -> float:
    """Proportional share of a process and of those below it, in MiB."""
    total = 0.0
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        total = int(re.findall(r"^Pss: +(\d+)", text, re.MULTILINE)[0]) / 1024
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                total += memory_mib(int(child))
    except (OSError, IndexError):  # it has just ended
        pass
    return total


def measured(*arguments: str, program: str = __file__) -> None:
    child = subprocess.Popen([sys.executable, program, *arguments])
    done, peak = threading.Event(), 0.0
    threading.Thread(target=lambda: (child.wait(), done.set())).start()
    while not done.wait(0.2):
        peak = max(peak, memory_mib(child.pid))
    say(f"{peak:.0f} MiB ({' '.join(arguments[1:])})\n")


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "annotations.json").exists():
        write_annotations(folder / "annotations.json")
        write_images(folder / "annotations.json", folder / "images")
        write_folders(folder / "classes")
    for way in ("torchvision", "detection", "segmentation"):
        measured(str(folder), "boxes", way)
    os.environ["LADON_CACHE"] = str(folder / "cache")
    for way in ("torchvision", "ladon", "ladon"):
        measured(str(folder), "folders", way)


if __name__ == "__main__":
    START = time.perf_counter()
    sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
    if len(sys.argv) == 2:
        main(Path(sys.argv[1]))
    else:
        {"boxes": boxes_of, "folders": folders_of}[sys.argv[2]](Path(sys.argv[1]), sys.argv[3])
