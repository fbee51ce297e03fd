"""Losses of a user's own in a config: by dotted key or tag, checked by their signature."""

from __future__ import annotations

import json

import pytest
from data_config.helpers import GOOD, load, problems_of

from ladon.config import load_config

TERM = "train.stage2.criterion.kwargs.sub_terms.own"
WRAPPER = {
    "key": "SimpleLossWrapper",
    "kwargs": {
        "input": {"is_from_teacher": False, "module_path": ".", "io": "output"},
        "target": {"uses_label": True},
    },
}


def found(*more, **term):
    """The problems that a further term makes in a sound config, without their place."""
    whole = json.dumps({"weight": 1.0, **term})
    config = load_config(GOOD, assignments=[f"{TERM}={whole}", *more])
    return [line.partition(": ")[2] for line in problems_of(config)]


def own(name, **kwargs):
    return {"key": f"own_losses.{name}", "kwargs": kwargs}


@pytest.mark.parametrize(
    "term",
    [
        {"criterion": own("HuberDist", delta=2.0), "criterion_wrapper": WRAPPER},
        {"criterion": {"key": "own_losses.HuberDist"}, "criterion_wrapper": WRAPPER},
        {"criterion": own("OutputSize", path="layer2")},
        {"criterion": {"key": "torch.nn.MSELoss"}, "criterion_wrapper": WRAPPER},
    ],
)
def test_a_dotted_key_is_a_loss(term):
    assert found(**term) == []


@pytest.mark.parametrize(
    ("criterion", "wrapper", "message"),
    [
        (own("HuberDist", dleta=1), WRAPPER, 'no such argument; did you mean "delta"?'),
        (
            own("HuberDst"),
            WRAPPER,
            'there is no loss term "own_losses.HuberDst": module own',
        ),
        (own("HuberDst"), WRAPPER, 'did you mean "HuberDist"?'),
        (own("NUMBER"), WRAPPER, "own_losses.NUMBER is a number, not a class or function"),
        (
            own("HuberDist"),
            None,
            "own_losses.HuberDist: forward(self, input: 'Tensor', target: 'Tensor') -> 'Tensor' "
            "cannot be called with (student_io_dict, teacher_io_dict, targets), as a loss without "
            "criterion_wrapper is: add criterion_wrapper: {key: SimpleLossWrapper",
        ),
        (
            own("OutputSize", path="layer2"),
            WRAPPER,
            "cannot be called with (input, target), as SimpleLossWrapper calls it: give it these "
            "two arguments, or leave out criterion_wrapper",
        ),
        (own("OneArgument"), WRAPPER, "SimpleLossWrapper calls it: give it these two arguments"),
        (own("OneArgument"), None, "is: give it these arguments, or (input, target)"),
        (own("NoModule"), WRAPPER, "own_losses.NoModule is no loss: a loss is a torch.nn.Module"),
        ({"key": "CrossEntropyLoss"}, None, "CrossEntropyLoss: forward(self, input: torch.Tensor"),
    ],
)
def test_a_loss_that_cannot_be_called_is_refused(criterion, wrapper, message):
    term = {"criterion": criterion} | ({"criterion_wrapper": wrapper} if wrapper else {})
    problems = found(**term)
    assert len(problems) == 1, problems
    assert problems[0].startswith(f"{TERM}.criterion")
    assert message in problems[0]


@pytest.mark.parametrize(
    ("criterion", "message"),
    [
        ("!import_call {key: own_losses.HuberDist}", "criterion_wrapper is: add criterion_wrapper"),
        ("!import_call {key: own_losses.NoModule}", "is no loss: a loss is a torch.nn.Module"),
        (
            "!import_call {key: own_losses.HuberDist, init: {kwargs: {dleta: 1}}}",
            'did you mean "delta"?',
        ),
    ],
)
def test_a_tagged_loss_is_checked_alike(tmp_path, criterion, message):
    text = f"""
        _base_: {GOOD}
        train:
          stage2:
            criterion:
              kwargs:
                sub_terms:
                  own:
                    criterion: {criterion}
                    weight: 1.0
    """
    problems = problems_of(load(tmp_path, text))
    assert problems[0].startswith(f"c.yaml:9: {TERM}.criterion")
    assert any(message in problem for problem in problems)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("train.stage1.optimizer.key=torch.optim.SGD", None),
        (
            "train.stage1.optimizer.key=torch.optim.SDG",
            '"torch.optim.SDG": module torch.optim has no "SDG"',
        ),
        ("train.stage1.student.forward_proc=own_losses.half", None),
        ("train.stage1.student.forward_proc=own_losses.haf", 'did you mean "half"?'),
        ("train.stage1.train_data_loader.collate_fn=torch.utils.data.default_collate", None),
        (
            "train.stage1.scheduler={key: torch.optim.lr_scheduler.StepLR, kwargs: {step_size: 1}}",
            None,
        ),
        ("train.stage1.scheduler.key=no_such.Thing", 'there is no module "no_such"'),
        ("models.teacher_model.key=torchvision.models.resnet50", None),
    ],
)
def test_every_registry_takes_a_dotted_name(assignment, message):
    config = load_config(GOOD, assignments=[assignment])
    problems = problems_of(config)
    if message is None:
        assert problems == []
    else:
        assert len(problems) == 1, problems
        assert message in problems[0]
