"""Bodies of detectors and segmenters: which parts of a backbone the heads take, or why none."""

from __future__ import annotations

import pytest
import torch
from small_convnext import WIDTHS
from torchvision import models

from ladon.errors import ConfigError
from ladon.models import build_model, write_checkpoint


def detector(backbone, classes=3, **fpn):
    kwargs = {"num_classes": classes, "min_size": 64, "max_size": 64, "backbone_config": backbone}
    kwargs["backbone_fpn_kwargs"] = {"out_channels": 8, **fpn}
    section = {"key": "faster_rcnn_model", "kwargs": kwargs}
    return build_model(section, "detection", "models.model").eval()


def segmenter(backbone, **more):
    kwargs = {"num_classes": 3, "uses_aux": True, "backbone_config": backbone, **more}
    section = {"key": "deeplabv3_model", "kwargs": kwargs}
    return build_model(section, "segmentation", "models.model").eval()


@pytest.mark.parametrize(
    ("backbone", "parts", "channels"),
    [
        (
            {"key": "convnext_small_digits", "kwargs": {}},
            ["stage1", "stage2", "stage3", "stage4"],
            list(WIDTHS),
        ),
        (
            {"key": "convnext_atto", "kwargs": {"features_only": True}},
            ["stages_0", "stages_1", "stages_2", "stages_3"],
            [40, 80, 160, 320],  # timm's convnext_atto
        ),
        (
            {"key": "resnet18", "kwargs": {}},
            ["layer1", "layer2", "layer3", "layer4"],
            [64, 128, 256, 512],
        ),
        (
            # the stem's activation, which timm lists, too, is left out
            {"key": "resnet10t", "kwargs": {"features_only": True}},
            ["layer1", "layer2", "layer3", "layer4"],
            [64, 128, 256, 512],
        ),
    ],
    ids=["convnext", "timm convnext", "resnet", "timm resnet"],
)
@torch.inference_mode()
def test_plain_networks_serve_as_bodies(backbone, parts, channels):
    found = detector(backbone)
    assert list(found.backbone.body.return_layer_dict) == parts
    features = found.backbone.body(torch.rand(1, 3, 64, 64))
    assert [f.shape[1] for f in features.values()] == channels
    assert set(found([torch.rand(3, 64, 64)])[0]) == {"boxes", "labels", "scores"}
    heads = segmenter(backbone)
    assert heads.backbone.return_layer_dict == {parts[-1]: "out", parts[-2]: "aux"}
    assert heads(torch.rand(1, 3, 64, 64))["out"].shape == (1, 3, 64, 64)


def test_a_plain_convnexts_checkpoint_gives_its_weights(tmp_path):
    torch.manual_seed(3)
    from small_convnext import convnext_small_digits

    plain = convnext_small_digits()
    write_checkpoint(tmp_path / "plain.pt", plain)
    source = {"src_ckpt": str(tmp_path / "plain.pt")}
    found = detector({"key": "convnext_small_digits", "kwargs": {}, **source})
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(found.backbone.body(images)["3"], plain.eval().features(images))


def test_parts_may_be_chosen():
    chosen = detector(
        {"key": "mobilenet_v2", "kwargs": {}},
        return_layer_dict={"features": "0"},
        in_channels_list=[1280],
    )
    assert list(chosen.backbone.body.return_layer_dict) == ["features"]
    some = {"stage3": "1", "stage4": "2"}
    of_family = detector({"key": "convnext_small_digits", "kwargs": {}}, return_layer_dict=some)
    found = [block[0].in_channels for block in of_family.backbone.fpn.inner_blocks]
    assert found == list(WIDTHS[2:])


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: detector({"key": "convnext_atto", "kwargs": {}}),
            r"models\.model\.kwargs\.backbone_fpn_kwargs\.in_channels_list: needed: convnext_atto "
            r"consists of stem, stages, norm_pre, head; with features_only: true, timm gives its",
        ),
        (
            lambda: segmenter({"key": "mobilenet_v2", "kwargs": {}}),
            r"models\.model\.kwargs\.return_layer_dict: needed: mobilenet_v2 consists of features, "
            r"classifier$",
        ),
        (
            lambda: segmenter(
                {"key": "convnext_small_digits", "kwargs": {}}, return_layer_dict={"layer4": "out"}
            ),
            r"return_layer_dict: no 'layer4': the backbone consists of stem, stage1, stage2, ",
        ),
    ],
)
def test_what_cannot_serve_is_one_line(make, text):
    with pytest.raises(ConfigError, match=text):
        make()


def test_a_torchvision_resnets_pyramid_is_as_sc2bench_makes_it():
    found = detector({"key": "resnet50", "kwargs": {}}).backbone
    assert found.body.return_layer_dict == {f"layer{n + 1}": str(n) for n in range(4)}
    inner = [block[0].in_channels for block in found.fpn.inner_blocks]
    assert inner == [256 * 2**n for n in range(4)] == [models.resnet50().inplanes // 8 * 2**n
                                                      for n in range(4)]  # fmt: skip
