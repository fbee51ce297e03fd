"""The three published test commands, as they stand in the published README, on tiny data in the
real layouts and with checkpoints in the published formats: without a network, and with no other
data set on disk than the one that is tested.

The weights are random. So that the metrics mean something, the labels are made from what the
model predicts when sc2bench's own code runs it (its own encode and decode, image by image).
"""

from __future__ import annotations

import _socket
import json
import re
import shlex
import shutil
import socket
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from layouts import without_tables, write_2022
from PIL import Image
from students import splittable_section
from tiny import ROOT
from torch import nn
from torchvision import transforms

from ladon.benchmark.workload import (
    as_saved,
    let_some_boxes_pass,
    make_model,
    photos,
    spread_latent,
    write_coco,
    write_voc,
)
from ladon.cli import main
from ladon.config import load_config
from ladon.models import build_model, entropy_coding, update_bottleneck, write_checkpoint

NUMBER = r"\d+\.\d+(?:e-\d+)?"
SIZE_LINE = rf"\tBottleneck size \[KB\]: mean ({NUMBER}) std {NUMBER} for (\d+) samples\n"
COMMANDS = {
    "image_classification": (
        "-test_only -student_only --device cpu "
        "--config configs/ilsvrc2012/ladon/splittable_resnet50-fp-beta0.32_from_resnet50.yaml "
        "--run_log logs/x.txt"
    ),
    "object_detection": (
        "-test_only --device cpu "
        "--config configs/coco2017/ladon/faster_rcnn_splittable_resnet50-fp-beta0.32_fpn.yaml"
    ),
    "semantic_segmentation": (
        "-test_only --device cpu --config "
        "configs/pascal_voc2012/ladon/deeplabv3_splittable_resnet50-fp-beta0.32_two_stages.yaml"
    ),
}
LOGS = {
    "image_classification": "logs/x",
    "object_detection": "logs/coco2017/ladon/faster_rcnn_splittable_resnet50-fp-beta0.32_fpn",
    "semantic_segmentation": (
        "logs/pascal_voc2012/ladon/deeplabv3_splittable_resnet50-fp-beta0.32_two_stages"
    ),
}
CHECKPOINTS = {
    "image_classification": (
        "resource/ckpt/ilsvrc2012/ladon/ilsvrc2012-splittable_resnet50-fp-beta0.32_from_resnet50.pt"
    ),
    "object_detection": (
        "resource/ckpt/coco2017/ladon/coco2017-faster_rcnn_splittable_resnet50-fp-beta0.32_fpn.pt"
    ),
    "semantic_segmentation": (
        "resource/ckpt/pascal_voc2012/ladon/"
        "pascal_voc2012-deeplabv3_splittable_resnet50-fp-beta0.32_two_stages.pt"
    ),
}
normalized = transforms.Compose(
    [
        transforms.ToTensor(),
        transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ]
)


@dataclass
class Site:
    """A working folder as a user has it: configs, checkpoint, and a home with one data set.

    Attributes:
        task: name of the script.
        folder: the current folder of the run.
        model: the model whose weights the checkpoint holds, with CDF tables.
        found: what earlier runs in it logged and measured, by format of the checkpoint.
    """

    task: str
    folder: Path
    model: nn.Module
    found: dict[str, tuple[str, dict]] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        return self.folder / "home" / "datasets"

    def publish(self, kind: str) -> None:
        """Write the checkpoint: 'today', '2022', or '2022 without tables'."""
        path = self.folder / CHECKPOINTS[self.task]
        if kind == "today":
            write_checkpoint(path, self.model, best_value=1.0)
            return
        state = self.model.state_dict()
        state = without_tables(state) if kind == "2022 without tables" else state
        write_2022(path, state, "x.yaml", is_coco=self.task == "object_detection")

    def run(self, kind: str, monkeypatch) -> tuple[str, dict]:
        """Runs the published command; returns the log and the numbers."""
        if kind not in self.found:
            self.publish(kind)
            monkeypatch.chdir(self.folder)
            monkeypatch.setenv("HOME", str(self.folder / "home"))
            for variable in ("TORCH_HOME", "XDG_CACHE_HOME"):
                monkeypatch.delenv(variable, raising=False)
            log = self.folder / f"{LOGS[self.task]}.txt"
            log.unlink(missing_ok=True)
            assert main(self.task, shlex.split(COMMANDS[self.task])) == 0
            metrics = json.loads((self.folder / LOGS[self.task] / "metrics.json").read_text())
            self.found[kind] = log.read_text(), metrics["models"]["student"]
        return self.found[kind]

    def run_legacy(self, kind: str, monkeypatch) -> dict:
        """The same test with the legacy twin of the config; returns the numbers."""
        self.publish(kind)
        monkeypatch.chdir(self.folder)
        monkeypatch.setenv("HOME", str(self.folder / "home"))
        command = COMMANDS[self.task].replace("configs/", "legacy/configs/")
        words = shlex.split(command.replace("--run_log logs/x.txt", ""))
        assert main(self.task, [*words, "--log", "logs/old.txt"], legacy=True) == 0
        metrics = json.loads((self.folder / "logs" / "old" / "metrics.json").read_text())
        return metrics["models"]["student"]


def make_site(task: str, folder: Path) -> Site:
    """Build the config's model with random weights."""
    folder.mkdir()
    (folder / "configs").symlink_to(ROOT / "configs")
    (folder / "legacy").symlink_to(ROOT / "legacy")
    words = shlex.split(COMMANDS[task])
    config = load_config(ROOT / words[words.index("--config") + 1])
    return Site(task, folder, make_model(config, task))


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    """Whoever tries the network fails."""

    def refuse(*args, **_):
        raise AssertionError(f"tried the network: {args}")

    def connect(self, address):
        if self.family != socket.AF_UNIX:  # loader workers talk through these
            refuse(address)
        return _socket.socket.connect(self, address)

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    """Make each task's site once; remove them, they are large."""
    made: dict[str, Site] = {}
    makers = {
        "image_classification": ilsvrc_site,
        "object_detection": coco_site,
        "semantic_segmentation": voc_site,
    }
    root = tmp_path_factory.mktemp("sites")

    def get(task: str) -> Site:
        if task not in made:
            with torch.no_grad():
                made[task] = makers[task](root / task)
        return made[task]

    yield get
    shutil.rmtree(root)


def ilsvrc_site(folder: Path) -> Site:
    """Four photos in two classes; the model is right about three of them."""
    site = make_site("image_classification", folder)
    images = photos((427, 500), (375, 500), (427, 427), (400, 320))
    saved = [as_saved(image, folder / f"{n}.JPEG") for n, image in enumerate(images)]
    prepare = transforms.Compose([transforms.Resize(448), transforms.CenterCrop([416, 416])])
    head, site.model.fc = site.model.fc, nn.Identity()
    features = torch.cat([site.model(normalized(prepare(image))[None]) for image in saved])
    site.model.fc = head
    # a head that tells the photos apart, between the first two of its thousand classes
    direction = torch.randn(2, features.shape[1], generator=torch.Generator().manual_seed(1))
    head.weight.zero_()[:2] = 1e3 * direction
    head.bias.fill_(-1e6)[:2] = -(1e3 * direction) @ features.mean(dim=0)
    classes = head(features).argmax(dim=1).tolist()
    assert set(classes) == {0, 1}
    wrong = classes.index(max(classes, key=classes.count))  # leaves no class without a photo
    for number, predicted in enumerate(classes):
        label = 1 - predicted if number == wrong else predicted
        wnid = ("n01440764", "n01443537")[label]
        target = site.data / "ilsvrc2012" / "val" / wnid / f"ILSVRC2012_val_{number:08d}.JPEG"
        target.parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.JPEG").rename(target)
    return site


def coco_site(folder: Path) -> Site:
    """Three photos; most of the boxes are the ones that the model is surest of."""
    site = make_site("object_detection", folder)
    let_some_boxes_pass(site.model)
    names = [f"{139 + n:012d}.jpg" for n in range(3)]
    data = site.data / "coco2017"
    images = [
        as_saved(image, data / "val2017" / name)
        for image, name in zip(photos((427, 640), (427, 300), (320, 480)), names, strict=True)
    ]
    boxes = []
    for image in images:
        found = site.model([transforms.functional.to_tensor(image)])[0]
        boxes.append(
            [
                (int(label), *map(float, box))
                for label, box in zip(found["labels"][:4], found["boxes"][:4], strict=True)
            ]
        )
    boxes[0].append((3, 10.0, 10.0, 30.0, 30.0))  # and one that it cannot find
    write_coco(data, names, images, boxes)
    return site


def voc_site(folder: Path) -> Site:
    """Two photos; the masks are what the model predicts, but for a strip."""
    site = make_site("semantic_segmentation", folder)
    names = ["2007_000033", "2007_000042"]
    masks = []
    for name, image in zip(names, photos((416, 416), (333, 500)), strict=True):
        path = site.data / "VOCdevkit" / "VOC2012" / "JPEGImages" / f"{name}.jpg"
        square = transforms.functional.resize(as_saved(image, path), [416, 416], antialias=True)
        logits = site.model(normalized(square)[None])["out"]
        mask = logits.argmax(dim=1)[0].to(torch.uint8).numpy()
        mask[:52] = (mask[:52] + 1) % 21  # an eighth of the picture is wrong
        mask[-16:] = 255
        size = (image.width, image.height)
        masks.append(np.array(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)))
    write_voc(site.data, names, masks)
    return site


@pytest.mark.parametrize("kind", ["today", "2022", "2022 without tables"])
def test_classification(sites, kind, monkeypatch):
    site = sites("image_classification")
    assert [p.name for p in site.data.iterdir()] == ["ilsvrc2012"]
    log, found = site.run(kind, monkeypatch)
    assert " * Acc@1 75.0000\tAcc@5 100.0000\n" in log
    check_sizes(log, found, num_images=4)
    check_same(site, kind, monkeypatch)


@pytest.mark.parametrize("kind", ["today", "2022", "2022 without tables"])
def test_detection(sites, kind, monkeypatch):
    site = sites("object_detection")
    assert [p.name for p in site.data.iterdir()] == ["coco2017"]
    log, found = site.run(kind, monkeypatch)
    summary = log.split("IoU metric: bbox\n")[1].splitlines()[:12]
    line = r" Average (Precision|Recall)\s+\((AP|AR)\) @\[ IoU=[\d.:]+\s*\| area=\s*\w+ \| .* \] = "
    for printed, value in zip(summary, list(found["metrics"].values())[:12], strict=True):
        assert re.search(line, printed)
        assert float(printed.split(" = ")[1]) == pytest.approx(value, abs=5e-4)
    assert 0.5 < found["metrics"]["AP50"] < 1
    check_sizes(log, found, num_images=3)
    check_same(site, kind, monkeypatch)


@pytest.mark.parametrize("kind", ["today", "2022", "2022 without tables"])
def test_segmentation(sites, kind, monkeypatch):
    site = sites("semantic_segmentation")
    assert [p.name for p in site.data.iterdir()] == ["VOCdevkit"]
    log, found = site.run(kind, monkeypatch)
    result = re.search(
        r"\tmean IoU: (\d+\.\d), IoU: \[('[\d.nan]+'(?:, )?){21}\], "
        r"Global pixelwise acc: (\d+\.\d), Average row correct: \[('[\d.nan]+'(?:, )?){21}\]\n",
        log,
    )
    assert result
    assert float(result[1]) == pytest.approx(found["metrics"]["mean_iou"], abs=0.05)
    # 400 rows count, the first 52 of them are wrong
    assert float(result[3]) == pytest.approx(100 * (400 - 52) / 400, abs=1)
    check_sizes(log, found, num_images=2)
    check_same(site, kind, monkeypatch)


@pytest.mark.parametrize("kind", ["today", "2022"])
@pytest.mark.parametrize("task", COMMANDS)
def test_legacy_config_gives_the_same_numbers(sites, task, kind, monkeypatch):
    """Through the current and the legacy config, from either format: one result."""
    site = sites(task)
    _, expected = site.run("today", monkeypatch)
    found = site.run_legacy(kind, monkeypatch)
    for key in ("metrics", "data_size_kb", "payload_bytes", "num_images"):
        assert found[key] == expected[key], key


def check_sizes(log: str, found: dict, num_images: int) -> None:
    """The published line, unrounded, and the payload's own bytes beside it."""
    mean, count = re.search(SIZE_LINE, log).groups()
    assert int(count) == num_images
    assert float(mean) == found["data_size_kb"]["mean"]
    assert 103 <= 1024 * float(mean) - found["payload_bytes"]["mean"] <= 115
    assert found["payload_bytes"]["mean"] > 10_000


def check_same(site: Site, kind: str, monkeypatch) -> None:
    """The same weights give the same numbers, whatever the format they came in."""
    _, found = site.found[kind]
    _, today = site.run("today", monkeypatch)
    for key in ("metrics", "payload_bytes", "data_size_kb"):
        assert found[key] == today[key]


def test_data_size_is_what_sc2bench_records():
    """Image by image, with sc2bench's own encode and its FileSizeAnalyzer."""
    section = splittable_section(
        analysis_config={
            "analyzes_after_compress": True,
            "analyzer_configs": [{"key": "FileSizeAnalyzer", "kwargs": {"unit": "KB"}}],
        }
    )
    torch.manual_seed(0)
    model = build_model(section, "classification", "models.student_model").eval()
    spread_latent(model)
    update_bottleneck(model)
    model.to(memory_format=torch.channels_last)
    sizes = [(32, 32), (96, 64), (200, 300)]
    images = [normalized(photo)[None] for photo in photos(*sizes)]
    images = [image.contiguous(memory_format=torch.channels_last) for image in images]
    with torch.inference_mode():
        model.activate_analysis()
        expected = [model(image) for image in images]
        model.deactivate_analysis()
        with entropy_coding(model) as payloads:
            found = [model(image) for image in images]
    assert payloads.pop()[1] == model.analyzers[0].file_size_list
    assert len(set(model.analyzers[0].file_size_list)) == 3
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
