"""A stage's criterion: a user's own losses count as those of the libraries do."""

from __future__ import annotations

import own_losses
import pytest
import torch
from stages import CPU, batches, make_models, train_config
from torch import nn

from ladon.config.validate.registries import enter, load_libraries
from ladon.engine.criterion import build_criterion, described, terms_of
from ladon.engine.stage import Stage
from ladon.errors import ConfigError

DEVICE = torch.device("cpu")
WRAPPER = {
    "key": "SimpleLossWrapper",
    "kwargs": {
        "input": {"is_from_teacher": False, "module_path": ".", "io": "output"},
        "target": {"is_from_teacher": True, "module_path": "layer1", "io": "input"},
    },
}
IO = {
    "student": {".": {"output": torch.tensor([[1.0, 2.0], [3.0, 9.0]])}},
    "teacher": {"layer1": {"input": torch.tensor([[1.5, 2.0], [3.0, 4.0]])}},
}
# errors 0.5, 0, 0, 5; delta 2: (0.125 + 2 * (5 - 1)) / 4
HUBER = (0.125 + 8) / 4


def criterion(loss, **more):
    terms = {"own": {"criterion": loss, "weight": 10.0, **more}}
    section = {"key": "WeightedSumLoss", "kwargs": {"sub_terms": terms}}
    return build_criterion(section, DEVICE)


@pytest.fixture(autouse=True)
def _named():
    load_libraries()
    enter("loss term", "own_losses.HuberDist", own_losses.HuberDist)


@pytest.mark.parametrize(
    "loss",
    [
        {"key": "own_losses.HuberDist", "kwargs": {"delta": 2.0}},
        own_losses.HuberDist(delta=2.0),
        {"key": "HuberLoss", "kwargs": {"delta": 2.0}},
    ],
    ids=["key", "built", "the library's"],
)
def test_a_wrapped_loss_is_given_input_and_target(loss):
    value = criterion(loss, criterion_wrapper=WRAPPER)(IO, {}, None)
    assert float(value) == pytest.approx(10 * HUBER)


def test_a_loss_without_arguments_needs_no_kwargs():
    value = criterion({"key": "own_losses.HuberDist"}, criterion_wrapper=WRAPPER)(IO, {}, None)
    assert float(value) == pytest.approx(10 * (0.125 + 4.5) / 4)  # delta 1


def test_a_loss_of_torchdistills_kind_takes_what_it_wants():
    value = criterion(own_losses.OutputSize("."))(IO, {}, None)
    assert float(value) == pytest.approx(10 * 15 / 4)


def test_what_is_no_module_is_refused():
    with pytest.raises(ConfigError, match="the criterion's term 'own' is a NoModule, not a torch"):
        criterion(own_losses.NoModule())


def test_a_losss_own_tensors_go_to_the_device():
    section = {"key": "WeightedSumLoss", "kwargs": {"sub_terms": {}}}
    section["kwargs"]["sub_terms"]["own"] = {
        "criterion": own_losses.HuberDist(),
        "criterion_wrapper": WRAPPER,
        "weight": 1.0,
    }
    made = build_criterion(section, torch.device("meta"))
    assert terms_of(made)["own"].low_level_loss.weight.is_meta


def test_a_term_is_described_with_what_it_compares():
    loss = terms_of(criterion(nn.MSELoss(), criterion_wrapper=WRAPPER))["own"]
    assert described("own", loss, (IO["student"], IO["teacher"], None)) == (
        "the criterion's term 'own' (MSELoss), which compares the student's output [2, 2] with "
        "the input of the teacher's 'layer1' [2, 2]"
    )


def test_a_stage_learns_from_a_loss_that_is_built_already():
    """As from the library's loss of the same numbers, to the bit."""
    values = []
    for loss in ({"key": "HuberLoss", "kwargs": {}}, own_losses.HuberDist()):
        section = dict(train_config()["stage2"])
        student, teacher = make_models()[::-1]
        wrapper = {
            "key": "SimpleLossWrapper",
            "kwargs": {
                "input": {"is_from_teacher": False, "module_path": ".", "io": "output"},
                "target": {"is_from_teacher": True, "module_path": ".", "io": "output"},
            },
        }
        terms = {"own": {"criterion": loss, "criterion_wrapper": wrapper, "weight": 1.0}}
        section["criterion"] = {"key": "WeightedSumLoss", "kwargs": {"sub_terms": terms}}
        stage = Stage(section, student, teacher, 1, CPU)
        stage.begin_epoch()
        images, targets, supp = batches()[0]
        torch.manual_seed(3)
        teacher_io = stage.teacher_forward(images, targets, supp)
        values.append(stage.student_loss(images, targets, supp, teacher_io).item())
        stage.close()
    assert values[0] == values[1] > 0
