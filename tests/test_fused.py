"""A fused sweep: what it writes equals what separate runs write, and it loads each image once."""

from __future__ import annotations

import json
import re
import signal

import pytest
from fusing import BETAS, comparable, config_for, fused, result_lines, separately
from tiny import TinyExperiment

from ladon.data.loaders import IndexedDataset
from ladon.tasks.base import Task

FAMILIES = ("classification", "detection", "segmentation")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, lab):
    """A lab with classifiers, detectors and segmentation models for two β, trained separately."""
    made = TinyExperiment(tmp_path_factory.mktemp("fused"), lab.data_root)
    (made.folder / "ckpt").mkdir()
    for family in ("teacher", "classification"):
        made.checkpoint(family).symlink_to(lab.checkpoint(family))
    for family in FAMILIES:
        for number, beta in enumerate(BETAS):
            body = made.folder / "ckpt" / f"classification-beta{beta}.pt"
            values = {} if family == "classification" else {"backbone_ckpt": str(body)}
            config = config_for(made, family, beta, family, **values)
            flags = ["--seed", str(number)]  # other weights, whatever β does in one epoch
            assert made.run(family, *flags, "-student_only", config=config) == 0
    return made


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fused_test_writes_what_separate_tests_write(trained, family, monkeypatch):
    assert separately(trained, family, family, f"{family}-one", "-test_only") == [0, 0]
    loaded, passes = [], []
    original, predict = IndexedDataset.__getitem__, Task.predict

    def getitem(self, index):
        loaded.append(index)
        return original(self, index)

    def counted(self, model, images):
        passes.append((id(model), len(images)))
        return predict(self, model, images)

    monkeypatch.setattr(IndexedDataset, "__getitem__", getitem)
    monkeypatch.setattr(Task, "predict", counted)
    assert fused(trained, family, family, f"{family}-all", "-test_only") == 0
    assert sorted(loaded) == list(range(12)), "each image is loaded once for all"
    models = 3 if family == "classification" else 2  # two students, and one teacher for both
    assert len({model for model, _ in passes}) == models
    assert sum(images for _, images in passes) == 12 * models
    contents = []
    for number, beta in enumerate(BETAS):
        one, together = f"{family}-one-beta{beta}", f"{family}-all-beta{beta}"
        assert comparable(trained, together) == comparable(trained, one)
        assert result_lines(trained, together) == result_lines(trained, one)
        folder = trained.folder / "logs"
        assert (folder / together / "config.yaml").read_text() == (
            folder / one / "config.yaml"
        ).read_text()
        assert json.loads((folder / together / "run.json").read_text())["seed"] == 0
        contents.append(trained.metrics(together))
        assert contents[-1]["fused_with"] == [BETAS[1 - number]]
        assert contents[-1]["startup_s"] > 0
    first, second = (content["models"]["student"] for content in contents)
    assert first["payload_bytes"] != second["payload_bytes"], "one model was tested twice"
    assert first["network_s"] <= first["wall_time_s"]


def test_lines_of_one_beta_are_in_its_log_alone(trained, capfd):
    assert fused(trained, "classification", "classification", "own", "-test_only") == 0
    shown = capfd.readouterr().err
    for beta, other in (BETAS, BETAS[::-1]):
        log = trained.log(f"own-beta{beta}")
        assert f"classification-beta{beta}.pt" in log
        assert f"beta{other}" not in log
        assert len(re.findall(r" \* Acc@1", log)) == 2, "the teacher's and its own"
        assert "[β" not in log
        assert re.search(rf"\[β {beta}\] \[Student: splittable_resnet\]", shown)
    assert log.count("Loaded") == 2


@pytest.mark.parametrize("what", ["checkpoint", "config"])
def test_a_bad_beta_fails_alone(trained, capfd, what):
    for beta in BETAS:
        config_for(trained, "classification", beta, "classification")
    if what == "checkpoint":
        values = {"models__student_model__dst_ckpt": "/nowhere/x.pt"}
    else:
        values = {"models__student_model__key": "no_such_model"}
    config = trained.config("classification", "classification-beta1.28", **values)
    betas = ("1.28", *BETAS)
    log = f"bad-{what}"
    flags = ["-test_only", "-student_only"]
    assert fused(trained, "classification", "classification", log, *flags, betas=betas) == 1
    shown = capfd.readouterr()
    assert "│ 1.28 │ failed (exit code 2) │" in shown.out
    assert shown.out.count("│ done ") == 2
    assert shown.err.endswith("error: failed: β 1.28\n")
    message = "checkpoint not found" if what == "checkpoint" else f"{config}:"
    assert re.search(rf"ERROR\t.*\t\[β 1.28\] .*{re.escape(message)}", shown.err)
    assert not (trained.folder / "logs" / f"{log}-beta1.28" / "metrics.json").exists()
    for beta in BETAS:
        assert comparable(trained, f"{log}-beta{beta}")["models"].keys() == {"student"}
        assert "nowhere" not in trained.log(f"{log}-beta{beta}")


def test_all_bad(trained, capfd):
    for beta in ("7", "8"):
        trained.config("classification", f"none-beta{beta}", models__student_model__key="none")
    flags = ["-test_only", "-student_only"]
    assert fused(trained, "classification", "none", "none", *flags, betas=("7", "8")) == 1
    assert capfd.readouterr().err.endswith("error: failed: β 7, 8\n")


def test_resume_skips_the_finished(trained, capfd):
    flags = ["-test_only", "-student_only"]
    assert fused(trained, "classification", "classification", "skip", *flags, betas=BETAS[:1]) == 0
    before = trained.log(f"skip-beta{BETAS[0]}")
    capfd.readouterr()
    assert fused(trained, "classification", "classification", "skip", *flags, "--resume") == 0
    out = capfd.readouterr().out
    assert f"β {BETAS[0]}: already finished, skipped" in out
    assert "skipped (already finished)" in out
    assert trained.log(f"skip-beta{BETAS[0]}") == before
    assert trained.metrics(f"skip-beta{BETAS[1]}")["fused_with"] == []


def test_a_signal_stops_the_test_of_all(trained, monkeypatch, capfd):
    predict, calls = Task.predict, []

    def interrupting(self, model, images):
        if not calls:
            signal.raise_signal(signal.SIGTERM)
        calls.append(model)
        return predict(self, model, images)

    monkeypatch.setattr(Task, "predict", interrupting)
    flags = ["-test_only", "-student_only"]
    assert fused(trained, "classification", "classification", "stop", *flags) == 143
    assert capfd.readouterr().out.count("│ interrupted") == 2
    for beta in BETAS:
        assert "interrupted during the test" in trained.log(f"stop-beta{beta}")
        assert not (trained.folder / "logs" / f"stop-beta{beta}" / "metrics.json").exists()


def message(capfd) -> str:
    shown = capfd.readouterr().err
    assert "Traceback" not in shown
    return shown.split("error: ")[-1] if "error: " in shown else shown.split("\tERROR\t")[-1]


@pytest.mark.parametrize(
    ("key", "flags", "values"),
    [
        (
            "test.test_data_loader",
            ["-test_only"],
            {"test__test_data_loader__kwargs": {"batch_size": 4}},
        ),
        ("test.precision", ["-test_only"], {"test__precision": "bf16"}),
        ("datasets.digit_scenes/val", ["-test_only"], {"data_root": "elsewhere"}),
        ("train.stage1.num_epochs", [], {"train__stage1__num_epochs": 2}),
        (
            "train.stage2.train_data_loader",
            [],
            {"train__stage2__train_data_loader__kwargs__batch_size": 4},
        ),
        ("train.stage1.teacher", [], {"train__stage1__teacher__sequential": ["conv1", "bn1"]}),
        ("models.teacher_model", [], {"models__teacher_model__src_ckpt": "other.pt"}),
        ("train.epoch_to_update", [], {"train__epoch_to_update": 0}),
    ],
)
def test_what_is_shared_must_agree(trained, capfd, key, flags, values):
    config_for(trained, "classification", BETAS[0], "odd")
    config_for(trained, "classification", BETAS[1], "odd", **values)
    assert fused(trained, "classification", "odd", "odd", *flags) == 2
    found = message(capfd)
    assert f"{key} differs between β 0.32 (" in found
    assert "odd-beta5.12.yaml" in found or "_base_" in found
    assert not (trained.folder / "logs" / "odd-beta0.32").exists()


def test_one_place_for_two_best_checkpoints_is_refused(trained, capfd):
    for beta in BETAS:
        same = {"models__student_model__dst_ckpt": "same.pt"}
        config_for(trained, "classification", beta, "same", **same)
    assert fused(trained, "classification", "same", "same") == 2
    assert "dst_ckpt is same.pt for β 0.32 and β 5.12" in message(capfd)


@pytest.mark.parametrize("family", ["detection", "segmentation"])
def test_only_classification_trains_fused(trained, capfd, family):
    assert fused(trained, family, family, "refused") == 2
    assert "--fused trains classification only" in message(capfd)
