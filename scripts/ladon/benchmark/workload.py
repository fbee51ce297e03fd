"""Models with random weights and small data in the layouts of ILSVRC 2012, COCO 2017 and PASCAL
VOC 2012. Everything follows from seeds; nothing is downloaded."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import nn
from torch.utils.data import Subset
from torchvision.transforms.functional import to_tensor

from ladon.benchmark.parts import root
from ladon.config import Config, load_config
from ladon.models import build_model, find_bottleneck, update_bottleneck
from ladon.tasks import TASKS, Task

NUM_IMAGES, QUICK_IMAGES = 32, 2
_SIZES = ((427, 500), (375, 500), (427, 600), (400, 320))  # height, width; no two cuts are equal


def photos(*sizes: tuple[int, int]) -> list[Image.Image]:
    """Cut a photograph of each (height, width), at most 427x640, from two in turn."""
    sources = [Image.fromarray(a) for a in load_sample_images().images]
    cuts = []
    for number, (height, width) in enumerate(sizes):
        source = sources[number % len(sources)]
        left = (37 * number) % (source.width - width + 1)
        top = (23 * number) % (source.height - height + 1)
        cuts.append(source.crop((left, top, left + width, top + height)))
    return cuts


def as_saved(image: Image.Image, path: Path) -> Image.Image:
    """Save a JPEG and return it as whoever opens it sees it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, format="JPEG", quality=95)
    with Image.open(path) as saved:
        return saved.convert("RGB")


def write_coco(folder: Path, names: Sequence[str], images: Sequence[Image.Image], boxes) -> None:
    """Write annotations/instances_val2017.json.

    Args:
        folder: the data set's, `coco2017`.
        names: image files in `val2017`.
        images: the images.
        boxes: per image a list of (category, x1, y1, x2, y2).
    """
    annotations = [
        {
            "id": 10 * number + rank,
            "image_id": 1000 + number,
            "category_id": category,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": (x2 - x1) * (y2 - y1),
            "iscrowd": 0,
            "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]],
        }
        for number, found in enumerate(boxes)
        for rank, (category, x1, y1, x2, y2) in enumerate(found, start=1)
    ]
    content = {
        "info": {"year": 2017},
        "licenses": [],
        "images": [
            {"id": 1000 + n, "file_name": name, "width": image.width, "height": image.height}
            for n, (name, image) in enumerate(zip(names, images, strict=True))
        ],
        "annotations": annotations,
        "categories": [{"id": n, "name": str(n), "supercategory": "x"} for n in (1, 2, 3)],
    }
    path = folder / "annotations" / "instances_val2017.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_voc(folder: Path, names: Sequence[str], masks: Sequence[np.ndarray]) -> None:
    """Write the masks (uint8 [H, W]) and the list of VOCdevkit/VOC2012's val set."""
    base = folder / "VOCdevkit" / "VOC2012"
    for name, mask in zip(names, masks, strict=True):
        path = base / "SegmentationClass" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(mask)
        image.putpalette([value for n in range(256) for value in (n, 255 - n, n)])
        image.save(path)
    listing = base / "ImageSets" / "Segmentation" / "val.txt"
    listing.parent.mkdir(parents=True, exist_ok=True)
    listing.write_text("".join(f"{name}\n" for name in names))


@torch.no_grad()
def spread_latent(model: Any, std: float = 2.0) -> None:
    """Scale an untrained encoder so that its latent fills some symbols: payloads have a size."""
    bottleneck: Any = find_bottleneck(model)
    encoder = bottleneck.encoder
    latent = encoder(torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0)))
    encoder[-1].weight.mul_(std / latent.std())


@torch.no_grad()
def settle_batch_norm(module: nn.Module) -> None:
    """Give an untrained network the statistics of two photos: its activations keep in bounds."""
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    module(torch.stack([to_tensor(photo) for photo in photos((256, 256), (256, 256))]))
    for norm in norms:
        norm.eval()


@torch.no_grad()
def make_model(config: Config, task: str, *, tables: bool = True) -> nn.Module:
    """Build a config's student with sane random weights, in eval mode and contiguous.

    Args:
        config: names the model.
        task: name of the task.
        tables: with CDF tables, so that entropy coding is on.
    """
    key = next(f"models.{s}" for s in TASKS[task].student_sections if f"models.{s}" in config)
    torch.manual_seed(3)
    model: Any = build_model(
        config.build(config.section(key)), TASKS[task].model_kind, key, load_weights=False
    ).eval()
    spread_latent(model)
    settle_batch_norm(model.backbone if TASKS[task].model_kind == "detection" else model)
    if tables:
        update_bottleneck(model)
    return model


@torch.no_grad()
def let_some_boxes_pass(detector: Any) -> None:
    """Bias an untrained detector towards three classes: else few boxes score above 0.05."""
    predictor = detector.roi_heads.box_predictor
    predictor.cls_score.weight.mul_(0.02)
    predictor.cls_score.bias[1:4] = torch.tensor([3.0, 2.9, 2.8])


@dataclass
class Workload:
    """Everything that an evaluation needs: a shipped config's model, small data, and the task.

    Attributes:
        task: the task's adapter.
        config: the shipped config, its data root set.
        model: with random weights and CDF tables, in eval mode, contiguous, on the CPU.
        dataset: the config's test set, of few images.
        loader: the config's test loader section.
    """

    task: Task
    config: Config
    model: nn.Module
    dataset: Any
    loader: Mapping[str, Any]

    @property
    def options(self) -> dict[str, Any]:
        """Options of the task's metric that a script would take from its config."""
        return {"num_classes": None, "iou_types": None}

    def repeated(self, images: int) -> Workload:
        """Return the same work on so many images: its own, again and again."""
        if images == len(self.dataset):
            return self
        order = [n % len(self.dataset) for n in range(images)]
        return replace(self, dataset=Subset(self.dataset, order))

    def without_workers(self) -> Workload:
        """Return the same work, all images loaded in this process."""
        kwargs = (self.loader.get("kwargs") or {}) | {"num_workers": 0}
        return replace(self, loader=dict(self.loader) | {"kwargs": kwargs})


def make_workload(task: str, folder: Path, *, quick: bool = False) -> Workload:
    """Write images under a folder and build the task's shipped ResNet-50 config on them.

    Args:
        task: key of `SOURCES`.
        folder: becomes the data root.
        quick: few images.
    """
    source, count = SOURCES[task], QUICK_IMAGES if quick else NUM_IMAGES
    source.write(folder, photos(*(_SIZES[n % len(_SIZES)] for n in range(count))))
    config = load_config(root() / source.config, data_root=str(folder))
    config.import_dependencies()
    model = make_model(config, task)
    if TASKS[task].model_kind == "detection":
        let_some_boxes_pass(model)
    loader = config.build(config.section("test.test_data_loader"))
    dataset = config.build(config.get("datasets")[loader["dataset_id"]])
    return Workload(TASKS[task], config, model, dataset, loader)


def _write_ilsvrc(folder: Path, images: Sequence[Image.Image]) -> None:
    for number, image in enumerate(images):
        as_saved(image, folder / "ilsvrc2012" / "val" / f"n{number:08d}" / f"{number:08d}.JPEG")


def _write_coco_photos(folder: Path, images: Sequence[Image.Image]) -> None:
    data, names = folder / "coco2017", [f"{n:012d}.jpg" for n in range(len(images))]
    for image, name in zip(images, names, strict=True):
        as_saved(image, data / "val2017" / name)
    boxes = [[(1, 10.0, 10.0, 120.0, 90.0), (2, 60.0, 40.0, 300.0, 300.0)] for _ in images]
    write_coco(data, names, images, boxes)


def _write_voc_photos(folder: Path, images: Sequence[Image.Image]) -> None:
    names, masks = [f"2007_{n:06d}" for n in range(len(images))], []
    for image, name in zip(images, names, strict=True):
        as_saved(image, folder / "VOCdevkit" / "VOC2012" / "JPEGImages" / f"{name}.jpg")
        stripes = np.arange(image.width) * 21 // image.width
        masks.append(np.broadcast_to(stripes, (image.height, image.width)).astype(np.uint8))
    write_voc(folder, names, masks)


@dataclass(frozen=True)
class Source:
    """A task's published experiment, as far as the task itself does not say.

    Attributes:
        config: the shipped config that is run.
        write: writes images and labels in the published layout under a data root.
        gpu_images: enough that a GPU is busy with them for some seconds.
    """

    config: str
    write: Callable[[Path, Sequence[Image.Image]], None]
    gpu_images: int


SOURCES = {
    "image_classification": Source(
        "configs/ilsvrc2012/ladon/splittable_resnet50-fp-beta0.32_from_resnet50.yaml",
        _write_ilsvrc,
        4096,
    ),
    "object_detection": Source(
        "configs/coco2017/ladon/faster_rcnn_splittable_resnet50-fp-beta0.32_fpn.yaml",
        _write_coco_photos,
        256,
    ),
    "semantic_segmentation": Source(
        "configs/pascal_voc2012/ladon/deeplabv3_splittable_resnet50-fp-beta0.32_two_stages.yaml",
        _write_voc_photos,
        1024,
    ),
}
"""By task: those that the published code, which they are measured against, can run."""
CLASSIFICATION = "image_classification"
"""The task of the parts that measure one."""
