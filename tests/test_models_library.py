"""Libraries' pretrained weights of 1000 classes start a model of five, and say it if not asked."""

from __future__ import annotations

import logging

import pytest
import timm
import torch
import torchvision
from resetting import BOXES, build, check_reset, seeded
from students import detector_section, splittable_section
from torch import nn
from torchvision.models import detection, segmentation

from ladon.backbones import FAMILIES
from ladon.config import load_config, validate_config
from ladon.errors import ConfigError


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache of torch's, and no network."""

    def refuse(*_, **__):
        raise AssertionError("nothing is fetched")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("way", [{"weights": "IMAGENET1K_V1"}, {"pretrained": True}])
@pytest.mark.parametrize("is_student", [False, True])
def test_torchvisions_weights_of_1000_classes_start_a_model_of_5(cache, caplog, way, is_student):
    caplog.set_level(logging.INFO)
    source = seeded(torchvision.models.resnet18())
    torch.save(source, cache / "resnet18-f37072fd.pth")
    section = (
        splittable_section(classes=5)
        if is_student
        else {"key": "resnet18", "kwargs": {"num_classes": 5}}
    )
    fresh = build(section)
    section["kwargs"] |= way
    with pytest.raises(
        ConfigError, match=r"expected value 1000 but got 5 .*write reset_head: true"
    ):
        build(section)
    model = build({**section, "reset_head": True})
    if is_student:
        source |= {n: t for n, t in fresh.state_dict().items() if n.startswith("bottleneck_")}
    check_reset(model, fresh, source, {"fc"})
    assert "has 1000 classes, the model has 5" in caplog.text
    assert torchvision.models.ResNet18_Weights.IMAGENET1K_V1.meta["categories"][0] == "tench"


SHIPPED = "configs/ilsvrc2012/ladon/splittable_resnet50-fp-beta0.32_from_resnet50.yaml"
OF_FIVE = [
    f"models.{model}.{value}"
    for model in ("teacher_model", "student_model")
    for value in ("kwargs.num_classes=5", "reset_head=true")
]
ALPHA = "train.stage2.criterion.kwargs.sub_terms.kd.criterion.kwargs.alpha"


def test_the_shipped_resnet50_teaches_five_classes(cache):
    """The teacher's answers are noise then: the second stage may learn from the labels alone."""
    (problem,) = validate_config(load_config(SHIPPED, assignments=OF_FIVE))
    assert problem.key == ALPHA.replace("alpha", "teacher_module_path")
    assert "reads the answers of a teacher whose class layers are untrained" in problem.message
    config = load_config(SHIPPED, assignments=[*OF_FIVE, f"{ALPHA}=1.0"])
    assert validate_config(config, "classification") == []
    whole = seeded(torchvision.models.resnet50())
    torch.save(whole, cache / "resnet50-11ad3fa6.pth")
    for name in ("teacher_model", "student_model"):
        model = build(config.build(config.section(f"models.{name}")))
        own = model.state_dict()
        assert own["fc.weight"].shape == (5, 2048)
        shared = [n for n in own if n in whole and not n.startswith("fc.")]
        assert len(shared) > 250
        assert all(torch.equal(own[n], whole[n]) for n in shared)


def test_timms_weights_of_1000_classes_start_a_model_of_5(cache, monkeypatch, caplog):
    """By itself timm leaves the classifier out without a word."""
    caplog.set_level(logging.INFO)
    monkeypatch.setitem(FAMILIES["resnest"].weight_files, "resnest14d", "small.pth")
    source = seeded(timm.create_model("resnest14d"))
    torch.save(source, cache / "small.pth")
    section = {"key": "resnest14d", "kwargs": {"num_classes": 5, "pretrained": True}}
    with pytest.raises(ConfigError, match=r"num_classes is 5, .* weights have 1000; write reset_h"):
        build(section)
    fresh = build({"key": "resnest14d", "kwargs": {"num_classes": 5}})
    check_reset(build({**section, "reset_head": True}), fresh, source, {"fc"})
    assert "has 1000 classes, the model has 5" in caplog.text
    headless = build({"key": "resnest14d", "kwargs": {"num_classes": 0, "pretrained": True}})
    assert torch.equal(headless.conv1[0].weight, source["conv1.0.weight"])


def test_a_backbones_weights_need_no_number_of_classes(cache, monkeypatch):
    monkeypatch.setitem(FAMILIES["resnest"].weight_files, "resnest14d", "small.pth")
    torch.save(seeded(timm.create_model("resnest14d")), cache / "small.pth")
    backbone = {"key": "resnest14d", "kwargs": {"num_classes": 5, "pretrained": True}}
    with pytest.raises(
        ConfigError, match=r"backbone_config: .*a backbone needs none: leave it out"
    ):
        build(detector_section(backbone), "detection")


def test_torchvisions_detector_is_frozen_as_with_its_weights(cache):
    key, file = (
        "fasterrcnn_mobilenet_v3_large_320_fpn",
        "fasterrcnn_mobilenet_v3_large_320_fpn-907ea3f9.pth",
    )
    kwargs = {"weights_backbone": None}
    with_weights = detection.FasterRCNN_MobileNet_V3_Large_320_FPN_Weights.COCO_V1
    source = seeded(getattr(detection, key)(weights=None, num_classes=91, **kwargs))
    source = {n: t for n, t in source.items() if not n.endswith("num_batches_tracked")}
    torch.save(source, cache / file)
    section = {
        "key": key,
        "kwargs": {"num_classes": 4, "weights": with_weights},
        "reset_head": True,
    }
    model = build(section, "detection")
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    own = model.state_dict()
    assert own["roi_heads.box_predictor.bbox_pred.weight"].shape == (16, 1024)
    assert all(
        torch.equal(t, source[n]) for n, t in own.items() if n.rpartition(".")[0] not in BOXES
    )


def test_torchvisions_segmenter_keeps_its_auxiliary_head(cache):
    source = seeded(segmentation.deeplabv3_resnet50(weights_backbone=None, aux_loss=True))
    torch.save(source, cache / "deeplabv3_resnet50_coco-cd0a2569.pth")
    kwargs = {"num_classes": 5, "weights": "COCO_WITH_VOC_LABELS_V1"}
    section = {"key": "deeplabv3_resnet50", "kwargs": kwargs, "reset_head": True}
    model = build(section, "segmentation")
    kwargs = {"num_classes": 5, "aux_loss": True, "weights_backbone": None}
    fresh = build({"key": "deeplabv3_resnet50", "kwargs": kwargs}, "segmentation")
    check_reset(model, fresh, source, {"classifier.4", "aux_classifier.4"})
