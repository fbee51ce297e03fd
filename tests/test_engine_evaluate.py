"""Evaluation of images of many sizes: neither scores nor sizes depend on the batch."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from stages import CPU
from students import detector, detector_section
from torch.utils.data import DataLoader

from ladon.data.coco import coco_dataset
from ladon.engine.distributed import choose_device, join_world
from ladon.engine.evaluate import evaluate
from ladon.engine.interrupt import StopRequest
from ladon.errors import UsageError
from ladon.models import build_model, update_bottleneck
from ladon.tasks import TASKS


@pytest.fixture
def pictures(tmp_path):
    """Nine photographs-like pictures of five sizes, each with two boxes."""
    rng = np.random.default_rng(0)
    sizes = [(64, 96), (96, 64), (64, 96), (80, 80), (50, 120), (96, 64), (64, 96), (33, 99)]
    sizes.append((64, 96))
    images, annotations = [], []
    for number, (height, width) in enumerate(sizes, 1):
        pixels = rng.integers(0, 255, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((width, height)).save(tmp_path / f"{number}.png")
        images.append(
            {"id": number, "file_name": f"{number}.png", "width": width, "height": height}
        )
        for category in (1, 2):
            box = [4.0 * category, 4.0, 20.0, 20.0]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": category,
                    "bbox": box,
                    "area": 400.0,
                    "iscrowd": 0,
                }
            )
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": c, "name": str(c)} for c in (1, 2, 3)],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    return coco_dataset(str(tmp_path), str(tmp_path / "boxes.json"), annotated_only=False)


def test_loader_workers_end_in_order(pictures, monkeypatch):
    """Forked by the thread that loads ahead, they ended with 1, and some runs with them."""
    monkeypatch.setattr("ladon.data.loaders.usable_cores", lambda: 16)
    workers, begin = [], DataLoader.__iter__

    def iterated(self):
        iterator = begin(self)
        workers.extend(iterator._workers)
        return iterator

    monkeypatch.setattr(DataLoader, "__iter__", iterated)
    model = detector()
    update_bottleneck(model)
    loader = {"collate_fn": "coco_collate_fn", "kwargs": {"batch_size": 2, "num_workers": 2}}
    task = TASKS["object_detection"]
    found = evaluate(model, pictures, loader, task, CPU, StopRequest(), mode="encode")
    assert found.num_images == 9
    for worker in workers:
        worker.join(30)
    assert [worker.exitcode for worker in workers] == [0, 0]


def test_detection_of_mixed_sizes_does_not_depend_on_the_batch(pictures):
    model = detector().to(memory_format=torch.channels_last)
    update_bottleneck(model)
    found = [
        evaluate(
            model,
            pictures,
            {"collate_fn": "coco_collate_fn", "kwargs": {"batch_size": batch}},
            TASKS["object_detection"],
            CPU,
            StopRequest(),
        )
        for batch in (1, 2, 4, 9)
    ]
    assert [f.num_images for f in found] == [9] * 4
    assert [index for index, _, _ in found[0].sizes] == list(range(9))
    for other in found[1:]:
        assert other.sizes == found[0].sizes, "a padded neighbour changed a payload"
        assert other.metrics == found[0].metrics
    assert len({nbytes for _, nbytes, _ in found[0].sizes}) > 1


def test_resnest_detector_builds_with_frozen_batch_norm():
    """The class FrozenBatchNorm2d as norm_layer breaks timm's ResNeSt."""
    bottleneck = {"num_bottleneck_channels": 6, "num_target_channels": 256}
    kwargs = {"resnest_name": "resnest14d", "inplanes": 2048, "num_classes": 10}
    kwargs["bottleneck_config"] = {"key": "FPBasedResNetBottleneck", "kwargs": bottleneck}
    section = detector_section(
        {"key": "splittable_resnest", "kwargs": kwargs}, (256, 512, 1024, 2048)
    )
    model = build_model(section, "detection", "models.model")
    names = model.state_dict()
    assert not any("num_batches_tracked" in n for n in names)
    assert any(n.startswith("backbone.body.layer4") and "running_mean" in n for n in names)
    plain = detector()
    assert any("num_batches_tracked" in n for n in plain.state_dict()), "ResNet keeps BatchNorm2d"


def test_heads_read_the_published_levels():
    """RoI heads see levels '1'..'3' only: torchvision's default names are '0'..'3'."""
    model = detector()
    features = model.backbone(torch.zeros(1, 3, 96, 96))
    assert list(features) == ["1", "2", "3", "4", "pool"]
    pool = model.roi_heads.box_roi_pool
    assert [n for n in pool.featmap_names if n in features] == ["1", "2", "3"]


def test_device_is_taken_from_what_is_there():
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert choose_device("auto").type == expected
    assert choose_device("cpu").type == "cpu"
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="0 CUDA devices"):
            choose_device("cuda")
    with pytest.raises(UsageError, match="not a device"):
        choose_device("tpus")


def test_more_processes_need_a_launcher(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UsageError, match="torchrun"):
        join_world("cpu", 2, "env://")
