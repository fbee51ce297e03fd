"""A model of other classes starts from weights less their class layers; all else is as ever."""

from __future__ import annotations

import logging

import pytest
import torch
import torchvision
from resetting import BOXES, WHERE, build, check_reset, seeded
from students import detector_section, splittable_section
from torch import nn

from ladon.errors import CheckpointError, ConfigError
from ladon.models import class_layers, read_checkpoint, start_from


@pytest.mark.parametrize(
    ("key", "kind", "kwargs", "expected"),
    [
        ("resnet18", "classification", {}, "fc"),
        ("vgg11", "classification", {}, "classifier.6"),
        ("vit_b_16", "classification", {}, "heads.head"),
        ("inception_v3", "classification", {}, "AuxLogits.fc, fc"),
        ("deit_tiny_distilled_patch16_224", "classification", {}, "head, head_dist"),
        ("ssd300_vgg16", "detection", {}, "head.classification_head.module_list.0, "),
        ("retinanet_resnet50_fpn", "detection", {}, "head.classification_head.cls_logits"),
        (
            "fasterrcnn_mobilenet_v3_large_320_fpn",
            "detection",
            {},
            "roi_heads.box_predictor.cls_score, roi_heads.box_predictor.bbox_pred",
        ),
        (
            "deeplabv3_resnet50",
            "segmentation",
            {"aux_loss": True},
            "classifier.4, aux_classifier.4",
        ),
        (
            "lraspp_mobilenet_v3_large",
            "segmentation",
            {},
            "classifier.low_classifier, classifier.high_classifier",
        ),
    ],
)
def test_class_layers_of_the_libraries_models(key, kind, kwargs, expected):
    state = torch.get_rng_state()
    layers = class_layers({"key": key, "kwargs": kwargs}, kind, WHERE)
    assert str(layers).startswith(expected)
    assert torch.equal(torch.get_rng_state(), state), "what is drawn later does not change"


def test_the_number_of_classes_is_told_by_every_class_layer():
    """Also where a layer has several rows a class: four of a box, or as many as anchors."""
    section = detector_section(splittable_section())
    model, layers = build(section, "detection"), class_layers(section, "detection", WHERE)
    state = model.state_dict()
    for name in layers.sizes:
        assert layers.num_classes({name: state[name]}) == 4, name
    assert layers.num_classes({}) is None
    box = {"roi_heads.box_predictor.bbox_pred.bias": torch.zeros(365)}
    assert layers.num_classes(box) is None, "not a multiple of four"


def start(section: dict, kind: str, source: dict, path, caplog=None) -> nn.Module:
    """Build a model without weights and start it from a checkpoint, as a run does for src_ckpt."""
    torch.save({"model": source}, path)
    model = build(section, kind, load_weights=False)
    start_from(model, read_checkpoint(path, "here"), section, kind, WHERE)
    return model


@pytest.mark.parametrize("number", [5, 8])
def test_a_classifier_starts_from_other_classes(tmp_path, caplog, number):
    caplog.set_level(logging.INFO)
    source = seeded(build(splittable_section(classes=8)))
    section = {**splittable_section(classes=number), "reset_head": True}
    model = start(section, "classification", source, tmp_path / "a.pt")
    check_reset(model, build(section, load_weights=False), source, {"fc"})
    lines = [r.getMessage() for r in caplog.records if "reset_head" in r.getMessage()]
    more = ", as many, which may be others" if number == 8 else ""
    assert lines == [
        f"models.model.reset_head: the class layers (fc) are left out and untrained: "
        f"{tmp_path / 'a.pt'} has 8 classes, the model has {number}{more}"
    ]


def test_a_source_without_a_head_does_as_well(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    source = seeded(torchvision.models.resnet18())
    headless = {name: t for name, t in source.items() if not name.startswith("fc.")}
    section = {"key": "resnet18", "kwargs": {"num_classes": 5}, "reset_head": True}
    check_reset(
        start(section, "classification", headless, tmp_path / "a.pt"),
        build(section),
        source,
        {"fc"},
    )
    assert f"{tmp_path / 'a.pt'} has no classes, the model has 5" in caplog.text


@pytest.mark.parametrize("by", ["src_ckpt", "start_ckpt_file_path"])
def test_a_detector_of_4_classes_starts_from_one_of_91(tmp_path, caplog, by):
    caplog.set_level(logging.INFO)
    section = detector_section(splittable_section(classes=10))
    of_91 = {**section, "kwargs": {**section["kwargs"], "num_classes": 91}}
    source = seeded(build(of_91, "detection"))
    fresh = build(section, "detection")
    path = tmp_path / "a.pt"
    section["reset_head"] = True
    if by == "src_ckpt":
        model = start(section, "detection", source, path)
    else:
        torch.save({"model": source}, path)
        section["kwargs"]["start_ckpt_file_path"] = str(path)
        model = build(section, "detection")
    check_reset(model, fresh, source, BOXES)
    assert f"{path} has 91 classes, the model has 4" in caplog.text


def segmenter_section(classes: int, **more) -> dict:
    backbone = splittable_section(classes=10)
    kwargs = {"num_classes": classes, "uses_aux": True, "backbone_config": backbone, **more}
    returned = {"return_layer_dict": {"layer2": "out", "layer3": "aux"}}
    return {"key": "deeplabv3_model", "kwargs": {**kwargs, **returned}}


@pytest.mark.parametrize("by", ["src_ckpt", "start_ckpt_file_path"])
def test_a_segmenter_of_5_classes_starts_from_one_of_21(tmp_path, caplog, by):
    caplog.set_level(logging.INFO)
    source = seeded(build(segmenter_section(21), "segmentation"))
    path = tmp_path / "a.pt"
    fresh = build(segmenter_section(5), "segmentation")
    if by == "src_ckpt":
        section = {**segmenter_section(5), "reset_head": True}
        model = start(section, "segmentation", source, path)
    else:
        torch.save({"model": source}, path)
        section = {**segmenter_section(5, start_ckpt_file_path=str(path)), "reset_head": True}
        model = build(section, "segmentation")
    check_reset(model, fresh, source, {"classifier.4", "aux_classifier.4"})
    assert (
        f"(classifier.4, aux_classifier.4) are left out and untrained: {path} has 21" in caplog.text
    )


@pytest.mark.parametrize(
    ("section", "plain"),
    [
        (splittable_section(classes=5), "resnet18"),
        (
            {
                "key": "splittable_convnext",
                "kwargs": {
                    "num_classes": 5,
                    "skips_avgpool": False,
                    "skips_fc": False,
                    "bottleneck_config": {
                        "key": "FPBasedResNetBottleneck",
                        "kwargs": {"num_bottleneck_channels": 4, "num_target_channels": 96},
                    },
                },
            },
            "convnext_tiny",
        ),
    ],
)
def test_a_student_starts_from_its_plain_network_of_other_classes(tmp_path, caplog, section, plain):
    """The class layer has another name in ConvNeXt's plain network: `classifier.2`."""
    caplog.set_level(logging.INFO)
    path = tmp_path / "a.pt"
    whole = seeded(getattr(torchvision.models, plain)(num_classes=8))
    torch.save(whole, path)
    fresh = build(section)
    section["kwargs"]["org_model_ckpt_file_path_or_url"] = str(path)
    with pytest.raises(CheckpointError, match=r"write reset_head: true in models\.model to start"):
        build(section)
    model = build({**section, "reset_head": True})
    names = getattr(model, "plain_names", {n: n for n in model.state_dict()})
    source = {own: whole[p] for own, p in names.items() if p in whole}
    drawn = {n: t for n, t in fresh.state_dict().items() if n.startswith("bottleneck_layer.")}
    head = {"fc"} if plain == "resnet18" else {"fc.2"}
    check_reset(model, fresh, source | drawn, head)
    assert f"{path} has 8 classes, the model has 5" in caplog.text


def test_a_backbone_is_told_the_number_of_classes_of_its_checkpoint(tmp_path):
    """Its class layers are cut off: there is nothing to reset."""
    path = tmp_path / "a.pt"
    torch.save(build(splittable_section(classes=5)).state_dict(), path)
    section = detector_section({**splittable_section(classes=10), "src_ckpt": str(path)})
    expected = r"has 10: set models\.model\.kwargs\.backbone_config\.kwargs\.num_classes to 5$"
    with pytest.raises(CheckpointError, match=expected):
        build(section, "detection")
    section["kwargs"]["backbone_config"]["kwargs"]["num_classes"] = 5
    build(section, "detection")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, None),
        ({"layer2.0.conv1.weight": torch.zeros(1)}, "of another shape .*layer2.0.conv1.weight"),
        ({"more": torch.zeros(1)}, "1 tensors unexpected .more"),
        ({"layer3.0.conv1.weight": None}, "1 tensors missing .layer3.0.conv1.weight"),
    ],
)
@pytest.mark.parametrize("is_reset", [False, True])
def test_everything_else_is_as_strict_as_ever(tmp_path, change, expected, is_reset):
    source = seeded(torchvision.models.resnet18()) | change
    source = {name: tensor for name, tensor in source.items() if tensor is not None}
    section = {"key": "resnet18", "kwargs": {"num_classes": 5}, "reset_head": is_reset}
    path = tmp_path / "a.pt"
    if is_reset and expected is None:
        start(section, "classification", source, path)
        return
    with pytest.raises(
        CheckpointError, match=expected or "fc.weight .1000, 512. instead"
    ) as caught:
        start(section, "classification", source, path)
    message = str(caught.value)
    assert message.startswith(f"{path}: made for another model: ")
    hint = (
        "; only its class layers differ (fc): it has 1000 classes, the model has 5: write "
        "reset_head: true in models.model to start without them"
    )
    assert message.endswith(hint) == (expected is None and not is_reset)


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        (splittable_section(skips_fc=True), "splittable_resnet has no class layer: num_classes"),
        ({"key": "no_such"}, "no_such has no class layer that num_classes would tell"),
    ],
)
def test_a_model_without_class_layers_says_so(section, expected):
    with pytest.raises(ConfigError, match=rf"^models\.model\.reset_head: {expected}"):
        class_layers(section, "classification", WHERE)
