"""Scores of all three tasks from one payload for an image, and what `report` makes of them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from ladon.commands import main
from ladon.config import load_config
from ladon.errors import DataError
from ladon.measure.accuracy import outputs
from ladon.measure.labelled import Labelled, common_images, spread
from ladon.models import build_model, update_bottleneck, write_checkpoint
from ladon.report.plots import rate_accuracy_figure
from ladon.report.runs import collect_runs
from ladon.split.answers import IGNORED, Answers, Found, Mask
from ladon.tasks import find_task


class Files(Dataset):
    """Images by their files' names, with one target."""

    def __init__(self, names, target=0):
        self.images, self._target = list(names), target

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return None, self._target


def labelled(task, names, target=0, num_classes=3):
    return Labelled(find_task(task), Files(names, target), "scenes/val", "x", num_classes)


def test_images_are_matched_by_file():
    sets = {
        "classification": labelled("classification", ["val/3/7.png", "val/0/5.png"]),
        "detection": labelled("detection", ["val/0/5.png", "val/1/6.png", "val/3/7.png"]),
        "segmentation": labelled("segmentation", ["JPEGImages/val_7.jpg", "JPEGImages/val_5.jpg"]),
    }
    assert common_images(sets) == ["7", "5"]
    assert sets["segmentation"].path("7") == "JPEGImages/val_7.jpg"


def test_sets_without_a_common_image_are_refused():
    sets = {
        "classification": labelled("classification", ["a.png"]),
        "detection": labelled("detection", ["b.png"]),
    }
    with pytest.raises(DataError, match=r"no image is in all of scenes/val \(a, …\), scenes/val"):
        common_images(sets)
    with pytest.raises(DataError, match="several images have one name"):
        _ = labelled("classification", ["x/a.png", "y/a.png"]).by_file


def test_few_images_are_spread_over_all():
    assert spread(10, 4) == [0, 2, 5, 7]
    assert spread(3, 5) == [0, 1, 2]


IMAGE = Image.fromarray(np.zeros((4, 8, 3), np.uint8))


def test_answers_become_what_metrics_take():
    labels = np.array([[1, 1, 2, 2, 0, 0, IGNORED, IGNORED]] * 4, np.uint8)
    answer = Answers(
        (Found(2, None, 0.7), Found(0, None, 0.3)),
        (Found(1, None, 0.9, (0.0, 1.0, 2.0, 3.0)),),
        Mask(labels),
    )
    of_task = {name: labelled(name, ["a"]) for name in ("classification", "detection")}
    shares = outputs(answer, of_task["classification"], torch.tensor([2]), IMAGE, (4, 8))
    assert shares[0].topk(2).indices.tolist() == [2, 0]
    (found,) = outputs(answer, of_task["detection"], None, IMAGE, (4, 8))
    assert found["boxes"].tolist() == [[0, 1, 2, 3]]
    (none,) = outputs(Answers(objects=()), of_task["detection"], None, IMAGE, (4, 8))
    assert none["boxes"].shape == (0, 4)
    target = torch.zeros(1, 4, 8)
    scores = outputs(answer, labelled("segmentation", ["a"]), target, IMAGE, (4, 8))
    assert scores.argmax(1)[0, 0].tolist() == [1, 1, 2, 2, 0, 0, 0, 0]  # unseen: background
    halved = outputs(answer, labelled("segmentation", ["a"]), target[:, :2, :4], IMAGE, (4, 8))
    assert halved.argmax(1)[0, 0].tolist() == [1, 2, 0, 0]


def test_an_unsplit_models_answers_are_scaled_to_the_image():
    boxes = [{"boxes": torch.tensor([[0.0, 1.0, 2.0, 2.0]])}]
    (found,) = outputs(boxes, labelled("detection", ["a"]), None, IMAGE, (2, 4))
    assert found["boxes"].tolist() == [[0, 2, 4, 4]]
    logits = torch.randn(1, 3, 2, 4)
    target = torch.zeros(1, 4, 8)
    assert outputs(logits, labelled("segmentation", ["a"]), target, IMAGE, (2, 4)).shape == (
        1,
        3,
        4,
        8,
    )


@pytest.fixture
def untrained(own_lab):
    """The lab's trained classifier with an untrained detector and segmenter on its body."""
    for family in ("detection", "segmentation"):
        config = load_config(own_lab.config(family))
        config.import_dependencies()
        torch.manual_seed(0)
        model = build_model(config.build(config.section("models.model")), family, "models.model")
        update_bottleneck(model)
        write_checkpoint(own_lab.checkpoint(family), model, best_value=0.0)
    return own_lab


@pytest.mark.slow
def test_one_payload_scores_as_the_tasks_own_tests(untrained, tmp_path, capsys):
    heads = ("classification", "detection", "segmentation")
    singles = [str(untrained.config(head)) for head in heads]
    out = tmp_path / "out"
    flags = ["--config", str(untrained.three_headed("classification")), "--single", *singles]
    flags += ["--num-images", "2", "--warm-up", "0", "--jpeg", "20", "90", "--webp", "--accuracy"]
    assert main(["measure-split", *flags, "--out", str(out)]) == 0
    assert "One payload, three heads" in capsys.readouterr().out
    found = json.loads((out / "split.json").read_text())
    assert [way["name"] for way in found["ways"]] == [
        "on device",
        "JPEG q20",
        "JPEG q90",
        "single-task split β 0.32",
        "Ladon β 0.32",
    ]
    (ratio,) = found["ladon_over_single"]
    assert ratio["bytes"]["median"] <= 0.4
    assert found["unsplit"]["classification"] == "resnet18"
    scores = {(s["way"], s["task"]): s for s in found["accuracy"]}
    own = next(s for (way, _), s in scores.items() if way.endswith("_resnet18, own test (student)"))
    for way in ("Ladon β 0.32", "single-task split β 0.32"):
        assert scores[way, "image_classification"]["value"] == own["value"]
        assert scores[way, "image_classification"]["n"] == own["n"] == 12
    teacher = next(s for (way, _), s in scores.items() if way.endswith("own test (teacher)"))
    assert scores["PNG", "image_classification"]["value"] == teacher["value"]
    # 40 bytes are the payload's header and checksum
    payload = scores["Ladon β 0.32", "image_classification"]["mean_bytes"]
    assert payload == pytest.approx(own["mean_bytes"] + 40)
    for name in ("latency", "rates", "energy", "accuracy"):
        assert (out / f"{name}.png").stat().st_size > 10_000

    runs = collect_runs([out / "runs"])
    codecs = [r for r in runs.results if r.codec is not None]
    assert {(r.label, r.setting_text) for r in codecs if r.task == "image_classification"} == {
        ("JPEG before resnet18, q20", "q20"),
        ("JPEG before resnet18, q90", "q90"),
    }
    axes = rate_accuracy_figure(runs).axes[0]
    assert axes.get_xlabel().endswith("β or quality q at each point")
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    expected = {"JPEG before resnet18", "Ladon, one payload", "single-task split, three payloads"}
    assert expected <= set(labels)
    texts = [text.get_text() for text in axes.texts]
    assert {"q20", "q90", "0.32"} <= set(texts)
    assert any(text.startswith("unsplit resnet18 ") for text in texts)  # the upper bound
