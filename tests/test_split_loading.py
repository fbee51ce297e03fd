"""A model is found by its config, or by a checkpoint that names its config."""

from __future__ import annotations

import argparse

import pytest
import torch
from split_models import CLASS_NAMES, pixels, write_config, write_models
from students import detector_section

import ladon
from ladon.errors import CheckpointError, ConfigError
from ladon.models import read_checkpoint, write_checkpoint
from ladon.split.class_names import names_or_published


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp("models"))


def test_names_come_from_the_checkpoints(configs):
    with ladon.load(configs["ladon"]) as model:
        assert model.class_names == CLASS_NAMES
        assert model.name == "ladon"
        assert model.network.answering is None
    with ladon.load(configs["detection"]) as model:
        assert model.class_names == {"detection": CLASS_NAMES["detection"]}


def test_published_checkpoints_have_published_names(tmp_path):
    assert names_or_published(None, "classification", 1000)[:2] == ["tench", "goldfish"]
    coco = names_or_published(None, "detection", 91)
    # COCO's ids 1, 18 and 90; there is no 12
    assert (coco[0], coco[1], coco[12], coco[18], coco[90]) == (
        "background",
        "person",
        "",
        "dog",
        "toothbrush",
    )
    voc = names_or_published(None, "segmentation", 21)
    assert (voc[0], voc[12], voc[20]) == ("background", "dog", "tvmonitor")
    assert names_or_published(None, "segmentation", 5) is None
    assert names_or_published(["a"], "detection", 91) == ["a"]
    nameless = write_models(tmp_path, named=False)
    with ladon.load(nameless["ladon"]) as model:
        assert set(model.class_names.values()) == {None}
        assert model.answer(model.encode(pixels()), "classification").classes[0].name is None


def test_a_checkpoint_names_its_config(configs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = configs["classification"].parent
    model = ladon.load(configs["classification"])
    model.close()
    with torch.no_grad():
        model.network.fc.bias += 5 * torch.arange(10)
    args = argparse.Namespace(config=str(configs["classification"]), assignments=[], json={})
    path = tmp_path / "best.pt"
    write_checkpoint(path, model.network, args=args, classes=CLASS_NAMES["classification"])
    with ladon.load(path) as loaded:
        assert loaded.answer(loaded.encode(pixels())).classes[0].label == 9
        assert loaded.encoder_id == model.encoder_id
    assert read_checkpoint(folder / "classification.pt", "test").args is None
    with pytest.raises(CheckpointError, match=r"classification.pt: does not say which config"):
        ladon.load(folder / "classification.pt")
    args.config = "gone.yaml"
    write_checkpoint(path, model.network, args=args)
    with pytest.raises(CheckpointError, match=r"best.pt: was made by the config gone.yaml, which"):
        ladon.load(path)


def test_what_cannot_be_split_is_refused(tmp_path, configs):
    plain = {"key": "resnet18", "kwargs": {"num_classes": 10}, "dst_ckpt": str(tmp_path / "r.pt")}
    with pytest.raises(CheckpointError, match=r"checkpoint not found: .*r.pt"):
        ladon.load(write_config(tmp_path / "c.yaml", plain))
    from torchvision.models import resnet18

    write_checkpoint(tmp_path / "r.pt", resnet18(num_classes=10))
    with pytest.raises(ConfigError, match=r"models.model cannot be split: it has no bottleneck"):
        ladon.load(write_config(tmp_path / "c.yaml", plain))
    with pytest.raises(ConfigError, match=r"nowhere.yaml"):
        ladon.load(tmp_path / "nowhere.yaml")


def test_assignments_choose_the_checkpoint(configs, tmp_path):
    section = detector_section({})["key"]
    assert section == "faster_rcnn_model"
    with pytest.raises(CheckpointError, match=r"not found: .*other.pt"):
        ladon.load(configs["detection"], assignments=["models.model.dst_ckpt=other.pt"])
