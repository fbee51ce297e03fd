"""Reading logs: the wording of the paper's repository, and this project's own."""

import logging
from pathlib import Path

import pytest

from ladon.commands import report as report_script
from ladon.engine.evaluation import Evaluation
from ladon.errors import UsageError
from ladon.logs import set_up_logging
from ladon.metrics.accuracy import Accuracy
from ladon.metrics.confusion import ConfusionMatrix
from ladon.metrics.names import COCO_STATS
from ladon.report.logs import NO_TEST, read_log
from ladon.report.results import Spread
from ladon.report.runs import collect_runs

OLD = "2023-02-16 18:25:14,754\tINFO\t__main__\t"
NEW = "2026/11/23 16:59:25\tINFO\tladon.app\t"
RESNET50 = "splittable_resnet50-fp-beta0.32_from_resnet50.txt"
SIZE = "Bottleneck size [KB]: mean 85.94058953125 std 6.450615805028002 for 50000 samples"
IOUS = ", ".join(f"'{value}'" for value in (90.9, 73.2, 31.0))


def coco(first: float) -> list[str]:
    """COCO's summary with twelve values from `first` on, 0.001 apart."""
    sides = [("Precision", "(AP)"), ("Recall", "(AR)")]
    rows = [f" Average {a:<9} {b} @[ IoU=0.50:0.95 | area=   all | maxDets=100 ]" for a, b in sides]
    return [
        "IoU metric: bbox",
        *(f"{rows[i // 6]} = {first + i / 1000:.3f}" for i in range(12)),
    ]


def write_log(path: Path, prefix: str, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{prefix}{line}\n" for line in lines))
    return path


def old_classification(path: Path, *tail: str) -> Path:
    return write_log(
        path,
        OLD,
        "Namespace(adjust_lr=False, config='configs/ilsvrc2012/proposed/x.yaml', seed=None)",
        "Start training",
        "Epoch: [0] Total time: 5:21:50",
        " * Acc@1 67.9900\tAcc@5 88.0920\n",
        "Training time 4 days, 10:18:13",
        "Loading model parameters",
        *tail,
    )


def test_old_classification_log(tmp_path):
    path = old_classification(
        tmp_path / "logs/ilsvrc2012/ladon" / RESNET50,
        "[Teacher: resnet50]",
        "Test: Total time: 0:06:06",
        " * Acc@1 78.1580\tAcc@5 94.1920\n",
        "[Student: splittable_resnet]",
        " * Acc@1 77.3760\tAcc@5 93.9620\n",
        SIZE,
    )
    teacher, student = read_log(path)
    assert (teacher.role, teacher.metrics) == ("teacher", {"acc1": 78.158, "acc5": 94.192})
    assert (teacher.data_size_kb, teacher.label) == (None, "resnet50 (teacher)")
    assert student.metrics == {"acc1": 77.376, "acc5": 93.962}
    assert student.data_size_kb == Spread(85.94058953125, 6.450615805028002, 50000)
    assert (student.payload_bytes, student.num_images) == (None, 50000)
    assert student.key == ("image_classification", "ilsvrc2012", "student", "resnet50", 0.32)
    assert student.mode == "train"


def test_old_detection_log_without_fpn_in_its_name(tmp_path):
    path = write_log(
        tmp_path / "coco2017" / "faster_rcnn_splittable_resnet50-fp-beta10.24.txt",
        OLD,
        "Start training",
        *coco(0.1),
        "[Student: faster_rcnn_model]",
        *coco(0.2),
        "Bottleneck size [KB]: mean 7.8 std 1.2 for 5000 samples",
    )
    (student,) = read_log(path)
    assert list(student.metrics) == list(COCO_STATS)
    assert student.metrics["AP"] == 0.2
    assert student.metrics["AP50"] == 0.201
    assert student.metrics["ARl"] == 0.211
    assert student.key == ("object_detection", "coco2017", "student", "resnet50", 10.24)


def test_old_segmentation_logs(tmp_path):
    folder = tmp_path / "logs/pascal_voc2012"
    line = (
        f"mean IoU: 67.9, IoU: [{IOUS}],\nGlobal pixelwise acc: 91.8, Average row correct: ['9.5']"
    )
    path = write_log(
        folder / "ladon/deeplabv3_splittable_resnet50fp-beta1.28_two_stages.txt",
        OLD,
        "[Student: deeplabv3_model]",
        line,  # wrapped
        "Bottleneck size [KB]: mean 57.8 std 7.8 for 1449 samples",
    )
    (student,) = read_log(path)
    assert student.metrics == {
        "mean_iou": 67.9,
        "pixel_accuracy": 91.8,
        "iou": [90.9, 73.2, 31.0],
        "row_correct": [9.5],
    }
    assert student.key == ("semantic_segmentation", "pascal_voc2012", "student", "resnet50", 1.28)
    assert student.mode == "test"
    name = "lraspp_mobilenet_v3_large"
    baseline = read_log(write_log(folder / f"{name}.txt", OLD, f"[Student: {name}]", line))[0]
    assert (baseline.backbone, baseline.beta, baseline.data_size_kb) == (name, None, None)


def evaluations() -> dict[str, tuple[Evaluation, dict[str, float]]]:
    """What the engine logs of each task, and the numbers in it."""
    metrics = {
        "splittable": ({"acc1": 77.376, "acc5": 93.962}, Accuracy()),
        "deeplabv3_splittable": (
            {
                "mean_iou": 67.94,
                "pixel_accuracy": 91.8,
                "iou": [90.9, None],
                "row_correct": [95.0, None],
                "absent_classes": [1],
            },
            ConfusionMatrix(2),
        ),
    }
    found = {}
    for name, (values, metric) in metrics.items():
        size = {"mean": 85.94058953125, "std": 6.450615805028002, "n": 50}
        payload = {"mean": 87894.25, "std": 6605.5, "n": 50}
        lines = metric.lines(values)
        found[name] = (Evaluation(values, lines, 50, 1.0, size, payload), values)
    return found


@pytest.mark.parametrize(
    ("name", "dataset"),
    [("splittable", "ilsvrc2012"), ("deeplabv3_splittable", "pascal_voc2012")],
)
def test_what_the_engine_logs_is_read(tmp_path, name, dataset):
    path = tmp_path / "logs" / dataset / f"{name}_resnet50-fp-beta0.32.txt"
    evaluation, values = evaluations()[name]
    root = logging.getLogger()
    kept, level = list(root.handlers), root.level
    root.handlers.clear()
    try:
        set_up_logging(path)
        logging.getLogger("ladon.app").info("[Student: %s]", "x")
        evaluation.log()
    finally:
        for handler in root.handlers:
            handler.close()
        root.handlers[:] = kept
        root.setLevel(level)
    (student,) = read_log(path)
    first = student.view.first
    assert student.metrics[first.key] == pytest.approx(values[first.key], abs=0.05)
    assert student.data_size_kb == Spread(85.94058953125, 6.450615805028002, 50)
    assert student.payload_bytes == Spread(87894.25, 6605.5, 50)


def test_only_the_last_run_of_a_log_counts(tmp_path):
    first = ["[Student: s]", " * Acc@1 10.0000\tAcc@5 20.0000"]
    config = "Config configs/ilsvrc2012/ladon/x.yaml, device cpu, seed 0"
    again = ["Started stage1: epochs 0-9", "Epoch: [0]\t[0/40]\teta: 0:02:58"]
    path = tmp_path / "ilsvrc2012" / RESNET50
    (student,) = read_log(write_log(path, NEW, config, *first, config, *again))
    assert (student.missing, student.note) == (True, NO_TEST)
    done = [*again, "[Student: s]", " * Acc@1 30.0000\tAcc@5 40.0000"]
    assert read_log(write_log(path, NEW, config, *first, *done))[0].metrics["acc1"] == 30.0
    # a repeated test that was broken off takes nothing back
    assert read_log(write_log(path, NEW, *done, config, "[Student: s]"))[0].metrics["acc1"] == 30.0


def test_names_come_from_the_config_if_the_log_has_its_own(tmp_path):
    config = "Config configs/coco2017/ladon-runtime/ladon-splittable_resnest269e-fp-beta5.12.yaml"
    path = tmp_path / "mine.txt"
    log = write_log(path, NEW, f"{config}, device cpu, seed 0", "[Student: ladon]", *coco(0.3))
    assert read_log(log)[0].key == (
        "object_detection",
        "coco2017",
        "student",
        "resnest269e",
        5.12,
    )


def test_logs_that_say_nothing_are_errors(tmp_path):
    notes = tmp_path / "notes.txt"
    notes.write_text("buy milk\n")
    with pytest.raises(UsageError, match=r"notes.txt: not a run's log"):
        read_log(notes)
    somewhere = write_log(tmp_path / "x.txt", OLD, "[Student: s]", " * Acc@1 1.0\tAcc@5 2.0")
    with pytest.raises(UsageError, match=r"x.txt: cannot tell the dataset"):
        read_log(somewhere)
    half = write_log(tmp_path / "coco2017/x.txt", OLD, "[Student: s]", *coco(0.3)[:5])
    assert read_log(half)[0].missing
    with pytest.raises(UsageError, match=r"x.txt: the log stops before the final test"):
        collect_runs([half])
    own = write_log(tmp_path / "logs/my_data/x.txt", OLD, "Start training")
    with pytest.raises(UsageError, match="the log stops before the final test"):
        read_log(own)


def test_a_stopped_log_among_others_is_marked_missing(tmp_path, capsys):
    folder = tmp_path / "logs/ilsvrc2012"
    old_classification(folder / RESNET50.replace("0.32", "1.28"))
    write_log(folder / RESNET50, OLD, "[Student: s]", " * Acc@1 77.3760\tAcc@5 93.9620", SIZE)
    (folder / "notes.txt").write_text("not a log\n")
    assert report_script.main([str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "│ resnet50 │ 1.28 │   missing │" in printed
    assert "missing, the log stops before the final test: resnet50, β 1.28" in printed
    assert (
        "| resnet50 | 0.32 | 77.376 | 93.962 | 85.941 ± 6.451 |"
        in (tmp_path / "out/report.md").read_text()
    )
