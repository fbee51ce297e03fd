"""`scripts/checkpoint.py`: what a checkpoint holds, and the current format of an old one."""

from __future__ import annotations

import argparse
import json

import numpy as np
import pytest
import torch
from layouts import names_of_2022
from three_heads import single_models
from torchvision.ops.misc import FrozenBatchNorm2d

from ladon.commands import checkpoint as tool
from ladon.models import build_model, read_checkpoint, update_bottleneck, write_checkpoint
from ladon.models.build import freeze_batch_norm

NAME = "coco2017-splittable_resnet18-fp-beta10.24_fpn.pt"


def inspected(path, capsys):
    assert tool.main(["inspect", str(path), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("head", ["classification", "detection", "segmentation"])
def test_inspect_tells_task_backbone_channels_and_beta(tmp_path, capsys, head):
    model = single_models()[head]
    path = tmp_path / NAME
    write_checkpoint(path, model, best_value=0.25, args=argparse.Namespace(config="x.yaml"))
    found = inspected(path, capsys)
    assert found["task"] == head
    assert found["backbone"] == "resnet18"
    assert found["channels"] == 4
    assert found["beta"] == 10.24
    assert found["updated"] is True
    assert found["best_value"] == 0.25
    assert found["num_tensors"] == len(model.state_dict())
    assert found["names"] == "today's"
    assert found["num_bytes"] == path.stat().st_size
    assert tool.main(["inspect", str(path)]) == 0
    assert "backbone    resnet18" in capsys.readouterr().out


def test_inspect_of_a_teacher(tmp_path, capsys):
    model = build_model({"key": "resnet50", "kwargs": {"num_classes": 7}}, "classification", "x")
    torch.save(model.state_dict(), tmp_path / "r.pth")
    found = inspected(tmp_path / "r.pth", capsys)
    assert found["kind"] == "model without bottleneck, weights"
    assert (found["backbone"], found["channels"], found["updated"]) == ("resnet50", None, None)


def test_inspect_knows_resnest(tmp_path, capsys):
    section = {
        "key": "splittable_resnest",
        "kwargs": {
            "resnest_name": "resnest14d",
            "num_classes": 3,
            "inplanes": 2048,
            "bottleneck_config": {"key": "FPBasedResNetBottleneck", "kwargs": {}},
        },
    }
    model = freeze_batch_norm(build_model(section, "classification", "x"))
    write_checkpoint(tmp_path / "n.pt", model)
    found = inspected(tmp_path / "n.pt", capsys)
    assert (found["backbone"], found["updated"]) == ("resnest14d", False)


def test_convert_writes_the_current_format(tmp_path, capsys):
    model = single_models()["detection"]
    update_bottleneck(model)
    old = tmp_path / NAME
    content = {
        "model": names_of_2022(model.state_dict()),
        "optimizer": None,
        "best_value": np.float64(0.428),
        "lr_scheduler": None,
        "args": argparse.Namespace(config="c.yaml", norm=FrozenBatchNorm2d, n=np.int64(3)),
    }
    torch.save(content, old)
    assert inspected(old, capsys)["names"] == "compressai < 1.2.7 (2022)"
    new = tmp_path / "new.pt"
    assert tool.main(["convert", str(old), str(new)]) == 0
    capsys.readouterr()
    assert inspected(new, capsys)["names"] == "today's"
    loaded = torch.load(new)  # with its safe defaults
    assert loaded["best_value"] == 0.428
    assert type(loaded["best_value"]) is float
    assert loaded["args"]["n"] == 3
    assert "FrozenBatchNorm2d" in loaded["args"]["norm"]
    state = model.state_dict()
    assert all(torch.equal(state[n], t) for n, t in read_checkpoint(new, "x").model.items())
    assert tool.main(["convert", str(old), str(new)]) == 2, "never overwrites"


@pytest.mark.parametrize(
    ("head", "last"),
    [
        ("classification", "fc.bias"),
        ("detection", "roi_heads.box_predictor.cls_score.bias"),
        ("segmentation", "classifier.4.bias"),
    ],
)
def test_what_is_converted_says_what_it_is(tmp_path, capsys, head, last):
    model = single_models()[head]
    num_classes = len(model.state_dict()[last])
    path, new = tmp_path / NAME, tmp_path / "renamed.pt"
    names = [f"class {n}" for n in range(num_classes)]
    optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1}]}
    write_checkpoint(
        path, model, optimizer=optimizer, best_value=np.float32(0.5), classes=names,
        args=argparse.Namespace(config="x.yaml", device=torch.device("cpu")),
    )  # fmt: skip
    torch.load(path)  # the training's own file needs no allow-list either
    assert tool.main(["convert", str(path), str(new)]) == 0
    loaded = torch.load(new)
    assert {k: v for k, v in loaded.items() if k != "model"} == {
        "optimizer": None,
        "lr_scheduler": None,
        "best_value": 0.5,
        "args": {"config": "x.yaml", "device": "cpu"},
        "beta": 10.24,
        "task": head,
        "num_classes": num_classes,
        "classes": names,
    }
    assert loaded["model"]._metadata == model.state_dict()._metadata
    capsys.readouterr()
    told = inspected(new, capsys)
    assert (told["beta"], told["task"], told["classes"]) == (10.24, head, names)
    assert tool.main(["convert", str(path), str(tmp_path / "o.pt"), "--with_optimizer"]) == 0
    assert torch.load(tmp_path / "o.pt")["optimizer"] == optimizer


def test_one_of_several_weights_is_chosen(tmp_path, capsys):
    ours, averaged = {"fc.bias": torch.zeros(3)}, {"fc.bias": torch.ones(3)}
    torch.save({"model": ours, "model_ema": averaged}, tmp_path / "a.pt")
    assert tool.main(["inspect", str(tmp_path / "a.pt")]) == 2
    error = capsys.readouterr().err
    assert "holds several sets of weights (model, model_ema); write the ones you mean" in error
    for key, value in (("model", 0), ("model_ema", 1)):
        out = tmp_path / f"{key}.pt"
        assert tool.main(["convert", str(tmp_path / "a.pt"), str(out), "--weights", key]) == 0
        assert torch.load(out)["model"]["fc.bias"].tolist() == [value] * 3
    arguments = ["convert", str(tmp_path / "a.pt"), str(tmp_path / "b.pt"), "--weights", "best"]
    assert tool.main(arguments) == 2
    assert "no tensors by name under 'best'; there are some under: model, model_ema" in (
        capsys.readouterr().err
    )


def test_old_training_files_are_converted_with_their_arguments(tmp_path):
    """argparse's Namespace is what published files and ours of before hold."""
    content = {
        "model": {"module.fc.bias": torch.zeros(3)},
        "args": argparse.Namespace(config="a-beta0.32.yaml"),
    }
    torch.save(content, tmp_path / "a.pt")
    assert tool.main(["convert", str(tmp_path / "a.pt"), str(tmp_path / "b.pt")]) == 0
    loaded = torch.load(tmp_path / "b.pt")
    assert (loaded["beta"], loaded["args"]) == (0.32, {"config": "a-beta0.32.yaml"})
    assert list(loaded["model"]) == ["fc.bias"]


def test_nothing_is_executed(tmp_path, capsys):
    class Runs:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"model": {"a": torch.zeros(1)}, "args": Runs()}, tmp_path / "bad.pt")
    for command in (["inspect"], ["convert"]):
        arguments = [
            *command,
            str(tmp_path / "bad.pt"),
            *([str(tmp_path / "o.pt")] * (command == ["convert"])),
        ]
        assert tool.main(arguments) == 2
        assert capsys.readouterr().err.startswith("error: ")
    assert not (tmp_path / "ran").exists()
    assert tool.main(["inspect", str(tmp_path / "none.pt")]) == 2
