"""Starts of the published trainings on data of their size, made up (`large_inputs.py`).

`python tests/large_starts.py FOLDER` writes ILSVRC 2012 (1,281,167 + 50,000 links to photographs),
COCO 2017 (118,287 + 5,000 images, 860,001 boxes) and PASCAL VOC 2012 (17,125 images, 2,913 masks)
where the configs look for them, 1.5 million inodes and 0.8 GB in all, if they are not there; and
random weights. It prints, for the published ResNet-50 configs of the three tasks, the seconds from
starting the script to the first batch (in all, and of a core, without the loaders' workers), and
the most memory that all of its processes held until then (PSS). ILSVRC comes twice: its folders are
listed, then known.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import large_inputs
import numpy as np
from large_inputs import FILES, FOLDERS, measured, say, write_annotations
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = {
    "image_classification": "ilsvrc2012/ladon/splittable_resnet50-fp-beta0.32_from_resnet50",
    "object_detection": "coco2017/ladon/faster_rcnn_splittable_resnet50-fp-beta0.32_fpn",
    "semantic_segmentation": "pascal_voc2012/ladon/deeplabv3_splittable_resnet50-fp-beta0.32"
    "_two_stages",
}
_LINKS = 20_000  # of one file; ext4 allows 65,000


def photograph(path: Path, number: int, width: int = 500, height: int = 375) -> Path:
    """Write a JPEG of a photograph's size, 0.1 MB."""
    pixels = np.random.default_rng(number).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).resize((width, height)).save(path, quality=95)
    return path


def linked(names: list[Path], source: Path, width: int = 500, height: int = 375) -> None:
    """Make all files links to as few photographs as the file system allows."""
    for number, name in enumerate(names):
        if number % _LINKS == 0:
            own = source.with_name(f"{source.name}{number}.jpg")
            shared = photograph(own, number, width, height)
        os.link(shared, name)


def write_ilsvrc(root: Path) -> None:
    for split, files in (("train", FILES), ("val", 50_000)):
        names = []
        for n in range(FOLDERS):
            folder = root / split / f"n{1440764 + 1000 * n:08d}"
            folder.mkdir(parents=True)
            numbers = range(files * n // FOLDERS, files * (n + 1) // FOLDERS)
            names += [folder / f"{folder.name}_{number}.JPEG" for number in numbers]
        linked(names, root / "shared" / split)


def write_coco(root: Path) -> None:
    (root / "annotations").mkdir(parents=True)
    sizes = {"train": (large_inputs.IMAGES, large_inputs.BOXES), "val": (5_000, 36_781)}
    for split, (images, boxes) in sizes.items():
        annotations = root / "annotations" / f"instances_{split}2017.json"
        write_annotations(annotations, images, boxes)
        folder = root / f"{split}2017"
        folder.mkdir()
        entries = json.loads(annotations.read_text(encoding="ascii"))["images"]
        linked([folder / e["file_name"] for e in entries], root / "shared" / split, 640, 480)


def write_voc(root: Path) -> None:
    base = root / "VOCdevkit" / "VOC2012"
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (base / part).mkdir(parents=True)
    names = [f"2007_{n:06d}" for n in range(17_125)]
    linked([base / "JPEGImages" / f"{name}.jpg" for name in names], base / "shared" / "image")
    for name in names[:2_913]:
        mask = Image.fromarray(np.full((375, 500), 5, np.uint8))
        mask.putpalette([0] * 768)
        mask.save(base / "SegmentationClass" / f"{name}.png")
    for split, part in (("train", names[:1_464]), ("val", names[1_464:2_913])):
        (base / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(part) + "\n")


def write_weights(folder: Path) -> None:
    """Write the teacher's where the library looks for them, and the student's for the heads."""
    import torch
    from torchvision.models import ResNet50_Weights, resnet50

    from ladon.config import load_config
    from ladon.models import build_model, update_bottleneck, write_checkpoint

    hub = folder / "hub" / "checkpoints"
    hub.mkdir(parents=True)
    torch.hub.set_dir(hub.parent)
    for weights in ResNet50_Weights:
        torch.save(resnet50().state_dict(), hub / weights.url.rpartition("/")[2])
    config = load_config(ROOT / "configs" / f"{CONFIGS['image_classification']}.yaml")
    section = config.build(config.section("models.student_model"))
    student = build_model(section, "classification", "models.student_model")
    update_bottleneck(student)
    write_checkpoint(folder / section["dst_ckpt"], student, best_value=0.0)


def start(folder: Path, script: str) -> None:
    """Run a task script until its first batch is there."""
    import torch

    torch.hub.set_dir(folder / "hub")
    from ladon.cli import main
    from ladon.data import listing
    from ladon.engine.train import Trainer

    def learn(*_) -> None:
        seconds = time.perf_counter() - START
        say(f"first batch after {seconds:.1f} s, {time.process_time():.1f} s of a core, ")
        raise SystemExit

    Trainer._learn = learn
    listing._SETTLED = 0.0  # folders that were made just now are known again, too
    config = ROOT / "configs" / f"{CONFIGS[script]}.yaml"
    flags = ["--run_log", str(folder / "logs" / f"{script}.txt"), "--overwrite", "--device", "cpu"]
    main(script, ["--config", str(config), "--data_root", str(folder / "data"), *flags])


def main(folder: Path) -> None:
    data = folder / "data"
    os.environ["LADON_CACHE"] = str(folder / "cache")
    for made, write in (
        (data / "ilsvrc2012", write_ilsvrc),
        (data / "coco2017", write_coco),
        (data / "VOCdevkit", lambda _: write_voc(data)),
        (folder / "hub", lambda _: write_weights(folder)),
    ):
        if not made.exists():
            began = time.perf_counter()
            write(made)
            say(f"{made} made in {time.perf_counter() - began:.0f} s\n")
    say(f"load before: {os.getloadavg()[0]:.1f}\n")
    for script in ("image_classification", *CONFIGS):
        measured(str(folder), script, program=__file__)


if __name__ == "__main__":
    START = time.perf_counter()
    sys.path.insert(0, str(ROOT / "scripts"))
    place = Path(sys.argv[1]).resolve()
    place.mkdir(parents=True, exist_ok=True)
    os.chdir(place)
    main(place) if len(sys.argv) == 2 else start(place, sys.argv[2])
