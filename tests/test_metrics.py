"""Classification and segmentation metrics by hand, and the published result lines."""

from __future__ import annotations

import importlib

import pytest
import torch

from ladon.errors import DataError
from ladon.metrics.accuracy import Accuracy
from ladon.metrics.base import Metric
from ladon.metrics.confusion import ConfusionMatrix


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


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("classification", "Accuracy"),
        ("detection", "CocoMetric"),
        ("segmentation", "ConfusionMatrix"),
    ],
)
def test_metrics_are_found_where_they_were(module, name):
    found = importlib.import_module(f"ladon.tasks.{module}")
    assert issubclass(getattr(found, name), Metric)
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = found.Nothing
