"""A ConvNeXt and a user's own family on digit scenes, by YAML only, through the scripts."""

from __future__ import annotations

import json

import torch
from backbone_lab import BackboneLab, Network

from ladon.commands import checkpoint as checkpoint_tool
from ladon.commands import report
from ladon.models.checkpoint import read_checkpoint

CONVNEXT = Network(
    module="small_convnext",
    member="convnext_small_digits",
    key="splittable_convnext",
    argument="convnext_name",
    channels=(16, 24, 32, 40),
    paths=tuple(f"features.{n}" for n in (1, 3, 5, 7)),
    whole=("features",),
)
REGNET = Network(
    module="regnet_family",
    member="regnet_y_400mf",
    key="splittable_torchvision_regnet",
    argument="regnet_name",
    channels=(48, 104, 208, 440),
    paths=tuple(f"trunk_output.block{n}" for n in (1, 2, 3, 4)),
    whole=("stem", "trunk_output"),
)


def inspected(path, capsys):
    capsys.readouterr()
    assert checkpoint_tool.main(["inspect", str(path), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def trained(lab, *families):
    for family in families:
        assert lab.lab.run(family, config=lab.config(family), log=family) == 0, family


def test_a_convnext_is_a_student_in_all_tasks_and_a_body_for_three_heads(own_lab, tmp_path, capsys):
    logs = str(own_lab.folder / "logs" / "classification")
    lab = BackboneLab(own_lab, CONVNEXT)
    trained(lab, "teacher", "classification", "detection", "segmentation")
    body = read_checkpoint(own_lab.checkpoint("classification"), "test").model
    prefixes = {"classification": "", "detection": "backbone.body.", "segmentation": "backbone."}
    for family, prefix in prefixes.items():
        found = own_lab.metrics(family)
        assert found["backbone"] == "convnext_small_digits"
        assert found["models"]["student"]["payload_bytes"]["n"] == 12
        assert found["models"]["student"]["payload_bytes"]["mean"] > 0
        told = inspected(own_lab.checkpoint(family), capsys)
        assert (told["task"], told["backbone"]) == (family, "convnext_small_digits")
        assert told["num_classes"] == (10 if family == "classification" else 11)
        assert (told["channels"], told["updated"]) == (8, True)
        state = read_checkpoint(own_lab.checkpoint(family), "test").model
        shared = [name for name in body if prefix + name in state]
        assert any(name.startswith("stage4.1.") for name in shared)
        assert all(torch.equal(body[name], state[prefix + name]) for name in shared)

    flags = ("-test_only", "-student_only")
    assert own_lab.run("teacher", *flags, config=lab.three_headed(), log="ladon") == 0
    three, one = own_lab.metrics("ladon"), own_lab.metrics("classification")
    assert three["backbone"] == "convnext_small_digits"
    assert three["models"]["student"]["payload_bytes"] == one["models"]["student"]["payload_bytes"]
    assert three["models"]["student"]["metrics"] == one["models"]["student"]["metrics"]

    capsys.readouterr()
    assert report.main([logs, "--out", str(tmp_path / "report")]) == 0
    shown = capsys.readouterr().out
    assert "│ ConvNeXt-D (teacher) │" in shown
    assert "│ ConvNeXt-D           │ 0.32 │" in shown


def test_a_family_of_a_users_own_is_one_file(own_lab, tmp_path, capsys):
    logs = str(own_lab.folder / "logs" / "classification")
    lab = BackboneLab(own_lab, REGNET)
    trained(lab, "teacher", "classification")
    found = own_lab.metrics("classification")
    assert found["backbone"] == "regnet_y_400mf"
    assert found["models"]["student"]["payload_bytes"]["n"] == 12
    told = inspected(own_lab.checkpoint("classification"), capsys)
    assert (told["task"], told["backbone"]) == ("classification", "regnet_y_400mf")
    assert told["num_classes"] == 10
    assert "[Student: splittable_torchvision_regnet]" in own_lab.log("classification")
    assert report.main([logs, "--out", str(tmp_path / "report")]) == 0
    assert "│ RegNetY-400MF           │ 0.32 │" in capsys.readouterr().out
