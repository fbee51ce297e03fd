"""Class folders: what counts as one, and whose names give the labels."""

from __future__ import annotations

import logging
import shutil
from types import SimpleNamespace

import pytest
import torch
import torchvision.datasets  # noqa: F401  before torchdistill, which looks for it
from PIL import Image
from torch.utils.data import Subset
from torchdistill.datasets.wrapper import BaseDatasetWrapper

from ladon.data.class_names import check_num_classes, class_names, match_class_names
from ladon.data.folder import ImageFolder, folder_class_names
from ladon.data.masks import MaskFolder
from ladon.data.voc import VOC_CLASSES
from ladon.errors import DataError

NAMES = ["ant", "bee", "cat", "dog"]


def fill(root, names=NAMES):
    for name in names:
        (root / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(root / name / "1.png")
    return root


@pytest.fixture
def train(tmp_path):
    return fill(tmp_path / "train")


@pytest.fixture
def val(tmp_path):
    return fill(tmp_path / "val")


@pytest.mark.parametrize("name", [".ipynb_checkpoints", "__pycache__", "__MACOSX", ".a", "@eaDir"])
def test_what_programs_leave_behind_is_no_class(val, name):
    fill(val, [name])
    fill(val / "bee", [name])
    Image.new("RGB", (4, 4)).save(val / "cat" / "._1.png")
    dataset = ImageFolder(val)
    assert dataset.classes == NAMES == folder_class_names(val)
    assert dataset.samples == [(str(val / c / "1.png"), n) for n, c in enumerate(NAMES)]


def test_only_hidden_folders_are_no_class_folders(tmp_path):
    with pytest.raises(DataError, match="holds no class folders"):
        ImageFolder(fill(tmp_path / "x", [".a", "__MACOSX"]))


@pytest.mark.parametrize("target", [".", "..", "../..", "../../.."])
def test_a_link_back_is_not_followed(val, target):
    (val / "bee" / "back").symlink_to(target)
    fill(val / "bee", ["deep"])
    (val / "bee" / "deep" / "back").symlink_to(f"../{target}")
    dataset = ImageFolder(val)
    assert dataset.targets == [0, 1, 1, 2, 3]


@pytest.mark.parametrize("target", [".", ".."])
def test_a_class_that_links_back_is_none(val, target, caplog):
    (val / "all").symlink_to(target)
    assert ImageFolder(val).classes == NAMES
    assert "all leads back to a folder it lies in" in caplog.text


def test_links_elsewhere_are_followed_each_folder_once(val, tmp_path):
    fill(tmp_path / "more", ["x", "y"])
    (tmp_path / "more" / "x" / "y").symlink_to("../y")
    (tmp_path / "more" / "y" / "x").symlink_to("../x")
    (val / "cat" / "linked").symlink_to(tmp_path / "more")
    (val / "elk").symlink_to(tmp_path / "more" / "x")
    assert ImageFolder(val).targets == [0, 1, 2, 2, 2, 3, 4, 4]


def test_many_links_between_few_folders_end(val):
    """Thirty folders with two links each to the next: 2^30 paths."""
    for n in range(30):
        (val / "bee" / f"{n}").mkdir()
        for link in "xy":
            (val / "bee" / f"{n}" / link).symlink_to(f"../{(n + 1) % 30}")
    assert len(ImageFolder(val)) == 4


@pytest.mark.parametrize("lacking", NAMES)
def test_a_missing_class_shifts_no_label(train, val, lacking, caplog):
    shutil.rmtree(val / lacking)
    kept = [(str(val / c / "1.png"), n) for n, c in enumerate(NAMES) if c != lacking]
    for names in (NAMES, train, str(train)):
        dataset = ImageFolder(val, class_names=names)
        assert (dataset.classes, dataset.samples) == (NAMES, kept)
        assert dataset.targets == [label for _, label in kept]
    assert f"has no folder for '{lacking}' of " in caplog.text
    dataset = ImageFolder(val)
    for wrapped in (Subset(dataset, [0, 1]), BaseDatasetWrapper(dataset)):
        match_class_names(wrapped, NAMES, "the checkpoint a.pt")
        assert (dataset.classes, dataset.samples, dataset.imgs) == (NAMES, kept, kept)
        assert dataset.class_to_idx == {c: n for n, c in enumerate(NAMES)}
        assert dataset[2][1] == dataset.targets[2] == kept[2][1]
        assert class_names(wrapped) == NAMES


def test_names_in_an_order_of_their_own_give_the_labels(val):
    assert ImageFolder(val, class_names=NAMES[::-1]).targets == [3, 2, 1, 0]
    dataset = ImageFolder(val)
    match_class_names(dataset, NAMES[::-1], "the checkpoint")
    assert dataset.targets == [3, 2, 1, 0]


def test_unknown_classes_are_named_with_both_lists(train, val):
    fill(val, ["emu", "Ant"])
    expected = (
        f"{val}: class folders 'Ant', 'emu' are not among the classes of "
        r".*; found are 'Ant', 'ant', 'bee', 'cat', … \(6 in all\), "
        "known are 'ant', 'bee', 'cat', 'dog': rename or remove them"
    )
    with pytest.raises(DataError, match=expected) as caught:
        ImageFolder(val, class_names=train)
    assert str(train) in str(caught.value)
    dataset = ImageFolder(val)
    before = list(dataset.samples)
    with pytest.raises(DataError, match=expected) as caught:
        match_class_names(dataset, NAMES, "the checkpoint a.pt")
    assert "the checkpoint a.pt" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert dataset.samples == before
    with pytest.raises(DataError, match="names a class twice"):
        ImageFolder(val, class_names=[*NAMES, "ant", "emu", "Ant"])


def test_equal_names_change_and_say_nothing(train, val, caplog):
    dataset = ImageFolder(val)
    before = dataset.samples
    with caplog.at_level(logging.DEBUG):
        match_class_names(dataset, class_names(ImageFolder(train)), "the training set")
    assert dataset.samples is before
    assert not caplog.records
    match_class_names(object(), NAMES, "the training set")
    assert class_names(object()) is None


def test_the_number_of_classes_is_compared_with_the_models(val):
    dataset = ImageFolder(val)
    check_num_classes(dataset, 4)
    check_num_classes(Subset(dataset, [0]), 1000)
    check_num_classes(object(), 1)
    with pytest.raises(DataError, match=r"val has 4 classes \('ant', .*\), but the model has 3;"):
        check_num_classes(Subset(dataset, [0]), 3)


class Named(torch.utils.data.Dataset):
    """A dataset of somebody's own that names its classes."""

    class_names = ("red", "green", "blue")


def test_names_of_a_dataset_of_ones_own():
    assert class_names(Subset(Named(), [])) == ["red", "green", "blue"]
    match_class_names(Named(), ["red", "", "blue", "black"], "the checkpoint a.pt")
    expected = (
        r"Named: class 1 is 'green', but 'grey' in the checkpoint a.pt; found are 'red', 'green', "
        "'blue', known are 'red', 'grey': use a dataset with the same classes"
    )
    with pytest.raises(DataError, match=expected):
        match_class_names(Named(), ["red", "grey"], "the checkpoint a.pt")
    for unclear in (None, [], "red", [1, 2], {"red": 1}):
        named = Named()
        named.class_names = unclear
        assert class_names(named) is None


class Boxes(torch.utils.data.Dataset):
    """A detection set of somebody's own, whose labels are its category ids."""

    def __init__(self, used):
        self.coco = SimpleNamespace(
            cats={n: {"id": n} for n in used}, catToImgs={n: [1] for n in used}
        )


def test_category_ids_of_a_detection_set_of_ones_own_are_labels():
    check_num_classes(Boxes([1, 90]), 91)
    for used, wrong in (([1, 90], 90), ([0, 1], 0)):
        with pytest.raises(
            DataError, match=rf"Boxes: .* category_id {wrong} \(1 such ids\), .*1 to 89"
        ):
            check_num_classes(Boxes(used), 90)


def mask_folder(folder, names):
    for name in ("images", "masks"):
        (folder / name).mkdir(exist_ok=True)
        Image.new("L", (4, 4)).save(folder / name / "a.png")
    return MaskFolder(folder / "images", folder / "masks", names)


def test_masks_with_more_classes_than_the_model_are_refused(tmp_path):
    dataset = mask_folder(tmp_path, ["background", "cat", "dog"])
    check_num_classes(dataset, 3)
    check_num_classes(mask_folder(tmp_path, VOC_CLASSES), 11)  # a default; masks tell by themselves
    expected = (
        r"images has 3 classes \('background', .*\), but the model has 2; set the model's num_"
    )
    with pytest.raises(DataError, match=expected):
        check_num_classes(Subset(dataset, [0]), 2)
    expected = r"class 2 is 'dog', but 'ox' in the checkpoint; found are .*'dog', known are .*'ox'"
    with pytest.raises(DataError, match=expected):
        match_class_names(dataset, ["background", "cat", "ox"], "the checkpoint")
