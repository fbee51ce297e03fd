"""What is read from other people's and older libraries' checkpoints, and what is not."""

from __future__ import annotations

import copy
import logging
import math
import os
import re
from pathlib import Path

import pytest
import torch
import torchvision
from students import splittable, splittable_section
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torchvision.models import detection, mnasnet

from ladon.errors import CheckpointError, LadonError
from ladon.models import build_model, load_into, read_checkpoint, update_bottleneck
from ladon.models import write_checkpoint as write
from ladon.models.checkpoint import Checkpoint, current_names

BOTTLENECK = "bottleneck_layer.entropy_bottleneck."


def saved(path: Path, content: object) -> Checkpoint:
    torch.save(content, path)
    return read_checkpoint(path, "test")


def same(model: nn.Module, other: nn.Module) -> bool:
    ours, theirs = model.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)


# ---- the modules' own conversions -------------------------------------------------------------


@pytest.mark.parametrize("name", ["mnasnet0_5", "mnasnet1_0"])
def test_mnasnet_is_written_and_read_here_and_by_torchvision(tmp_path, name):
    make = getattr(torchvision.models, name)
    source, target, other = (make(num_classes=3) for _ in range(3))
    write(tmp_path / "a.pt", source)
    load_into(target, read_checkpoint(tmp_path / "a.pt", "test"))
    other.load_state_dict(torch.load(tmp_path / "a.pt")["model"])
    assert same(source, target)
    assert same(source, other)


def test_mnasnet_without_its_version_is_read_as_its_shapes_say(tmp_path):
    """As earlier versions of this project wrote it."""
    source, target = (torchvision.models.mnasnet0_5(num_classes=3) for _ in range(2))
    load_into(target, saved(tmp_path / "a.pt", {"model": dict(source.state_dict())}))
    assert same(source, target)
    assert target.state_dict()._metadata[""] == {"version": 2}
    with pytest.raises(CheckpointError, match="made for another model"):
        load_into(torchvision.models.mnasnet0_75(), read_checkpoint(tmp_path / "a.pt", "test"))


@pytest.mark.parametrize("says_it", [True, False])
def test_mnasnet_of_the_first_version_gets_its_stem(tmp_path, says_it):
    """Its stem had 32 channels whatever the width."""
    source = torchvision.models.mnasnet0_5(num_classes=3)
    wide = torchvision.models.mnasnet1_0(num_classes=3)
    for number in range(8):
        source.layers[number] = wide.layers[number]
    source.layers[8] = mnasnet._stack(16, mnasnet._get_depths(0.5)[2], 3, 2, 3, 3, 1e-4)
    state = source.state_dict()
    state._metadata[""]["version"] = 1
    target = torchvision.models.mnasnet0_5(num_classes=3)
    with pytest.warns(UserWarning, match="A new version of MNASNet"):
        load_into(target, saved(tmp_path / "a.pt", {"model": state if says_it else dict(state)}))
    assert same(target, source)


def old_detector(name: str) -> str:
    """torchvision < 0.13's names."""
    name = re.sub(r"fpn\.(inner|layer)_blocks\.(\d+)\.0\.", r"fpn.\1_blocks.\2.", name)
    name = re.sub(r"(cls|reg|classification_head|regression_head)(.*)\.conv\.(\d)\.0\.",
                  lambda m: f"{m[1]}{m[2]}.conv.{2 * int(m[3])}.", name)  # fmt: skip
    return name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")


def old_mask(name: str) -> str:
    name = old_detector(name)
    return re.sub(r"mask_head\.(\d)\.0\.", lambda m: f"mask_head.mask_fcn{int(m[1]) + 1}.", name)


def old_vit(name: str) -> str:
    return name.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2.")


def vit(**kwargs):
    return torchvision.models.VisionTransformer(32, 16, 2, 2, 16, 32, **kwargs)


none = {"weights": None, "weights_backbone": None}
OLD = {
    "faster R-CNN": (
        lambda: detection.fasterrcnn_mobilenet_v3_large_320_fpn(**none, num_classes=5),
        old_detector,
    ),
    "RetinaNet": (lambda: detection.retinanet_resnet50_fpn(**none, num_classes=5), old_detector),
    "Mask R-CNN": (lambda: detection.maskrcnn_resnet50_fpn(**none, num_classes=5), old_mask),
    "ViT": (lambda: vit(num_classes=3), old_vit),
}


@pytest.mark.parametrize("kind", OLD)
def test_names_of_older_torchvisions_are_converted(tmp_path, kind, caplog):
    make, rename = OLD[kind]
    source, target = make(), make()
    state = {rename(n): t for n, t in source.state_dict().items()}
    assert state.keys() != source.state_dict().keys()
    caplog.set_level(logging.INFO)
    load_into(target, saved(tmp_path / "a.pt", {"model": state}))
    assert same(source, target)
    assert "tensors of an older library converted" in caplog.text


@pytest.mark.parametrize("kind", ["faster R-CNN", "ViT"])
def test_what_is_left_after_a_conversion_is_judged_strictly(tmp_path, kind):
    make, rename = OLD[kind]
    target = make()
    before = copy.deepcopy(target.state_dict())
    state = {rename(n): t for n, t in make().state_dict().items()}
    gone = next(n for n in state if n not in before)
    kept = {n: t for n, t in state.items() if n != gone} | {"more.weight": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"1 tensors missing .*1 tensors unexpected \(more"):
        load_into(target, saved(tmp_path / "a.pt", {"model": kept}))
    wrong = state | {gone: torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"1 tensors of another shape \(.* \(1,\) instead of"):
        load_into(target, saved(tmp_path / "a.pt", {"model": wrong}))
    assert all(torch.equal(before[n], t) for n, t in target.state_dict().items())


# ---- where the weights are --------------------------------------------------------------------


@pytest.mark.parametrize(
    "place", ["state_dict", "model_state_dict", "model_ema", "ema", "net", "state_dict_ema"]
)
def test_weights_under_other_keys_are_read_and_said(tmp_path, place, caplog):
    caplog.set_level(logging.INFO)
    source, target = nn.Linear(2, 3), nn.Linear(2, 3)
    content = {place: source.state_dict(), "epoch": 3, "args": {"lr": 0.1}}
    load_into(target, saved(tmp_path / "a.pt", content))
    assert same(source, target)
    assert f"weights taken from '{place}'" in caplog.text
    nested = {place: {"module": source.state_dict(), "decay": 0.9}}
    assert list(saved(tmp_path / "b.pt", nested).model) == ["weight", "bias"]


def test_weights_that_are_ambiguous_or_elsewhere_are_named(tmp_path):
    state = nn.Linear(2, 3).state_dict()
    with pytest.raises(
        CheckpointError, match=r"several sets of weights \(state_dict, ema\); .*KEY"
    ):
        saved(tmp_path / "a.pt", {"ema": state, "state_dict": state, "epoch": 1})
    with pytest.raises(CheckpointError, match=r"tensors by name under generator: .*--weights KEY"):
        saved(tmp_path / "a.pt", {"generator": state, "epoch": 1})
    assert read_checkpoint(tmp_path / "a.pt", "test", "generator").model.keys() == state.keys()
    with pytest.raises(CheckpointError, match=r"holds no model: .*found: epoch, lr"):
        saved(tmp_path / "a.pt", {"epoch": 1, "lr": 0.1})


@pytest.mark.parametrize(
    "wrap",
    [
        lambda m: {f"module.{n}": t for n, t in m.state_dict().items()},
        lambda m: {f"_orig_mod.{n}": t for n, t in m.state_dict().items()},
        lambda m: {f"model.{n}": t for n, t in m.state_dict().items()},
        lambda m: {f"module._orig_mod.{n}": t for n, t in m.state_dict().items()},
        lambda m: {f"model.module.{n}": t for n, t in m.state_dict().items()},
        lambda m: {n.replace("layer2.", "layer2._orig_mod."): t for n, t in m.state_dict().items()},
        lambda m: AveragedModel(m).state_dict(),
        lambda m: nn.DataParallel(m).state_dict(),
    ],
)
def test_wrappers_names_are_taken_away(tmp_path, wrap):
    source, target = splittable(), splittable()
    with torch.no_grad():
        source.fc.weight.add_(1)
    load_into(target, saved(tmp_path / "a.pt", {"state_dict": wrap(source)}))
    assert same(source, target)


def test_a_model_that_is_called_so_keeps_its_names(tmp_path):
    for wrapper in (nn.ModuleDict({"model": nn.Linear(2, 3)}), nn.DataParallel(nn.Linear(2, 3))):
        target = copy.deepcopy(wrapper)
        with torch.no_grad():
            next(target.parameters()).zero_()
        load_into(target, saved(tmp_path / "a.pt", wrapper.state_dict()))
        assert same(wrapper, target)


def test_a_prefix_of_some_names_only_stays():
    state = {"module.a": torch.zeros(1), "b": torch.zeros(1), "n_averaged": torch.zeros(1)}
    assert current_names(state).keys() == state.keys()


def test_versions_of_wrapped_modules_come_along():
    state = nn.DataParallel(nn.Sequential(nn.BatchNorm2d(2))).state_dict()
    assert current_names(state)._metadata == nn.Sequential(nn.BatchNorm2d(2)).state_dict()._metadata


# ---- tables, quantiles, finite numbers ---------------------------------------------------------


def with_tables():
    model = splittable()
    update_bottleneck(model)
    return model, {n: t.clone() for n, t in model.state_dict().items()}


@pytest.mark.parametrize(
    ("table", "change", "expected"),
    [
        ("_quantized_cdf", lambda t: t[:2], "_quantized_cdf is for 2 channels, the latent has 4"),
        ("_quantized_cdf", lambda t: t[:, :2], "channel 0 is not a cumulative distribution"),
        ("_quantized_cdf", lambda t: t.float(), "_quantized_cdf holds torch.float32, not whole"),
        ("_quantized_cdf", lambda t: t.flip(1), "channel 0 is not a cumulative distribution"),
        ("_quantized_cdf", lambda t: t.long() + (1 << 32), "channel 0 is not a cumulative"),
        ("_quantized_cdf", lambda t: t[:0], r"tables are missing \(_quantized_cdf\)"),
        ("_cdf_length", lambda t: t[:3], "_cdf_length is for 3 channels"),
        ("_cdf_length", lambda t: t * 0 + 9999, "channel 0 is not a cumulative distribution"),
        ("_cdf_length", lambda t: -t, "channel 0 is not a cumulative distribution"),
        ("_offset", lambda t: torch.cat([t, t]), "_offset is for 8 channels"),
        ("_offset", lambda t: t.bool(), "_offset holds torch.bool"),
        ("_offset", lambda t: t[:, None], "tables are of odd shape"),
    ],
)
def test_damaged_tables_are_named_with_their_file(tmp_path, table, change, expected):
    model, state = with_tables()
    before = copy.deepcopy(model.state_dict())
    state[BOTTLENECK + table] = change(state[BOTTLENECK + table])
    with pytest.raises(CheckpointError, match=expected) as caught:
        load_into(model, saved(tmp_path / "a.pt", {"model": state}))
    assert str(caught.value).startswith(f"{tmp_path / 'a.pt'}: {BOTTLENECK[:-1]}: CDF table")
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((-math.inf, 0, 1), "quantiles holds 1 of 12 numbers that are not finite"),
        ((-1, math.nan, 1), "quantiles holds 1 of 12 numbers that are not finite"),
        ((-1e9, 0, 1e9), r"quantiles of channel 2 \(-1e\+09, 0, 1e\+09\) are none that a CDF"),
        ((0, 0, 70_000), "quantiles of channel 2 "),
        ((1e30, 1e30, 1e30), "quantiles of channel 2 "),
        ((80_000, 0, 80_000), "quantiles of channel 2 "),
    ],
)
def test_quantiles_of_which_no_table_can_be_are_refused(tmp_path, values, expected):
    """`update()` would take gigabytes for them."""
    model = splittable()
    state = {n: t.clone() for n, t in model.state_dict().items()}
    state[f"{BOTTLENECK}quantiles"][2, 0] = torch.tensor(values)
    with pytest.raises(CheckpointError, match=expected) as caught:
        load_into(model, saved(tmp_path / "a.pt", {"model": state}))
    assert str(tmp_path / "a.pt") in str(caught.value)


@pytest.mark.parametrize("values", [(-1, math.nan, 1), (-1e9, 0, 1e9), (0, 0, 70_000)])
def test_a_training_that_spoilt_its_quantiles_gets_no_tables(values):
    model = splittable()
    bottleneck = model.bottleneck_layer.entropy_bottleneck
    bottleneck.quantiles.data[2, 0] = torch.tensor(values)
    with pytest.raises(CheckpointError, match="quantiles of channel 2 "):
        update_bottleneck(model)
    assert bottleneck._offset.numel() == 0


@pytest.mark.parametrize(
    ("tensor", "value", "expected"),
    [
        ("fc.weight", math.nan, "fc.weight holds 1 of 1,536 numbers that are not finite"),
        ("layer3.0.conv1.weight", math.inf, "layer3.0.conv1.weight holds 1 of 294,912 numbers"),
        ("layer2.0.bn1.running_mean", -math.inf, "layer2.0.bn1.running_mean holds 1 of 128"),
        (
            "layer4.1.bn2.running_var",
            -0.5,
            r"layer4.1.bn2.running_var holds a negative variance \(-0.5\)",
        ),
    ],
)
def test_weights_that_are_not_finite_are_refused(tmp_path, tensor, value, expected):
    model = splittable()
    before = copy.deepcopy(model.state_dict())
    state = {n: t.clone() for n, t in model.state_dict().items()}
    state[tensor].view(-1)[1] = value
    with pytest.raises(CheckpointError, match=expected) as caught:
        load_into(model, saved(tmp_path / "a.pt", {"model": state}))
    assert str(caught.value).startswith(f"{tmp_path / 'a.pt'}: damaged weights: ")
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    nn.Module.load_state_dict(model, state)
    with pytest.raises(LadonError, match=f"b.pt is not written: {expected}") as caught:
        write(tmp_path / "b.pt", model, best_value=1.0)
    assert caught.value.exit_code == 1
    assert not (tmp_path / "b.pt").exists()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_numbers_of_every_precision_are_looked_at(tmp_path, dtype):
    model = nn.Linear(2, 3).to(dtype)
    state = {n: t.clone() for n, t in model.state_dict().items()}
    state["bias"][2] = math.nan
    with pytest.raises(CheckpointError, match="bias holds 1 of 3 numbers"):
        load_into(model, saved(tmp_path / "a.pt", state))


def test_a_mask_of_infinities_is_no_damage(tmp_path):
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mask", torch.tensor([0.0, -math.inf]))

    load_into(Masked(), saved(tmp_path / "a.pt", Masked().state_dict()))


def test_original_weights_are_looked_at_too(tmp_path):
    """Those that a splittable model takes from the network it was cut out of."""
    source = torchvision.models.resnet18(num_classes=3)
    section = splittable_section(org_model_ckpt_file_path_or_url=str(tmp_path / "a.pt"))
    torch.save(source.state_dict(), tmp_path / "a.pt")
    built = build_model(section, "classification", "x")
    assert torch.equal(built.fc.weight, source.fc.weight)
    for change, expected in (
        (lambda t: t * math.nan, "fc.weight holds 1,536 of 1,536"),
        (lambda t: t[:2], r"made for another model: fc.weight \(2, 512\) instead of \(3, 512\)"),
    ):
        state = source.state_dict()
        state["fc.weight"] = change(state["fc.weight"])
        torch.save(state, tmp_path / "a.pt")
        with pytest.raises(CheckpointError, match=expected):
            build_model(section, "classification", "x")


# ---- writing ----------------------------------------------------------------------------------


def test_a_checkpoint_is_on_the_disk_before_the_old_one_goes(tmp_path, monkeypatch):
    steps = []
    for name in ("fsync", "replace"):
        original = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *a, name=name, original=original: (steps.append(name), original(*a))[1]
        )
    write(tmp_path / "a.pt", nn.Linear(2, 2))
    assert steps == ["fsync", "replace", "fsync"]
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


def test_what_training_writes_needs_no_allow_list(tmp_path):
    import argparse

    import numpy as np

    args = argparse.Namespace(lr=np.float32(0.5), path=Path("x"), device=torch.device("cpu"), n=[1])
    write(
        tmp_path / "a.pt", nn.Linear(2, 2), args=args, best_value=np.float64(3), classes=["a", "b"]
    )
    content = torch.load(tmp_path / "a.pt")
    assert content["args"] == {"lr": 0.5, "path": "x", "device": "cpu", "n": [1]}
    assert content["classes"] == ["a", "b"]
    assert type(content["best_value"]) is float
    assert read_checkpoint(tmp_path / "a.pt", "test").classes == ["a", "b"]
