"""Labels mean the same to a model and to every set that it is trained, validated and tested on."""

from __future__ import annotations

import json
import logging
import shutil

import pytest
import torch
from tiny import ROOT, TinyExperiment

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


@pytest.fixture(scope="module")
def longer_taught(tmp_path_factory, scenes):
    """A teacher's checkpoint, trained well enough to be right now and then."""
    made = TinyExperiment(tmp_path_factory.mktemp("longer"), scenes)
    assert made.run("teacher", config=made.config("teacher", train__num_epochs=3)) == 0
    return made.checkpoint("teacher")


@pytest.fixture
def trained(own_lab, longer_taught):
    """A lab with that teacher as a copy that a test may change."""
    path = own_lab.checkpoint("teacher")
    path.unlink()  # a link to what other tests use
    shutil.copy(longer_taught, path)
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
    if split == "train":
        file = ROOT / "configs" / "digit_scenes" / "ladon" / "_base_" / "detection.yaml"
        (line,) = [
            number
            for number, text in enumerate(file.read_text().splitlines(), start=1)
            if text.strip() == "num_classes: 11"
        ]
        expected = (
            "annotations have category_id 11 (1 such ids), but a detector of num_classes 11 has "
            "labels 1 to 10, too few for the file's 11 categories; set "
            f"models.model.kwargs.num_classes in {file}:{line} to 12, its categories and background"
        )
    else:
        expected = (
            "categories 'eleven' are not among the classes of the training set digit_scenes/train; "
            "found are '0', '1', '2', '3', … (11 in all), known are '0', '1', '2', '3', … (10 in "
            "all): rename or remove them"
        )
    assert message == f"{annotations(own_data, split)}: {expected}"


def test_categories_that_were_renamed_are_refused(refused, own_data):
    def change(content):
        names = [category["name"] for category in content["categories"]]
        for category, name in zip(content["categories"], names[::-1], strict=True):
            category["name"] = name

    rewrite(annotations(own_data, "val"), change)
    message = refused("detection")
    assert "but '" in message
    assert "in the training set digit_scenes/train" in message


NAMES = ("round", "straight", "bent")


def three_categories(own_data, split, ids, order=(0, 1, 2)):
    """Number each third of the digits' objects as one category, listed in an order."""

    def change(content):
        for annotation in content["annotations"]:
            annotation["category_id"] = ids[annotation["id"] % 3]
        content["categories"] = [{"id": ids[n], "name": NAMES[n]} for n in order]

    rewrite(annotations(own_data, split), change)


def detector(lab, log, *flags):
    """Train and test a detector of three categories; return its metrics and checkpoint."""
    number = ("--set", "models.model.kwargs.num_classes=4")
    assert lab.run("detection", *number, *flags, log=log) == 0
    found = lab.metrics(log)["models"]["student"]["metrics"]
    return found, torch.load(lab.checkpoint("detection"), weights_only=False)


@pytest.mark.slow
def test_category_ids_change_nothing(own_lab, own_data, refused):
    """Ids 7, 20 and 300, listed in no order, give what 1, 2 and 3 give, to the bit."""
    results = []
    for log, ids in (("plain", (1, 2, 3)), ("odd", (20, 300, 7))):
        for split in ("train", "val"):
            three_categories(own_data, split, ids)
        results.append(detector(own_lab, log, "--overwrite"))
    (metrics, plain), (odd_metrics, odd) = results
    assert odd_metrics == metrics
    assert metrics["AR100"] > 0, "nothing to compare"
    assert plain["model"].keys() == odd["model"].keys()
    assert all(torch.equal(plain["model"][key], odd["model"][key]) for key in plain["model"])
    assert (plain["classes"], odd["classes"]) == (["", *NAMES], ["background", *NAMES])
    assert "labels of its category ids: 20 is 1, 300 is 2, 7 is 3" in own_lab.log("odd")

    # the checkpoint's names give the labels, whatever the file numbers them, in whatever order
    for number, ids in enumerate([(1, 2, 3), (0, 1, 2), (9, -8, 10**20)]):
        three_categories(own_data, "val", ids, order=(2, 0, 1))
        found, _ = detector(own_lab, f"test{number}", "-test_only")
        assert found == metrics
    three_categories(own_data, "val", (20, 300, 7))
    file = annotations(own_data, "val")
    file.write_text(file.read_text().replace("straight", "wavy"))
    message = refused("detection", "-test_only", "--set", "models.model.kwargs.num_classes=4")
    assert message == (
        f"{file}: categories 'wavy' are not among the classes of the checkpoint "
        f"{own_lab.checkpoint('detection')}; found are 'bent', 'round', 'wavy', known are 'round', "
        "'straight', 'bent': rename or remove them"
    )


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
