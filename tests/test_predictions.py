"""`--predictions`: what a model finds in each image of its final test."""

from __future__ import annotations

import json
import types
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from ladon.data.coco_categories import Categories
from ladon.errors import UsageError
from ladon.predictions import check_predictions
from ladon.sweeps.betas import Sweep
from ladon.tasks import TASKS, Task


def name_of(label):
    return {1: "ant", 2: "bee"}.get(label)


def rows(lab, family, *flags):
    """The lines of a test's file, each parsed."""
    path = lab.folder / "new" / family / "found.jsonl"
    assert lab.run(family, "--predictions", str(path), *flags) == 0
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_classifiers_five_best(own_lab):
    found = rows(own_lab, "teacher", "-test_only")
    metrics = own_lab.metrics("teacher")
    assert len(found) == metrics["num_images"] == 12
    paths = [Path(row["image"]) for row in found]
    assert paths == sorted(paths)
    right = 0
    for row, path in zip(found, paths, strict=True):
        assert path.is_file()
        assert len(row["best"]) == 5
        scores = [best["score"] for best in row["best"]]
        assert scores == sorted(scores, reverse=True)
        assert 0 < sum(scores) <= 1 + 1e-6
        assert all(best["class"] == str(best["label"]) for best in row["best"])
        right += row["best"][0]["class"] == path.parent.name
    assert right == round(12 * metrics["models"]["student"]["metrics"]["acc1"] / 100)


def test_after_a_training_with_a_teacher_it_is_the_students(own_lab):
    flags = ("--set", "train.stage1.num_epochs=1", "--set", "train.stage2.num_epochs=1")
    own_lab.checkpoint("classification").unlink()
    trained = rows(own_lab, "classification", *flags)
    assert rows(own_lab, "classification", "-test_only", "-student_only") == trained
    assert rows(own_lab, "teacher", "-test_only") != trained


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_other_tasks_write_a_line_an_image(own_lab, task):
    found = rows(own_lab, task)
    assert len(found) == 12
    for row in found:
        assert Path(row["image"]).is_file()
        if task == "segmentation":
            assert sum(c["pixels"] for c in row["classes"]) == 96 * 96
            names = ["background", *map(str, range(10))]
            assert all(found["class"] == names[found["label"]] for found in row["classes"])
        else:
            assert row["classes"] == [str(i - 1) for i in row["category_ids"]]
            assert len(row["boxes"]) == len(row["scores"]) == len(row["classes"])
            assert all(x1 < x2 <= 96 and y1 < y2 <= 96 for x1, y1, x2, y2 in row["boxes"])


def test_detections_have_the_files_ids():
    categories = Categories([{"id": 300}, {"id": 7}], [300], "c.json")
    categories.assign(3)
    dataset = types.SimpleNamespace(categories=categories)
    outputs = [
        {
            "boxes": torch.tensor([[1.0, 2, 3, 4.5], [0, 0, 9, 9]]),
            "scores": torch.tensor([0.5, 0.25]),
            "labels": torch.tensor([2, 3]),
        },
        {"boxes": torch.empty(0, 4), "scores": torch.empty(0), "labels": torch.empty(0).long()},
    ]
    assert TASKS["object_detection"].predictions(outputs, dataset, name_of) == [
        {
            "boxes": [[1, 2, 3, 4.5], [0, 0, 9, 9]],
            "scores": [0.5, 0.25],
            "category_ids": [7, None],
            "classes": ["bee", None],
        },
        {"boxes": [], "scores": [], "category_ids": [], "classes": []},
    ]


def test_a_segmenters_pixels_are_counted():
    logits = torch.nn.functional.one_hot(torch.tensor([[[2, 0], [2, 2]]]), 3).permute(0, 3, 1, 2)
    assert TASKS["semantic_segmentation"].predictions({"out": logits}, None, name_of) == [
        {
            "classes": [
                {"label": 0, "class": None, "pixels": 1},
                {"label": 2, "class": "bee", "pixels": 3},
            ]
        }
    ]


def test_fewer_than_five_classes():
    logits = torch.tensor([[0.0, 2.0, 1.0]]).log()
    (row,) = TASKS["image_classification"].predictions(logits, None, name_of)
    assert [(b["label"], b["class"]) for b in row["best"]] == [(1, "ant"), (2, "bee"), (0, None)]
    assert [b["score"] for b in row["best"]] == pytest.approx([2 / 3, 1 / 3, 0])


def test_wrong_usage_is_refused_before_any_work(refused, own_lab, tmp_path):
    (tmp_path / "file").write_text("x")
    message = refused("teacher", "-test_only", "--predictions", str(tmp_path))
    assert message == f"--predictions {tmp_path}: is a folder; name a file"
    message = refused("teacher", "-test_only", "--predictions", str(tmp_path / "file" / "p"))
    assert message.startswith(f"--predictions {tmp_path}/file/p: cannot be written: ")

    class Silent(Task):
        name = "silence"

        def metric(self, dataset, options):
            raise NotImplementedError

    run = types.SimpleNamespace(task=Silent(), args=Namespace(predictions="p"))
    with pytest.raises(UsageError, match="--predictions: silence does not say what its predictio"):
        check_predictions(run)
    with pytest.raises(UsageError, match="--predictions: silence does not say"):
        run.task.predictions(None, None, name_of)


def test_several_betas_need_a_file_each(tmp_path):
    config = tmp_path / "beta{beta}.yaml"
    for beta in ("1", "2"):
        (tmp_path / f"beta{beta}.yaml").write_text("{}\n")

    def sweep(*flags):
        task = TASKS["image_classification"]
        return Sweep(task, str(config), ("1", "2"), test_only=True, passed_on=flags)

    for flags in (("--predictions", "p.jsonl"), ("--device", "cpu", "--predictions=p")):
        with pytest.raises(UsageError, match=r"--predictions needs \{beta\} in its file: several"):
            sweep(*flags).check()
    sweep("--predictions", "p{beta}.jsonl", "--device", "cpu").check()
    sweep("--predictions=p{beta}").check()
