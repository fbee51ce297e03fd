"""Metrics: golden values by hand or from pycocotools, and the published result lines."""

from __future__ import annotations

import contextlib
import io
import re

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from ladon.errors import DataError, UsageError
from ladon.tasks import TASKS
from ladon.tasks.classification import Accuracy
from ladon.tasks.detection import CocoMetric
from ladon.tasks.segmentation import ConfusionMatrix


def test_accuracy_by_hand():
    metric = Accuracy()
    logits = torch.tensor([[9.0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4, 5, 6], [0, 9, 1, 2, 3, 4, 5]])
    metric.update(logits, torch.tensor([0, 2, 0]))  # first; fifth of seven; seventh of seven
    values = metric.compute([metric.state()])
    assert values == {"acc1": pytest.approx(100 / 3), "acc5": pytest.approx(200 / 3)}
    assert metric.lines({"acc1": 77.376, "acc5": 93.962}) == [" * Acc@1 77.3760\tAcc@5 93.9620"]


def test_accuracy_of_fewer_than_five_classes():
    metric = Accuracy()
    metric.update(torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([0]))
    assert metric.compute([metric.state()]) == {"acc1": 0.0, "acc5": 100.0}


def test_accuracy_counts_each_image_once_over_processes():
    logits, labels = torch.randn(7, 5), torch.randint(5, (7,))
    whole, parts = Accuracy(), [Accuracy(), Accuracy()]
    whole.update(logits, labels)
    for part, (start, end) in zip(parts, ((0, 5), (5, 7)), strict=True):
        part.update(logits[start:end], labels[start:end])
    assert whole.compute([whole.state()]) == whole.compute([p.state() for p in parts])


def one_hot_logits(labels, num_classes):
    return torch.nn.functional.one_hot(labels, num_classes).permute(0, 3, 1, 2).float()


def test_mean_iou_by_hand():
    labels = torch.tensor([[[0, 0, 1, 1], [0, 0, 1, 255]]])
    predicted = torch.tensor([[[0, 0, 1, 0], [0, 1, 1, 2]]])
    metric = ConfusionMatrix(4)
    metric.update({"out": one_hot_logits(predicted, 4)}, labels)
    values = metric.compute([metric.state()])
    # class 0: 3 hits of 5 in the union; class 1: 2 of 4; the pixel labelled 255 does not count
    assert values["iou"] == [pytest.approx(60.0), pytest.approx(50.0), None, None]
    assert values["mean_iou"] == pytest.approx(55.0)
    assert values["pixel_accuracy"] == pytest.approx(100 * 5 / 7)
    assert values["row_correct"][:2] == [pytest.approx(75.0), pytest.approx(200 / 3)]
    assert values["absent_classes"] == [2, 3]
    lines = metric.lines(values)
    assert lines[0] == (
        "mean IoU: 55.0, IoU: ['60.0', '50.0', 'nan', 'nan'], Global pixelwise acc: 71.4, "
        "Average row correct: ['75.0', '66.7', 'nan', 'nan']"
    )
    assert "[2, 3]" in lines[1]


def test_a_class_that_is_only_predicted_counts_as_missed():
    metric = ConfusionMatrix(2)
    metric.update(one_hot_logits(torch.tensor([[[1, 0]]]), 2), torch.tensor([[[0, 0]]]))
    values = metric.compute([metric.state()])
    assert values["iou"] == [50.0, 0.0]
    assert values["mean_iou"] == 25.0


def test_mean_iou_merges_processes_and_ignores_an_idle_one():
    torch.manual_seed(0)
    logits, labels = torch.randn(4, 3, 8, 8), torch.randint(3, (4, 8, 8))
    whole, first, second, idle = (ConfusionMatrix(3) for _ in range(4))
    whole.update(logits, labels)
    first.update(logits[:1], labels[:1])
    second.update(logits[1:], labels[1:])
    merged = whole.compute([first.state(), second.state(), idle.state()])
    assert merged == whole.compute([whole.state()])


def test_mask_class_out_of_range_is_a_data_error():
    with pytest.raises(DataError, match="class 7, but the task has 3"):
        ConfusionMatrix(3).update(torch.zeros(1, 3, 1, 1), torch.tensor([[[7]]]))


def coco(images=4, crowd=True):
    """A small ground truth with random boxes, a crowd and an empty image."""
    rng = np.random.default_rng(0)
    annotations = []
    for image in range(images - 1):
        for _ in range(4):
            x, y, w, h = (float(v) for v in rng.uniform([0, 0, 8, 8], [60, 60, 60, 60]))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image + 1,
                    "category_id": int(rng.integers(1, 4)),
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": int(crowd and rng.random() < 0.2),
                }
            )
    made = COCO()
    made.dataset = {
        "images": [{"id": i + 1, "width": 128, "height": 128} for i in range(images)],
        "annotations": annotations,
        "categories": [{"id": c, "name": str(c)} for c in (1, 2, 3)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        made.createIndex()
    return made


def detections(truth, seed=1):
    """Noisy copies of the boxes, in the model's format, image by image."""
    rng = np.random.default_rng(seed)
    found = []
    for image in truth.dataset["images"]:
        own = [a for a in truth.dataset["annotations"] if a["image_id"] == image["id"]]
        boxes = [
            [x + dx, y + dy, x + w, y + h]
            for (x, y, w, h), dx, dy in ((a["bbox"], *rng.normal(0, 3, 2)) for a in own)
        ]
        found.append(
            (
                {
                    "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
                    "scores": torch.tensor(rng.random(len(own)), dtype=torch.float32),
                    "labels": torch.tensor([a["category_id"] for a in own], dtype=torch.int64),
                },
                {"image_id": torch.tensor(image["id"])},
            )
        )
    return found


def reference(truth, found):
    """pycocotools called by hand."""
    results = [
        {
            "image_id": int(target["image_id"]),
            "category_id": int(label),
            "bbox": [float(b[0]), float(b[1]), float(b[2] - b[0]), float(b[3] - b[1])],
            "score": float(score),
        }
        for output, target in found
        for b, score, label in zip(
            output["boxes"].double(), output["scores"], output["labels"], strict=True
        )
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


def test_coco_numbers_are_pycocotools():
    truth = coco()
    found = detections(truth)
    metric = CocoMetric(truth)
    for output, target in found:
        metric.update([output], [target])
    values = metric.compute([metric.state()])
    assert list(values.values()) == pytest.approx(list(reference(truth, found)), abs=1e-12)
    assert 0 < values["AP"] < 1
    lines = metric.lines(values)
    assert lines[0] == "IoU metric: bbox"
    assert len(lines) == 13
    assert re.fullmatch(
        r" Average Precision  \(AP\) @\[ IoU=0.50:0.95 \| area=   all \| maxDets=100 \] = 0\.\d{3}",
        lines[1],
    )


def test_coco_numbers_do_not_depend_on_how_the_work_was_split():
    truth = coco()
    found = detections(truth)
    for output, _ in found:
        output["scores"] = output["scores"].round(decimals=1)  # many equal scores
    one, first, second = (CocoMetric(truth) for _ in range(3))
    for n, pair in enumerate(found):
        one.update(*([p] for p in pair))
        (first if n % 2 else second).update(*([p] for p in pair))
    assert one.compute([one.state()]) == one.compute([first.state(), second.state()])


def test_no_detections_at_all_give_zero():
    truth = coco()
    metric = CocoMetric(truth)
    empty = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0)}
    metric.update([empty] * 4, [{"image_id": torch.tensor(i + 1)} for i in range(4)])
    values = metric.compute([metric.state()])
    assert values["AP"] == 0.0
    assert values["AR100"] == 0.0


def test_only_evaluated_images_count():
    truth = coco()
    found = detections(truth)
    metric = CocoMetric(truth)
    metric.update([found[0][0]], [found[0][1]])
    alone = metric.compute([metric.state()])
    assert alone["AR100"] > reference(truth, found[:1])[8], "the other images would count as missed"


class WithTransform(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.transform = GeneralizedRCNNTransform(416, 416, [0.5] * 3, [0.2] * 3).eval()


@pytest.mark.parametrize("size", [(480, 640), (640, 427), (333, 500), (100, 100), (37, 900)])
def test_input_size_is_what_the_model_pads_to(size):
    """Only images that the model pads to one size share a batch."""
    model, task = WithTransform(), TASKS["object_detection"]()
    image = torch.rand(3, *size)
    padded, _ = model.transform([image])
    assert task.input_size(image, model) == tuple(padded.tensors.shape[-2:])


def test_other_iou_types_are_refused():
    with pytest.raises(UsageError, match="only bbox"):
        TASKS["object_detection"]().metric(object(), {"iou_types": ["segm"]})
