"""`--analyse`: what a test finds of each class, the confusion, and the worst images."""

from __future__ import annotations

import csv
import math
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as tv

from ladon.analysing import check_analysis
from ladon.analysis import Analysed, ByClass, Judged, Worst
from ladon.analysis.classification import ClassificationAnalysis
from ladon.analysis.detection import DetectionAnalysis, average_precision
from ladon.analysis.files import class_table, write_files
from ladon.analysis.pictures import as_picture, picture_of
from ladon.analysis.segmentation import SegmentationAnalysis
from ladon.errors import UsageError
from ladon.metrics.accuracy import Accuracy
from ladon.metrics.confusion import ConfusionMatrix
from ladon.report.confusion import confusion_figure
from ladon.split.answers import Answers, Found, Mask
from ladon.sweeps.betas import Sweep
from ladon.tasks import TASKS, Task


def name_of(label):
    return {0: "ant", 1: "bee"}.get(label)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def analysed(lab, family, *flags):
    """The folder of a test's analysis, and its metrics."""
    assert lab.run(family, "-test_only", "-student_only", "--analyse", *flags) == 0
    return lab.folder / "logs" / family / "analysis", lab.metrics(family)["models"]["student"]


def test_a_classifiers_test_equals_its_analysis(own_lab):
    folder, found = analysed(own_lab, "classification")
    *classes, overall = rows_of(folder / "per_class.csv")
    images = [int(row["images"]) for row in classes]
    assert sum(images) == int(overall["images"]) == 12
    for key in ("acc1", "acc5"):
        values = [float(row[key] or 0) for row in classes]
        mean = sum(n * v for n, v in zip(images, values, strict=True)) / 12
        assert mean == pytest.approx(found["metrics"][key])
        assert float(overall[key]) == found["metrics"][key]
    worst = rows_of(folder / "worst" / "worst.csv")
    assert [int(row["rank"]) for row in worst] == list(range(1, 13))
    badness = [float(row["badness"]) for row in worst]
    assert badness == sorted(badness, reverse=True)
    for row in worst:
        assert Path(row["image"]).is_file()
        with Image.open(folder / "worst" / row["picture"]) as picture:
            assert picture.width >= 480, "names can be read"
    with Image.open(folder / "confusion.png") as picture:
        assert picture.size > (300, 300)
    assert "classes, the worst by acc1 first" in own_lab.log("classification")
    # another test takes the place of this one's pictures
    elsewhere = own_lab.folder / "mine" / "a"
    (elsewhere / "worst").mkdir(parents=True)
    (elsewhere / "worst" / "99.png").touch()
    assert own_lab.run("teacher", "-test_only", "--analyse", str(elsewhere)) == 0
    assert len(list((elsewhere / "worst").iterdir())) == 13
    assert not (own_lab.folder / "logs" / "teacher" / "analysis").exists()


def halves(make, outputs, targets, cut):
    """An analysis in one process, and in two."""
    found = []
    for parts in ([slice(None)], [slice(None, cut), slice(cut, None)]):
        made = [make() for _ in parts]
        badness = []
        for analysis, part in zip(made, parts, strict=True):
            badness += analysis.update(outputs[part], targets[part])
        found.append((made[0].compute([analysis.state() for analysis in made]), badness))
    return found


def test_classes_of_a_classifier_by_hand():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, 7, generator=generator)
    labels = torch.randint(0, 5, (40,), generator=generator)  # two classes have no image
    (found, badness), (shared, _) = halves(
        lambda: ClassificationAnalysis(name_of), logits, labels, 17
    )
    metric = Accuracy()
    metric.update(logits, labels)
    values = metric.compute([metric.state()])
    assert {key: found.overall[key] for key in values} == values
    assert np.array_equal(found.confusion, shared.confusion)
    assert found.columns == shared.columns
    answers = logits.argmax(dim=1)
    for label in range(7):
        own = labels == label
        count = int(own.sum())
        right = int((answers[own] == label).sum())
        assert found.columns["images"][label] == count
        assert found.columns["acc1"][label] == (100.0 * right / count if count else None)
        wrong = torch.bincount(answers[own & (answers != label)], minlength=7)
        assert found.columns["mistaken"][label] == int(wrong.max())
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    assert badness == losses.tolist()
    judged = ClassificationAnalysis(name_of).judge(logits, labels, 3)
    assert judged.words == f"loss {losses[3]:.3f}"
    assert judged.truth.classes[0].score == pytest.approx(math.exp(-losses[3]))
    assert judged.found.classes[0].label == answers[3]
    assert ClassificationAnalysis(name_of).compute([None]).columns == {}


def test_classes_of_a_segmenter_by_hand():
    logits = torch.zeros(2, 3, 2, 4)
    logits[0, 1] = 1.0  # all of the first image is class 1
    logits[1, 2] = 1.0
    targets = torch.tensor([[[1, 1, 1, 1], [0, 0, 255, 255]], [[2, 2, 2, 2], [2, 2, 255, 255]]])
    (found, badness), (shared, _) = halves(
        lambda: SegmentationAnalysis(name_of, 4), logits, targets, 1
    )
    # image 1: class 0 has IoU 0 of 2, class 1 4 of 6; image 2: class 2 6 of 6
    assert badness == pytest.approx([100 - 100 * (4 / 6) / 2, 0.0])
    assert found.columns["iou"] == [0.0, pytest.approx(200 / 3), 100.0, None]
    assert found.columns["pixels"] == [2, 4, 6, 0]
    assert found.overall["iou"] == pytest.approx((200 / 3 + 100) / 3)
    assert np.array_equal(found.confusion, shared.confusion)
    metric = ConfusionMatrix(4)
    metric.update({"out": logits}, targets)
    assert found.overall["iou"] == metric.compute([metric.state()])["mean_iou"]
    judged = SegmentationAnalysis(name_of, 4).judge({"out": logits}, targets, 0)
    assert judged.found.mask.labels.tolist() == [[1, 1, 1, 1], [1, 1, 255, 255]]
    assert judged.words == "mean IoU 33.3 %"
    nothing = torch.full_like(targets, 255)
    assert SegmentationAnalysis(name_of, 4).update(logits, nothing) == [0.0, 0.0]


BOXES = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]])


def boxes(rows, labels, scores=None):
    found = {"boxes": torch.tensor(rows).reshape(-1, 4), "labels": torch.tensor(labels)}
    return found | ({} if scores is None else {"scores": torch.tensor(scores)})


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        # both objects first, then a mistake: precision 1 at all recalls
        (boxes(BOXES.tolist(), [1, 2, 1], [0.9, 0.8, 0.1]), (1.0, 2, 2)),
        # the mistake in front: precision 1/2 at the first object, 2/3 at the second; never rising
        (boxes(BOXES.flip(0).tolist(), [1, 2, 1], [0.9, 0.8, 0.1]), (2 / 3, 2, 2)),
        # one object of two, found twice: the second time is a mistake
        (boxes([[0.0, 0, 10, 10], [0.0, 0, 10, 9]], [1, 1], [0.9, 0.8]), (0.5, 1, 2)),
        (boxes([[0.0, 0, 10, 4]], [1], [0.9]), (0.0, 0, 2)),  # IoU 0.4
        (boxes([[0.0, 0, 10, 10]], [2], [0.9]), (0.0, 0, 2)),  # another class
        (boxes([], [], []), (0.0, 0, 2)),
    ],
)
def test_an_images_average_precision(found, expected):
    target = boxes(BOXES[:2].tolist(), [1, 2])
    assert average_precision(found, target) == pytest.approx(expected)


def test_an_image_without_objects():
    nothing = boxes([], [])
    assert average_precision(nothing | {"scores": torch.tensor([])}, nothing) == (1.0, 0, 0)
    assert average_precision(boxes([[0.0, 0, 1, 1]], [1], [0.5]), nothing) == (0.0, 0, 0)


def test_objects_are_shown_with_their_names():
    analysis = DetectionAnalysis(name_of, None)
    target = boxes(BOXES[:2].tolist(), [1, 2])
    found = boxes(BOXES[:1].tolist(), [1], [0.75])
    judged = analysis.judge([found], [target], 0)
    assert judged.words == "AP@.50 0.500, 1 of 2 objects found"
    assert judged.found.objects == (Found(1, "bee", 0.75, (0.0, 0.0, 10.0, 10.0)),)
    assert [one.name for one in judged.truth.objects] == ["bee", None]
    unsure = boxes(BOXES.tolist(), [1, 1, 1], [0.1, 0.3, 0.2])
    shown = analysis.judge([unsure], [target], 0).found.objects
    assert [one.score for one in shown] == pytest.approx([0.3, 0.2]), "as many as are there"


def test_the_worst_do_not_depend_on_batches_and_processes():
    """Of equally bad images the first ones are kept."""
    badness = [float(n % 7) for n in range(100)]
    judged = Judged("", Answers(), Answers())

    def of(batches):
        kept = []
        for batch in batches:
            worst = Worst()
            worst.add(batch, [badness[n] for n in batch], lambda _: judged)
            kept += worst.kept
        return [(bad, index) for bad, index, _ in Worst.of(kept)]

    whole = of([range(100)])
    expected = sorted(((bad, n) for n, bad in enumerate(badness)), key=lambda p: (-p[0], p[1]))
    assert whole == expected[:20]
    assert of([range(1, 100, 2), range(0, 100, 2)]) == whole
    assert of([range(50, 100), range(50)]) == whole


def test_a_picture_is_as_the_model_saw_it_less_its_normalisation():
    image = torch.rand(3, 20, 30, generator=torch.Generator().manual_seed(0))
    step = tv.Normalize([0.4, 0.5, 0.6], [0.2, 0.3, 0.1])
    dataset = SimpleNamespace(transform=tv.Compose([tv.ToTensor(), step]))
    shown = tv.functional.to_tensor(as_picture(step(image), dataset))
    assert (shown - image).abs().max() < 1 / 255 + 1e-6
    plain = SimpleNamespace(transform=tv.ToTensor())
    assert (tv.functional.to_tensor(as_picture(image, plain)) - image).abs().max() < 1 / 255
    own = as_picture(image * 50 - 20, plain)  # normalised by something unknown
    assert own.getextrema()[0][1] > 200
    assert as_picture((image * 255).to(torch.uint8), plain).size == (30, 20)
    assert as_picture(own, plain).size == (30, 20)
    with pytest.raises(TypeError, match="a list is no image"):
        as_picture([1], plain)


def test_a_title_longer_than_the_picture_is_whole():
    data = [(torch.rand(3, 64, 64), 0)]
    judged = Judged("bad", Answers((Found(0, "ant", 0.1),)), Answers((Found(1, "bee", 0.9),)))
    short, long = (picture_of(data, 0, judged, title) for title in ("x", "x" * 200))
    assert long.width > short.width
    assert long.height == short.height


def test_the_colours_of_masks_are_explained():
    """In as many lines as the names need; not the background's, and not of what is ignored."""
    labels = np.zeros((8, 8), dtype=np.uint8)
    labels[:4] = 255
    one = Answers(mask=Mask(labels, ("background", "x")))
    labels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    many = Answers(mask=Mask(labels, ("background", *(f"a long name {n}" for n in range(63)))))
    data = [(torch.rand(3, 8, 8), 0)]
    heights = [picture_of(data, 0, Judged("", one, found), "").height for found in (one, many)]
    assert heights[1] > heights[0] + 10 * 26


def test_a_class_without_a_sign_is_left_out_of_the_table():
    by_class = ByClass(
        {"images": [2, 0, 3], "acc1": [50.0, None, 0.0], "mistaken_for": [2, None, 0]},
        {"images": 5, "acc1": 20.0},
    )
    header, rows = class_table(by_class, lambda label: name_of(label) or str(label))
    assert header == ["label", "class", "images", "acc1", "mistaken_for"]
    assert rows == [
        [0, "ant", 2, 50.0, "2"],
        [2, "2", 3, 0.0, "ant"],
        ["", "all", 5, 20.0, None],
    ]


@pytest.mark.parametrize("number", [2, 30, 100])
def test_a_confusion_of_any_size_can_be_drawn(number):
    counts = np.eye(number, dtype=np.int64) * 3
    counts[0, 1], counts[1] = 1, 0  # class 1 is not in the data
    figure = confusion_figure(counts, [f"a long name {n}" for n in range(number)], "images")
    figure.draw_without_rendering()
    axes = figure.axes[0]
    assert len(axes.texts) == (number if number <= 25 else 0)
    assert (len(axes.get_yticklabels()) == number) == (number <= 60)


def test_wrong_uses_are_said_before_any_work(refused, own_lab, tmp_path):
    (own_lab.folder / "file").write_text("x")
    folder = own_lab.folder / "file" / "a"
    message = refused("teacher", "-test_only", "--analyse", str(folder))
    assert message.startswith(f"--analyse {folder}: cannot be written: ")

    class Silent(Task):
        name, short_name, title = "silence", "silence", "Silence"
        model_kind, scores = "classification", ()

        def metric(self, dataset, options):
            raise NotImplementedError

    run = SimpleNamespace(task=Silent(), args=Namespace(analyse=""), folder=tmp_path)
    with pytest.raises(UsageError, match="--analyse: silence does not say what its analysis is"):
        check_analysis(run)
    with pytest.raises(UsageError, match="--analyse: silence does not say"):
        run.task.analysis(None, {}, name_of)


def test_a_sweep_needs_a_folder_for_each_beta():
    def sweep(*flags):
        config = "configs/digit_scenes/ladon/splittable_resnet18-fp-beta{beta}_from_resnet18.yaml"
        return Sweep(
            TASKS["image_classification"], config, ("0.32", "5.12"), passed_on=tuple(flags)
        )

    with pytest.raises(UsageError, match=r"--analyse needs \{beta\} in its folder"):
        sweep("--analyse", "here").check()
    sweep("--analyse", "here/{beta}").check()
    sweep("--analyse", "--device", "cpu").check()
    sweep("--device", "cpu", "--analyse").check()


def test_a_full_disk_is_one_line(tmp_path):
    (tmp_path / "per_class.csv").mkdir()
    (tmp_path / "per_class.csv" / "x").touch()
    found = Analysed(ByClass({}, {}), [])
    with pytest.raises(UsageError, match=rf"^--analyse {tmp_path}: cannot be written: Is a dir"):
        write_files(tmp_path, found, [], name_of, lambda _: None)
