"""COCO files with fields that are missing, of another type, repeated or out of range."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from ladon.data.coco import coco_dataset
from ladon.data.coco_masks import instance_mask, run_lengths, shape_problem
from ladon.errors import DataError
from ladon.metrics.coco import CocoMetric
from ladon.tasks import TASKS

BOXES = ((0, [10, 10, 40, 40]), (0, [60, 60, 30, 30]), (1, [20, 20, 50, 50]), (1, [5, 70, 20, 20]))
HUGE = 10**400


def content(image_ids=(1, 2), annotation_ids=(1, 2, 3, 4)):
    """Two images of 100x100 pixels with two objects each."""
    return {
        "images": [
            {"id": i, "file_name": f"{n}.png", "width": 100, "height": 100}
            for n, i in enumerate(image_ids)
        ],
        "annotations": [
            {
                "id": number,
                "image_id": image_ids[image],
                "category_id": 1,
                "bbox": box,
                "iscrowd": 0,
                "area": box[2] * box[3],
                "segmentation": [[10, 10, 50, 10, 50, 50, 10, 50]],
            }
            for number, (image, box) in zip(annotation_ids, BOXES, strict=True)
        ],
        "categories": [{"id": n, "name": f"name {n}"} for n in (1, 2, 90)],
    }


def load(folder, made, **options):
    for n in range(2):
        Image.new("RGB", (100, 100)).save(folder / f"{n}.png")
    path = folder / "a.json"
    path.write_text(made if isinstance(made, str) else json.dumps(made))
    return coco_dataset(folder, path, False, **options)


def average_precision(dataset):
    """Scores detections that are the objects themselves."""
    metric = CocoMetric(dataset.coco)
    for n in range(len(dataset)):
        _, target = dataset[n]
        output = {key: target[key] for key in ("boxes", "labels")}
        metric.update([output | {"scores": torch.ones(len(target["labels"]))}], [target])
    return metric.compute([metric.state()])["AP"]


@pytest.mark.parametrize(
    ("image_ids", "annotation_ids"),
    [
        ((1, 2), (0, 1, 2, 3)),
        ((0, -5), (-1, 0, -2, 7)),
        ((1, 2), tuple(2**53 + n for n in range(4))),
        ((10**16 + 1, 10**16 + 3), (1, 2, 3, 4)),
        ((2**63 - 1, -(2**63)), (4, 3, 2, 1)),
        ((2**63, 2**63 + 1), (1, 2, 3, 4)),
        ((10**30 + 1, 10**30), tuple(10**30 + n for n in range(4))),
    ],
)
def test_perfect_detections_score_one_whatever_the_ids(tmp_path, image_ids, annotation_ids):
    dataset = load(tmp_path, content(image_ids, annotation_ids))
    assert len(dataset) == 2
    assert average_precision(dataset) == 1.0
    target = dataset[0][1]  # in the order of the ids, as ever
    expected = BOXES[0][1] if image_ids[0] < image_ids[1] else BOXES[2][1]
    x, y, w, h = expected
    assert target["boxes"][0].tolist() == [x, y, x + w, y + h]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ({"image_ids": (7, 7)}, r"images\[1\] repeats the id 7 of images\[0\]"),
        (
            {"annotation_ids": (1, 2, 3, 2)},
            r"annotations\[3\] repeats the id 2 of annotations\[1\]",
        ),
    ],
)
def test_repeated_ids_are_refused(tmp_path, ids, message):
    with pytest.raises(DataError, match=f"a.json: {message}; correct or remove it"):
        load(tmp_path, content(**ids))


NOT_A_BOX = "not x, y, width and height in pixels"
FIELDS = [
    *(("annotations", "iscrowd", v, "not 0 or 1") for v in (None, "0", True, 2, 1.0, [], HUGE)),
    *(
        ("annotations", "area", v, "not a finite number")
        for v in (None, "9", True, -1, float("nan"), float("inf"), HUGE, [3])
    ),
    *(
        ("annotations", "bbox", v, NOT_A_BOX)
        for v in (
            None,
            "1234",
            {},
            [],
            [1, 2, 3],
            [1, 2, 3, 4, 5],
            [1, 2, 3, "4"],
            [1, 2, 3, None],
            [1, 2, True, 4],
            [float("nan"), 2, 3, 4],
            [1, 2, float("inf"), 4],
            [1, 2, 3, HUGE],
            [1e30, 2, 3, 4],
            [1, 2, -3, -4],
            [[1], 2, 3, 4],
        )
    ),
    *(("annotations", "category_id", v, "not an integer") for v in (None, "1", 1.0, True, [1])),
    ("annotations", "category_id", 5, "which is no id in 'categories'"),
    ("annotations", "category_id", HUGE, "which is no id in 'categories'"),
    *(("annotations", "image_id", v, "not an integer") for v in (None, "1", 1.0, True)),
    ("annotations", "image_id", 99, "which is no id in 'images'"),
    *(("annotations", "id", v, "not an integer") for v in (None, "a", 2.0, False)),
    *(("images", "id", v, "not an integer") for v in (None, "2", 2.5, True)),
    *(
        ("images", "file_name", v, "not the name of a file")
        for v in (None, "", 3, ["x"], "a\0b", "\ud800.png")
    ),
    *(
        ("images", side, v, "not a number of pixels")
        for side in ("width", "height")
        for v in (None, "100", 0, -3, 100.5, True, HUGE)
    ),
    *(("categories", "id", v, "not an integer") for v in (None, "1", 1.0, True)),
    ("categories", "name", 7, "not text"),
]


@pytest.mark.parametrize(("entries", "key", "value", "problem"), FIELDS)
def test_a_wrong_field_is_refused_with_its_entry(tmp_path, entries, key, value, problem):
    made = content()
    made[entries][1][key] = value
    with pytest.raises(DataError) as caught:
        load(tmp_path, made)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/a.json: {entries}[1] has {key} "), message
    assert problem in message
    assert "\n" not in message
    assert len(message) < 300


@pytest.mark.parametrize(
    ("entries", "key"),
    [
        *(("annotations", key) for key in ("id", "image_id", "category_id", "bbox")),
        *(("images", key) for key in ("id", "file_name")),
        ("categories", "id"),
    ],
)
def test_a_field_left_out_is_refused_with_its_entry(tmp_path, entries, key):
    made = content()
    del made[entries][1][key]
    with pytest.raises(DataError, match=rf"a.json: {entries}\[1\] lacks '{key}'; "):
        load(tmp_path, made)


@pytest.mark.parametrize("entries", ["images", "annotations", "categories"])
@pytest.mark.parametrize("value", [None, 3, "x", [1]])
def test_what_is_no_entry_is_refused(tmp_path, entries, value):
    made = content()
    made[entries][1] = value
    with pytest.raises(DataError, match=rf"a.json: {entries}\[1\] is .*, not an object"):
        load(tmp_path, made)


def test_a_category_may_not_be_listed_twice(tmp_path):
    made = content()
    made["categories"][1]["id"] = 1
    with pytest.raises(DataError, match=r"categories\[1\] repeats the id 1 of categories\[0\]"):
        load(tmp_path, made)


def test_neither_categories_nor_annotations(tmp_path):
    with pytest.raises(DataError, match=r"a.json has neither categories nor annotations"):
        load(tmp_path, content() | {"categories": [], "annotations": []})


def test_what_may_be_left_out_is_filled_in(tmp_path):
    made = content()
    for annotation in made["annotations"]:
        del annotation["iscrowd"], annotation["area"]
    for image in made["images"]:
        del image["width"], image["height"]
    made["categories"] = [{"id": 1}]
    made["info"] = None
    dataset = load(tmp_path, made)
    assert average_precision(dataset) == 1.0
    assert [a["area"] for a in dataset.coco.dataset["annotations"]] == [1600, 900, 2500, 400]
    assert dataset.coco.dataset["info"] == {}


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path):
    assert len(load(tmp_path, "\ufeff" + json.dumps(content()))) == 2


def test_a_set_without_annotations_has_nothing_to_compare_with(tmp_path):
    dataset = load(tmp_path, content() | {"annotations": []})
    assert dataset[0][1]["boxes"].shape == (0, 4)
    with pytest.raises(DataError, match=r"a.json has no annotations: there is nothing to compare"):
        TASKS["object_detection"].metric(dataset, {})


RUNS = {"size": [100, 100], "counts": [0, 4, 9996]}
SHAPES = [
    ({"size": [100, 100], "counts": [0, 4]}, "run lengths for 4 pixels, not for 100x100"),
    ({"size": [100, 100], "counts": [0, 10001]}, "run lengths for 10001 pixels"),
    ({"size": [100, 100], "counts": []}, "run lengths for 0 pixels"),
    ({"size": [100, 100], "counts": [10001, -1]}, "no integer of at least 0"),
    ({"size": [100, 100], "counts": [9999.0, 1]}, "no integer of at least 0"),
    ({"size": [100, 100], "counts": [9999, True]}, "no integer of at least 0"),
    ({"size": [100, 100], "counts": [9999, None]}, "no integer of at least 0"),
    ({"size": [100, 100], "counts": None}, "neither a list nor text"),
    ({"size": [100, 100]}, "neither a list nor text"),
    ({"size": [100, 100], "counts": "zzzzzzzz"}, "damaged"),
    ({"size": [100, 100], "counts": "P"}, "breaks off"),
    ({"size": [100, 100], "counts": ""}, "run lengths for 0 pixels"),
    ({"size": [100, 100], "counts": "é"}, "damaged"),
    ({"size": [50, 200], "counts": [10000]}, "is 200x50 pixels on an image of 100x100"),
    ({"size": [100], "counts": [100]}, "without a size"),
    ({"size": ["100", 100], "counts": [10000]}, "without a size"),
    ({"size": None, "counts": [10000]}, "without a size"),
    ({"counts": [10000]}, "without a size"),
    ([[1, float("nan"), 5, 1, 5, 5]], "not a number"),
    ([[1, 1, 5, 1, 5, float("nan")]], "not a number"),
    ([[1, float("inf"), 5, 1, 5, 5]], "outside -200 to 400"),
    ([[1, 1, 5, 1, 5, 1e9]], "outside -200 to 400"),
    ([[1, 1, 5, 1, 5, HUGE]], "outside -200 to 400"),
    ([[1.5, 1, 5, 1, 5, HUGE]], "no number"),
    ([[1, 1, 5, 1, 5, -201]], "outside -200 to 400"),
    ([[1, 1, 5, 1, 5, "5"]], "no number"),
    ([[1, 1, 5, 1, 5, None]], "no number"),
    ([[1, 1, 5, 1, 5, [5]]], "no number"),
    ([[1, 1, 5, 1]], "at least three corners"),
    ([[1, 1, 5, 1, 5, 5, 7]], "at least three corners"),
    ([1, 1, 5, 1, 5, 5], "at least three corners"),
    ([[]], "at least three corners"),
    ("x", "neither a list of polygons nor run lengths"),
    (7, "neither a list of polygons nor run lengths"),
]


@pytest.mark.parametrize(("shape", "problem"), SHAPES)
def test_a_mask_that_cannot_be_painted_is_refused_at_once(tmp_path, shape, problem):
    made = content()
    made["annotations"][1]["segmentation"] = shape
    with pytest.raises(DataError) as caught:
        load(tmp_path, made, is_segment=True)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/a.json: the segmentation of annotation 2 "), message
    assert problem in message
    assert "\n" not in message
    made["annotations"][1]["category_id"] = 90  # no class of PASCAL VOC's: never painted
    assert len(load(tmp_path, made, is_segment=True)) == 2
    assert len(load(tmp_path, made)) == 2


def test_an_image_of_another_size_than_the_json_says(tmp_path):
    made = content()
    made["annotations"][0]["segmentation"] = RUNS
    made["annotations"][1]["segmentation"] = []
    dataset = load(tmp_path, made, is_segment=True)
    assert int((np.asarray(dataset[0][1]) > 0).sum()) == 4
    Image.new("RGB", (10, 10)).save(tmp_path / "0.png")
    with pytest.raises(DataError, match=r"annotation 1 is 100x100 pixels on an image of 10x10"):
        _ = dataset[0]
    made["annotations"][0]["segmentation"] = [[1, 1, 90, 1, 90, 90]]
    with pytest.raises(DataError, match=r"annotation 1 has a polygon .* outside -20 to 40"):
        _ = load_then_shrink(tmp_path, made)[0]


def load_then_shrink(folder, made):
    dataset = load(folder, made, is_segment=True)
    Image.new("RGB", (10, 10)).save(folder / "0.png")
    return dataset


@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
def test_text_of_run_lengths_is_read_as_pycocotools_reads_it(share):
    rng = np.random.default_rng(1)
    for height, width in ((1, 1), (7, 3), (40, 61), (300, 200)):
        mask = np.asfortranarray(rng.random((height, width)) < share)
        mask[: height // 2, : width // 2] = share > 0.5
        runs = coco_mask.encode(mask.astype(np.uint8))
        text = runs["counts"].decode()
        shape = {"size": [height, width], "counts": text}
        assert shape_problem(shape, (height, width)) is None
        assert sum(run_lengths(text)) == height * width
        assert np.array_equal(instance_mask(shape, height, width), mask)
        # whatever is cut off is noticed; of a long text, 200 places
        for n in range(0, len(text), -(-len(text) // 200)):
            assert shape_problem(shape | {"counts": text[:n]}, None) is not None


def test_what_is_read_is_left_as_it_is(tmp_path):
    made = content()
    before = copy.deepcopy(made)
    assert load(tmp_path, made).coco.dataset == before | {"info": {}}
