"""The published results: every number from the CSV file to the tables, README, and comparisons."""

import csv
import io
import re
from dataclasses import replace
from pathlib import Path

import pytest

from ladon.commands import draw_architecture
from ladon.commands import report as report_script
from ladon.errors import UsageError
from ladon.report.compare import Tolerance, compare
from ladon.report.published import PUBLISHED, read_published
from ladon.report.readme import BEGIN, END, region, update_readme
from ladon.report.render import csv_text, markdown_table
from ladon.report.results import RunResult
from ladon.report.series import DATA_SIZE, split_series
from ladon.report.tables import PUBLISHED_COLUMNS, RESULT_COLUMNS, result_tables

ROOT = Path(__file__).resolve().parents[1]
ROWS = list(csv.DictReader(PUBLISHED.open(encoding="utf-8", newline="")))
DECIMALS = {"image_classification": 3, "object_detection": 3, "semantic_segmentation": 1}
PRETTY = {"resnet50": "ResNet-50", "resnest269e": "ResNeSt-269e"}


def expected_line(row: dict[str, str]) -> str:
    """The Markdown line of a row of the CSV file, written from its text alone."""

    def padded(value: str) -> str:
        digits = DECIMALS[row["task"]]
        whole, _, decimals = value.partition(".")
        assert len(decimals) <= digits, "a table would round this number"
        return f"{whole}.{decimals:0<{digits}}" if value else "–"

    kind = re.search(r"\((\w+)\)", row["model"])
    name = PRETTY.get(row["backbone"], row["backbone"])
    model = f"{name} ({kind[1]})" if kind else f"Ladon {name}"
    metric = "missing" if row["status"] == "missing" else padded(row["metric_value"])
    size = "–"
    if row["data_size_kb_mean"]:
        mean, std = float(row["data_size_kb_mean"]), float(row["data_size_kb_std"])
        size = f"{mean:.3f} ± {std:.3f}"
    second = padded(row["second_metric_value"])
    return f"| {model} | {row['beta'] or '–'} | {metric} | {second} | {size} |"


def test_the_file_is_complete():
    """10 Ladon classifiers, detectors and segmenters, 2 teachers, 2 baselines."""
    assert len(ROWS) == 34
    missing = [(r["backbone"], r["beta"]) for r in ROWS if r["status"] == "missing"]
    assert missing == [("resnest269e", beta) for beta in ("0.32", "1.28", "5.12")]
    first = {"metric_value": "77.376", "data_size_kb_mean": "85.94058953125"}
    assert first.items() <= next(r for r in ROWS if r["backbone"] == "resnet50").items()


def test_every_number_stands_in_the_tables():
    lines = [
        line
        for table in result_tables(read_published(), PUBLISHED_COLUMNS)
        for line in markdown_table(table).splitlines()[2:]
    ]
    assert sorted(lines) == sorted(map(expected_line, ROWS))


def test_csv_holds_every_number_unrounded():
    text = csv_text(RESULT_COLUMNS, read_published().results)
    written = {
        (r["dataset"], r["backbone"], r["beta"], r["role"]): r
        for r in csv.DictReader(io.StringIO(text))
    }
    assert len(written) == len(ROWS)
    columns = ("metric_value", "second_metric_value", "data_size_kb_mean", "data_size_kb_std")
    for row in ROWS:
        role = "teacher" if "teacher" in row["model"] else "student"
        found = written[row["dataset"], row["backbone"], row["beta"], role]
        assert [found[c] and float(found[c]) for c in columns] == [
            row[c] and float(row[c]) for c in columns
        ]


def test_order_is_by_backbone_and_beta_baselines_last():
    segmentation = read_published().by_task()["semantic_segmentation"]
    assert [result.shown_beta for result in segmentation] == [
        *(0.32, 1.28, 5.12, 10.24, 20.48) * 2,
        None,
        None,
    ]
    assert segmentation[0].label == "Ladon ResNet-50"
    assert segmentation[-1].label == "lraspp_mobilenet_v3_large (baseline)"


def test_script_prints_them(capsys):
    assert report_script.main(["--published"]) == 0
    printed = capsys.readouterr().out
    assert "│ Ladon ResNet-50        │  0.32 │    77.376 │    93.962 │ 85.941 ± 6.451 │" in printed
    assert printed.count("│   missing │") == 3
    assert "β 5.12 (best validation 80.844, stage 1)" in " ".join(printed.split())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("77.376", "77,376", "line 7: "),
        ("Acc@1,77.376", "Acc@2,77.376", "line 7: KeyError 'Acc@2'"),
        ("0.32,ok", "0.32,missing", "status missing with the metrics"),
    ],
)
def test_a_broken_file_is_named_with_its_line(tmp_path, old, new, message):
    path = tmp_path / "results.csv"
    path.write_text(PUBLISHED.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")
    if "77,376" in new:
        path.write_text(path.read_text().replace("77,376", "x77"))
    with pytest.raises(UsageError, match=re.escape(message)):
        read_published(path)


def test_readme_is_up_to_date():
    """`make tables` was run after the last change of the results."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.partition(BEGIN)[2].partition(END)[0].strip() == region(read_published(), "imgs")
    for row in ROWS:
        assert expected_line(row) in text
    for picture in re.findall(r'<img src="([^"]+)"', text.partition(BEGIN)[2].partition(END)[0]):
        assert (ROOT / picture).is_file()


def test_readme_is_written_once_and_for_all(tmp_path):
    readme, images = tmp_path / "README.md", tmp_path / "imgs"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    written = update_readme(readme, images, read_published())
    first = [path.read_bytes() for path in written]
    assert first == [path.read_bytes() for path in update_readme(readme, images, read_published())]
    text = readme.read_text(encoding="utf-8")
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"\n{END}\nafter\n")
    assert [path.name for path in written[1:]] == [
        f"published_{name}.png" for name in ("ilsvrc2012", "coco2017", "pascal_voc2012")
    ]
    readme.write_text(f"{END}\n{BEGIN}\n")
    with pytest.raises(UsageError, match="needs one line"):
        update_readme(readme, images, read_published())


def changed(result: RunResult, accuracy: float, size: float) -> RunResult:
    """A run like a published one, but for its accuracy (added) and size (multiplied)."""
    key = result.view.first.key
    mean = result.data_size_kb
    return replace(
        result,
        metrics={**result.metrics, key: result.metrics[key] + accuracy},
        data_size_kb=mean and replace(mean, mean=mean.mean * size),
        logged=False,
    )


def find(task: str, backbone: str, beta: float | None, role: str = "student") -> RunResult:
    return next(
        r
        for r in read_published().results
        if (r.task, r.backbone, r.shown_beta, r.role) == (task, backbone, beta, role)
    )


@pytest.mark.parametrize(
    ("task", "accuracy", "size", "verdict"),
    [
        ("image_classification", 0.0, 1.0, "within"),
        ("image_classification", -0.2, 1.01, "within"),  # just the tolerance
        ("image_classification", -0.202, 1.0, "OUTSIDE: accuracy"),
        ("image_classification", 0.3, 0.98, "OUTSIDE: accuracy, data size"),
        ("semantic_segmentation", 0.1, 1.02, "OUTSIDE: data size"),
        ("object_detection", 0.002, 1.0, "within"),
        ("object_detection", -0.003, 1.0, "OUTSIDE: accuracy"),
    ],
)
def test_flags(task, accuracy, size, verdict):
    published = find(task, "resnet50", 0.32)
    (found,) = compare([changed(published, accuracy, size)], [published], Tolerance())
    assert found.verdict == verdict


def test_what_has_no_counterpart_says_so():
    all_results = read_published().results
    stopped = find("image_classification", "resnest269e", 0.32)
    own = changed(find("image_classification", "resnest269e", 10.24), 0, 1)
    cases = {
        "published one missing": replace(own, beta=0.32),
        "not published": replace(own, beta=0.5),
        stopped.note: replace(own, metrics={}, note=stopped.note),
        "within, but no data size": replace(own, data_size_kb=None),
        "within": find("semantic_segmentation", "lraspp_mobilenet_v3_large", None),
    }
    for verdict, result in cases.items():
        assert compare([result], all_results, Tolerance())[0].verdict == verdict
    teacher = find("image_classification", "resnet50", None, "teacher")
    tested_with_another_beta = replace(teacher, beta=20.48)
    assert compare([tested_with_another_beta], all_results, Tolerance())[0].published == teacher


def write_logs(folder: Path, row: dict[str, str], accuracy: float, size: float) -> None:
    """A log in the published wording with another result."""
    prefix = "2026/11/23 16:59:25\tINFO\tladon.app\t"
    value, kb = float(row["metric_value"]) + accuracy, float(row["data_size_kb_mean"]) * size
    lines = [
        "[Student: splittable_resnet]",
        f" * Acc@1 {value:.4f}\tAcc@5 {float(row['second_metric_value']):.4f}",
        f"Bottleneck size [KB]: mean {kb} std 1.0 for 50000 samples",
        "Payload [bytes]: mean 1000.0 std 1.0",
    ]
    path = folder / "ilsvrc2012" / Path(row["source_log"]).name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{prefix}{line}\n" for line in lines))


def test_script_puts_a_sweep_beside_the_published_one(tmp_path, capsys):
    rows = [r for r in ROWS if (r["task"], r["backbone"]) == ("image_classification", "resnet50")]
    for row in rows:
        if row["beta"]:
            write_logs(tmp_path / "logs", row, -0.3 if row["beta"] == "1.28" else 0.0, 1.1)
    out = tmp_path / "out"
    arguments = [str(tmp_path / "logs"), "--against", "published", "--out", str(out)]
    assert report_script.main([*arguments, "--tolerance", "0.2", "5"]) == 0
    printed = capsys.readouterr().out
    assert "5 of 5 results outside the tolerance (0.2 points of the metric, 5 %" in printed
    text = (out / "against_published.md").read_text(encoding="utf-8")
    assert (
        "| resnet50 | 1.28 | 77.296 | 76.996 | -0.300 | -0.39 % | 41.850 | 46.035 | +4.185 "
        "| +10.00 % | OUTSIDE: accuracy, data size |" in text
    )
    assert "Tolerance: 0.2 points of the metric, 5 % of the data size." in text
    assert re.search(r"\| resnet50 \| Ladon ResNet-50 \| \+1\d\.\d\d \| -0\.\d{3} \|", text)
    with (out / "against_published.csv").open(encoding="utf-8") as file:
        row = next(r for r in csv.DictReader(file) if r["beta"] == "1.28")
    assert float(row["metric_difference"]) == pytest.approx(-0.3)
    assert float(row["data_size_kb_difference"]) == pytest.approx(4.1849728359375)
    assert float(row["data_size_difference_percent"]) == pytest.approx(10)
    names = {f"against_published.{suffix}" for suffix in ("md", "csv", "tex", "png", "svg")}
    assert {path.name for path in out.iterdir()} == names
    assert report_script.main([*arguments, "--tolerance", "0.5", "11"]) == 0
    assert "0 of 5 results outside" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["logs", "--published"],
        ["--published", "--against", "published"],
        ["logs", "--readme", "README.md"],
        ["logs", "--against", "published", "--tolerance", "-1", "1"],
    ],
)
def test_flags_that_do_not_go_together(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        report_script.parse_args(arguments)
    assert caught.value.code == 2


def test_published_sweeps_are_whole():
    detection = read_published().by_task()["object_detection"]
    lines, levels = split_series(detection, DATA_SIZE)
    assert [(line.label, len(line.points)) for line in lines] == [
        ("Ladon ResNet-50", 5),
        ("Ladon ResNeSt-269e", 5),
    ]
    assert levels == []


def test_architecture_is_drawn_the_same_every_time(tmp_path):
    assert draw_architecture.main(["--out", str(tmp_path)]) == 0
    for name in draw_architecture.THEMES:
        drawn = (tmp_path / name).read_bytes()
        assert b"<svg" in drawn
        assert (ROOT / "imgs" / name).is_file()
        first = drawn
    assert draw_architecture.main(["--out", str(tmp_path)]) == 0
    assert (tmp_path / name).read_bytes() == first
