"""Every path once, in small: train and test all tasks with the shipped families."""

from __future__ import annotations

import json
import re

import pytest
import torch

from ladon.models.checkpoint import read_checkpoint


def test_classification_trains_in_two_stages_and_is_tested(lab):
    log = lab.log("classification")
    assert "Started stage1" in log
    assert "Started stage2" in log
    assert log.index("Started stage1") < log.index("Updating entropy bottleneck")
    assert re.search(r" \* Acc@1 \d+\.\d{4}\tAcc@5 \d+\.\d{4}\n", log)
    assert re.search(r"Bottleneck size \[KB\]: mean [\d.]+ std [\d.e-]+ for 12 samples\n", log)
    found = lab.metrics("classification")
    assert found["mode"] == "train"
    assert found["beta"] == 0.32
    assert found["backbone"] == "resnet18"
    assert set(found["models"]) == {"teacher", "student"}
    student = found["models"]["student"]
    assert student["payload_bytes"]["n"] == 12
    overhead = student["data_size_kb"]["mean"] * 1024 - student["payload_bytes"]["mean"]
    assert 103 <= overhead <= 115
    assert "data_size_kb" not in found["models"]["teacher"]


def test_run_folder_holds_what_reproduces_the_run(lab):
    folder = lab.folder / "logs" / "classification"
    names = {p.name for p in folder.iterdir()}
    assert {"config.yaml", "run.json", "metrics.jsonl", "metrics.json", "last.pt"} <= names
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2


def test_resolved_config_gives_the_same_run(lab):
    folder = lab.folder / "logs" / "classification"
    assert lab.run("classification", "-test_only", config=folder / "config.yaml", log="again") == 0
    again, first = lab.metrics("again"), lab.metrics("classification")
    assert again["models"]["student"]["metrics"] == first["models"]["student"]["metrics"]
    assert (
        again["models"]["student"]["payload_bytes"] == first["models"]["student"]["payload_bytes"]
    )


@pytest.mark.parametrize("family", ["detection", "segmentation"])
def test_heads_train_on_the_frozen_body(lab, family):
    assert lab.run(family) == 0
    found = lab.metrics(family)
    student = found["models"]["student"]
    assert set(found["models"]) == {"student"}
    assert student["payload_bytes"]["n"] == 12
    assert 0 <= student["metrics"][found["key_metric"]] <= 100
    log = lab.log(family)
    expected = "IoU metric: bbox" if family == "detection" else "mean IoU: "
    assert expected in log
    body = read_checkpoint(lab.checkpoint("classification"), "test").model
    heads = read_checkpoint(lab.checkpoint(family), "test").model
    prefix = "backbone.body." if family == "detection" else "backbone."
    shared = [n for n in body if prefix + n in heads]
    assert any("running_mean" in n for n in shared)
    for name in shared:
        assert torch.equal(body[name], heads[prefix + name]), f"{name} of the frozen body moved"


@pytest.mark.parametrize("family", ["classification", "detection", "segmentation"])
def test_scores_and_sizes_do_not_depend_on_the_batch_size(lab, family):
    if not lab.checkpoint(family).exists():
        assert lab.run(family) == 0
    found = []
    for batch in (1, 5):
        name = f"{family}_batch{batch}"
        config = lab.config(family, name, test__test_data_loader__kwargs={"batch_size": batch})
        assert lab.run(family, "-test_only", "-student_only", config=config) == 0
        found.append(lab.metrics(name)["models"]["student"])
    assert found[0]["metrics"] == found[1]["metrics"]
    assert found[0]["payload_bytes"] == found[1]["payload_bytes"]
    assert found[0]["data_size_kb"] == found[1]["data_size_kb"]


@pytest.mark.parametrize("family", ["classification", "detection", "segmentation"])
def test_evaluation_modes_agree(lab, family):
    """Coding is lossless: equal scores; sizes equal where coded, and close where estimated."""
    if not lab.checkpoint(family).exists():
        assert lab.run(family) == 0
    found = {}
    for mode in ("full", "encode", "estimate"):
        name = f"{family}_{mode}"
        flags = ("-test_only", "-student_only", "--evaluation", mode)
        assert lab.run(family, *flags, log=name) == 0
        found[mode] = lab.metrics(name)["models"]["student"]
    full, encode, estimate = found.values()
    assert full["metrics"] == encode["metrics"] == estimate["metrics"]
    for key in ("payload_bytes", "data_size_kb"):
        assert full[key] == encode[key]
    mean = full["payload_bytes"]["mean"]
    assert abs(estimate["payload_bytes"]["mean"] - mean) <= 0.001 * mean + 16


@pytest.mark.parametrize("family", ["classification", "detection", "segmentation"])
def test_bf16_changes_no_payload_and_hardly_a_score(lab, family):
    if not lab.checkpoint(family).exists():
        assert lab.run(family) == 0
    found = {}
    for precision in ("float32", "bf16"):
        name = f"{family}_{precision}"
        flags = ("-test_only", "-student_only", "--precision", precision)
        assert lab.run(family, *flags, log=name) == 0
        found[precision] = lab.metrics(name)["models"]["student"]
    key = lab.metrics(f"{family}_bf16")["key_metric"]
    exact, rough = (found[p]["metrics"][key] for p in ("float32", "bf16"))
    assert rough == pytest.approx(exact, abs=100 / 12 if family == "classification" else 5)
    assert found["bf16"]["payload_bytes"] == found["float32"]["payload_bytes"]
    assert found["bf16"]["data_size_kb"] == found["float32"]["data_size_kb"]


@pytest.mark.parametrize("family", ["classification", "detection", "segmentation"])
def test_three_heads_find_what_the_single_models_find(lab, family):
    """On one encoder: all of them see 96x96 images, so that nothing is resized."""
    for trained in ("classification", "detection", "segmentation"):
        if not lab.checkpoint(trained).exists():
            assert lab.run(trained) == 0
    configs = {"alone": lab.config(family), "three": lab.three_headed(family)}
    found, rows = {}, {}
    for name, config in configs.items():
        path = lab.folder / f"{family}_{name}.jsonl"
        flags = ["-test_only", "-student_only", "--predictions", str(path)]
        if family == "detection":  # after one epoch, no box would be good enough
            own = "models.model.detection" if name == "three" else "models.model"
            flags += ["--set", f"{own}.kwargs.box_score_thresh=0.0"]
        assert lab.run(family, *flags, config=config, log=f"{family}_{name}") == 0
        found[name] = lab.metrics(f"{family}_{name}")
        rows[name] = [json.loads(line) for line in path.read_text().splitlines()]
    alone, three = (found[name]["models"]["student"] for name in configs)
    for key in ("metrics", "payload_bytes", "data_size_kb"):
        assert three[key] == alone[key], key
    assert found["three"]["classes"] == found["alone"]["classes"]
    assert found["three"]["classes"][-10:] == list("0123456789")
    assert rows["three"] == rows["alone"]
    assert len(rows["three"]) == 12
    assert all(len(value) > 0 for row in rows["three"] for value in row.values())
    text = lab.log(f"{family}_three")
    assert "its body differs" not in text
    assert "dataset's own is left out" not in text, "the model and the data would normalise"


def test_flags_win_over_the_config(own_lab, monkeypatch):
    """--precision and --input are handed to the evaluation; so is what the config says."""
    from ladon import final_evaluation

    seen = []
    original = final_evaluation.evaluate_all
    monkeypatch.setattr(
        final_evaluation,
        "evaluate_all",
        lambda *a, **how: seen.append(how["precision"]) or original(*a, **how),
    )
    config = own_lab.config("classification", test__precision="bf16")
    flags = ("-test_only", "-student_only")
    assert own_lab.run("classification", *flags, config=config) == 0
    assert own_lab.run("classification", *flags, "--precision", "float32", config=config) == 0
    assert seen == ["bf16", "float32"]


def test_fast_input_is_used_where_it_can_be(own_lab):
    flags = ("-test_only", "-student_only", "--input", "fast")
    assert own_lab.run("classification", *flags) == 0
    log = own_lab.log("classification")
    assert "for 12 samples" in log
    assert "input: fast has no form" not in log


def test_training_in_bf16(own_lab):
    assert own_lab.run("teacher", "--precision", "bf16") == 0
    config = own_lab.config(
        "classification",
        "half",
        models__student_model__dst_ckpt=str(own_lab.folder / "half.pt"),
        train__precision="bf16",
    )
    assert own_lab.run("classification", "-student_only", config=config) == 0
    model = read_checkpoint(own_lab.folder / "half.pt", "test").model
    floats = {t.dtype for t in model.values() if t.is_floating_point()}
    assert floats == {torch.float32}
    assert own_lab.metrics("half")["models"]["student"]["payload_bytes"]["n"] == 12
