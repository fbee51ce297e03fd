"""Channels follow from the backbone: filled in where left out, refused where they do not fit."""

from __future__ import annotations

import pytest
from data_config.helpers import GOOD, load, problems_of
from students import detector_section, splittable_section
from three_heads import sections

from ladon.backbones.channels import stage_channels, with_target_channels
from ladon.config import load_config
from ladon.errors import ConfigError
from ladon.models import build_model
from ladon.models.build import on_meta_device

BOTTLENECK = "models.student_model.kwargs.bottleneck_config.kwargs"
# He et al. (2016), table 1: what conv2_x to conv5_x deliver
NARROW, WIDE = (64, 128, 256, 512), (256, 512, 1024, 2048)


def found(kind, section):
    """The problems of channels that a model has, without their place."""
    config = load_config(GOOD, overrides={"models": {"_delete_": True, "model": section}})
    return [p.partition(": ")[2] for p in problems_of(config, kind) if "channels" in p]


@pytest.mark.parametrize(
    ("name", "fits"), [("resnet18", 64), ("resnet34", 64), ("resnet50", 256), ("resnet101", 256)]
)
@pytest.mark.parametrize("written", [64, 256, None])
def test_a_bottleneck_delivers_what_its_network_takes(name, fits, written):
    channels = [] if written is None else [f"{BOTTLENECK}.num_target_channels={written}"]
    inplanes = fits * 8
    student = "models.student_model.kwargs"
    config = load_config(
        GOOD,
        assignments=[
            f"{student}.resnet_name={name}",
            f"{student}.inplanes={inplanes}",
            f"{BOTTLENECK}={{num_bottleneck_channels: 24}}",
            *channels,
        ],
    )
    problems = problems_of(config)
    if written in (fits, None):
        assert problems == []
        section = config.build(config.section("models.student_model"))
        with on_meta_device():
            made = build_model(section, "classification", "here", load_weights=False)
        assert made.bottleneck_layer.decoder[-1].out_channels == fits
        return
    assert problems == [
        f"--set: {BOTTLENECK}.num_target_channels: must be {fits}, not {written}: the bottleneck "
        f"must deliver what layer2 of {name} takes: {fits}; or leave it out"
    ]


def test_a_convnext_takes_its_own_number():
    """Liu et al. (2022): the first stage of ConvNeXt-T has 96 channels."""
    bottleneck = {"key": "FPBasedResNetBottleneck", "kwargs": {"num_target_channels": 256}}
    kwargs = {"convnext_name": "convnext_tiny", "bottleneck_config": bottleneck}
    (problem,) = found(None, {"key": "splittable_convnext", "kwargs": kwargs})
    assert "must be 96, not 256: the bottleneck must deliver what stage2" in problem


def test_the_line_is_named(tmp_path):
    text = f"""
        _base_: {GOOD}
        models:
          student_model:
            kwargs:
              resnet_name: resnet34
              inplanes: 2048
    """
    first, second = problems_of(load(tmp_path, text))
    assert first.startswith("c.yaml:7: models.student_model.kwargs.inplanes: must be 512, not 2048")
    assert "num_target_channels: must be 64, not 256" in second
    assert "distill.yaml:" in second


def test_a_bottleneck_that_is_told_its_decoder_is_left_alone():
    def layer(num_target_channels=256, decoder_channel_sizes=None):
        pass

    section = splittable_section(bottleneck={"key": "x", "kwargs": {}})
    kwargs = with_target_channels(section, layer)
    assert kwargs["bottleneck_config"]["kwargs"] == {"num_target_channels": 64}
    section = splittable_section(bottleneck={"key": "x", "kwargs": {"decoder_channel_sizes": [1]}})
    assert with_target_channels(section, layer) == section["kwargs"]
    assert with_target_channels(section, lambda channels: None) == section["kwargs"]


@pytest.mark.parametrize(("name", "widths"), [("resnet34", NARROW), ("resnet101", WIDE)])
def test_stages_by_name(name, widths):
    plain = {"key": name, "kwargs": {}}
    assert stage_channels(plain) == dict(
        zip(("layer1", "layer2", "layer3", "layer4"), widths, strict=True)
    )
    assert list(stage_channels(splittable_section(name=name)).values()) == list(widths)
    assert stage_channels({"key": "mobilenet_v3_large"}) == {}


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        (NARROW, None),
        (
            WIDE,
            "in_channels_list: the backbone delivers bottleneck_layer 64, layer2 128, layer3 256, "
            "layer4 512: write [64, 128, 256, 512], or leave it out",
        ),
        ((64, 128, 256), "in_channels_list: needs a number for each of bottleneck_layer, layer2"),
    ],
)
def test_a_detectors_pyramid_fits_its_backbone(widths, message):
    section = detector_section(splittable_section(name="resnet34"), widths)
    problems = found("detection", section)
    if message is None:
        assert problems == []
        return
    assert len(problems) == 1, problems
    assert message in problems[0]
    with pytest.raises(ConfigError, match=r"fpn_kwargs\.in_channels_list"), on_meta_device():
        build_model(section, "detection", "models.model")


def test_a_pyramid_by_the_first_stages_channels():
    section = detector_section({"key": "resnet34", "kwargs": {}})
    section["kwargs"]["backbone_fpn_kwargs"] = {"in_channels_stage2": 256}
    (problem,) = found("detection", section)
    assert problem.endswith(
        "backbone_fpn_kwargs.in_channels_stage2: must be 64, not 256: layer1 of the backbone "
        "delivers 64"
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, None),
        ({"num_input_channels": 512, "num_aux_channels": 256, "uses_aux": True}, None),
        ({"num_input_channels": 2048}, "num_input_channels: must be 512, not 2048: layer4"),
        ({"num_aux_channels": 1024, "uses_aux": True}, "num_aux_channels: must be 256, not 1024"),
        ({"num_aux_channels": 1024, "uses_aux": False}, None),
        (
            {"return_layer_dict": {"layer2": "out"}, "num_input_channels": 512},
            "num_input_channels: must be 128, not 512: layer2 of the backbone delivers 128",
        ),
    ],
)
def test_a_segmenters_heads_fit_its_backbone(values, message):
    kwargs = {"num_classes": 4, "backbone_config": splittable_section(name="resnet34"), **values}
    section = {"key": "deeplabv3_model", "kwargs": kwargs}
    problems = found("segmentation", section)
    assert len(problems) == (message is not None), problems
    if message is not None:
        assert message in problems[0]


def test_a_head_of_the_three_stands_on_the_classifier():
    parts = sections()
    parts["segmentation"]["kwargs"]["num_input_channels"] = 2048
    section = {"key": "ladon", **parts}
    (problem,) = found(None, section)
    assert problem.startswith("models.model.segmentation.kwargs.num_input_channels: must be 512")
