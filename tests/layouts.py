"""Tiny data in the layouts of ILSVRC 2012, COCO 2017 and PASCAL VOC 2012, and checkpoints as the
paper's authors published them. Everything follows from seeds; nothing is downloaded."""

from __future__ import annotations

import argparse
import collections
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor, nn
from torchvision.ops.misc import FrozenBatchNorm2d
from torchvision.transforms.functional import to_tensor

from ladon.models import find_bottleneck
from ladon.models.bottleneck import CDF_TABLES


def photos(*sizes: tuple[int, int]) -> list[Image.Image]:
    """Cuts a photograph of each (height, width), at most 427x640, from two in turn."""
    sources = [Image.fromarray(a) for a in load_sample_images().images]
    cuts = []
    for number, (height, width) in enumerate(sizes):
        source = sources[number % len(sources)]
        left = (37 * number) % (source.width - width + 1)
        top = (23 * number) % (source.height - height + 1)
        cuts.append(source.crop((left, top, left + width, top + height)))
    return cuts


def as_saved(image: Image.Image, path: Path) -> Image.Image:
    """Saves a JPEG and returns what whoever opens it sees."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, format="JPEG", quality=95)
    with Image.open(path) as saved:
        return saved.convert("RGB")


def write_coco(folder: Path, names: Sequence[str], images: Sequence[Image.Image], boxes) -> None:
    """Writes annotations/instances_val2017.json.

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
    """Writes the masks (uint8 [H, W]) and the list of VOCdevkit/VOC2012's val set."""
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
def spread_latent(model: nn.Module, std: float = 2.0) -> None:
    """Scales an untrained encoder so that its latent fills some symbols: payloads have a size."""
    encoder = find_bottleneck(model).encoder
    latent = encoder(torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0)))
    encoder[-1].weight.mul_(std / latent.std())


@torch.no_grad()
def settle_batch_norm(module: nn.Module) -> None:
    """Gives an untrained network the statistics of two photos: its activations keep in bounds."""
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    module(torch.stack([to_tensor(photo) for photo in photos((256, 256), (256, 256))]))
    for norm in norms:
        norm.eval()


def without_tables(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict as it was before `update()`: with empty CDF tables."""
    return {
        name: torch.empty(0, dtype=tensor.dtype)
        if name.rsplit(".", 1)[-1] in CDF_TABLES
        else tensor
        for name, tensor in state.items()
    }


def names_of_2022(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict with the names that CompressAI 1.2.2 gave inside an entropy bottleneck."""
    renamed = {}
    for name, tensor in state.items():
        for new, old in (("matrices.", "_matrix"), ("biases.", "_bias"), ("factors.", "_factor")):
            name = name.replace(f"entropy_bottleneck.{new}", f"entropy_bottleneck.{old}")
        renamed[name] = tensor
    return renamed


def write_2022(path: Path, state: Mapping[str, Tensor], config: str, *, is_coco: bool) -> None:
    """Writes a checkpoint as the 2022 scripts did (torchdistill 0.3.3's `save_ckpt`)."""
    args = argparse.Namespace(
        config=config,
        json=None,
        device="cuda",
        log="log/x.txt",
        start_epoch=0,
        seed=None,
        test_only=False,
        student_only=False,
        log_config=False,
        world_size=1,
        dist_url="env://",
        adjust_lr=False,
    )
    best: object = 67.9
    if is_coco:
        args.iou_types = ["bbox"]
        args.norm_layer = FrozenBatchNorm2d
        best = np.float64(0.354)
    content = {
        "model": collections.OrderedDict(names_of_2022(state)),
        "optimizer": {
            "state": {0: {"momentum_buffer": torch.zeros(2)}},
            "param_groups": [{"lr": 0.001, "momentum": 0.9, "params": [0]}],
        },
        "best_value": best,
        "lr_scheduler": {
            "milestones": collections.Counter([5]),
            "gamma": 0.1,
            "base_lrs": [0.001],
            "last_epoch": 9,
            "_last_lr": [1e-4],
        },
        "args": args,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
