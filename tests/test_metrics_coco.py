"""The detection metric against pycocotools itself, and what detection asks of its batches."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import pickle
import re

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from ladon.errors import DataError, UsageError
from ladon.metrics.coco import CocoMetric
from ladon.metrics.names import COCO_STATS
from ladon.models.input_size import encoder_input_size
from ladon.tasks import TASKS

# pycocotools' precision of a lone true positive is 1 / (1 + 2^-52); faster-coco-eval's is 1
PRECISION_ERROR = 2.0**-52


def random_set(seed, images=8, classes=3, objects=10, found=25, crowds=0.15, decimals=6):
    """Make ground truth, and per image a model's output and its target.

    About one image in five has no objects, and one in five no detections. Boxes have sides of 4 to
    250 pixels (COCO's three sizes), a mask's area in place of the box's, and ids in no order.
    """
    rng = np.random.default_rng(seed)
    annotations, outputs = [], []
    image_ids = [int(i) for i in rng.permutation(500)[:images] + 1]
    for image_id in image_ids:
        own = []
        for _ in range(int(rng.integers(1, objects + 1)) * int(rng.random() < 0.8)):
            own.append(
                {
                    "id": len(annotations) + len(own) + 1,
                    "image_id": image_id,
                    "category_id": int(rng.integers(1, classes + 1)) * 7,
                    "bbox": [*rng.uniform(0, 300, 2).tolist(), *_sides(rng)],
                    "iscrowd": int(rng.random() < crowds),
                }
            )
            own[-1]["area"] = own[-1]["bbox"][2] * own[-1]["bbox"][3] * rng.uniform(0.4, 1)
        annotations += own
        count = int(rng.integers(1, found + 1)) * int(rng.random() < 0.8)
        outputs.append(_output(rng, own, count, classes, decimals))
    truth = COCO()
    truth.dataset = {
        "images": [{"id": i, "width": 640, "height": 640} for i in image_ids],
        "annotations": annotations,
        "categories": [{"id": (c + 1) * 7, "name": str(c)} for c in range(classes)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    return truth, outputs, [{"image_id": torch.tensor(i)} for i in image_ids]


def _sides(rng):
    return np.exp(rng.uniform(np.log(4), np.log(250), 2)).tolist()


def _output(rng, own, count, classes, decimals):
    """Find objects exactly, roughly or as another class, and things that are not there."""
    boxes, labels = np.zeros((count, 4)), np.zeros(count, dtype=np.int64)
    for n in range(count):
        box, label = [*rng.uniform(0, 300, 2), *_sides(rng)], int(rng.integers(1, classes + 1)) * 7
        if own and rng.random() < 0.7:
            annotation = own[int(rng.integers(len(own)))]
            box = np.asarray(annotation["bbox"]) + rng.normal(0, rng.choice([0, 1, 4]), 4)
            label = annotation["category_id"] if rng.random() < 0.9 else label
        x, y, w, h = box
        boxes[n], labels[n] = (x, y, x + max(1, w), y + max(1, h)), label
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32),
        "scores": torch.tensor(rng.random(count).round(decimals), dtype=torch.float32),
        "labels": torch.tensor(labels),
    }


def pycocotools_result(truth, outputs, targets):
    """Call pycocotools by hand; return its twelve numbers and what it printed."""
    results = [
        {
            "image_id": int(target["image_id"]),
            "category_id": int(label),
            "bbox": [float(b[0]), float(b[1]), float(b[2] - b[0]), float(b[3] - b[1])],
            "score": float(score),
        }
        for output, target in zip(outputs, targets, strict=True)
        for b, score, label in zip(
            output["boxes"].double(), output["scores"], output["labels"], strict=True
        )
    ]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.params.imgIds = sorted(int(t["image_id"]) for t in targets)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats.tolist(), printed.getvalue().splitlines()[-12:]


def ladon_result(truth, outputs, targets, batch=3):
    metric = CocoMetric(truth)
    for n in range(0, len(outputs), batch):
        metric.update(outputs[n : n + batch], targets[n : n + batch])
    values = metric.compute([metric.state()])
    assert tuple(values) == COCO_STATS
    return list(values.values()), metric.lines(values)


CASES = {
    "several classes": {},
    "one class": {"classes": 1},
    "twelve classes": {"classes": 12, "objects": 20},
    "equal scores": {"decimals": 1},
    "all scores 0 or 1": {"decimals": 0},
    "many crowds": {"crowds": 0.6},
    "only crowds": {"crowds": 1.1},
    "no crowds": {"crowds": 0.0},
    "one image": {"images": 1},
    "one object at most": {"objects": 1, "images": 20},
    "more than 100 of a class": {"found": 600, "classes": 2, "images": 4, "decimals": 2},
}


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_numbers_are_pycocotools(options):
    compared = 0
    for seed in range(12):
        sample = random_set(seed, **options)
        if not sum(len(o["scores"]) for o in sample[1]):
            continue  # pycocotools raises; see below
        expected, _ = pycocotools_result(*sample)
        values, _ = ladon_result(*sample)
        assert values[6:] == expected[6:], f"recall, seed {seed}"
        difference = np.abs(np.subtract(values[:6], expected[:6])).max()
        assert difference <= PRECISION_ERROR, f"precision, seed {seed}"
        compared += any(0 < v < 1 for v in expected) or options.get("crowds", 0) > 1
    assert compared >= 6, "the case has no numbers between 0 and 1 to compare"


def test_the_cases_are_what_they_say():
    """Images without objects or detections, all three sizes, and more than 100 detections."""
    truth, outputs, targets = random_set(0, images=40)
    empty = [not truth.imgToAnns[int(t["image_id"])] for t in targets]
    silent = [not len(o["scores"]) for o in outputs]
    assert {*zip(empty, silent, strict=True)} == {(a, b) for a in (0, 1) for b in (0, 1)}
    sizes = {int(np.digitize(a["area"], [32**2, 96**2])) for a in truth.dataset["annotations"]}
    assert sizes == {0, 1, 2}
    labels = [o["labels"] for o in random_set(0, **CASES["more than 100 of a class"])[1]]
    assert max(int((of == 7).sum()) for of in labels) > 100
    scores = random_set(0, decimals=1)[1][0]["scores"]
    assert len(scores.unique()) < len(scores)


@pytest.mark.parametrize("case", ["twelve classes", "only crowds", "one object at most"])
def test_values_of_a_class_are_pycocotools_of_it_alone(case):
    truth, outputs, targets = random_set(3, **CASES[case])
    metric = CocoMetric(truth)
    metric.update(outputs, targets)
    values = metric.compute([metric.state()])
    found = metric.by_class()
    for label in truth.getCatIds():
        kept = [
            {key: value[output["labels"] == label] for key, value in output.items()}
            for output in outputs
        ]
        alone = copy.deepcopy(truth)
        alone.dataset["categories"] = [{"id": label}]
        alone.dataset["annotations"] = [
            a for a in truth.dataset["annotations"] if a["category_id"] == label
        ]
        with contextlib.redirect_stdout(io.StringIO()):
            alone.createIndex()
        expected, _ = ladon_result(alone, kept, targets)
        if not any(len(output["labels"]) for output in kept):
            assert found["AP"][label] in (0.0, None)
            continue
        theirs, _ = pycocotools_result(alone, kept, targets)
        assert expected == pytest.approx(theirs, abs=PRECISION_ERROR)
        for name, value in (("AP", theirs[0]), ("AP50", theirs[1]), ("AR100", theirs[8])):
            if value == -1:
                assert found[name][label] is None
            else:
                assert found[name][label] == pytest.approx(value, abs=1e-12)
        there = [a for a in alone.dataset["annotations"] if not a["iscrowd"]]
        assert found["objects"][label] == len(there)
    known = [value for value in found["AP"] if value is not None]
    assert values["AP"] == (pytest.approx(sum(known) / len(known)) if known else -1)


def test_lines_are_pycocotools():
    for seed in range(10):
        sample = random_set(seed)
        _, expected = pycocotools_result(*sample)
        _, lines = ladon_result(*sample)
        assert lines == ["IoU metric: bbox", *expected]
    assert re.fullmatch(
        r" Average Precision  \(AP\) @\[ IoU=0.50:0.95 \| area=   all \| maxDets=100 \] = 0\.\d{3}",
        lines[1],
    )


def test_perfect_detections_by_hand():
    """Two objects found exactly, before one thing that is not there: AP 1; one of two: 51/101."""
    truth, _, targets = random_set(0, images=1, objects=1)
    image_id = int(targets[0]["image_id"])
    boxes = [[10.0, 10, 50, 50], [100.0, 100, 50, 50]]
    truth.dataset["annotations"] = [
        {"id": n, "image_id": image_id, "category_id": 7, "bbox": b, "area": 2500, "iscrowd": 0}
        for n, b in enumerate(boxes, start=1)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    corners = torch.tensor([[10.0, 10, 60, 60], [100, 100, 150, 150], [300, 300, 350, 350]])
    output = {
        "boxes": corners,
        "scores": torch.tensor([0.9, 0.8, 0.7]),
        "labels": torch.full((3,), 7),
    }
    values, _ = ladon_result(truth, [output], targets)
    assert values == [1.0, 1.0, 1.0, -1.0, 1.0, -1.0, 0.5, 1.0, 1.0, -1.0, 1.0, -1.0]
    alone = {key: value[1:] for key, value in output.items()}
    values, _ = ladon_result(truth, [alone], targets)
    assert values[0] == pytest.approx(51 / 101)
    assert values[8] == 0.5


def test_no_detections_at_all_give_zero():
    truth, outputs, targets = random_set(1, crowds=0.0)
    none = [{key: value[:0] for key, value in output.items()} for output in outputs]
    for annotation in truth.dataset["annotations"]:
        annotation["area"] = 100.0  # none is medium or large
    values, lines = ladon_result(truth, none, targets)
    assert values == [0, 0, 0, 0, -1, -1, 0, 0, 0, 0, -1, -1]
    assert lines[1].endswith("area=   all | maxDets=100 ] = 0.000")
    assert lines[5].endswith("area=medium | maxDets=100 ] = -1.000")


@pytest.mark.parametrize("found", [True, False])
def test_no_ground_truth_at_all_gives_minus_one(found):
    truth, outputs, targets = random_set(1)
    truth.dataset["annotations"] = []
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    if not found:
        outputs = [{key: value[:0] for key, value in output.items()} for output in outputs]
    values, _ = ladon_result(truth, outputs, targets)
    assert values == [-1] * 12


def test_no_images_at_all_give_minus_one():
    metric = CocoMetric(random_set(0)[0])
    assert set(metric.compute([metric.state()]).values()) == {-1.0}
    assert set(metric.by_class()["AP"]) == {None}


@pytest.mark.parametrize("decimals", [0, 1, 6])
def test_numbers_do_not_depend_on_how_the_work_was_split(decimals):
    """Two processes and other batches: all bits are equal, equal scores or not."""
    truth, outputs, targets = random_set(4, images=15, decimals=decimals)
    expected, lines = ladon_result(truth, outputs, targets, batch=1)
    assert ladon_result(truth, outputs, targets, batch=15) == (expected, lines)
    parts = [CocoMetric(truth) for _ in range(3)]  # the third gets no image
    for n, pair in enumerate(zip(outputs, targets, strict=True)):
        parts[1 - n % 2].update(*([p] for p in pair))
    states = [pickle.loads(pickle.dumps(part.state())) for part in parts]
    merged = CocoMetric(truth)
    values = merged.compute(states)
    assert (list(values.values()), merged.lines(values)) == (expected, lines)


def test_only_evaluated_images_count():
    truth, outputs, targets = random_set(2)
    alone, _ = ladon_result(truth, outputs[:1], targets[:1])
    expected, _ = pycocotools_result(truth, outputs[:1], targets[:1])
    assert alone[8] == expected[8]
    others = [{key: value[:0] for key, value in output.items()} for output in outputs[1:]]
    assert alone[8] > ladon_result(truth, outputs[:1] + others, targets)[0][8] > 0


def test_state_is_what_was_found_in_each_image():
    """Rows of x, y, width, height, score, category id; every image, found in or not."""
    truth, outputs, targets = random_set(3)
    metric = CocoMetric(truth)
    metric.update(outputs, targets)
    detections, image_ids, counts = metric.state()
    assert image_ids.tolist() == [int(t["image_id"]) for t in targets]
    assert detections.dtype == np.float64
    assert counts.tolist() == [len(o["scores"]) for o in outputs]
    first = next(n for n, o in enumerate(outputs) if len(o["scores"]))
    x1, y1, x2, y2 = outputs[first]["boxes"][0].double().tolist()
    score, label = float(outputs[first]["scores"][0]), int(outputs[first]["labels"][0])
    assert detections[0].tolist() == [x1, y1, x2 - x1, y2 - y1, score, label]


def test_evaluation_leaves_the_dataset_alone_and_prints_nothing(capfd):
    truth, outputs, targets = random_set(5)
    before, annotations = json.dumps(truth.dataset), copy.deepcopy(truth.anns)
    ladon_result(truth, outputs, targets)
    assert json.dumps(truth.dataset) == before
    assert truth.anns == annotations
    assert isinstance(truth, COCO)
    assert capfd.readouterr() == ("", "")


def test_detections_that_are_not_numbers_are_left_out(caplog):
    truth, outputs, targets = random_set(6, found=6)
    expected, _ = ladon_result(truth, outputs, targets)
    spoiled = [{key: value.clone() for key, value in output.items()} for output in outputs]
    nan = torch.tensor([float("nan")])
    for key, value in {
        "boxes": torch.tensor([[0.0, 0, float("nan"), 9]]),
        "scores": nan,
        "labels": torch.tensor([7]),
    }.items():
        spoiled[0][key] = torch.cat([value, spoiled[0][key]])
    with caplog.at_level(logging.WARNING):
        values, _ = ladon_result(truth, spoiled, targets)
    assert values == expected
    count = sum(len(o["scores"]) for o in spoiled)
    assert f"1 of {count} detections are left out" in caplog.text


def test_image_that_the_annotations_do_not_know_is_a_data_error():
    truth, outputs, targets = random_set(7)
    targets[2] = {"image_id": torch.tensor(9999)}
    with pytest.raises(DataError, match=r"image_id 9999 \(1 in all\)"):
        ladon_result(truth, outputs, targets)


def test_a_batch_is_moved_to_the_cpu_as_a_whole(monkeypatch):
    """What waits for a GPU: once for all boxes, scores and labels, once for the image ids."""
    truth, outputs, targets = random_set(8)
    waits = []
    for name in ("cpu", "to", "item", "tolist", "__int__", "__float__", "__bool__"):
        method = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor,
            name,
            lambda tensor, *args, name=name, method=method: (
                waits.append(name) or method(tensor, *args)
            ),
        )
    CocoMetric(truth).update(outputs, targets)
    assert waits == ["cpu", "cpu"]


class WithTransform(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.transform = GeneralizedRCNNTransform(416, 416, [0.5] * 3, [0.2] * 3).eval()


@pytest.mark.parametrize("size", [(480, 640), (640, 427), (333, 500), (100, 100), (37, 900)])
def test_input_size_is_what_the_model_pads_to(size):
    """Only images that the model pads to one size share a batch."""
    model = WithTransform()
    image = torch.rand(3, *size)
    padded, _ = model.transform([image])
    assert encoder_input_size(image, model) == tuple(padded.tensors.shape[-2:])


def test_other_iou_types_are_refused():
    with pytest.raises(UsageError, match="only bbox"):
        TASKS["object_detection"].metric(object(), {"iou_types": ["segm"]})
