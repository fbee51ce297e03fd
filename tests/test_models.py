"""Models and checkpoints: the published tensor names, and what a checkpoint does to a model."""

from __future__ import annotations

import argparse
import contextlib
import copy
from pathlib import Path

import pytest
import torch
from sc2bench.models.layer import FPBasedResNetBottleneck
from students import coded, splittable
from torch import nn
from torchvision.ops.misc import FrozenBatchNorm2d

from ladon.bottlenecks import published_size
from ladon.bottlenecks.encoder import encode_latent
from ladon.choices import MODES
from ladon.config import load_config
from ladon.errors import CheckpointError, ConfigError
from ladon.models import (
    build_model,
    entropy_coding,
    find_bottleneck,
    freeze_batch_norm,
    is_updated,
    load_into,
    read_checkpoint,
    update_bottleneck,
    write_checkpoint,
)
from ladon.models.architecture_check import differences, published_tensors
from ladon.models.checkpoint import Checkpoint, current_names
from ladon.models.meta_device import on_meta_device

ROOT = Path(__file__).resolve().parents[1]
FAMILIES = {
    "ilsvrc2012": (
        "classification",
        "student_model",
        "configs/ilsvrc2012/ladon/splittable_resnet50-fp-beta0.32_from_resnet50.yaml",
    ),
    "coco2017": (
        "detection",
        "model",
        "configs/coco2017/ladon/faster_rcnn_splittable_resnet50-fp-beta0.32_fpn.yaml",
    ),
    "pascal_voc2012": (
        "segmentation",
        "model",
        "configs/pascal_voc2012/ladon/deeplabv3_splittable_resnet50-fp-beta0.32_two_stages.yaml",
    ),
}


@pytest.mark.parametrize("backbone", ["resnet50", "resnest269e"])
@pytest.mark.parametrize("dataset", FAMILIES)
def test_tensors_are_the_published_ones(dataset, backbone):
    kind, section, path = FAMILIES[dataset]
    config = load_config(ROOT / path.replace("resnet50", backbone))
    built = config.build(config.section(f"models.{section}"))
    before = repr(built)
    # weightless where it is large: names and shapes are the same
    with on_meta_device() if backbone == "resnest269e" else contextlib.nullcontext():
        model = build_model(built, kind, f"models.{section}", load_weights=False)
    published = published_tensors(dataset, backbone)
    assert len(published) > 300
    assert differences(model, published) == []
    assert repr(built) == before, "building must not change the config"


def test_differences_are_named():
    published = published_tensors("ilsvrc2012", "resnet50")
    lines = differences(splittable(), published)
    assert "layer2.0.conv3.weight: missing" in lines
    assert any(line.startswith("fc.weight: ('3x512', 'float32') instead of") for line in lines)


@pytest.mark.parametrize("prefix", ["", "backbone.", "backbone.body."])
def test_old_names_are_renamed_in_every_task(prefix):
    state = {
        f"{prefix}bottleneck_layer.entropy_bottleneck._{kind}{n}": torch.tensor(float(n))
        for kind in ("matrix", "bias")
        for n in range(5)
    } | {f"{prefix}bottleneck_layer.entropy_bottleneck._quantized_cdf": torch.tensor([1])}
    found = current_names(state)
    assert set(found) == {
        f"{prefix}bottleneck_layer.entropy_bottleneck.{kind}.{n}"
        for kind in ("matrices", "biases")
        for n in range(5)
    } | {f"{prefix}bottleneck_layer.entropy_bottleneck._quantized_cdf"}
    assert found[f"{prefix}bottleneck_layer.entropy_bottleneck.biases.3"] == 3.0


@pytest.mark.parametrize("saved_updated", [False, True])
@pytest.mark.parametrize("loaded_updated", [False, True])
def test_checkpoint_of_either_kind_loads_into_a_model_of_either_kind(
    tmp_path, saved_updated, loaded_updated
):
    """With tables or without, into a model with other tables or without."""
    source, target = splittable(), splittable()
    with torch.no_grad():
        source.bottleneck_layer.entropy_bottleneck.quantiles.mul_(0.7)
        source.fc.weight.add_(1)
    if saved_updated:
        update_bottleneck(source)
    if loaded_updated:
        update_bottleneck(target)
    write_checkpoint(tmp_path / "a.pt", source, best_value=12.5)
    checkpoint = read_checkpoint(tmp_path / "a.pt", "test")
    assert checkpoint.best_value == 12.5
    load_into(target, checkpoint)
    assert is_updated(target) is saved_updated
    ours, theirs = target.state_dict(), source.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[n], theirs[n]) for n in ours)


def test_tables_of_a_checkpoint_are_used_as_they_are():
    source, target = splittable(), splittable()
    update_bottleneck(source)
    state = source.state_dict()
    table = "bottleneck_layer.entropy_bottleneck._quantized_cdf"
    state[table] = state[table].clone()
    state[table][0, 1] += 1  # no other machine would compute this one
    load_into(target, Checkpoint(Path("x.pt"), dict(state)))
    update_bottleneck(target)
    assert torch.equal(target.state_dict()[table], state[table])


def test_loading_is_strict():
    """sc2bench's own method takes a checkpoint that lacks half of the model."""
    model = splittable()
    state = dict(model.state_dict())
    kept = {n: t for n, t in state.items() if not n.startswith("layer3.")}
    with pytest.raises(CheckpointError, match=r"x.pt: made for another model: .*missing \(layer3"):
        load_into(model, Checkpoint(Path("x.pt"), kept))
    extra = state | {"layer5.weight": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"1 tensors unexpected \(layer5.weight\)"):
        load_into(model, Checkpoint(Path("x.pt"), extra))
    with pytest.raises(CheckpointError, match=r"another shape \(.*fc.weight \(4, 512\) instead"):
        load_into(model, Checkpoint(Path("x.pt"), dict(splittable(classes=4).state_dict())))


def test_a_refused_checkpoint_leaves_the_model_as_it_was():
    model = splittable()
    before = copy.deepcopy(model.state_dict())
    other = dict(splittable(channels=6).state_dict())
    with pytest.raises(CheckpointError, match=r"^x.pt: made for another model: "):
        load_into(model, Checkpoint(Path("x.pt"), other))
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())


def test_backbone_takes_a_classifiers_checkpoint_without_its_fc(tmp_path):
    source = splittable()
    update_bottleneck(source)
    write_checkpoint(tmp_path / "c.pt", source)
    section = {
        "key": "splittable_resnet",
        "kwargs": {
            "resnet_name": "resnet18",
            "num_classes": 3,
            "bottleneck_config": {
                "key": "FPBasedResNetBottleneck",
                "kwargs": {"num_bottleneck_channels": 4, "num_target_channels": 64},
            },
        },
        "src_ckpt": str(tmp_path / "c.pt"),
    }
    model = build_model(
        {
            "key": "deeplabv3_model",
            "kwargs": {
                "num_classes": 3,
                "num_input_channels": 512,
                "analyzable_layer_key": "bottleneck_layer",
                "backbone_config": section,
            },
        },
        "segmentation",
        "models.model",
    )
    assert torch.equal(model.backbone.layer4[0].conv1.weight, source.layer4[0].conv1.weight)
    assert "backbone.fc.weight" not in model.state_dict()
    assert is_updated(model)


def test_published_format_is_what_is_written(tmp_path):
    """The keys of torchdistill's save_ckpt, readable by torch.load alone."""
    args = argparse.Namespace(config="x.yaml", test_only=False)
    write_checkpoint(tmp_path / "a.pt", splittable(), best_value=1.0, args=args)
    content = torch.load(tmp_path / "a.pt")  # with its safe defaults
    assert set(content) == {"model", "optimizer", "best_value", "lr_scheduler", "args"}
    assert content["args"] == vars(args)
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"], "no temporary file stays"


def test_frozen_batch_norm_equals_batch_norm_in_eval_mode():
    model = splittable().eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-1, 1)
                module.running_var.uniform_(0.5, 2)
    images = torch.randn(1, 3, 64, 64)
    expected = model(images)
    frozen = freeze_batch_norm(model)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in frozen.modules())
    assert any(isinstance(m, FrozenBatchNorm2d) for m in frozen.modules())
    torch.testing.assert_close(frozen(images), expected, rtol=1e-4, atol=1e-4)
    assert not any("num_batches_tracked" in n for n in frozen.state_dict())


def test_unknown_model_is_a_config_error():
    with pytest.raises(ConfigError, match=r"^models\.x: "):
        build_model({"key": "resnet51", "kwargs": {}}, "classification", "models.x")


def test_coding_gives_what_sc2bench_gives_and_its_sizes():
    model = coded()
    images = torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        latent = encode_latent(model.bottleneck_layer.encoder, images)
        strings = model.bottleneck_layer.entropy_bottleneck.compress(latent)
        expected = model(images)
        with entropy_coding(model) as payloads:
            # rounding differs: the decoder runs image by image here
            torch.testing.assert_close(model(images), expected, rtol=1e-5, atol=1e-6)
            nbytes, kib = payloads.pop()
    assert nbytes == [len(s) for s in strings]
    assert kib == [published_size([s], latent.shape[-2:]) for s in strings]
    assert "encode" not in vars(model.bottleneck_layer), "the adapter is gone"


def test_published_size_of_an_empty_payload():
    """As measured on the published code: 103 bytes of overhead for an empty payload."""
    assert published_size([b""], torch.Size([103, 103])) * 1024 == 103


def test_all_modes_give_the_same_outputs():
    model = coded()
    images = torch.randn(2, 3, 64, 64) * 3
    found = {}
    with torch.inference_mode():
        for mode in MODES:
            with entropy_coding(model, mode) as payloads:
                found[mode] = (model(images), *payloads.pop())
    outputs, nbytes, kib = found["full"]
    assert torch.equal(found["encode"][0], outputs)
    assert found["encode"][1:] == (nbytes, kib)
    assert torch.equal(found["estimate"][0], outputs)
    for estimated, real in zip(found["estimate"][1], nbytes, strict=True):
        assert abs(estimated - real) <= 0.001 * real + 16


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_payloads_do_not_depend_on_the_batch(batch):
    model = coded(channels=24)
    images = torch.randn(5, 3, 96, 96)
    with torch.inference_mode():
        whole = encode_latent(model.bottleneck_layer.encoder, images)
        parts = [
            encode_latent(model.bottleneck_layer.encoder, part) for part in images.split(batch)
        ]
    assert torch.equal(whole, torch.cat(parts))


def test_a_model_without_bottleneck_is_left_alone():
    model = nn.Conv2d(3, 4, 3).eval()
    assert find_bottleneck(model) is None
    with entropy_coding(model) as payloads:
        model(torch.zeros(1, 3, 8, 8))
    assert payloads.pop() == ([], [])
    assert not update_bottleneck(model)


def test_bottleneck_shapes_are_the_papers():
    """As the paper has it: a 3x416x416 image -> latent Cx103x103 -> 256x104x104."""
    bottleneck = FPBasedResNetBottleneck(num_bottleneck_channels=2, num_target_channels=8)
    latent = bottleneck.encoder(torch.zeros(1, 3, 416, 416))
    assert latent.shape == (1, 2, 103, 103)
    assert bottleneck.decoder(latent).shape == (1, 8, 104, 104)
