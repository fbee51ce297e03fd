"""What validate.py and a dry run find by building models without weights, with file and line."""

from __future__ import annotations

import pytest
import torch
from data_config.helpers import GOOD, load, write
from refusals import edited, line_of

from ladon.commands import validate
from ladon.config import load_config
from ladon.engine.hooked import HookedModel
from ladon.engine.module_paths import PlacedSection, find_module
from ladon.engine.precheck import Precheck
from ladon.models.build import build_model
from ladon.models.meta_device import on_meta_device

STAGE1 = "train.stage1"


def found(*assignments):
    return Precheck().check(load_config(GOOD, assignments=assignments))


def test_a_sound_config():
    assert found() == []


@pytest.mark.parametrize(
    ("assignment", "key", "text"),
    [
        (
            "student.frozen_modules=[layer2, layer5]",
            "student.frozen_modules.1",
            "the model has no module 'layer5'; did you mean \"layer4\"?",
        ),
        (
            "student.forward_hook.output.0=bottleneck_layr",
            "student.forward_hook.output.0",
            "the model has no module 'bottleneck_layr'; did you mean \"bottleneck_layer\"?",
        ),
        (
            "teacher.forward_hook.input=[layer2.0.conv9]",
            "teacher.forward_hook.input.0",
            "the model has no module 'layer2.0.conv9'; did you mean \"layer2.0.conv",
        ),
        (
            "teacher.sequential=[conv1, nothing_like_it]",
            "teacher.sequential.1",
            "the model has no module 'nothing_like_it'",
        ),
        (
            "student.frozen_modules=[training]",  # an attribute, but no module
            "student.frozen_modules.0",
            "the model has no module 'training'",
        ),
        (
            "student.frozen_modules=[instance(BatchNorm9d)]",
            "student.frozen_modules.0",
            "torch.nn has no class 'BatchNorm9d'; did you mean \"BatchNorm",
        ),
        (
            "optimizer.module_wise_configs.0.module=bottleneck",
            "optimizer.module_wise_configs.0.module",
            "the model has no module 'bottleneck'",
        ),
        (
            "student.sequential=[layer2]",
            "optimizer.module_wise_configs.0.module",
            "'bottleneck_layer' is not in the student's sequential (layer2)",
        ),
    ],
)
def test_one_path_that_leads_nowhere(assignment, key, text):
    (problem,) = found(f"{STAGE1}.{assignment}")
    place, _, rest = problem.partition(": ")
    assert place.startswith(("--set", str(GOOD)))
    assert rest.startswith(f"{STAGE1}.{key}: {text}")


@pytest.mark.parametrize(
    "assignment",
    [
        f"{STAGE1}.student.frozen_modules=[instance(BatchNorm2d), layer2.0.conv1, layer3.-1]",
        f"{STAGE1}.student.frozen_modules=[]",
        f"{STAGE1}.optimizer.module_wise_configs.0.module=layer4.0.conv1.weight",
        "models.teacher_model.key=my_own_model",
        "models.teacher_model.repo_or_dir=x/y",
        "models.student_model.kwargs.norm_layer=!import_call {key: os.abort}",
        "train=null",
    ],
)
def test_what_is_accepted_or_left_to_a_dry_run(assignment):
    assert found(assignment) == []


def test_a_teacher_without_weights(tmp_path):
    path = write(tmp_path, GOOD.read_text())
    line = line_of(path, "  teacher_model:")
    model = "models.teacher_model"
    none = [f"{model}.kwargs={{num_classes: 5}}", f"{model}.src_ckpt="]
    assert Precheck().check(load_config(path, assignments=none)) == [
        f"{path}:{line}: {model}: neither src_ckpt nor pretrained weights: random weights are no "
        "teacher"
    ]
    for given in ("src_ckpt=x.pt", "kwargs.pretrained=true", "kwargs.weights=DEFAULT"):
        config = load_config(path, assignments=[*none, f"{model}.{given}"])
        assert Precheck().check(config) == []


def test_file_and_line_are_those_of_the_path(tmp_path, capsys):
    path = write(tmp_path, GOOD.read_text())
    edited(path, "frozen_modules: ['layer2']", "frozen_modules:\n      - layer3\n      - layer9")
    assert validate.main([str(path)]) == 2
    first, count = capsys.readouterr().out.splitlines()
    line = line_of(path, "- layer9")
    expected = f"{path}:{line}: {STAGE1}.student.frozen_modules.1: the model has no module 'layer9'"
    assert first.startswith(expected), "anchored in stage 2, too, but listed once"
    assert count == "1 file checked, 1 problem"


def test_each_architecture_is_built_once(monkeypatch):
    built = []

    def build(section, *args, **kwargs):
        built.append(section["key"])
        return build_model(section, *args, **kwargs)

    monkeypatch.setattr("ladon.engine.precheck.build_model", build)
    precheck = Precheck()
    for beta in ("0.32", "1.28", "5.12"):
        assert precheck.check(load_config(GOOD, assignments=[f"beta={beta}"])) == []
    assert built == ["resnet50", "splittable_resnet"]


def test_a_stage_s_model_names_file_and_line(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(1, 1))
    config = load(tmp_path, "train:\n  student:\n    frozen_modules: ['0', body]")
    section = PlacedSection(config, "train.student", config.section("train.student"))
    with pytest.raises(Exception, match=r"c\.yaml:3: train\.student\.frozen_modules\.1: the model"):
        HookedModel(model, section, "student", torch.device("cpu"))
    assert find_module(model, "0.weight") is model[0].weight
    assert find_module(model, "-1") is model[0]
    assert find_module(model, "1") is find_module(model, "x") is None


def test_models_on_the_meta_device_draw_nothing():
    state = torch.get_rng_state()
    with on_meta_device():
        weight = torch.nn.init.kaiming_normal_(torch.empty(3, 4))
        assert weight.is_meta
        assert torch.empty(5).uniform_(1, 2).shape == (5,)
        real = torch.empty(1000, device="cpu").normal_()
    assert torch.isfinite(real).all()
    assert real.std() > 0.5, "what has memory is filled"
    torch.set_rng_state(state)
