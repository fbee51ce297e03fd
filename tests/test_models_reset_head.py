"""A model of other classes starts from weights less their class layers; all else is as ever."""

from __future__ import annotations

import logging

import pytest
import timm
import torch
import torchvision
from students import detector_section, splittable_section
from torch import nn
from torchvision.models import detection, segmentation

from ladon.backbones import FAMILIES
from ladon.config import load_config, validate_config
from ladon.errors import CheckpointError, ConfigError
from ladon.models import build_model, class_layers, read_checkpoint, start_from

WHERE = "models.model"


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


def seeded(model: nn.Module, seed: int = 7) -> dict[str, torch.Tensor]:
    """Tensors of a model none of which is as it was drawn."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(t.shape, generator=generator, dtype=t.dtype)
        if t.is_floating_point()
        else t
        for name, t in model.state_dict().items()
    }


def build(section: dict, kind: str = "classification", seed: int = 3, **more) -> nn.Module:
    torch.manual_seed(seed)
    return build_model(section, kind, WHERE, **more)


def check_reset(model: nn.Module, fresh: nn.Module, source: dict, layers: set[str]) -> None:
    """The layers are as they were drawn, everything else is the source's to the bit."""
    own, drawn = model.state_dict(), fresh.state_dict()
    assert own.keys() == drawn.keys()
    is_reset = {name: name.rpartition(".")[0] in layers for name in own}
    assert {name.rpartition(".")[0] for name, found in is_reset.items() if found} == layers
    for name, tensor in own.items():
        if is_reset[name]:
            assert torch.equal(tensor, drawn[name]), name
            assert name not in source or not torch.equal(tensor, source[name]), name
        elif name in source:
            assert torch.equal(tensor, source[name]), name
        else:  # a counter that FrozenBatchNorm2d lacks
            assert name.endswith("num_batches_tracked"), name


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


BOXES = {"roi_heads.box_predictor.cls_score", "roi_heads.box_predictor.bbox_pred"}


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


DETECTOR = "coco2017/ladon/faster_rcnn_splittable_resnet50-fp-beta0.32_fpn.yaml"
THREE_HEADED = "ilsvrc2012/ladon-runtime/ladon-splittable_resnet50-fp-beta0.32.yaml"


@pytest.mark.parametrize(
    ("file", "assignments", "expected"),
    [
        (THREE_HEADED, ["models.model.reset_head=true"], "the three-headed model is not trained"),
        (
            THREE_HEADED,
            ["models.model.detection.reset_head=true"],
            "belongs into the section of the whole model, under models",
        ),
        (
            DETECTOR,
            ["models.model.kwargs.backbone_config.reset_head=true"],
            "belongs into the section of the whole model, under models",
        ),
        (
            DETECTOR,
            ["models.model.reset_head=true"],
            "models.model starts from no weights (src_ckpt, kwargs.start_ckpt_file_path), so that "
            "its head is fresh anyway; leave it out, or name what the model starts from",
        ),
        (DETECTOR, ["models.model.reset_head=true", "models.model.src_ckpt=a.pt"], None),
        (DETECTOR, ["models.model.reset_head=false"], None),
        (
            DETECTOR,
            ["models.model.reset_head=true", "models.model.kwargs.start_ckpt_file_path=a.pt"],
            None,
        ),
    ],
)
def test_where_it_can_do_nothing_it_is_refused(file, assignments, expected):
    found = validate_config(load_config(f"configs/{file}", assignments=assignments))
    if expected is None:
        assert found == []
        return
    (problem,) = found
    assert problem.key == assignments[0].partition("=")[0]
    assert problem.message.startswith(expected)


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
