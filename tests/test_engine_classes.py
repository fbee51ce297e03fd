"""Labels mean the same to a model and to every set that it is trained, validated and tested on."""

from __future__ import annotations

import json
import logging
import shutil

import pytest
import torch

from ladon.config import load_config
from ladon.engine.classes import Classes, common_classes
from ladon.engine.plan import read_plan
from ladon.errors import UsageError
from ladon.models.checkpoint import read_checkpoint

DIGITS = [str(n) for n in range(10)]


def classes_in(path):
    return read_checkpoint(path, "here").classes


def acc1(lab, log):
    return lab.metrics(log)["models"]["student"]["metrics"]["acc1"]


@pytest.fixture
def trained(own_lab):
    """A lab whose teacher is trained well enough to be right now and then."""
    assert own_lab.run("teacher", config=own_lab.config("teacher", train__num_epochs=3)) == 0
    return own_lab


def drop_names(path):
    content = torch.load(path)
    del content["classes"]
    torch.save(content, path)


def correct(lab, log, flags=()):
    """Number of images that count as right in a test."""
    assert lab.run("teacher", "-test_only", *flags, log=log) == 0
    return round(acc1(lab, log) * lab.metrics(log)["num_images"] / 100)


@pytest.mark.parametrize("known", ["checkpoint", "training folder"])
def test_a_missing_class_shifts_no_label(trained, own_data, known):
    """Each digit alone: the right answers of all digits add up, whichever folders are there."""
    assert classes_in(trained.checkpoint("teacher")) == DIGITS
    if known != "checkpoint":
        drop_names(trained.checkpoint("teacher"))
    whole = correct(trained, "whole")
    assert whole > 0, "nothing to compare"
    val, away = own_data / "val", own_data / "away"
    parts = 0
    for kept in (DIGITS[::2], DIGITS[1::2]):
        val.rename(away)
        val.mkdir()
        for name in kept:
            if (away / name).is_dir():
                shutil.copytree(away / name, val / name)
        parts += correct(trained, f"only-{kept[0]}")
        shutil.rmtree(val)
        away.rename(val)
    assert parts == whole


def test_what_cannot_be_compared_is_said(trained, own_data):
    drop_names(trained.checkpoint("teacher"))
    shutil.rmtree(own_data / "train")
    shutil.rmtree(own_data / "val" / "0")
    correct(trained, "t")
    log = trained.log("t")
    assert "val has 9 class folders, the model has 10 classes, and its checkpoint does" in log
    assert "count as the first 9 in the order of their names" in log


@pytest.mark.parametrize("split", ["val", "train"])
def test_a_class_that_the_other_set_lacks_is_refused_before_training(refused, own_data, split):
    (own_data / split / "3").rename(own_data / split / "three")
    message = refused("teacher")
    val, wrong = own_data / "val", "three" if split == "val" else "3"
    assert message.startswith(f"{val}: class folders '{wrong}' are not among the classes of the ")
    assert "the training set digit_scenes/train" in message


def test_a_test_set_with_a_class_unknown_to_the_checkpoint_is_refused(trained, refused, own_data):
    (own_data / "val" / "3").rename(own_data / "val" / "drei")
    message = refused("teacher", "-test_only")
    assert (
        f"'drei' are not among the classes of the checkpoint {trained.checkpoint('teacher')}"
        in (message)
    )


def annotations(own_data, split):
    return own_data / "annotations" / f"instances_{split}.json"


def rewrite(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_category_beyond_the_models_classes_is_refused_before_any_work(refused, own_data, split):
    def change(content):
        content["categories"].append({"id": 11, "name": "eleven"})
        content["annotations"][-1]["category_id"] = 11

    rewrite(annotations(own_data, split), change)
    message = refused("detection")
    assert message.startswith(f"{annotations(own_data, split)}: annotations have category_id 11 ")
    assert "a detector of num_classes 11 has labels 1 to 10" in message


def test_categories_that_were_renamed_are_refused(refused, own_data):
    def change(content):
        names = [category["name"] for category in content["categories"]]
        for category, name in zip(content["categories"], names[::-1], strict=True):
            category["name"] = name

    rewrite(annotations(own_data, "val"), change)
    message = refused("detection")
    assert "but '" in message
    assert "in the training set digit_scenes/train" in message


@pytest.mark.parametrize(
    ("key", "names"), [("ladon.data.folder.ImageFolder", ["a", "b"]), ("x.VOCSegmentation", None)]
)
def test_only_a_folder_of_classes_names_them(tmp_path, key, names):
    """VOC's root holds VOCdevkit, which is no class."""
    for name in "ab":
        (tmp_path / "data" / name).mkdir(parents=True)
    config = tmp_path / "c.yaml"
    config.write_text(
        f"datasets:\n  d/train: !import_call\n    key: {key}\n"
        f"    init: {{kwargs: {{root: {tmp_path / 'data'}}}}}\n"
        "train: {num_epochs: 1, train_data_loader: {dataset_id: d/train}}\n"
    )
    made = Classes()
    loaded = load_config(config)
    made.take_from_training(loaded, read_plan(loaded).stages[-1])
    assert made.names == names


def classes(names, source="a", number=None):
    made = Classes()
    made.take(names, source)
    made.number = number
    return made


def test_runs_that_share_a_test_agree_on_its_classes():
    known, unknown = classes(["a", "b"], "one"), classes(None)
    assert common_classes([unknown, known, classes(["a", "b"])]) is known
    assert common_classes([unknown]) is unknown
    with pytest.raises(UsageError, match="--fused: one and other name their classes differently"):
        common_classes([known, classes(["b", "a"], "other")])


def test_a_teacher_with_other_classes_is_said(caplog):
    made = classes(["ant", "bee"], "the training set x")
    made.teacher = ["ant", ""]
    with caplog.at_level(logging.WARNING):
        made.doubt(object())
        assert not caplog.records
        made.teacher = ["bee", "ant"]
        made.doubt(object())
    expected = "class 0 is 'ant' in the training set x, but 'bee' to the teacher"
    assert [r.getMessage()[: len(expected)] for r in caplog.records] == [expected]
