"""Data that is missing, unreadable or mislabelled: one message that names the file."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import torchvision.datasets  # noqa: F401  before torchdistill, which looks for it
from PIL import Image
from tiny import FAMILIES
from torch.utils.data import Dataset, Subset
from torchdistill.datasets.wrapper import BaseDatasetWrapper

from ladon.data.batching import (
    batch_by_size,
    collate,
    unpacked_batches,
)
from ladon.data.loaders import (
    build_eval_loader,
    build_train_loader,
)
from ladon.data.samplers import image_size
from ladon.errors import DataError
from ladon.metrics.accuracy import Accuracy


@pytest.mark.parametrize("by", ["flag", "variable", "config"])
@pytest.mark.parametrize("family", ["teacher", "detection", "segmentation"])
def test_missing_data_names_the_folder_and_how_to_move_the_root(
    refused, own_lab, tmp_path, monkeypatch, family, by
):
    root = tmp_path / "nowhere"
    flags = []
    config = None
    if by == "flag":
        flags = ["--data_root", str(root)]
    elif by == "variable":
        monkeypatch.setenv("LADON_DATA_ROOT", str(root))
    else:
        config = own_lab.config(family, "nowhere", data_root=str(root))
    message = refused(family, *flags, config=config)
    assert f"{root}/digit_scenes" in message
    assert "does not exist" in message
    assert "--data_root" in message
    assert "LADON_DATA_ROOT" in message


@pytest.mark.parametrize("split", ["train", "val"])
def test_missing_data_is_found_before_training_starts(refused, own_lab, own_data, split):
    """Not after the first epoch, when the validation set is first used."""
    shutil.rmtree(own_data / split)
    message = refused("teacher")
    assert f"image folder {own_data / split} does not exist" in message
    assert "Epoch: [0]" not in own_lab.log("refused")


def test_missing_data_of_the_final_test_is_found_before_training_starts(refused, own_lab, own_data):
    text = (
        f"datasets:\n  other: !import_call\n    key: ladon.data.folder.ImageFolder\n    init:\n"
        f"      kwargs: {{root: {own_data}/test}}\n"
    )
    config = own_lab.config("teacher", "other")
    config.write_text(config.read_text() + text)
    flags = ["--set", "test.test_data_loader.dataset_id=other"]
    message = refused("teacher", *flags, config=config)
    assert f"image folder {own_data / 'test'} does not exist" in message
    assert "Epoch: [0]" not in own_lab.log("refused")


def first(folder: Path, pattern: str) -> Path:
    return min(folder.rglob(pattern))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_truncated_image_is_named(refused, own_lab, own_data, split, workers):
    path = first(own_data / split, "*.png")
    cut(path)
    loader = "train.train_data_loader" if split == "train" else "test.test_data_loader"
    flags = ["--set", f"{loader}.kwargs.num_workers={workers}"]
    flags += [] if split == "train" else ["-test_only"]
    message = refused("teacher", *flags)
    assert message.startswith(f"cannot read image {path}: ")
    assert message.endswith("replace or remove it")


@pytest.mark.parametrize("content", ["cut", b"", b"<html>", b"\xff\xd8\xff\xe0"])
def test_a_damaged_jpeg_is_named(refused, own_lab, own_data, content):
    path = first(own_data / "val", "*.png").with_suffix(".JPEG")
    Image.effect_noise((96, 96), 90).convert("RGB").save(path)
    cut(path) if content == "cut" else path.write_bytes(content)
    message = refused("teacher", "-test_only")
    assert message.startswith(f"cannot read image {path}: ")


def test_an_empty_class_folder_is_named(refused, own_data):
    (own_data / "train" / "99").mkdir()
    message = refused("teacher")
    assert message.startswith(f"class folder {own_data / 'train' / '99'} holds no images")


def test_more_classes_than_the_model_has(refused, own_data):
    shutil.copytree(own_data / "train" / "0", own_data / "train" / "99")
    message = refused("teacher")
    assert message == (
        f"{own_data / 'train'} has 11 classes ('0', '1', '2', '3', … (11 in all)), but the model "
        "has 10; remove folders or set models.model.kwargs.num_classes in "
        f"{FAMILIES / 'teacher' / 'resnet18.yaml'}:7 to 11"
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_a_transform_cannot_take_is_named(refused, own_data, workers):
    path = first(own_data / "train", "*.png")
    Image.new("RGB", (20, 20)).save(path)
    flags = ["--set", f"train.train_data_loader.kwargs.num_workers={workers}"]
    message = refused("teacher", *flags)
    assert message.startswith(f"cannot load {path}: ValueError: Required crop size (96, 96) ")


@pytest.mark.parametrize("workers", [0, 2])
def test_images_that_make_no_batch(refused, own_data, workers):
    path = first(own_data / "val", "*.png")
    Image.new("RGB", (20, 20)).save(path)
    flags = ["--set", "train.train_data_loader.dataset_id=digit_scenes/val"]
    flags += ["--set", f"train.train_data_loader.kwargs.num_workers={workers}"]
    message = refused("teacher", *flags, "--set", "train.train_data_loader.kwargs.batch_size=12")
    assert "cannot make a batch" in message
    assert "[3, 20, 20]" in message


def coco(own_data: Path, split: str = "val") -> Path:
    return own_data / "annotations" / f"instances_{split}.json"


def test_coco_file_naming_an_image_that_is_not_there(refused, own_data):
    content = json.loads(coco(own_data, "train").read_text())
    name = content["images"][3]["file_name"]
    (own_data / name).unlink()
    message = refused("detection")
    assert message.startswith(f"{own_data / name} does not exist (1 of 40 images that ")
    assert str(coco(own_data, "train")) in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "is not valid JSON"),
        ("[]", "has no list 'images'"),
        ('{"images": [], "annotations": [], "categories": []}', "lists no annotated images"),
        ('{"images": [{}], "annotations": [], "categories": []}', r"images\[0\] lacks"),
    ],
)
def test_broken_coco_file_is_named(refused, own_data, content, expected):
    coco(own_data, "train").write_text(content)
    message = refused("detection")
    assert message.startswith(str(coco(own_data, "train")))
    assert re.search(expected, message)


def test_missing_coco_file_is_named(refused, own_data):
    coco(own_data).unlink()
    assert f"annotation file {coco(own_data)} does not exist" in refused("detection")


def test_mask_with_a_class_out_of_range_is_named(refused, own_data):
    path = first(own_data / "VOCdevkit" / "VOC2012" / "SegmentationClass", "*.png")
    with Image.open(path) as mask:
        mask = mask.copy()
    mask.putpixel((3, 4), 77)
    mask.save(path)
    message = refused("segmentation")
    assert message.startswith(f"mask {path} holds class id 77; ")


def test_missing_mask_is_named(refused, own_data):
    path = first(own_data / "VOCdevkit" / "VOC2012" / "SegmentationClass", "*.png")
    path.unlink()
    assert refused("segmentation").startswith(f"{path} does not exist (1 of ")


def test_too_few_samples_for_a_batch(refused):
    message = refused("teacher", "--set", "train.train_data_loader.kwargs.batch_size=64")
    assert "digit_scenes/train" in message
    assert "40 samples fill no batch" in message


EMPTY = (
    "datasets:\n  empty: !import_call\n    key: ladon.data.folder.ImageFolder\n    init:\n"
    "      kwargs: {{root: {root}, allow_empty: true}}\n"
)


@pytest.mark.parametrize("loader", ["test.test_data_loader", "train.train_data_loader"])
def test_a_set_without_samples(refused, own_lab, loader):
    root = own_lab.folder / "nothing"
    for name in "0123456789":
        (root / name).mkdir(parents=True)
    config = own_lab.config("teacher", "empty")
    config.write_text(config.read_text() + EMPTY.format(root=root))
    flags = ["-test_only"] if loader.startswith("test") else []
    message = refused("teacher", *flags, "--set", f"{loader}.dataset_id=empty", config=config)
    assert "empty: the dataset holds no samples" in message


class Named(Dataset):
    """A folder-like dataset whose second sample raises."""

    samples = [("a/0.png", 0), ("a/1.png", 0), ("a/2.png", 0)]

    def __len__(self):
        return 3

    def __getitem__(self, index):
        if index == 1:
            raise KeyError("two\nlines")
        return torch.zeros(3, 4, 4), 0


class Nameless(Named):
    samples = None


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("dataset", "name"),
    [
        (Named(), "a/1.png"),
        (Subset(Named(), [2, 1]), "a/1.png"),
        (BaseDatasetWrapper(Named()), "a/1.png"),
        (Nameless(), "sample 1 of Nameless"),
    ],
)
def test_whatever_a_dataset_raises_names_the_sample(dataset, name, workers):
    section = {"kwargs": {"batch_size": 1, "num_workers": workers}}
    expected = rf"^cannot load {name}: KeyError: 'two\\nlines'$"
    loader = build_train_loader(dataset, section, seed=0)
    with pytest.raises(DataError, match=expected) as caught:
        list(unpacked_batches(loader))
    if workers == 0:
        assert isinstance(caught.value.__cause__, KeyError)
    loader = build_eval_loader(dataset, section)
    with pytest.raises(DataError, match=expected):
        list(batch_by_size(loader, image_size, lambda size: 1))


def test_samples_that_make_no_batch_are_a_data_error():
    samples = [(0, torch.zeros(3, 4, 4), 0), (1, torch.zeros(3, 4, 5), 0)]
    with pytest.raises(DataError, match=r"cannot make a batch.*stack expects"):
        collate(samples)


@pytest.mark.parametrize("labels", [[0, 99], [-5, 1], [4, 0], [3, -1]])
def test_a_label_that_the_model_has_not_is_no_wrong_answer(labels):
    metric = Accuracy()
    metric.update(torch.eye(4), torch.arange(4))
    wrong = next(label for label in labels if not 0 <= label < 4)
    with pytest.raises(DataError, match=rf"label {wrong}, but the model has 4 classes \(.* 0 to 3"):
        metric.update(torch.eye(4)[:2], torch.tensor(labels))
    with pytest.raises(DataError, match=f"label {wrong}, but"):
        metric.state()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"iscrowd": None}, "annotations[0] has iscrowd null, not 0 or 1"),
        ({"area": None}, "annotations[0] has area null, not a finite number"),
        ({"category_id": 11}, "annotations[0] has category_id 11, which is no id in 'categories'"),
    ],
)
def test_a_wrong_coco_field_is_named_before_any_work(refused, own_data, change, expected):
    for split in ("train", "val"):
        content = json.loads(coco(own_data, split).read_text())
        for annotation in content["annotations"]:
            annotation.update(change)
        coco(own_data, split).write_text(json.dumps(content))
    message = refused("detection")
    assert expected in message
    assert "annotations/instances_" in message
