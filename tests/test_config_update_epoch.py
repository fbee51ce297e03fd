"""`epoch_to_update` names the first epoch of a stage, and follows it."""

import logging

import pytest
from data_config.helpers import load, write

STAGES = """
    train:
      epoch_to_update: &e 10
      stage1: {num_epochs: *e}
      stage2: {num_epochs: 5}
      stage3: {num_epochs: 1}
"""


@pytest.fixture
def warnings(caplog):
    caplog.set_level(logging.WARNING, "ladon.config")
    return caplog


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 10),
        ({"assignments": ["train.stage1.num_epochs=2"]}, 2),
        ({"overrides": {"train": {"stage1": {"num_epochs": 3}}}}, 3),
        ({"assignments": ["train.stage2.num_epochs=9"]}, 10),
        ({"assignments": ["train.stage1.num_epochs=2", "train.epoch_to_update=2"]}, 2),
        # Two layers: each moves it.
        (
            {
                "overrides": {"train": {"stage1": {"num_epochs": 3}}},
                "assignments": ["train.stage1.num_epochs=4"],
            },
            4,
        ),
        ({"assignments": ["train.epoch_to_update=15", "train.stage1.num_epochs=10"]}, 15),
        ({"assignments": ["train.epoch_to_update=stage3"]}, 15),
        ({"overrides": {"train": {"epoch_to_update": "stage1"}}}, 0),
        ({"assignments": ["train.epoch_to_update=stage2", "train.stage1.num_epochs=4"]}, 4),
    ],
)
def test_it_follows_its_stage(tmp_path, warnings, options, expected):
    config = load(tmp_path, STAGES, **options)
    assert config.get("train.epoch_to_update") == expected
    assert config.section("train")["epoch_to_update"] == expected
    assert not warnings.records


def test_a_child_file_moves_it_too(tmp_path):
    write(tmp_path, STAGES, "base.yaml")
    config = load(tmp_path, "_base_: base.yaml\ntrain: {stage1: {num_epochs: 1}}")
    assert config.get("train.epoch_to_update") == 1
    own = load(tmp_path, "_base_: base.yaml\ntrain: {epoch_to_update: 0, stage1: {num_epochs: 1}}")
    assert own.get("train.epoch_to_update") == 0


def test_a_number_by_the_users_own_hand_is_kept_with_one_warning(tmp_path, warnings):
    config = load(
        tmp_path, STAGES, assignments=["train.stage1.num_epochs=3", "train.epoch_to_update=2"]
    )
    assert config.get("train.epoch_to_update") == 2
    assert len(warnings.records) == 1
    message = warnings.records[0].getMessage()
    assert "epoch_to_update 2 is not the first epoch of a stage" in message
    assert "stage1: 0, stage2: 3, stage3: 8" in message


def test_a_number_within_a_stage_does_not_move(tmp_path):
    text = STAGES.replace("&e 10", "7").replace("*e", "10")
    config = load(tmp_path, text, assignments=["train.stage1.num_epochs=3"])
    assert config.get("train.epoch_to_update") == 7


def test_a_single_stage_begins_at_zero(tmp_path, warnings):
    text = "train: {num_epochs: 26, epoch_to_update: 0}"
    config = load(tmp_path, text, assignments=["train.num_epochs=1"])
    assert config.get("train.epoch_to_update") == 0
    assert not warnings.records
    load(tmp_path, "train: {num_epochs: 26, epoch_to_update: 5}")
    assert len(warnings.records) == 1


def test_lengths_given_by_a_variable_move_it(tmp_path):
    text = """
        epochs: 10
        train: {epoch_to_update: 10, stage1: {num_epochs: '${epochs}'}, stage2: {num_epochs: 1}}
    """
    assert load(tmp_path, text, assignments=["epochs=4"]).get("train.epoch_to_update") == 4
    linked = text.replace("epoch_to_update: 10", "epoch_to_update: '${train.stage1.num_epochs}'")
    assert load(tmp_path, linked, assignments=["epochs=4"]).get("train.epoch_to_update") == 4


def test_what_cannot_be_known_is_left_to_validation(tmp_path):
    text = "train: {epoch_to_update: stage9, stage1: {num_epochs: x}, stage2: {}}"
    assert load(tmp_path, text).get("train.epoch_to_update") == "stage9"
    assert load(tmp_path, "train: {epoch_to_update: '${x}'}").path.name == "c.yaml"
    assert load(tmp_path, "train: 3").get("train") == 3
