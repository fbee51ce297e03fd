"""Reading finished runs, the tables of a report, and its entry script."""

import csv
import io
import json
from pathlib import Path

import pytest

from ladon.commands import report as report_script
from ladon.errors import UsageError
from ladon.report.render import csv_text, latex_document, latex_escape, markdown_document
from ladon.report.runs import collect_runs, read_metrics
from ladon.report.tables import RESULT_COLUMNS, csv_columns, result_tables

# Acc@1, Acc@5 and data size: the repository's results of Ladon with ResNet-50 (facts/results.csv);
# the payload's bytes are made up
SCORES = {
    0.32: (77.376, 93.962, 85.94058953125, 87894.25),
    10.24: (75.032, 92.676, 10.481008828125, 10624.0),
}


def metrics(scored: float, **changes: object) -> dict:
    """A metrics.json with the scores of this β."""
    acc1, acc5, size, payload = SCORES[scored]
    return {
        "format": 1,
        "task": "image_classification",
        "mode": "test",
        "config": f"configs/x/splittable_resnet50-fp-beta{scored}_from_resnet50.yaml",
        "name": f"splittable_resnet50-fp-beta{scored}_from_resnet50",
        "dataset": "ilsvrc2012/val",
        "beta": scored,
        "backbone": "resnet50",
        "key_metric": "acc1",
        "num_images": 50000,
        "models": {
            "teacher": {"metrics": {"acc1": 78.158, "acc5": 94.192}, "images_per_s": 10.0},
            "student": {
                "metrics": {"acc1": acc1, "acc5": acc5},
                "data_size_kb": {"mean": size, "std": 1.5, "n": 50000},
                "payload_bytes": {"mean": payload, "std": 2.0, "n": 50000},
                "wall_time_s": 1.0,
                "images_per_s": 12.34,
            },
        },
        **changes,
    }


def write_run(folder: Path, content: dict) -> Path:
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(content))
    (folder / "run.json").write_text("{}")
    return folder


@pytest.fixture
def two_runs(tmp_path, monkeypatch):
    """β 10.24 comes before 0.32 on disk, as names sort."""
    monkeypatch.chdir(tmp_path)
    write_run(Path("logs/a"), metrics(10.24))
    write_run(Path("logs/b"), metrics(0.32))
    return collect_runs(["logs"])


def test_markdown(two_runs):
    assert markdown_document(result_tables(two_runs), plot="p.png") == (
        "# Results\n\n"
        "## Image classification: ilsvrc2012/val\n\n"
        "| model | β | Acc@1 [%] | Acc@5 [%] | data size [KB] | payload [B] | n | images/s"
        " | run |\n"
        "| :--- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | :--- |\n"
        "| resnet50 (teacher) | – | 78.158 | 94.192 | – | – | 50000 | 10.0 | logs/a |\n"
        "| resnet50 | 0.32 | 77.376 | 93.962 | 85.941 ± 1.500 | 87894.2 | 50000 | 12.3 | logs/b"
        " |\n"
        "| resnet50 | 10.24 | 75.032 | 92.676 | 10.481 ± 1.500 | 10624.0 | 50000 | 12.3 | logs/a"
        " |\n"
        "\n![Accuracy against size](p.png)\n"
    )


def test_csv_is_unrounded(two_runs):
    assert csv_text(RESULT_COLUMNS, two_runs.results) == (
        "task,dataset,name,role,mode,backbone,model,beta,metric_name,metric_value,"
        "second_metric_name,second_metric_value,data_size_kb_mean,data_size_kb_std,"
        "payload_bytes_mean,payload_bytes_std,num_images,images_per_s,run\n"
        "image_classification,ilsvrc2012/val,splittable_resnet50-fp-beta10.24_from_resnet50,teacher,"
        "test,resnet50,resnet50 (teacher),,acc1,78.158,acc5,94.192,,,,,50000,10.0,logs/a\n"
        "image_classification,ilsvrc2012/val,splittable_resnet50-fp-beta0.32_from_resnet50,student,"
        "test,resnet50,resnet50,0.32,acc1,77.376,acc5,93.962,85.94058953125,1.5,87894.25,"
        "2.0,50000,12.34,logs/b\n"
        "image_classification,ilsvrc2012/val,splittable_resnet50-fp-beta10.24_from_resnet50,student,"
        "test,resnet50,resnet50,10.24,acc1,75.032,acc5,92.676,10.481008828125,1.5,10624.0,"
        "2.0,50000,12.34,logs/a\n"
    )


def test_latex(two_runs):
    assert latex_document(result_tables(two_runs)) == (
        "% Image classification: ilsvrc2012/val\n"
        "\\begin{tabular}{lrrrrrrr}\n"
        "\\hline\n"
        "model & $\\beta$ & Acc@1 [\\%] & Acc@5 [\\%] & data size [KB] & payload [B] & n"
        " & images/s \\\\\n"
        "\\hline\n"
        "resnet50 (teacher) & -- & 78.158 & 94.192 & -- & -- & 50000 & 10.0 \\\\\n"
        "resnet50 & 0.32 & 77.376 & 93.962 & 85.941 $\\pm$ 1.500 & 87894.2 & 50000 & 12.3 \\\\\n"
        "resnet50 & 10.24 & 75.032 & 92.676 & 10.481 $\\pm$ 1.500 & 10624.0 & 50000 & 12.3 \\\\\n"
        "\\hline\n"
        "\\end{tabular}\n"
    )


def test_latex_escapes_what_latex_would_read():
    assert latex_escape(r"a_b&50% {x}\y^") == (
        r"a\_b\&50\% \{x\}\textbackslash{}y\textasciicircum{}"
    )


def test_other_tasks_baselines_and_several_datasets(tmp_path):
    student = {"metrics": {"AP": 0.2468, "AP50": 0.4284}}
    detection = {"task": "object_detection", "dataset": "coco2017/val2017", "key_metric": "AP"}
    write_run(
        tmp_path / "d",
        metrics(
            0.32,
            **detection,
            beta=None,
            backbone=None,
            name="ssd300_vgg16",
            models={"student": student},
        ),
    )
    student = {"metrics": {"mean_iou": 67.891, "pixel_accuracy": 91.8, "iou": [90.9, None]}}
    for folder, dataset in (("s1", "pascal_voc2012/val"), ("s2", "coco2017/val")):
        content = metrics(
            0.32, task="semantic_segmentation", dataset=dataset, models={"student": student}
        )
        write_run(tmp_path / folder, content)
    runs = collect_runs([tmp_path])
    assert list(runs.by_task()) == ["object_detection", "semantic_segmentation"]
    text = markdown_document(result_tables(runs))
    assert "| ssd300_vgg16 | – | 0.247 | 0.428 | – | – | 50000 | – |" in text
    assert "## Semantic segmentation: pascal_voc2012/val, coco2017/val" in text
    assert "| coco2017/val | resnet50 | 0.32 | 67.89 | 91.80 |" in text


def test_classes_are_named_below_the_table_of_runs_that_tell_them(tmp_path):
    """A label without a name, as the background is, counts for none."""
    names = ["", "cat", "dog", "emu", "fox", "gnu", "hen"]
    write_run(tmp_path / "a", metrics(0.32, classes=names, dataset="mine/val"))
    write_run(tmp_path / "b", metrics(10.24, classes=None))
    runs = collect_runs([tmp_path])
    (table,) = result_tables(runs)
    assert table.caption == "mine/val: 6 classes: cat, dog, emu, fox, gnu, …"
    rows = list(csv.DictReader(io.StringIO(csv_text(csv_columns(runs.results), runs.results))))
    found = {(row["beta"], row["num_classes"], row["classes"]) for row in rows if row["beta"]}
    assert found == {("0.32", "6", "cat;dog;emu;fox;gnu;hen"), ("10.24", "", "")}


def test_a_run_given_twice_counts_once_but_its_repetition_counts(two_runs):
    write_run(Path("again/b"), metrics(0.32))
    runs = collect_runs(["logs", "logs/a", "logs/b/metrics.json", "again"])
    students = [(r.beta, str(r.run)) for r in runs.results if r.role == "student"]
    assert students == [(0.32, "again/b"), (0.32, "logs/b"), (10.24, "logs/a")]
    assert sum(r.role == "teacher" for r in runs.results) == 1


def test_a_three_headed_run_goes_by_its_backbone(tmp_path):
    content = metrics(0.32, backbone="ladon", name="ladon-splittable_resnest269e-fp-beta0.32")
    write_run(tmp_path / "x", content)
    keys = {result.key for result in collect_runs([tmp_path]).results}
    assert keys == {
        ("image_classification", "ilsvrc2012", "teacher", "resnest269e", None),
        ("image_classification", "ilsvrc2012", "student", "resnest269e", 0.32),
    }


def test_different_teacher_scores_are_all_kept(two_runs):
    content = metrics(0.32)
    content["models"]["teacher"]["metrics"]["acc1"] = 78.0
    write_run(Path("logs/c"), content)
    teachers = [r for r in collect_runs(["logs"]).results if r.role == "teacher"]
    assert sorted(r.metrics["acc1"] for r in teachers) == [78.0, 78.158]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"format": 1', "not valid JSON"),
        ("[]", "not a metrics file of format 1"),
        ('{"format": 2}', "not a metrics file of format 1"),
        ('{"format": 1, "task": "x"}', "task: 'x' is none of image_classification"),
        (json.dumps({**metrics(0.32), "beta": "low"}), "wrong type"),
        (json.dumps({**metrics(0.32), "classes": "cat"}), "wrong type"),
        (json.dumps({**metrics(0.32), "models": {"student": {}}}), "the key 'metrics' is missing"),
        (json.dumps({**metrics(0.32), "models": {}}), "no model"),
    ],
)
def test_a_broken_file_is_named(tmp_path, content, message):
    path = tmp_path / "metrics.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=message) as caught:
        read_metrics(path)
    assert str(path) in str(caught.value)


def test_script_writes_all_files_and_names_the_unfinished(two_runs, capsys):
    Path("logs/open").mkdir()
    Path("logs/open/run.json").write_text("{}")
    arguments = ["logs", "--out", "out", "--name", "mine", "--plot", "imgs/demo.png"]
    assert report_script.main(arguments) == 0
    names = {"mine.md", "mine.csv", "mine.tex", "rate_accuracy.png", "rate_accuracy.svg"}
    assert {path.name for path in Path("out").iterdir()} == names
    assert Path("imgs/demo.png").stat().st_size > 10_000
    assert "Unfinished: `logs/open`" in Path("out/mine.md").read_text()
    rows = list(csv.DictReader(io.StringIO(Path("out/mine.csv").read_text())))
    assert [row["beta"] for row in rows] == ["", "0.32", "10.24"]
    printed = capsys.readouterr().out
    assert "unfinished: logs/open" in printed
    assert "│ resnet50           │  0.32 │    77.376 │" in printed


def test_script_errors_are_one_line(two_runs, capsys):
    Path("logs/open").mkdir()
    Path("logs/open/metrics.jsonl").write_text("")
    Path("logs/a/metrics.json").write_text("{")
    for arguments, message in (
        (["logs/open"], "no finished run (no metrics.json) in logs/open"),
        (["nowhere"], "no such run: nowhere"),
        (["logs"], "logs/a/metrics.json: not valid JSON"),
        (["logs/b", "--plot", "x.bmp"], "cannot plot to x.bmp"),
        (["logs/b", "--out", "logs/b/run.json"], "cannot be written"),
    ):
        assert report_script.main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert message in error
        assert error.count("\n") == 1


LINES = (
    "2023-02-16 18:25:14,754\tINFO\t__main__\t[Student: s]\n"
    "2023-02-16 18:25:14,754\tINFO\t__main__\t * Acc@1 50.0000\tAcc@5 90.0000\n"
)


def test_a_run_whose_folder_and_log_are_both_named_counts_once(two_runs):
    """As `report.py DIR/*` names them."""
    Path("logs/ilsvrc2012").mkdir()
    for name in ("a", "b", "ilsvrc2012/c"):
        Path(f"logs/{name}.txt").write_text(LINES)
    Path("logs/open").mkdir()
    Path("logs/open/run.json").write_text("{}")
    Path("logs/open.txt").write_text(LINES)
    runs = collect_runs(sorted(Path("logs").iterdir()))
    students = [str(result.run) for result in runs.results if result.role == "student"]
    assert sorted(students) == ["logs/a", "logs/b", "logs/ilsvrc2012/c.txt"], "c has no folder"
    assert runs.unfinished == [Path("logs/open")]
    write_run(Path("logs/ilsvrc2012/c"), metrics(0.32))
    (only,) = collect_runs(["logs/ilsvrc2012/c.txt"]).results
    assert only.metrics["acc1"] == 50.0, "a log that is named alone is read"


@pytest.mark.parametrize(("flags", "code"), [([], 0), (["--strict"], 1)])
@pytest.mark.parametrize(("worse", "is_outside"), [(0.0, False), (5.0, True)])
def test_results_outside_the_tolerance_can_fail(tmp_path, capsys, flags, code, worse, is_outside):
    content = metrics(0.32)
    content["models"].pop("teacher")
    content["models"]["student"]["metrics"]["acc1"] -= worse
    run = write_run(tmp_path / "run", content)
    words = [str(run), "--against", "published", "--out", str(tmp_path / "out"), *flags]
    assert report_script.main(words) == (code if is_outside else 0)
    assert f"{int(is_outside)} of 1 results outside" in capsys.readouterr().out


def test_strict_needs_something_to_judge(capsys):
    with pytest.raises(SystemExit) as stop:
        report_script.main(["logs", "--strict"])
    assert stop.value.code == 2
    assert "--strict judges a comparison" in capsys.readouterr().err
