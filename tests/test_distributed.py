"""Several gloo processes: one evaluation's numbers, and gradients that are really averaged."""

from __future__ import annotations

import csv
import json

import pytest
import torch
from PIL import Image
from processes import WORKER, several_processes
from stages import CPU, batches, make_models, train_config
from tiny import CLASSIFIERS, ROOT, SCRIPTS

from ladon.data.digits import make_digit_scenes
from ladon.engine.stage import Stage
from ladon.models import use_own_noise

RATES = ("--rate", "0.32", "20.48")
BY_CLASS = {
    "variable": ("acc1", "acc1"),
    "classification": ("acc1", "acc1"),
    "detection": ("AP", "AP"),
    "segmentation": ("iou", "mean_iou"),
}
"""Column of a test's analysis, and the score that it is averaged to."""


@pytest.fixture(scope="module")
def seven_scenes(tmp_path_factory):
    """Seven validation scenes: one process has less to do than the others."""
    root = tmp_path_factory.mktemp("seven")
    make_digit_scenes(root, num_train=10, num_val=7)
    return root


def assert_same_analysis(family, folders, metrics):
    """Both are equal, and its classes' values are what the test reports the mean of."""
    first, second = ((f / "per_class.csv").read_text() for f in folders)
    assert first == second
    *classes, overall = csv.DictReader(first.splitlines())
    column, score = BY_CLASS[family]
    assert float(overall[column]) == metrics[score]
    if family not in CLASSIFIERS:  # its classes have different numbers of images
        values = [float(row[column]) for row in classes if row[column]]
        assert sum(values) / len(values) == pytest.approx(metrics[score], abs=1e-12)
    assert (folders[0] / "confusion.png").exists() == (family != "detection")
    with Image.open(folders[0] / "worst" / "01.png") as picture:
        assert picture.width >= (480 if family in CLASSIFIERS else 2 * 480)
    kept = [(f / "worst" / "worst.csv").read_text().splitlines() for f in folders]
    assert [line.split(",")[2] for line in kept[0]] == [line.split(",")[2] for line in kept[1]]
    assert len(kept[0]) == 1 + 7


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", ["classification", "detection", "segmentation", "variable"])
def test_evaluation_in_several_processes_equals_one(lab, seven_scenes, family, count):
    if not lab.checkpoint(family).exists():
        assert lab.run(family) == 0
    config = lab.config(family)
    flags = ["-test_only", "-student_only", "--data_root", str(seven_scenes)]
    flags += ["--set", "test.test_data_loader.kwargs.batch_size=2"]
    flags += RATES if family == "variable" else ()
    predictions = [lab.folder / f"{family}_{n}.jsonl" for n in ("one", "all")]
    folders = [lab.folder / f"{family}_{n}_analysis" for n in ("one", "all")]
    one_file = ("--predictions", str(predictions[0]), "--analyse", str(folders[0]))
    assert lab.run(family, *flags, *one_file, log=f"{family}_one") == 0
    script = ROOT / "scripts" / f"{SCRIPTS[family]}.py"
    log = lab.folder / "logs" / f"{family}_all.txt"
    command = [script, "--config", config, "--run_log", log, "--device", "cpu", *flags]
    command += ["--predictions", predictions[1], "--analyse", folders[1]]
    first, *others = several_processes(command, [0] * count)
    one, several = (lab.metrics(f"{family}_{n}")["models"]["student"] for n in ("one", "all"))
    for key in ("metrics", "data_size_kb", "payload_bytes", "num_images"):
        assert one[key] == several[key], key
    for ours, theirs in zip(one.get("rates", ()), several.get("rates", ()), strict=True):
        assert ours["beta"] == theirs["beta"] == 20.48
        assert ours["metrics"] == theirs["metrics"]
        assert ours["payload_bytes"] == theirs["payload_bytes"]
    assert len(several.get("rates", ())) == (family == "variable")
    assert several["num_images"] == 7, "each image counts once"
    assert_same_analysis(family, folders, one["metrics"])
    one, several = ([json.loads(line) for line in p.read_text().splitlines()] for p in predictions)
    assert [row.pop("image") for row in one] == [row.pop("image") for row in several]
    assert len(one) == 7
    if family == "segmentation":  # scores differ in their last bits, by the batches' sizes
        assert one == several
    assert "Results:" in first
    assert not any("Results:" in said for said in others), "only the main process speaks"


def test_training_step_averages_gradients_and_keeps_quantiles_equal(tmp_path):
    """DDP on gloo, with the auxiliary loss beside it."""
    several_processes([WORKER, "step", tmp_path / "out"])
    first, second = (torch.load(tmp_path / f"out.{rank}") for rank in range(2))
    for name in first:
        assert torch.equal(first[name], second[name]), f"{name} differs between the processes"

    # running statistics follow from each process's own batch until they are shared
    statistics, shared = zip(
        *(torch.load(tmp_path / f"out.buffers.{rank}") for rank in range(2)), strict=True
    )
    own = {n for n in statistics[0] if not torch.equal(statistics[0][n], statistics[1][n])}
    assert any(n.endswith("running_var") for n in own)
    for name in statistics[0]:
        for rank in range(2):
            assert torch.equal(shared[rank][name], statistics[0][name]), name
            assert shared[rank][name].dtype == statistics[0][name].dtype

    before, gradients = None, []
    for rank in range(2):
        teacher, student = make_models()
        use_own_noise(student, 7, CPU.device)
        before = {n: p.detach().clone() for n, p in student.named_parameters()}
        stage = Stage(train_config()["stage1"], student, teacher, 3, CPU)
        stage.begin_epoch()
        images, targets, supp = batches()[rank]
        io = stage.teacher_forward(images, targets, supp)
        stage.student_loss(images, targets, supp, io).backward()
        gradients.append({n: p.grad for n, p in student.named_parameters() if p.grad is not None})
    assert any("decoder" in n for n in gradients[0])
    for name in gradients[0]:
        if name.endswith("quantiles"):
            continue
        mean = (gradients[0][name] + gradients[1][name]) / 2
        assert not torch.equal(gradients[0][name], gradients[1][name])
        torch.testing.assert_close(
            first[name], before[name] - 1e-4 * mean, rtol=1e-4, atol=1e-6, msg=name
        )
    quantiles = "bottleneck_layer.entropy_bottleneck.quantiles"
    assert not torch.equal(first[quantiles], before[quantiles]), "the auxiliary loss did not learn"


@pytest.mark.slow
def test_two_processes_train_a_classifier(lab, tmp_path):
    config = lab.config(
        "classification", "trained_two", models__student_model__dst_ckpt=str(tmp_path / "two.pt")
    )
    log = lab.folder / "logs" / "trained_two.txt"
    script = ROOT / "scripts" / "image_classification.py"
    flags = ["--run_log", log, "--device", "cpu", "-student_only", "-adjust_lr"]
    several_processes([script, "--config", config, *flags])
    epochs = (log.with_suffix("") / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["steps"] for line in epochs] == [1, 1]
    assert lab.metrics("trained_two")["models"]["student"]["payload_bytes"]["n"] == 12
