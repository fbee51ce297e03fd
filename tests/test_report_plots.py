"""The rate-accuracy plot, by what its axes hold."""

from pathlib import Path

import pytest

from ladon.report.labels import Box, keep_apart, place_labels
from ladon.report.plots import published_figure, rate_accuracy_figure, save_figure
from ladon.report.results import PictureCodec, RunCollection, RunResult, Spread
from ladon.report.series import DATA_SIZE, split_series
from ladon.tasks import TASKS


def result(beta: float | None = 0.32, score: float = 70.0, size: float | None = 1e4, **changes):
    values = {
        "run": Path("logs/x"),
        "role": "student",
        "task": "image_classification",
        "mode": "test",
        "name": f"splittable_resnet50-fp-beta{beta}_from_resnet50",
        "config": None,
        "dataset": "ilsvrc2012/val",
        "backbone": "resnet50",
        "beta": beta,
        "metrics": {"acc1": score, "acc5": 90.0},
        "data_size_kb": None,
        "payload_bytes": None if size is None else Spread(size, 1.0, 10),
        "num_images": 10,
        "images_per_s": None,
        **changes,
    }
    return RunResult(view=TASKS[values["task"]].view, **values)


TEACHER = result(score=78.2, size=None, role="teacher")


def test_axes_hold_lines_levels_and_betas():
    results = [TEACHER, result(10.24, 75.0, 1e4), result(0.32, 77.4, 9e4)]
    (axes,) = rate_accuracy_figure(RunCollection(results, [])).axes
    line, level = axes.lines
    assert line.get_xydata().tolist() == [[9e4, 77.4], [1e4, 75.0]]  # in the order of β
    assert list(level.get_ydata()) == [78.2, 78.2]
    assert axes.get_xscale() == "log"
    assert axes.get_ylabel() == "Acc@1 [%]"
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["resnet50 (teacher) 78.200", "0.32", "10.24"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["resnet50"]


def test_a_codecs_qualities_are_a_line_of_their_own():
    def before_teacher(quality, score, size):
        codec = PictureCodec("JPEG", quality, "resnet50")
        return result(None, score, size, backbone=None, name="unsplit", codec=codec)

    results = [
        before_teacher(90, 78.0, 5e4),
        result(0.32, 77.4, 9e4),
        before_teacher(10, 60.0, 5e3),
    ]
    (axes,) = rate_accuracy_figure(RunCollection(results, [])).axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert lines["JPEG before resnet50"] == [[5e3, 60.0], [5e4, 78.0]]  # in the order of quality
    assert {text.get_text() for text in axes.texts} == {"q10", "q90", "0.32"}
    assert axes.get_xlabel() == "payload per image [bytes], β or quality q at each point"


def test_one_axes_per_task():
    detection = result(task="object_detection", metrics={"AP": 0.3})
    figure = rate_accuracy_figure(RunCollection([result(), detection], []))
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["Image classification", "Object detection"]


def test_series_are_told_apart_by_marker_and_line():
    other = result(backbone="resnest269e", name="splittable_resnest269e-fp-beta0.32")
    (axes,) = rate_accuracy_figure(RunCollection([result(), other], [])).axes
    first, second = axes.lines
    assert first.get_marker() != second.get_marker()
    assert first.get_linestyle() != second.get_linestyle()


def test_two_experiments_on_one_backbone_go_by_their_names():
    series, _ = split_series([result(), result(name="ladon-splittable_resnet50-fp-beta0.32")])
    assert [line.label for line in series] == [
        "splittable_resnet50-fp_from_resnet50",
        "ladon-splittable_resnet50-fp",
    ]


def test_a_repeated_experiment_gets_a_line_of_its_own():
    series, _ = split_series([result(0.32), result(0.32), result(1.28), result(1.28)])
    assert [(line.label, len(line.results)) for line in series] == [
        ("resnet50", 2),
        ("resnet50 (run 2)", 2),
    ]


def test_a_family_is_the_name_without_beta():
    families = {
        "splittable_resnet50-fp-beta0.32_from_resnet50": "splittable_resnet50-fp_from_resnet50",
        "faster_rcnn_splittable_resnet50-fp-beta5.12_fpn": "faster_rcnn_splittable_resnet50-fp_fpn",
        "ladon-splittable_resnet50-fp-beta5.12": "ladon-splittable_resnet50-fp",
        "ssd300_vgg16": "ssd300_vgg16",
    }
    assert {name: result(name=name).family for name in families} == families


def test_baselines_alone_still_plot(tmp_path):
    baseline = result(None, 73.4, None, backbone=None, name="mobilenet_v2")
    figure = rate_accuracy_figure(RunCollection([baseline], []))
    (axes,) = figure.axes
    assert axes.get_xlabel() == "no size measured"
    assert [text.get_text() for text in axes.texts] == ["mobilenet_v2 73.400"]
    save_figure(figure, tmp_path / "x.png")


def test_what_has_no_score_or_no_bytes_is_left_out():
    odd = [result(score=float("nan")), result(metrics={}), result(size=0.0)]
    assert split_series([*odd, result(1.28)])[0][0].results == [result(1.28)]
    assert split_series(odd) == ([], [])
    rate_accuracy_figure(RunCollection(odd, []))


def test_logs_without_payloads_are_drawn_by_data_size():
    logged = result(size=None, data_size_kb=Spread(85.9, 1.0, 10))
    (axes,) = rate_accuracy_figure(RunCollection([logged], [])).axes
    assert axes.lines[0].get_xydata().tolist() == [[85.9, 70.0]]
    assert axes.get_xlabel() == "data size per image [KB], β at each point"


def test_own_runs_are_markers_on_the_published_lines():
    def sized(**changes):
        return result(size=None, data_size_kb=Spread(changes.pop("kb"), 1.0, 10), **changes)

    other = {"backbone": "resnest269e", "name": "splittable_resnest269e-fp-beta0.32"}
    published = [sized(kb=80.0, shown_as="Ladon A"), sized(kb=60.0, shown_as="Ladon B", **other)]
    own = [sized(kb=61.0, **other), sized(kb=81.0), result(size=None, role="teacher", score=78.0)]
    figure = published_figure(
        RunCollection([*published, TEACHER], []), RunCollection(own, []), "ilsvrc2012"
    )
    (axes,) = figure.axes
    lines, levels = axes.lines[:4], axes.lines[4:]
    assert [line.get_xydata()[0, 0] for line in lines] == [80.0, 60.0, 81.0, 61.0]
    assert [line.get_linestyle() for line in lines][2:] == ["None", "None"]
    assert len({line.get_marker() for line in lines}) == 4
    assert [level.get_ydata()[0] for level in levels] == [78.0, 78.2]
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == ["Ladon A", "Ladon B", "this run: resnet50", "this run: resnest269e"]
    assert [line.results[0].backbone for line in split_series(own, DATA_SIZE)[0]] == [
        "resnest269e",
        "resnet50",
    ]


@pytest.mark.parametrize("suffix", [".svg", ".png", ".pdf"])
def test_same_results_same_bytes(tmp_path, suffix):
    runs = RunCollection([TEACHER, result(), result(1.28, 69.0, 5e3)], [])
    paths = [tmp_path / f"{number}{suffix}" for number in (1, 2)]
    for path in paths:
        save_figure(rate_accuracy_figure(runs), path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_labels_avoid_each_other_and_the_edge():
    frame = Box(0, 0, 100, 100)
    points = [(50.0, 50.0), (52.0, 50.0), (98.0, 97.0)]
    sizes = [(20.0, 8.0)] * 3
    centers = place_labels(points, sizes, [points], frame)
    boxes = [Box.around(center, *size) for center, size in zip(centers, sizes, strict=True)]
    assert all(frame.holds(box) for box in boxes)
    assert not any(boxes[i].meets(boxes[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


def test_keep_apart():
    assert keep_apart([0.1, 0.5], 0.1) == [0.1, 0.5]
    assert keep_apart([0.5, 0.5, 0.5], 0.1) == pytest.approx([0.5, 0.6, 0.7])
    assert keep_apart([0.95, 0.97], 0.1) == pytest.approx([0.9, 1.0])
