"""Weights that come with libraries, without a network: the error says which file to put where."""

from __future__ import annotations

import urllib.error

import pytest
import timm
import torch

from ladon.backbones import FAMILIES
from ladon.errors import CheckpointError
from ladon.models import build_model
from ladon.models.pretrained import with_local_file


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """An empty cache and no network."""

    def refuse(*_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    # read from the environment once, by whoever imports it first
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "hub" / "checkpoints"


def test_torchvisions_file_is_named(offline):
    section = {"key": "mobilenet_v2", "kwargs": {"weights": "IMAGENET1K_V1"}}
    with pytest.raises(CheckpointError) as caught:
        build_model(section, "classification", "models.model")
    assert f"put it at {offline / 'mobilenet_v2-b0353104.pth'}" in str(caught.value)
    assert str(caught.value).startswith("models.model: ")


def test_detectors_file_is_named(offline):
    section = {"key": "ssd300_vgg16", "kwargs": {"weights": "COCO_V1", "num_classes": 91}}
    with pytest.raises(CheckpointError, match=r"ssd300_vgg16_coco-b556d3b4\.pth"):
        build_model(section, "detection", "models.model")


def test_timms_published_file_is_named_and_found(offline):
    """timm asks a hub; the published file in torch's cache does as well."""
    assert with_local_file("resnest269e", {"pretrained": True}) == {"pretrained": True}
    offline.mkdir(parents=True)
    file = offline / "resnest269-0cc87c48.pth"
    file.touch()
    found = with_local_file("resnest269e", {"pretrained": True})
    assert found["pretrained_cfg_overlay"] == {"file": str(file)}
    assert with_local_file("resnest269e", {"pretrained": False}) == {"pretrained": False}
    assert with_local_file("resnet50", {"pretrained": True}) == {"pretrained": True}


def test_a_local_file_gives_timm_its_weights(offline, tmp_path, monkeypatch):
    monkeypatch.setitem(FAMILIES["resnest"].weight_files, "resnest14d", "small.pth")
    offline.mkdir(parents=True)
    torch.manual_seed(1)
    state = timm.create_model("resnest14d").state_dict()
    torch.save(state, offline / "small.pth")
    section = {"key": "resnest14d", "kwargs": {"pretrained": True, "num_classes": 1000}}
    model = build_model(section, "classification", "models.teacher_model")
    assert torch.equal(model.fc.weight, state["fc.weight"])


def test_a_hub_that_cannot_be_reached_is_one_line(offline, monkeypatch):
    monkeypatch.setitem(FAMILIES["resnest"].weight_files, "resnest14d", "small.pth")
    section = {"key": "resnest14d", "kwargs": {"pretrained": True}}
    with pytest.raises(CheckpointError, match=rf"put it at {offline}/small\.pth"):
        build_model(section, "classification", "models.teacher_model")
