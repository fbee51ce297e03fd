"""Labels of COCO's categories, whatever ids the file gives them."""

from __future__ import annotations

import json
import logging
import pickle

import pytest
import torch
from PIL import Image
from torch.utils.data import Subset

from ladon.data.class_names import categories_of, class_names
from ladon.data.coco import coco_dataset
from ladon.data.coco_categories import BACKGROUND, Categories
from ladon.data.voc import VOC_CLASSES
from ladon.engine.classes import Classes
from ladon.errors import DataError
from ladon.tasks import TASKS

ODD = {300: "cat", 7: "ant", 20: "bee"}  # in an order that is not sorted
WHERE = "the checkpoint a.pt"


def coco(folder, names, used=None, **options):
    """One image with an object of each category that is used; ids and names in a given order."""
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (9, 9)).save(folder / "a.png")
    objects = [
        {"id": n, "image_id": 1, "category_id": i, "bbox": [0, 0, 5, 5], "segmentation": []}
        for n, i in enumerate(names if used is None else used, start=1)
    ]
    categories = [{"id": i} | ({} if name is None else {"name": name}) for i, name in names.items()]
    content = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": objects}
    (folder / "c.json").write_text(json.dumps(content | {"categories": categories}))
    return coco_dataset(folder, folder / "c.json", False, **options)


def held(dataset, number, names=None, source=""):
    """Labels of a dataset's objects, after it was held to a model's classes."""
    classes = Classes()
    classes.take(names, source)
    classes.number = number
    classes.hold(dataset)
    return dataset[0][1]["labels"].tolist()


def test_ids_that_are_labels_stay(tmp_path):
    published = {n: f"name {n}" for n in (1, 2, 44, 90)}
    dataset = coco(tmp_path, published)
    assert held(dataset, 91) == [1, 2, 44, 90]
    names = class_names(Subset(dataset, [0]))
    assert len(names) == 91
    assert {n: name for n, name in enumerate(names) if name} == published
    assert held(dataset, 91, names, WHERE) == [1, 2, 44, 90]
    assert held(dataset, 91, None, WHERE) == [1, 2, 44, 90]
    assert held(dataset, 91, [""] * 91, WHERE) == [1, 2, 44, 90]
    assert class_names(coco(tmp_path, {1: None, 3: ""})) is None


@pytest.mark.parametrize(
    "ids", [(7, 20, 300), (300, 7, 20), (0, 1, 2), (2, 1, 0), (-5, 10**30, 4), (2**63, 2, 1)]
)
def test_other_ids_are_numbered_in_the_files_order(tmp_path, ids):
    dataset = coco(tmp_path, dict(zip(ids, ("cat", "ant", "bee"), strict=True)))
    assert held(dataset, 4) == [1, 2, 3]
    assert class_names(dataset) == [BACKGROUND, "cat", "ant", "bee"]
    assert dataset.categories.ids == dict(zip((1, 2, 3), ids, strict=True))
    in_a_worker = pickle.loads(pickle.dumps(dataset))
    assert in_a_worker[0][1]["labels"].tolist() == [1, 2, 3]
    # as a validation set of the same kind: by its names, whatever their order and number
    for names in (["cat", "ant", "bee"], ["bee", "elk", "cat", "ant"]):
        expected = [names.index(name) + 1 for name in ("cat", "ant", "bee")]
        assert held(dataset, 5, [BACKGROUND, *names], WHERE) == expected
        assert class_names(dataset) == [BACKGROUND, *names]
    assert held(dataset, 4) == [1, 2, 3], "a stage's training set gives the labels anew"


def test_without_a_model_class_0_is_left_to_the_background(tmp_path):
    none = {0: "none", 1: "ant", 2: "bee"}
    assert coco(tmp_path, none, used=(1, 2))[0][1]["labels"].tolist() == [1, 2]
    assert coco(tmp_path, none, used=(0, 2))[0][1]["labels"].tolist() == [1, 3]
    assert coco(tmp_path, ODD)[0][1]["labels"].tolist() == [300, 7, 20]


def test_a_set_with_fewer_categories_gets_the_training_sets_labels(tmp_path):
    """Ids 1 and 2 are labels of the model, but not theirs: it was trained on ids from 0 on."""
    train = coco(tmp_path / "train", {0: "ant", 1: "bee", 2: "cat"})
    assert held(train, 4) == [1, 2, 3]
    names = class_names(train)
    assert held(coco(tmp_path / "val", {2: "cat", 1: "bee"}), 4, names, WHERE) == [3, 2]
    nameless = coco(tmp_path / "train", {0: None, 1: None, 2: None})
    assert held(nameless, 4) == [1, 2, 3]
    assert class_names(nameless) == [BACKGROUND, "0", "1", "2"]
    val = coco(tmp_path / "val", {2: None, 1: None})
    assert held(val, 4, class_names(nameless), WHERE) == [3, 2]


def test_names_of_ids_that_were_labels_serve_other_ids(tmp_path):
    """Trained on ids 1 to 3, tested on the same categories with ids of another kind."""
    names = ["", "ant", "bee", "cat"]
    assert held(coco(tmp_path, ODD), 4, names, WHERE) == [3, 1, 2]
    assert held(coco(tmp_path, {0: "cat", 1: "ant"}), 4, names, WHERE) == [3, 1]
    # listed only, without an object: no label is needed
    assert held(
        coco(tmp_path, {0: "animal", 1: "ant", 3: "cat"}, used=(1, 3)), 4, names, WHERE
    ) == [
        1,
        3,
    ]


def test_too_few_classes_are_refused_with_both_numbers(tmp_path):
    expected = (
        r"c.json: annotations have category_id 7 \(3 such ids\), but a detector of num_classes 3 "
        "has labels 1 to 2, too few for the file's 3 categories; set the model's num_classes to 4"
    )
    with pytest.raises(DataError, match=expected):
        held(coco(tmp_path, ODD), 3)
    with pytest.raises(DataError, match=r"category_id 1000000.* such ids") as caught:
        held(coco(tmp_path, {10**400: "far", 1: "ant"}), 2)
    assert len(str(caught.value)) < 400


def test_other_names_are_refused_with_both_lists(tmp_path):
    names = ["", "ant", "bee", "cat"]
    expected = (
        r"c.json: class 3 is 'dog', but 'cat' in the checkpoint a.pt; found are 'bee', 'dog', "
        "known are 'ant', 'bee', 'cat': use a dataset with the same classes"
    )
    with pytest.raises(DataError, match=expected):
        held(coco(tmp_path, {3: "dog", 2: "bee"}), 4, names, WHERE)
    # the same names, but ids and names cannot both be right
    with pytest.raises(DataError, match=r"class 1 is 'bee', but 'ant' in the checkpoint a.pt; "):
        held(coco(tmp_path, {1: "bee", 2: "ant"}), 4, names, WHERE)
    expected = (
        r"c.json: categories '9', 'dog' are not among the classes of the checkpoint a.pt; found "
        "are '9', 'bee', 'dog', known are 'ant', 'bee', 'cat': rename or remove them"
    )
    with pytest.raises(DataError, match=expected):
        held(coco(tmp_path, {300: "dog", 20: "bee", 9: None}), 4, [BACKGROUND, *names[1:]], WHERE)


def test_categories_with_one_name_are_refused_where_names_count(tmp_path):
    twice = {1: "ant", 5: "ant"}
    assert held(coco(tmp_path, twice), 6) == [1, 5]
    expected = "c.json: categories 1 and 5 have the same name 'ant', by which labels go; give each"
    with pytest.raises(DataError, match=expected):
        held(coco(tmp_path, twice), 4)
    with pytest.raises(DataError, match=expected):
        held(coco(tmp_path, twice), 4, [BACKGROUND, "ant", "bee"], WHERE)
    with pytest.raises(DataError, match="categories 7 and 9 have the same name '9'"):
        held(coco(tmp_path, {7: "9", 9: None}), 4)
    with pytest.raises(DataError, match=r"checkpoint a\.pt names a class twice: 'ant', 'ant'"):
        held(coco(tmp_path, {7: "ant"}), 4, ["", "ant", "ant"], WHERE)


def test_a_model_without_names_takes_ids_only(tmp_path):
    expected = (
        r"category_id 7 \(3 such ids\), .* labels 1 to 3, and the checkpoint a.pt does not name "
        "its classes; number the categories so or set the model's num_classes"
    )
    dataset = coco(tmp_path, ODD)
    assert held(dataset, 4) == [1, 2, 3]
    with pytest.raises(DataError, match=expected):
        held(dataset, 4, None, WHERE)


def test_what_became_of_ids_is_said_once(tmp_path, caplog):
    dataset = coco(tmp_path, ODD)
    with caplog.at_level(logging.INFO):
        held(coco(tmp_path / "b", {1: "ant", 90: "bee"}), 91)
        assert not caplog.records
        for _ in range(2):
            held(dataset, 4)
            held(dataset, 4, class_names(dataset), "the training set x")
    (record,) = caplog.records
    assert record.getMessage().endswith(
        "c.json: labels of its category ids: 300 is 1, 7 is 2, 20 is 3"
    )


def test_segmentation_goes_by_vocs_classes(tmp_path):
    """COCO's ids 3 and 1 are VOC's car (7) and person (15)."""
    dataset = coco(tmp_path, {3: "cat", 1: "ant", -7: "bee"}, is_segment=True)
    assert categories_of(dataset) is None
    names = class_names(dataset)
    assert names == list(VOC_CLASSES)
    assert (len(names), names[15], names[20]) == (21, "person", "tvmonitor")


def average_precision(dataset):
    """The metric's values for detections that are the objects of one label, at label 1's places."""
    metric = TASKS["object_detection"].metric(Subset(dataset, [0]), {})
    _, target = dataset[0]
    output = {key: target[key] for key in ("boxes", "labels")}
    scores = torch.linspace(1, 0.5, len(target["labels"]))
    output["labels"] = output["labels"].clamp(max=2)  # the third is taken for the second
    metric.update([output | {"scores": scores}], [target])
    return metric.compute([metric.state()])


def test_the_metric_compares_labels(tmp_path):
    plain = coco(tmp_path / "a", {1: "cat", 2: "ant", 3: "bee"})
    odd = coco(tmp_path / "b", ODD)
    assert held(plain, 4) == held(odd, 4)
    values = average_precision(plain)
    assert 0 < values["AP"] < 1
    assert average_precision(odd) == values


def test_ids_of_labels_go_back(tmp_path):
    categories = Categories([{"id": 9}, {"id": 4}], [4], tmp_path / "c.json")
    categories.assign(3)
    assert (categories.labels, categories.ids) == ({9: 1, 4: 2}, {1: 9, 2: 4})
