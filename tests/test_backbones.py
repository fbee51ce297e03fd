"""Families of backbones: their tables are true, their networks are cut without loss, and named."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error

import pytest
import torch
from small_convnext import BLOCKS, WIDTHS, convnext_small_digits
from students import splittable_section
from tiny import ROOT
from torch import nn
from torchvision import models

from ladon.backbones import (
    BOTTLENECK,
    FAMILIES,
    CutFamily,
    Family,
    Member,
    backbone_name,
    family_of,
    label_of,
    recognise,
    register,
    shown_name,
)
from ladon.config.validate.registries import entries
from ladon.config.validate.signatures import builder_problem, call_problems
from ladon.errors import CheckpointError, ConfigError
from ladon.models import build_model, entropy_coding, update_bottleneck, write_checkpoint
from ladon.models.checkpoint import read_checkpoint
from ladon.models.compiled import compiled
from ladon.models.describe import description
from ladon.models.inference import inference
from ladon.models.meta_device import on_meta_device
from ladon.models.precision import forward_only
from ladon.report.runs import read_metrics

SHIPPED = [(name, member) for name in ("resnet", "resnest", "convnext")
           for member in FAMILIES[name].members if member != "convnext_small_digits"]  # fmt: skip


def section(member="convnext_small_digits", target=WIDTHS[0], **more):
    widths = {"num_bottleneck_channels": 4, "num_target_channels": target}
    return {
        "key": "splittable_convnext",
        "kwargs": {
            "convnext_name": member,
            "num_classes": 3,
            "bottleneck_config": {"key": "FPBasedResNetBottleneck", "kwargs": widths},
            "skips_avgpool": False,
            "skips_fc": False,
            **more,
        },
    }


def built(**more):
    torch.manual_seed(0)
    return build_model(section(**more), "classification", "models.student_model").eval()


@pytest.mark.parametrize(("family", "member"), SHIPPED, ids=[member for _, member in SHIPPED])
def test_channels_and_blocks_are_those_of_the_library(family, member):
    """On the meta device: nothing is computed, and shapes are those of 64x64 pixels."""
    family = FAMILIES[family]
    found = {}
    with on_meta_device():
        plain = family.builder(member)(**({} if family.name == "resnest" else {"weights": None}))
        parts = family.cut(plain) if isinstance(family, CutFamily) else dict(plain.named_children())
        names, x = (family.split, *family.stages), torch.empty(1, 3, 64, 64)
        for name, part in parts.items():
            if name not in family.head and name != "global_pool":
                found[name] = x = part.eval()(x)
    known = family.members[member]
    assert tuple(found[name].shape[1] for name in names) == known.channels
    assert tuple(found[name].shape[2] for name in names) == (16, 8, 4, 2)  # strides 4 to 32
    assert tuple(len(parts[name]) for name in family.stages) == known.blocks
    assert family.target_channels(member) == known.channels[0]


@pytest.mark.parametrize(("family", "member"), SHIPPED, ids=[member for _, member in SHIPPED])
def test_a_member_is_recognised_by_its_tensors(family, member):
    family = FAMILIES[family]
    known = family.members[member]
    widths = {"num_bottleneck_channels": 4, "num_target_channels": known.channels[0]}
    bottleneck = {"key": "FPBasedResNetBottleneck", "kwargs": widths}
    kwargs = {family.argument: member, "bottleneck_config": bottleneck}
    if family.name == "resnest":
        kwargs["inplanes"] = known.channels[-1]
    with on_meta_device():
        model = build_model({"key": family.key, "kwargs": kwargs}, "classification", "x")
    same = next(n for n, m in family.members.items() if m.blocks == known.blocks
                and m.channels == known.channels)  # fmt: skip
    assert recognise(model.state_dict(), "") == same
    placed = {f"backbone.body.{name}": tensor for name, tensor in model.state_dict().items()}
    assert recognise(placed, "backbone.body.") == same
    assert recognise(placed, "") is None


def test_a_plain_convnext_is_recognised_too():
    with torch.device("meta"):
        states = {n: models.get_model(n).state_dict() for n in ("convnext_base", "efficientnet_b0")}
    assert recognise(states["convnext_base"], "") == "convnext_base"
    assert recognise(states["efficientnet_b0"], "") is None


class Given(nn.Module):
    """Stands for a bottleneck that delivers exactly what it should."""

    def __init__(self, front):
        super().__init__()
        self.front = front

    def forward(self, images):
        return self.front(images)


def test_behind_the_split_point_it_is_the_plain_network(tmp_path):
    torch.manual_seed(1)
    plain = convnext_small_digits(num_classes=3).eval()
    write_checkpoint(tmp_path / "plain.pt", plain)
    model = built(org_model_ckpt_file_path_or_url=str(tmp_path / "plain.pt"))
    model.bottleneck_layer = Given(plain.features[:2])
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(images), plain(images))
        model.fc = None
        assert model(images).shape == (2, WIDTHS[-1], 1, 1)
        model.avgpool = None
        assert torch.equal(model(images), plain.features(images))


def test_names_of_parts_and_tensors():
    model = built()
    names = [name for name, _ in model.named_children()]
    assert names == [BOTTLENECK, "stage2", "stage3", "stage4", "avgpool", "fc"]
    assert [len(model.stage2), len(model.stage3), len(model.stage4)] == [n + 1 for n in BLOCKS[1:]]
    assert model.plain_names["stage3.0.1.weight"] == "features.4.1.weight"  # downsampling
    assert model.plain_names["stage3.2.layer_scale"] == "features.5.1.layer_scale"
    assert model.plain_names["fc.2.bias"] == "classifier.2.bias"
    own = {name for name in model.state_dict() if not name.startswith(f"{BOTTLENECK}.")}
    assert own == set(model.plain_names)
    without = built(skips_avgpool=True, skips_fc=True)
    assert [name for name, _ in without.named_children()] == names[:4]
    assert model.get_aux_module() is model.bottleneck_layer


def test_weights_of_another_network_are_refused(tmp_path):
    write_checkpoint(tmp_path / "other.pt", models.resnet18())
    with pytest.raises(
        # of 13 in stages 2 and 4, 22 in stage 3, and 4 of the head
        CheckpointError,
        match=r"made for another model: lacks 52 tensors \(stage2",
    ):
        built(org_model_ckpt_file_path_or_url=str(tmp_path / "other.pt"))
    write_checkpoint(tmp_path / "more.pt", convnext_small_digits(num_classes=5))
    with pytest.raises(CheckpointError, match=r"fc\.2\.weight \(5, 40\) instead of \(3, 40\)"):
        built(org_model_ckpt_file_path_or_url=str(tmp_path / "more.pt"))


@pytest.mark.parametrize("wanted", [{"weights": "IMAGENET1K_V1"}, {"pretrained": True}])
def test_torchvisions_weights_are_asked_for(monkeypatch, tmp_path, wanted):
    def refuse(*_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    tiny = section("convnext_tiny", 96, num_classes=1000, **wanted)
    with pytest.raises(CheckpointError, match=r"put it at .*convnext_tiny-983f1562\.pth"):
        build_model(tiny, "classification", "models.student_model")
    with on_meta_device():  # a checkpoint will give them
        build_model(tiny, "classification", "models.student_model", load_weights=False)


def test_validation_knows_the_key_and_its_arguments():
    builder = entries("classification model")["splittable_convnext"]
    kwargs = section()["kwargs"]
    assert builder_problem(builder, kwargs) is None
    assert call_problems(builder, 0, kwargs) == []
    problem = builder_problem(builder, {"convnext_name": "convnext_tinny"})
    assert problem[0] == "convnext_name"
    assert 'torchvision.models has no "convnext_tinny"' in problem[1]
    assert "convnext_tiny" in problem[1]
    (missing,) = call_problems(builder, 0, {})
    assert missing == (None, "splittable_convnext needs bottleneck_config")
    with pytest.raises(ConfigError, match=r'convnext_name: torchvision\.models has no "resnext"'):
        built(member="resnext")


def test_names_for_people():
    names = ["convnext_tiny", "resnet50", "resnest269e", "deeplabv3_mobilenet_v3_large"]
    labels = ["ConvNeXt-T", "ResNet-50", "ResNeSt-269e", "deeplabv3_mobilenet_v3_large"]
    assert [label_of(name) for name in names] == labels
    # reports of one's own runs call the paper's two by their functions, as they always did
    assert [shown_name(name) for name in names] == ["ConvNeXt-T", *names[1:]]


@pytest.mark.parametrize("backbone", ["convnext_tiny", "ladon"])
def test_a_report_shows_the_name_for_people(tmp_path, backbone):
    """Where the run does not tell it (a three-headed one of old), the experiment's name does."""
    models = {"student": {"metrics": {"acc1": 50.0, "acc5": 90.0}}}
    content = {
        "format": 1,
        "task": "image_classification",
        "mode": "test",
        "num_images": 2,
        "name": "x-splittable_convnext_tiny-fp-beta0.32_from_convnext_tiny",
        "beta": 0.32,
        "dataset": "x/val",
        "backbone": backbone,
        "models": models | {"teacher": models["student"]},
    }
    (tmp_path / "metrics.json").write_text(json.dumps(content))
    student, teacher = read_metrics(tmp_path / "metrics.json")
    assert (student.label, teacher.label) == ("ConvNeXt-T", "ConvNeXt-T (teacher)")
    assert student.backbone == "convnext_tiny"


def test_the_backbone_of_any_tasks_model():
    classifier = splittable_section(name="resnet34")
    detector = {"key": "faster_rcnn_model", "kwargs": {"backbone_config": classifier}}
    for model in (classifier, detector, {"key": "ladon", "classification": classifier}):
        assert backbone_name(model) == "resnet34"
    assert backbone_name({"key": "splittable_convnext", "kwargs": {}}) == "convnext_tiny"
    plain = {"key": "deeplabv3_model", "kwargs": {"backbone_config": {"key": "convnext_base"}}}
    assert backbone_name(plain) == "convnext_base"
    assert backbone_name({"key": "mobilenet_v2"}) == "mobilenet_v2"
    assert family_of("splittable_resnest") is family_of("resnest50d") is FAMILIES["resnest"]
    assert family_of("mobilenet_v2") is None


def test_reports_ask_families_without_torch():
    code = (
        "import sys, ladon.backbones, ladon.commands.report, ladon.report.runs\n"
        "print([m for m in ('torch', 'timm', 'sc2bench') if m in sys.modules])\n"
        "print(ladon.backbones.label_of('convnext_large'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(ROOT / "scripts")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.splitlines() == ["[]", "ConvNeXt-L"], done.stderr


def test_stages_are_compiled_in_student_and_teacher():
    model = built()
    with compiled(model):
        names = [n for n, m in model.named_modules() if m._compiled_call_impl is not None]
    assert names == ["bottleneck_layer.decoder", "stage2", "stage3", "stage4"]


@torch.inference_mode()
def test_bf16_changes_no_payload_and_hardly_a_logit():
    model = built()
    images = 50 * torch.randn(2, 3, 64, 64)  # latents of an untrained encoder are small
    update_bottleneck(model)
    with entropy_coding(model) as payloads:
        expected, (sizes, _) = model(images), payloads.pop()
    assert len(set(expected.flatten().tolist())) == 6
    with inference(model, precision="bf16") as payloads:
        with forward_only(torch.device("cpu"), "bf16"):
            found = model(images)
        assert payloads.pop()[0] == sizes
    assert found.dtype == torch.float32
    assert not torch.equal(found, expected)
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("classifier", "text"),
    [
        (
            {"key": "mobilenet_v2", "kwargs": {}},
            r"x\.classification\.key: mobilenet_v2: three heads stand on a splittable model of a "
            r"known family \(splittable_resnet, splittable_resnest, splittable_convnext",
        ),
        (
            {"key": "convnext_tiny", "kwargs": {}},
            r"x\.classification\.key: convnext_tiny: three heads",
        ),
        (
            section(skips_fc=True),
            r"x\.classification\.kwargs: skips fc, which its head needs",
        ),
    ],
)
def test_what_three_heads_cannot_stand_on_is_refused(classifier, text):
    heads = {"detection": {"key": "faster_rcnn_model"}, "segmentation": {"key": "deeplabv3_model"}}
    section = {"key": "ladon", "classification": classifier, **heads}
    with pytest.raises(ConfigError, match=text):
        build_model(section, "detection", "x", load_weights=False)


def test_a_checkpoint_tells_what_it_holds(tmp_path):
    write_checkpoint(tmp_path / "c.pt", built())
    told = description(read_checkpoint(tmp_path / "c.pt", "here"))
    assert (told.task, told.backbone) == ("classification", "convnext_small_digits")
    assert (told.num_classes, told.channels) == (3, 4)


def test_a_family_that_sc2bench_builds_needs_no_cut(monkeypatch):
    monkeypatch.setitem(FAMILIES, "regnet", None)  # what is registered now is taken back then

    @register
    class RegNet(Family):
        """timm's, whose head is one module."""

        name, key, argument = "regnet", "splittable_regnet", "regnet_name"
        default, library = "regnety_002", "timm.models"
        split, stages, head = "s1", ("s2", "s3", "s4"), ("head",)
        members = {"regnety_002": Member("RegNetY-200MF", (24, 56, 152, 368), (1, 4, 7))}

        def width(self, state, stage):
            weight = state.get(f"{stage}.b1.conv3.conv.weight")
            return None if weight is None else weight.shape[0]

    widths = {"num_bottleneck_channels": 4, "num_target_channels": 24}
    bottleneck = {"key": "FPBasedResNetBottleneck", "kwargs": widths}
    kwargs = {"bottleneck_config": bottleneck, "regnet_name": "regnety_002", "skips_head": False}
    model = build_model({"key": "splittable_regnet", "kwargs": kwargs}, "classification", "x")
    assert recognise(model.state_dict(), "") == "regnety_002"
    body = {"key": "splittable_regnet", "kwargs": kwargs}
    segmenter = {"key": "deeplabv3_model", "kwargs": {"backbone_config": body, "uses_aux": True}}
    heads = build_model(segmenter, "segmentation", "x")
    assert heads.backbone.return_layer_dict == {"s4": "out", "s3": "aux"}


def test_a_part_named_as_another_of_the_three_headed_model_is_refused():
    class Own(FAMILIES["convnext"].__class__):
        name = "own"
        head = ("avgpool", "classifier")

    with pytest.raises(ValueError, match="own: classifier is the three-headed model's"):
        register(Own)
    assert "own" not in FAMILIES
