"""Bjøntegaard's deltas against hand computations."""

from pathlib import Path

import pytest

from ladon.commands import report as report_script
from ladon.errors import UsageError
from ladon.report.bd import bd_accuracy, bd_rate, deltas, overlap, pair_deltas
from ladon.report.results import RunResult, Spread
from ladon.report.series import DATA_SIZE, Series
from ladon.tasks import TASKS

SIZES, SCORES = (5.0, 10.0, 20.0, 40.0, 80.0), (60.0, 66.0, 70.0, 72.0, 73.0)


def sweep(sizes, scores, label="mine", task="image_classification") -> Series:
    """A sweep in the order of β, which is not the order of size."""
    results = [
        RunResult(
            run=Path("x"),
            role="student",
            task=task,
            view=TASKS[task].view,
            mode="test",
            name=label,
            config=None,
            dataset="ilsvrc2012/val",
            backbone="resnet50",
            beta=float(beta),
            metrics={"acc1": score},
            data_size_kb=Spread(size, 1.0, 10),
            payload_bytes=None,
            num_images=10,
            images_per_s=None,
        )
        for beta, (size, score) in enumerate(reversed(list(zip(sizes, scores, strict=True))))
    ]
    return Series(label, results, DATA_SIZE)


ANCHOR = sweep(SIZES, SCORES, "theirs")


def test_ten_percent_more_bytes_are_a_bd_rate_of_ten():
    test = sweep([1.1 * size for size in SIZES], SCORES)
    assert bd_rate(test, ANCHOR) == pytest.approx(10.0, abs=1e-9)
    assert bd_rate(ANCHOR, test) == pytest.approx(100 / 1.1 - 100, abs=1e-9)


def test_two_points_more_are_a_bd_accuracy_of_two():
    test = sweep(SIZES, [score + 2 for score in SCORES])
    assert bd_accuracy(test, ANCHOR) == pytest.approx(2.0, abs=1e-9)


def test_straight_lines_by_hand():
    """Scores 50 + 10 log10(size): a point more is worth the size of 10^0.1 = 1.2589."""
    sizes = (1.0, 10.0, 100.0, 1000.0, 10000.0)
    anchor = sweep(sizes[:4], (50.0, 60.0, 70.0, 80.0))
    test = sweep(sizes, (51.0, 61.0, 71.0, 81.0, 91.0))  # one point more, and one β more
    assert bd_accuracy(test, anchor) == pytest.approx(1.0)
    assert bd_rate(test, anchor) == pytest.approx(100 * (10**-0.1 - 1))  # -20.57 %


def test_curves_that_do_not_overlap():
    far = sweep([1000 * size for size in SIZES], [score - 50 for score in SCORES])
    with pytest.raises(UsageError, match=r"accuracies of mine \(10 to 23\) and theirs .* overlap"):
        bd_rate(far, ANCHOR)
    with pytest.raises(UsageError, match=r"sizes of mine \(5000 to 8e\+04\) and theirs"):
        bd_accuracy(far, ANCHOR)
    result = deltas(far, ANCHOR)
    assert (result.rate, result.accuracy, len(result.notes)) == (None, None, 2)
    with pytest.raises(UsageError, match="don't overlap; BD-accuracy"):
        pair_deltas([far], [ANCHOR])


def test_too_few_points_or_no_rise():
    few = sweep(SIZES[:3], SCORES[:3])
    with pytest.raises(UsageError, match=r"at least 4 points \(βs\) per curve; mine has 3"):
        bd_accuracy(few, ANCHOR)
    dented = sweep(SIZES, (60.0, 66.0, 65.5, 72.0, 73.0))
    with pytest.raises(UsageError, match=r"mine does not gain .*66.000, then 65.500 at 20.0"):
        bd_rate(dented, ANCHOR)
    assert deltas(dented, ANCHOR).accuracy is not None  # of sizes, each has one accuracy
    twice = sweep((5.0, 5.0, 20.0, 40.0), SCORES[:4])
    with pytest.raises(UsageError, match="same data size"):
        bd_accuracy(twice, ANCHOR)


def test_a_small_overlap_is_said():
    assert overlap([0, 10], [5, 20]) == 0.25
    assert overlap([0, 1], [2, 3]) == 0
    shifted = sweep([4 * size for size in SIZES], SCORES)
    assert deltas(shifted, ANCHOR).notes == ("the sizes overlap by 19% only",)


def test_sweeps_of_other_data_are_no_pair():
    with pytest.raises(UsageError, match="no two sweeps"):
        pair_deltas([sweep(SIZES, SCORES, task="object_detection")], [ANCHOR])


def test_script_compares_two_sets_of_logs(tmp_path, capsys):
    prefix = "2023-02-16 18:25:14,754\tINFO\t__main__\t"
    for folder, factor in (("a", 1.1), ("b", 1.0)):
        for beta, size, score in zip((5, 4, 3, 2, 1), SIZES, SCORES, strict=True):
            path = tmp_path / folder / f"ilsvrc2012/splittable_resnet50-fp-beta{beta}_x.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = ["[Student: s]", f" * Acc@1 {score:.4f}\tAcc@5 90.0000"]
            lines.append(f"Bottleneck size [KB]: mean {factor * size} std 1.0 for 10 samples")
            path.write_text("".join(f"{prefix}{line}\n" for line in lines))
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    assert report_script.main([a, "--than", b]) == 0
    assert "│ resnet50 │ resnet50 │      +10.00 │" in capsys.readouterr().out
    assert report_script.main([a, "--than", b, "--out", str(tmp_path / "out")]) == 0
    assert "out/deltas.md" in capsys.readouterr().out
    assert "| resnet50 | resnet50 | +10.00 |" in (tmp_path / "out" / "deltas.md").read_text()
    assert "resnet50" in (tmp_path / "out" / "deltas.tex").read_text()
    one = next(tmp_path.glob("a/*/*beta1_x.txt"))
    assert report_script.main([str(one), "--than", "published"]) == 2
    assert "need at least 4 points" in capsys.readouterr().err
