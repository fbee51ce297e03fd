"""A metric of a user's own is given to a task by the config: it chooses the best checkpoint."""

from __future__ import annotations

import json

import pytest
import torch
from data_config.helpers import GOOD, problems_of
from fusing import BETAS, comparable, config_for, fused, separately
from own_metrics import Misses
from training_runs import epochs, fresh

from ladon.commands.report import main as report
from ladon.config import load_config
from ladon.tasks import find_task

MISSES = {"key": "own_metrics.Misses", "kwargs": {"price": 2.0}}


def test_a_task_scored_by_another_metric_is_one_of_its_own():
    task = find_task("image_classification")
    scored = task.scored_by(Misses, Misses.scores)
    first, second = (scored.metric(None, {}) for _ in range(2))
    first.update(torch.eye(3), torch.tensor([0, 1, 1]))
    assert first.compute([first.state(), second.state()]) == {"misses": 1.0}
    assert scored.name == "image_classification-misses"
    assert scored.view.title == "Image classification: misses"
    assert not scored.decisive.greater_is_better
    assert scored.read_scores(" * Acc@1 50.0000\tAcc@5 60.0000") is None
    assert task.decisive.key == "acc1", "the task itself stays as it was"


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (MISSES, None),
        ({"key": "own_metrics.Miss"}, 'there is no metric "own_metrics.Miss": module own_metrics'),
        ({"key": "Misses"}, 'there is no metric "Misses"'),
        ({"key": "own_metrics.Misses", "kwargs": {"prize": 1}}, 'did you mean "price"?'),
        (
            {"key": "collections.Counter"},
            "is no metric: it must derive from ladon",
        ),
        ({"key": "own_metrics.Silent"}, 'must say what it computes: scores = (Score("KEY"'),
        ({"key": "own_metrics.Unfinished"}, "lacks compute, lines, state, update"),
        ("own_metrics.Misses", "metric: must be a mapping, not text"),
    ],
)
def test_what_is_no_metric_is_refused(metric, message):
    problems = problems_of(load_config(GOOD, overrides={"metric": metric}))
    assert len(problems) == (message is not None), problems
    if message is not None:
        assert message in problems[0]


def test_the_best_checkpoint_follows_it_and_it_is_reported(own_lab, capsys):
    config = fresh(own_lab, "small", "misses", metric=MISSES, train__num_epochs=2)
    assert own_lab.run("small", config=config) == 0
    values = [epoch["val"]["misses"] for epoch in epochs(own_lab, "misses")]
    assert [e["best"] for e in epochs(own_lab, "misses")] == [True, values[1] < values[0]]
    found = json.loads((own_lab.folder / "logs" / "misses" / "metrics.json").read_text())
    value = found["models"]["student"]["metrics"]["misses"]
    assert (found["key_metric"], value) == ("misses", min(values))
    assert report([str(own_lab.folder / "logs" / "misses")]) == 0
    shown = capsys.readouterr().out
    assert "Image classification: misses" in shown
    assert f"{value:.1f}" in shown

    other = fresh(own_lab, "small", "misses", train__num_epochs=2)
    assert own_lab.run("small", "--resume", config=other) == 2
    assert "metric.key is not set here and was own_metrics.Misses" in capsys.readouterr().err


@pytest.mark.slow
def test_fused_runs_have_it_as_separate_ones_do(own_lab):
    """With a loss of one's own beside the configs as well."""
    loss = "from torch import nn\n\n\nclass Near(nn.SmoothL1Loss):\n    pass\n"
    (own_lab.folder / "configs").mkdir()
    (own_lab.folder / "configs" / "near_loss.py").write_text(loss)
    near = {"_delete_": True, "key": "near_loss.Near", "kwargs": {"reduction": "sum"}}
    values = {
        "metric": MISSES,
        "train__stage1": {"num_epochs": 1},
        "train__stage1__criterion__kwargs__sub_terms__layer1__criterion": near,
    }
    for beta in BETAS:
        config_for(own_lab, "classification", beta, "own", **values)
    assert separately(own_lab, "classification", "own", "alone") == [0, 0]
    alone = [comparable(own_lab, f"alone-beta{beta}") for beta in BETAS]
    assert fused(own_lab, "classification", "own", "fused") == 0
    together = [comparable(own_lab, f"fused-beta{beta}") for beta in BETAS]
    assert together == alone
    assert all("misses" in found["models"]["student"]["metrics"] for found in together)
