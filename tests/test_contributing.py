"""CONTRIBUTING.md: each recipe names files that are there, and its own example runs as shown."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys

import pytest
from processes import several_processes
from tiny import ROOT

from ladon.metrics.base import Metric

PAPER = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
ADDED = ("a task", "a backbone", "a bottleneck", "a metric", "a loss", "a dataset")


def recipe(what: str) -> list[str]:
    """The cells of a row of the table."""
    (row,) = re.findall(rf"^\| {what} \|(.*)\|$", PAPER, re.M)
    return [cell.strip() for cell in row.split("|")]


def example(name: str) -> str:
    """The file that the paper shows."""
    (text,) = re.findall(rf"^`{re.escape(name)}`:\n\n```\w+\n(.*?)^```$", PAPER, re.M | re.S)
    return text


@pytest.mark.parametrize("what", ADDED)
def test_a_recipe_names_an_example_and_a_test_of_it(what):
    _, shown, test = recipe(what)
    paths = re.findall(r"\]\((.*?)\)", shown + test)
    assert paths
    assert [path for path in paths if not (ROOT / path).is_file()] == []
    for module in re.findall(
        r"\[(\w+)\.py\]", shown
    ):  # an example that no test imports shows little
        text = (ROOT / paths[-1]).read_text()
        helpers = [
            ROOT / "tests" / f"{name}.py" for name in re.findall(r"^from (\w+) import", text, re.M)
        ]
        assert module in text + "".join(path.read_text() for path in helpers if path.is_file())


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with the example's two files, after its command has run."""
    folder = tmp_path_factory.mktemp("squares")
    (folder / "mine").mkdir()
    for name in ("mine/own_parts.py", "mine/squares.yaml"):
        (folder / name).write_text(example(name))
    script, arguments = "scripts/image_classification.py", ("--config", "mine/squares.yaml")
    assert f"`python {script} {' '.join(arguments)}`" in PAPER
    done = subprocess.run(
        [sys.executable, str(ROOT / script), *arguments, "--device", "cpu"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_the_example_learns_and_is_scored_by_its_own_parts(workplace):
    found = json.loads((workplace / "logs" / "squares" / "metrics.json").read_text())
    assert found["key_metric"] == "balanced"
    assert found["num_images"] == 24
    log = (workplace / "logs" / "squares.txt").read_text()
    value = found["models"]["student"]["metrics"]["balanced"]
    assert f"Balanced accuracy: {value:.3f} %" in log
    assert (workplace / "resource" / "ckpt" / "squares.pt").is_file()


def test_the_run_is_reported_by_its_metric_and_runs_again_from_its_folder(workplace):
    """The resolved config is elsewhere than the module: it says where that is."""
    folder = workplace / "logs" / "squares"
    again = [ROOT / "scripts" / "image_classification.py", "--config", folder / "config.yaml"]
    report = [ROOT / "scripts" / "report.py", folder]
    shown = []
    for command in ([*again, "-test_only", "--run_log", "again.txt"], report):
        done = subprocess.run(
            [sys.executable, *map(str, command)],
            cwd=workplace,
            env={**os.environ, "PYTHONPATH": "", "PYTHONIOENCODING": "utf-8"},
            capture_output=True,
            text=True,
            encoding="utf-8",
        )
        assert done.returncode == 0, done.stderr
        shown.append(done.stdout)
    found = [
        json.loads((path / "metrics.json").read_text())["models"]["student"]["metrics"]
        for path in (folder, workplace / "again")
    ]
    assert found[0] == found[1]
    assert "balanced accuracy [%]" in shown[1]
    assert f"{found[0]['balanced']:.3f}" in shown[1]


@pytest.mark.slow
def test_the_example_runs_in_two_processes_with_spawned_workers(workplace, monkeypatch, tmp_path):
    """Each process, and each worker that it starts anew, finds the module beside the config."""
    monkeypatch.chdir(tmp_path)
    loader = "train.train_data_loader.kwargs"
    settings = [f"{loader}.num_workers=1", f"{loader}.multiprocessing_context=spawn"]
    flags = ["--device", "cpu", "--set", settings[0], "--set", settings[1]]
    script = ROOT / "scripts" / "image_classification.py"
    several_processes([script, "--config", workplace / "mine" / "squares.yaml", *flags])
    found = json.loads((tmp_path / "logs" / "squares" / "metrics.json").read_text())
    assert (found["key_metric"], found["num_images"]) == ("balanced", 24)


def imported(workplace, monkeypatch):
    """The example's module, for one test: configs may have modules of the same name."""
    monkeypatch.syspath_prepend(workplace / "mine")
    monkeypatch.setitem(sys.modules, "own_parts", None)
    del sys.modules["own_parts"]
    return importlib.import_module("own_parts")


def test_the_examples_metric_counts_by_class(workplace, monkeypatch):
    """Two of three of one class and none of one of another: (2/3 + 0) / 2, over two processes."""
    import torch

    own_parts = imported(workplace, monkeypatch)

    def state(targets, answers):
        made = own_parts.BalancedAccuracy()
        made.update(torch.eye(3)[answers], torch.tensor(targets))
        return made.state()

    assert issubclass(own_parts.BalancedAccuracy, Metric)
    states = [state([0, 0], [0, 1]), state([0, 2], [0, 1])]
    assert own_parts.BalancedAccuracy().compute(states) == {"balanced": pytest.approx(100 / 3)}


def test_the_examples_loss_is_cross_entropy_without_focus(workplace, monkeypatch):
    import torch

    own_parts = imported(workplace, monkeypatch)

    logits, labels = (
        torch.randn(5, 3, generator=torch.Generator().manual_seed(0)),
        torch.arange(5) % 3,
    )
    plain = torch.nn.functional.cross_entropy(logits, labels)
    assert own_parts.FocalLoss(gamma=0.0)(logits, labels) == pytest.approx(float(plain))
    assert own_parts.FocalLoss(gamma=2.0)(logits, labels) < plain
