"""Other students and teachers by YAML only: members of the ResNet family, a teacher of timm's."""

from __future__ import annotations

import json
import re

import pytest
import timm
import torch

from ladon.commands.validate import main as validate
from ladon.models.checkpoint import read_checkpoint

STUDENT = "models__student_model"
TIMMS = ["conv1", "bn1", "act1", "maxpool", "layer1", "layer2", "layer3", "layer4"]


def config_of(lab, student, teacher, **values):
    """The shipped recipe for digit scenes with another student and teacher, of random weights."""
    bottleneck = {"key": "FPBasedResNetBottleneck", "kwargs": {"num_bottleneck_channels": 4}}
    kwargs = {
        "_delete_": True,
        "resnet_name": student,
        "num_classes": 10,
        "bottleneck_config": bottleneck,
        "skips_avgpool": False,
        "skips_fc": False,
    }
    weights = {"models__teacher_model__src_ckpt": str(lab.folder / "timm.pt")}
    settings = {f"{STUDENT}__kwargs": kwargs, "models__teacher_model__key": teacher, **weights}
    return lab.config("classification", name=f"{student}_from", **settings | values)


def timms(*paths):
    return {"train__stage1__teacher__sequential": list(paths)}


def dry_run(lab, config, capsys):
    capsys.readouterr()
    code = lab.run("classification", "--dry_run", config=config)
    return code, capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ("resnet18", "resnet34"),
        ("resnet34", "timm.models.resnet34"),
        ("resnet101", "timm.models.resnet50"),
    ],
)
def test_a_students_channels_follow_from_its_name(own_lab, capsys, student, teacher):
    """The bottleneck is not told what to deliver; the teacher's parts have its library's names."""
    paths = timms(*TIMMS) if teacher.startswith("timm.") else {}
    config = config_of(own_lab, student, teacher, **paths)
    assert validate([str(config)]) == 0, capsys.readouterr().out
    code, line = dry_run(own_lab, config, capsys)
    assert code == 0, line
    assert "nothing wrong with" in line


def test_a_part_of_another_librarys_name_is_refused_with_those_there_are(own_lab, capsys):
    config = config_of(own_lab, "resnet34", "timm.models.resnet34")
    expected = (
        "train.stage1.teacher.sequential.2: the model has no module 'relu' (it has conv1, bn1, "
        "act1, maxpool, layer1, layer2, layer3, layer4, global_pool, fc)"
    )
    assert validate([str(config)]) == 2
    assert expected in capsys.readouterr().out
    code, line = dry_run(own_lab, config, capsys)
    assert code == 2
    assert expected in line


def test_features_of_other_widths_are_named_with_both_shapes(own_lab, capsys):
    config = config_of(own_lab, "resnet34", "resnet50")
    code, line = dry_run(own_lab, config, capsys)
    assert code == 2
    found = re.search(
        r"train\.stage1 in .*does not fit in the criterion's term (.*): Runtime", line
    )
    assert found, line
    assert found[1] == (
        "'layer1' (MSELoss), which compares the output of the student's 'bottleneck_layer' "
        "[2, 64, 32, 32] with the output of the teacher's 'layer1' [2, 256, 32, 32]"
    )


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ("timm.models.resnet3", 'module timm.models has no "resnet3"; did you mean "resnet34"?'),
        ("resnet34.a1_in1k", "timm.models.resnet34, kwargs: {pretrained_cfg: a1_in1k"),
    ],
)
def test_a_misspelt_teacher_is_refused(own_lab, capsys, teacher, message):
    config = config_of(own_lab, "resnet34", teacher)
    assert validate([str(config)]) == 2
    assert message in capsys.readouterr().out


def test_a_timm_teacher_trains_a_student_with_an_own_loss(own_lab, tmp_path):
    """Its file's weights teach, and are the student's body too; the loss lies beside the config."""
    torch.manual_seed(0)
    plain = timm.create_model("resnet34", num_classes=10)
    torch.save({"model": plain.state_dict()}, own_lab.folder / "timm.pt")
    (own_lab.folder / "configs").mkdir(exist_ok=True)
    (own_lab.folder / "configs" / "beside_it.py").write_text(
        "from torch import nn\n\n\nclass Absolute(nn.Module):\n"
        "    def forward(self, input, target):\n        return (input - target).abs().mean()\n"
    )
    weights = {f"{STUDENT}__kwargs__org_model_ckpt_file_path_or_url": "${own}"}
    config = config_of(
        own_lab,
        "resnet34",
        "timm.models.resnet34",
        own=str(own_lab.folder / "timm.pt"),
        train__stage1__criterion__kwargs__sub_terms__layer1__criterion={
            "_delete_": True,
            "key": "beside_it.Absolute",
        },
        **timms(*TIMMS),
        **weights,
    )
    assert own_lab.run("classification", config=config) == 0
    found = json.loads((own_lab.folder / "logs" / config.stem / "metrics.json").read_text())
    assert found["models"]["student"]["payload_bytes"]["mean"] > 0
    assert found["models"]["teacher"]["metrics"]["acc1"] >= 0
    state = read_checkpoint(own_lab.checkpoint("classification"), "here").model
    # frozen in stage 1 and trained in stage 2: near what the file held
    near = state["layer2.0.conv1.weight"] - plain.state_dict()["layer2.0.conv1.weight"]
    assert near.abs().max() < 0.2 * plain.layer2[0].conv1.weight.abs().max()
