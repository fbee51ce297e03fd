"""Digit scenes: a small data set with all three tasks' labels, made without a download.

Each scene is an RGB picture of one large hand-written digit and a few small ones on a dulled
photograph. It is stored in the layouts of the real data sets, so that the ordinary loaders read it:

    ROOT/digit_scenes/{train,val}/<digit>/*.png                 ImageFolder; class = large digit
    ROOT/digit_scenes/annotations/instances_{train,val}.json    COCO; file names relative to
                                                                ROOT/digit_scenes; category digit+1
    ROOT/digit_scenes/VOCdevkit/VOC2012/                        PASCAL VOC; 0 background, digit+1,
                                                                255 a one-pixel outline; 11 classes

Train and val share neither a digit's image nor a pixel of a photograph.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from ladon.data.digit_drawing import NUM_DIGITS, STYLES, Scene, draw_scene, load_material
from ladon.errors import DataError

FOLDER = "digit_scenes"
NUM_SEGMENTATION_CLASSES = NUM_DIGITS + 1
_VERSION = 2
_SMALLEST = 32
_OWN_ENTRIES = {"train", "val", "annotations", "VOCdevkit", "meta.json"}
_SPLITS = ("train", "val")
_JPEG: dict[str, Any] = {"quality": 95, "subsampling": 0}


def make_digit_scenes(
    root: str | Path,
    *,
    num_train: int = 1280,
    num_val: int = 320,
    size: int = 96,
    seed: int = 0,
    style: str = "easy",
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Make the data set, unless the very same one is already there.

    It is built beside its final place and moved there at the end: an interruption leaves nothing
    half-made. The same arguments give the same bytes (with the same Pillow and numpy).

    Args:
        root: folder in which `digit_scenes` is made; `~` is expanded.
        num_train: scenes for training.
        num_val: scenes for validation.
        size: side of a scene in pixels, at least 32.
        seed: of all choices, 0 or more.
        style: of `digit_drawing.STYLES`.
        progress: called with (scenes done, scenes in all) after each scene.

    Returns:
        Path of `digit_scenes`.

    Raises:
        DataError: an argument is out of range, the folder cannot be written, or holds other files.
    """
    counts = {"train": num_train, "val": num_val}
    if min(counts.values()) < 1 or size < _SMALLEST or seed < 0:
        raise DataError(
            f"digit scenes need at least 1 scene per split, a size of {_SMALLEST} pixels and a "
            f"seed of 0; got {num_train} and {num_val} scenes of {size} pixels, seed {seed}"
        )
    if style not in STYLES:
        raise DataError(f"digit scenes are {' or '.join(STYLES)}, not {style}")
    final = Path(root).expanduser() / FOLDER
    wanted = {
        "version": _VERSION, "counts": counts, "size": size, "seed": seed, "style": style,
    }  # fmt: skip
    if _is_complete(final, wanted):
        return final
    _check_own(final)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{FOLDER}-", dir=final.parent))
    except OSError as error:
        raise DataError(
            f"cannot write to {final.parent}: {error.strerror}; choose another root"
        ) from error
    try:
        new = scratch / "new"
        _build(new, wanted, progress)
        meta = {**wanted, "num_files": _count_files(new) + 1}
        (new / "meta.json").write_text(json.dumps(meta, indent=2, sort_keys=True) + "\n")
        if not _is_complete(final, wanted):  # another process may have been faster
            if final.exists():
                final.rename(scratch / "old")
            new.rename(final)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return final


def _count_files(folder: Path) -> int:
    return sum(path.is_file() for path in folder.rglob("*"))


def _is_complete(folder: Path, wanted: dict) -> bool:
    try:
        meta = json.loads((folder / "meta.json").read_text())
    except (OSError, ValueError):
        return False
    num_files = meta.pop("num_files", None) if isinstance(meta, dict) else None
    return meta == wanted and num_files == _count_files(folder)


def _check_own(folder: Path) -> None:
    """Refuse to replace a folder that holds anything but digit scenes."""
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file; remove it or choose another root")
    foreign = sorted({p.name for p in folder.iterdir()} - _OWN_ENTRIES) if folder.exists() else []
    if foreign:
        raise DataError(
            f"{folder} holds '{foreign[0]}', which is no part of the digit scenes; "
            "move it away or choose another root"
        )


def _build(
    folder: Path, wanted: dict[str, Any], progress: Callable[[int, int], None] | None
) -> None:
    counts, size, seed = wanted["counts"], wanted["size"], wanted["seed"]
    voc = folder / "VOCdevkit" / "VOC2012"
    for subfolder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (voc / subfolder).mkdir(parents=True)
    (folder / "annotations").mkdir()
    total = sum(counts.values())
    done = 0
    for number, split in enumerate(_SPLITS):
        material = load_material(split, seed)
        images: list[dict] = []
        annotations: list[dict] = []
        for position in range(counts[split]):
            main = position % NUM_DIGITS
            rng = np.random.default_rng([seed, number, position])
            scene = draw_scene(main, material, size, rng, STYLES[wanted["style"]])
            name = f"{split}/{main}/{position:05d}.png"
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(scene.image).save(folder / name)
            _write_voc(voc, f"{split}_{position:05d}", scene)
            done += 1
            images.append({"id": done, "file_name": name, "width": size, "height": size})
            for label, mask in _visible(scene):
                # Ids must be unique within a file and, for COCOeval, not 0.
                annotations.append(_annotation(len(annotations) + 1, done, label, mask))
            if progress is not None:
                progress(done, total)
        _write_coco(folder / "annotations" / f"instances_{split}.json", images, annotations)
        names = [f"{split}_{position:05d}\n" for position in range(counts[split])]
        (voc / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("".join(names))


def _visible(scene: Scene) -> list[tuple[int, np.ndarray]]:
    """List the (digit, bool [S, S] mask) of each instance that is not wholly painted over."""
    masks = [scene.instances == number for number in range(len(scene.labels))]
    return [(label, m) for label, m in zip(scene.labels, masks, strict=True) if m.any()]


def _annotation(annotation_id: int, image_id: int, digit: int, mask: np.ndarray) -> dict:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    left, top = int(columns[0]), int(rows[0])
    runs = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": digit + 1,
        "bbox": [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1],
        "area": int(mask.sum()),
        "iscrowd": 0,
        "segmentation": {"size": list(mask.shape), "counts": runs["counts"].decode("ascii")},
    }


def _write_coco(path: Path, images: list[dict], annotations: list[dict]) -> None:
    categories = [{"id": digit + 1, "name": str(digit)} for digit in range(NUM_DIGITS)]
    content = {
        "info": {"description": "digit scenes"},
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
    path.write_text(json.dumps(content))


def _write_voc(voc: Path, name: str, scene: Scene) -> None:
    Image.fromarray(scene.image).save(voc / "JPEGImages" / f"{name}.jpg", **_JPEG)
    mask = Image.fromarray(scene.class_mask)
    mask.putpalette(voc_palette())
    mask.save(voc / "SegmentationClass" / f"{name}.png")


def voc_palette() -> list[int]:
    """Give PASCAL VOC's 256 colours, as its development kit computes them.

    Returns:
        768 values 0..255: red, green and blue of each class id. An id's bits 0, 3 and 6 are red's
        three highest bits, from the top; 1, 4, 7 green's; 2, 5 blue's.
    """
    palette = []
    for class_id in range(256):
        for channel in range(3):
            bits = [(class_id >> (3 * place + channel)) & 1 for place in range(3)]
            palette.append(sum(bit << (7 - place) for place, bit in enumerate(bits)))
    return palette
