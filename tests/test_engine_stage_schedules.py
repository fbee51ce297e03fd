"""`-adjust_lr`: learning rates times the number of processes, whoever sets them."""

from __future__ import annotations

import logging

import pytest
import torch
from stages import CPU, make_models, train_config

from ladon.engine.stage import Stage

STEPS = 4


def learning_rates(scheduler, factor, optimizer=None):
    """The first group's learning rate at every step of a stage."""
    teacher, student = make_models()
    section = train_config()["stage2"]
    section["optimizer"] = optimizer or {"key": "SGD", "kwargs": {"lr": 0.02, "momentum": 0.9}}
    section["scheduler"] = scheduler and scheduler | {"scheduling_step": 1}
    section["num_epochs"] = 1
    stage = Stage(section, student, teacher, STEPS, CPU, lr_factor=factor)
    rates = []
    for _ in range(STEPS):
        rates.append(stage.learning_rates[0])
        stage.optimizer.step()
        if stage.scheduler is not None:
            stage.scheduler.step()
    stage.close()
    return rates


@pytest.mark.parametrize(
    ("key", "kwargs", "first"),
    [
        ("OneCycleLR", {"max_lr": 0.1}, 0.1 / 25),  # divided by div_factor's default
        ("OneCycleLR", {"max_lr": [0.1]}, 0.1 / 25),
        ("CyclicLR", {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 2}, 0.01),
        ("StepLR", {"step_size": 2}, 0.02),
        ("CosineAnnealingLR", {"T_max": 4}, 0.02),
        ("LinearLR", {"start_factor": 0.5}, 0.01),
        ("poly_lr_scheduler", {"power": 0.9}, 0.02),
    ],
)
def test_every_rate_of_a_schedule_is_multiplied(key, kwargs, first):
    alone, three = (learning_rates({"key": key, "kwargs": kwargs}, n) for n in (1.0, 3.0))
    assert alone[0] == pytest.approx(first)
    assert len(set(alone)) > 1
    assert three == pytest.approx([3 * rate for rate in alone])


def test_a_floor_stays_where_it_is():
    scheduler = {"key": "CosineAnnealingLR", "kwargs": {"T_max": 3, "eta_min": 0.01}}
    assert learning_rates(scheduler, 3.0)[0] == pytest.approx(0.06)
    assert learning_rates(scheduler, 3.0)[-1] == pytest.approx(0.01)


def test_an_optimizers_default_is_multiplied_too():
    assert learning_rates(None, 4.0, {"key": "Adam", "kwargs": {}}) == [0.004] * STEPS


def test_what_is_multiplied_is_said(caplog):
    caplog.set_level(logging.INFO)
    learning_rates({"key": "OneCycleLR", "kwargs": {"max_lr": 0.1}}, 1.0)
    assert "-adjust_lr" not in caplog.text
    learning_rates({"key": "OneCycleLR", "kwargs": {"max_lr": 0.1}}, 2.0)
    assert "-adjust_lr: learning rates times 2: from 0.008 on" in caplog.messages


@pytest.mark.parametrize(
    ("greater_is_better", "kwargs", "worse"),
    [
        (True, {}, (60.0, 50.0)),
        (False, {}, (0.5, 0.6)),
        (True, {"mode": "min"}, (50.0, 60.0)),  # the config says otherwise
    ],
)
def test_a_plateau_is_one_of_the_tasks_score(greater_is_better, kwargs, worse):
    teacher, student = make_models()
    section = train_config()["stage2"]
    section["optimizer"] = {"key": "SGD", "kwargs": {"lr": 0.02}}
    kwargs = {"patience": 0, "factor": 0.5, **kwargs}
    section["scheduler"] = {"key": "ReduceLROnPlateau", "kwargs": kwargs}
    stage = Stage(section, student, teacher, STEPS, CPU, greater_is_better=greater_is_better)
    rates = []
    for value in (*worse, *worse[:1]):
        stage.end_epoch(value)
        rates.append(stage.learning_rates[0])
    assert rates == [0.02, 0.01, 0.005]
    stage.skip_epochs(1, STEPS)
    assert stage.learning_rates == [0.005], "a skipped epoch was judged"
    stage.close()


@pytest.mark.parametrize(
    ("scheduler", "steps", "expected"),
    [
        ({"key": "OneCycleLR", "kwargs": {"max_lr": 0.1}, "scheduling_step": 1}, 5, 5),
        ({"key": "StepLR", "kwargs": {"step_size": 1, "gamma": 0.1}}, 5, 1),
        ({"key": "poly_lr_scheduler", "kwargs": {"power": 0.9}, "scheduling_step": 1}, 0, 0),
        (None, 5, 0),
    ],
)
@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_another_number_of_processes_goes_on_at_its_own_place(scheduler, steps, expected, factor):
    """A run of 8 steps an epoch goes on in 4; momentum is the other's, rates are its own."""

    def made(per_epoch, lr_factor):
        teacher, student = make_models()
        section = train_config()["stage2"] | {"scheduler": scheduler, "num_epochs": 2}
        section["optimizer"] = {"key": "SGD", "kwargs": {"lr": 0.02, "momentum": 0.9}}
        return Stage(section, student, teacher, per_epoch, CPU, lr_factor=lr_factor)

    before, now, alone = made(8, 1.0), made(4, factor), made(4, factor)
    for parameter in before.optimizer.param_groups[0]["params"]:
        before.optimizer.state[parameter] = {"momentum_buffer": parameter.detach() + 1}
    for _ in range(expected):
        alone.optimizer.step()
        alone.scheduler.step()
    now.take_over(before.state_dict(), epochs=1, steps=steps, lr_factor=factor)
    assert now.learning_rates == alone.learning_rates
    assert now.grad_count == steps
    buffers = [state["momentum_buffer"] for state in now.optimizer.state.values()]
    others = [state["momentum_buffer"] for state in before.optimizer.state.values()]
    assert len(buffers) == len(others) > 0
    assert all(map(torch.equal, buffers, others))
    for stage in (before, now, alone):
        stage.close()


def test_a_plateau_goes_on_with_other_processes():
    teacher, student = make_models()
    section = train_config()["stage2"]
    section["optimizer"] = {"key": "SGD", "kwargs": {"lr": 0.02}}
    section["scheduler"] = {"key": "ReduceLROnPlateau", "kwargs": {"patience": 0, "factor": 0.5}}
    before = Stage(section, student, teacher, STEPS, CPU)
    for value in (60.0, 50.0):
        before.end_epoch(value)
    now = Stage(section, student, teacher, 2, CPU, lr_factor=2.0)
    now.take_over(before.state_dict(), epochs=2, steps=4, lr_factor=2.0)
    assert now.learning_rates == [0.02]
    now.end_epoch(50.0)
    assert now.learning_rates == [0.01], "the best value is still 60"
    for stage in (before, now):
        stage.close()
