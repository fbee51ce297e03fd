"""One model for every rate against separate ones: the runs, the table, and what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from tiny import ROOT

from ladon.commands.frontier import main
from ladon.errors import DataError
from ladon.frontier.results import Point, Results
from ladon.frontier.runs import (
    BETAS,
    SEPARATE,
    VARIABLE,
    VARIANTS,
    Trial,
    ablations,
    jobs,
    teacher_job,
    trials,
)
from ladon.frontier.summary import lines, rows

ONE = Trial("classification", VARIABLE, 5, 0)


@pytest.fixture(autouse=True)
def _in_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_every_run_has_its_own_places_and_stands_on_its_own_classifier():
    asked = trials(["classification", "detection"], [0, 1])
    made = jobs(asked, [])
    # a classifier at two budgets, and a head on those of the greater one
    assert len(asked) == len(made) == 2 * 3 * (1 + len(BETAS))
    assert len({job.checkpoint for job in made.values()}) == len(made)
    assert len({job.folder for job in made.values()}) == len(made)
    head = made[Trial("detection", SEPARATE, 5, 1, "5.12")]
    assert head.loaded.beta == 5.12
    (body,) = head.needs
    assert str(body.checkpoint) == head.loaded.get("backbone_ckpt")
    assert body.loaded.get("train.stage2.num_epochs") == 10
    assert "--seed 1" in " ".join(body.arguments())
    variable = made[ONE]
    assert variable.loaded.get("models.student_model.kwargs.bottleneck_config.key") == (
        "VariableRateBottleneck"
    )
    assert variable.loaded.get("train.stage1.num_epochs") == 10


def test_what_has_results_is_not_made_again():
    asked = trials(["detection"], [0])
    head = Trial("detection", VARIABLE, 1, 0)
    below = Trial("classification", VARIABLE, 1, 0)
    assert head not in jobs(asked, [head])
    assert list(jobs([head], [below])) == [below, head]  # its checkpoint is needed all the same


def finished(folder: Path, rates: bool) -> None:
    folder.mkdir(parents=True)
    one = {"metrics": {"acc1": 90.0}, "payload_bytes": {"mean": 200.0}, "num_images": 7}
    more = {"beta": 1.28, **one, "metrics": {"acc1": 89.0}}
    student = {"beta": 0.32, **one, "rates": [more]} if rates else one
    content = {"beta": None if rates else 5.12, "models": {"student": student}}
    (folder / "metrics.json").write_text(json.dumps(content))
    (folder / "metrics.jsonl").write_text('{"train_seconds": 2}\n{"train_seconds": 4}\n')


def test_the_table_grows_and_is_read_again(tmp_path):
    class Run:
        folder = tmp_path / "run"

    table = Results(tmp_path / "sub" / "results.csv")
    finished(Run.folder, rates=True)
    table.take(ONE, Run)
    Run.folder = tmp_path / "other"
    finished(Run.folder, rates=False)
    separate = Trial("classification", SEPARATE, 1, 0, "5.12")
    table.take(separate, Run)
    table.take(ONE, type("Again", (), {"folder": tmp_path / "run"}))
    again = Results(table.path)
    assert again.points == table.points
    assert again.trials == {ONE, separate}
    assert [(p.beta, p.metric, p.train_seconds) for p in again.of([ONE])] == [
        (0.32, 90.0, 6.0),
        (1.28, 89.0, 6.0),
    ]
    assert again.of([separate])[0].beta == 5.12


def test_a_damaged_table_is_named(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text("task,recipe\nclassification,variable\n")
    with pytest.raises(DataError, match=r"results\.csv:2: no result"):
        Results(path)


def curve(trial, factor, gain=0.0):
    sizes = [float(b) for b in (1600, 800, 400, 200, 100)]
    scores = [94.0, 93.0, 91.0, 88.0, 84.0]
    named = trial.recipe == SEPARATE
    return [
        Point(
            Trial(trial.task, trial.recipe, trial.budget, trial.seed, beta if named else ""),
            float(beta),
            score + gain,
            size * factor,
            2000,
            1.0,
        )
        for beta, size, score in zip(BETAS, sizes, scores, strict=True)
    ]


def test_half_the_bytes_are_a_bd_rate_of_minus_50():
    points = []
    for seed in (0, 1):
        points += curve(Trial("classification", SEPARATE, 1, seed), 1.0)
        points += curve(Trial("classification", VARIABLE, 5, seed), 0.5)
    table = rows(points)
    assert len(table) == 10
    assert table[0].seeds == 2
    assert table[0].metric[1] == 0.0
    (delta,) = [line for line in lines(points) if "at equal total cost" in line]
    assert "| 2 | -50.0 ± 0.0 |" in delta
    assert not any("each trained as long" in line for line in lines(points))


def test_what_a_smaller_one_beats_does_not_count():
    points = curve(Trial("classification", SEPARATE, 5, 0), 1.0)
    ours = curve(Trial("classification", VARIABLE, 5, 0), 0.5)
    beaten = ours[1]
    worse = Point(beaten.trial, beaten.beta, 89.0, beaten.payload_bytes, 2000, 1.0)
    whole, without = (
        next(line for line in lines([*points, *some]) if "trained as long" in line)
        for some in (ours, [ours[0], worse, *ours[2:]])
    )
    assert "| 1 | -50.0 ± 0.0 |" in whole
    rate = float(without.split("|")[4].split("±")[0])
    assert -55 < rate < -45
    assert rate != -50


def test_more_accurate_at_its_fewest_bytes_is_a_bound():
    """84 % at 100 bytes or more; the other's best, 83 %, takes 1600 bytes: 93.75 % fewer."""
    ours = curve(Trial("classification", VARIABLE, 5, 0), 1.0)
    theirs = curve(Trial("classification", SEPARATE, 1, 0), 1.0, gain=-11.0)
    (delta,) = [line for line in lines([*ours, *theirs]) if "at equal total cost" in line]
    assert "| below -93.8 ± 0.0 (1 of 1: more accurate at its fewest bytes) |" in delta


def test_variants_are_the_one_model_with_parts_changed():
    made = jobs(ablations([0]), [])
    assert len(made) == len(VARIANTS)
    whole = Trial("classification", VARIABLE, 5, 0).job(teacher_job()).loaded
    for trial, job in made.items():
        for setting in VARIANTS[trial.recipe]:
            key, _, value = setting.partition("=")
            assert job.loaded.get(key) == yaml.safe_load(value) != whole.get(key)


def test_it_says_where_it_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([]) == 2
    assert "no such folder: run it in a checkout's root" in capsys.readouterr().err


def test_without_results_there_is_no_summary(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("ladon.commands.frontier.RESULTS", tmp_path / "none.csv")
    assert main(["--summary"]) == 2
    assert "none.csv: there are no results yet" in capsys.readouterr().err
