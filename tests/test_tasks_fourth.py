"""A task of a user's own is one file: it trains, resumes, is tested, swept and reported."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import warm
from tiny import ROOT
from training_runs import Killed, killed_when

from ladon.cli import main
from ladon.engine.stage import Stage
from ladon.models.checkpoint import read_checkpoint

BETAS = ("0.32", "5.12")
CONFIG = """
_base_: {base}
name: depth-splittable_resnet18-fp-beta${{beta}}
beta: {beta}
dependencies: [{{name: depth_task}}]
data_root: {data}
backbone_ckpt: {backbone}
datasets:
  _delete_: true
  scenes/train: !import_call
    key: depth_task.DepthScenes
    init: {{kwargs: {{root: '${{data_root}}/digit_scenes', image_set: train}}}}
  scenes/val: !import_call
    key: depth_task.DepthScenes
    init: {{kwargs: {{root: '${{data_root}}/digit_scenes', image_set: val}}}}
models:
  model:
    kwargs: {{num_classes: 1}}
    dst_ckpt: {folder}/depth-beta${{beta}}.pt
train:
  num_epochs: 3
  train_data_loader: {{dataset_id: scenes/train, collate_fn: null}}
  val_data_loader: {{dataset_id: scenes/val, kwargs: {{batch_size: 4}}}}
  criterion:
    kwargs:
      sub_terms:
        ce: {{criterion: {{key: MSELoss, kwargs: {{_delete_: true}}}}}}
test:
  test_data_loader: {{dataset_id: scenes/val, collate_fn: null}}
"""


@pytest.fixture
def workplace(own_lab, tmp_path, monkeypatch):
    """The working directory, with a config per β."""
    base = Path(__file__).parents[1] / "configs" / "digit_scenes" / "ladon" / "_base_"
    for beta in BETAS:
        text = CONFIG.format(
            base=base / "segmentation.yaml",
            beta=beta,
            data=own_lab.data_root,
            backbone=own_lab.checkpoint("classification"),
            folder=tmp_path,
        )
        (tmp_path / f"depth-beta{beta}.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def depth(folder, *flags, beta="0.32"):
    return main("depth_estimation", ["--config", str(folder / f"depth-beta{beta}.yaml"), *flags])


def epochs(folder, beta="0.32"):
    lines = (folder / "logs" / f"depth-beta{beta}" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_the_smallest_value_is_the_best_one_and_training_resumes(workplace, monkeypatch):
    assert depth(workplace, "--dry_run") == 0
    assert depth(workplace) == 0
    whole = epochs(workplace)
    values = [epoch["val"]["rmse"] for epoch in whole]
    assert len(set(values)) == 3
    smallest = [value == min(values[: n + 1]) for n, value in enumerate(values)]
    assert [epoch["best"] for epoch in whole] == smallest
    assert smallest != [True, False, False], "it learns nothing: the greatest would do as well"
    best = read_checkpoint(workplace / "depth-beta0.32.pt", "here").best_value
    assert best == min(values)

    with monkeypatch.context() as patched:
        killed_when(patched, Stage, "step", call=4)  # of two an epoch
        with pytest.raises(Killed):
            depth(workplace, "--overwrite")
    assert depth(workplace, "--resume") == 0
    assert [epoch["val"]["rmse"] for epoch in epochs(workplace)] == values


@pytest.mark.slow
def test_it_is_swept_and_reported(workplace):
    """Configs and module are in one folder, the commands run in another."""
    (workplace / "mine").mkdir()
    shutil.copy(Path(__file__).parent / "depth_task.py", workplace / "mine")
    for beta in BETAS:
        (workplace / f"depth-beta{beta}.yaml").rename(workplace / "mine" / f"depth-beta{beta}.yaml")
    arguments = ["--task", "depth", "--config", "mine/depth-beta{beta}.yaml", "--betas", *BETAS]
    # a process that really starts: it has neither the task nor a way to its module
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "sweep.py", *arguments, "--set", "train.num_epochs=1"],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8", "PYTHONPATH": ""},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("│ done") == 2
    folders = [f"logs/depth-beta{beta}" for beta in BETAS]
    found = [json.loads(Path(f, "metrics.json").read_text()) for f in folders]
    values = [run["models"]["student"]["metrics"]["rmse"] for run in found]
    assert all(run["key_metric"] == "rmse" for run in found)
    # as where nothing has imported the task's module: the runs tell how they are shown
    report = warm.run(
        [ROOT / "scripts" / "report.py", *folders, "--out", "r.csv"],
        env={**os.environ, "PYTHONPATH": ""},
    )
    assert report.returncode == 0, report.stderr
    assert "Depth estimation: scenes/val" in report.stdout
    assert "RMSE [m]" in report.stdout
    for value in values:
        assert f"{value:.4f}" in report.stdout


def test_a_task_that_nobody_registers_is_named(tmp_path, capsys):
    config = tmp_path / "c.yaml"
    config.write_text("dependencies: []\n")
    assert main("height_estimation", ["--config", str(config)]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: no task is called 'height_estimation' (known are image_class")
    assert "under the config's dependencies" in shown
