"""Runs of a variable-rate model: training, resuming, three tasks, and tests at several rates."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch
from devices import assert_same_scores, on_each_device, trained
from tiny import FAMILIES, TinyExperiment
from training_runs import Killed, assert_same_run, fresh, killed_when

from ladon.commands.verify import main as verify_main
from ladon.engine.student_trainer import StudentTrainer
from ladon.models.checkpoint import read_checkpoint
from ladon.report.runs import read_metrics
from ladon.report.series import split_series

NAMES = {
    "classification": "splittable_resnet18-vr_from_resnet18",
    "detection": "faster_rcnn_splittable_resnet18-vr_fpn",
    "segmentation": "deeplabv3_splittable_resnet18-vr",
}
RATES = ("0.32", "2.56", "20.48")


def config_of(lab, family, name=None, **values):
    """A tiny config over the shipped one."""
    made = lab.config(family, name, **{"beta": {"low": 0.32, "high": 20.48}} | values)
    text = made.read_text()
    base = str(FAMILIES / "ladon" / "_base_" / f"{family}.yaml")
    assert base in text
    made.write_text(text.replace(base, str(FAMILIES / "ladon" / f"{NAMES[family]}.yaml")))
    return made


@on_each_device
def test_a_classifier_for_every_rate_is_trained_and_tested(lab, tmp_path, device):
    own = TinyExperiment(tmp_path, lab.data_root)
    own.checkpoint("teacher").parent.mkdir(parents=True)
    own.checkpoint("teacher").symlink_to(lab.checkpoint("teacher"))
    config = own.config("variable", test__rates=[0.32, 20.48])
    assert own.run("variable", "-student_only", "--device", device, config=config) == 0
    student = own.metrics("variable")["models"]["student"]
    (coarse,) = student["rates"]
    assert coarse["payload_bytes"]["mean"] < student["payload_bytes"]["mean"]
    if device == "cpu":
        return
    assert own.run("variable", "-test_only", "-student_only", config=config) == 0
    on_cpu = own.metrics("variable")["models"]["student"]
    assert on_cpu["payload_bytes"]["mean"] == pytest.approx(
        student["payload_bytes"]["mean"], rel=1e-4
    )
    for ours, theirs in ((on_cpu, student), (on_cpu["rates"][0], coarse)):
        assert_same_scores(ours, theirs, device)


def test_a_checkpoint_of_one_rate_starts_a_training(lab, tmp_path, capsys):
    """And is not tested as if it were for every rate."""
    trained(lab, "classification")
    own = TinyExperiment(tmp_path, lab.data_root)
    own.checkpoint("teacher").parent.mkdir(parents=True)
    own.checkpoint("teacher").symlink_to(lab.checkpoint("teacher"))
    start = str(lab.checkpoint("classification"))
    config = fresh(own, "variable", "started", models__student_model__src_ckpt=start)
    assert own.run("variable", "-student_only", config=config) == 0
    assert f"{start}: the bottleneck starts from one of a plainer kind" in own.log("started")
    (own.folder / "started.pt").unlink()
    (own.folder / "started.pt").symlink_to(start)
    assert own.run("variable", "-test_only", "-student_only", config=config) == 2
    assert "made for another model" in capsys.readouterr().err


@pytest.fixture(scope="module")
def rates_lab(lab, tmp_path_factory):
    """A trained classifier for every rate, and a detector and a segmenter on its body."""
    made = TinyExperiment(tmp_path_factory.mktemp("rates"), lab.data_root)
    target = made.checkpoint("teacher")
    target.parent.mkdir(parents=True)
    target.write_bytes(lab.checkpoint("teacher").read_bytes())
    for family in NAMES:
        config = config_of(made, family, test__rates=[float(rate) for rate in RATES])
        assert made.run(family, "--seed", "3", config=config) == 0
    return made


@pytest.mark.slow
@pytest.mark.parametrize("family", list(NAMES))
def test_a_training_ends_with_a_test_at_several_rates(rates_lab, family):
    log = rates_lab.log(family)
    assert all(f"[Rate: β {rate}]" in log for rate in RATES)
    student = rates_lab.metrics(family)["models"]["student"]
    found = [student, *student["rates"]]
    assert [one["beta"] for one in found] == pytest.approx([0.32, 2.56, 20.48])
    sizes = [one["payload_bytes"]["mean"] for one in found]
    assert sizes[0] > sizes[1] > sizes[2]
    assert rates_lab.metrics(family)["beta"] is None
    assert "teacher" not in log or family == "classification"


@pytest.mark.slow
def test_several_rates_in_one_pass_are_those_of_each_alone(rates_lab, capsys):
    config = config_of(rates_lab, "classification")
    flags = "-test_only", "-student_only"
    assert rates_lab.run("classification", *flags, "--rate", *RATES, config=config, log="all") == 0
    student = rates_lab.metrics("all")["models"]["student"]
    together = [student, *student["rates"]]
    for rate, one in zip(RATES, together, strict=True):
        log = f"at{rate}"
        assert rates_lab.run("classification", *flags, "--rate", rate, config=config, log=log) == 0
        alone = rates_lab.metrics(log)["models"]["student"]
        for key in ("beta", "metrics", "payload_bytes", "data_size_kb"):
            assert alone[key] == one[key]
        assert "rates" not in alone


@pytest.mark.slow
def test_images_are_encoded_once_for_all_rates(rates_lab, monkeypatch):
    from ladon.bottlenecks.encoder import Encoder

    seen, encode = [], Encoder.__call__

    def count(self, images):
        seen.append(len(images))
        return encode(self, images)

    monkeypatch.setattr(Encoder, "__call__", count)
    config = config_of(rates_lab, "detection")
    flags = "-test_only", "-student_only", "--rate", *RATES
    assert rates_lab.run("detection", *flags, config=config, log="once") == 0
    assert sum(seen) == rates_lab.metrics("once")["num_images"]


@pytest.mark.slow
def test_a_report_has_one_curve_of_it(rates_lab):
    folder = rates_lab.folder / "logs" / "classification"
    results = [r for r in read_metrics(folder / "metrics.json") if r.role == "student"]
    (line,), _ = split_series(results)
    assert [r.beta for r in line.results] == pytest.approx([0.32, 2.56, 20.48])
    assert line.results[0].backbone == "resnet18"
    sizes = [size for size, _ in line.points]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.slow
def test_verify_repeats_each_rate(rates_lab, capsys):
    config = config_of(rates_lab, "segmentation")
    flags = "-test_only", "-student_only", "--rate", *RATES
    assert rates_lab.run("segmentation", *flags, config=config, log="verified") == 0
    folder = rates_lab.folder / "logs" / "verified"
    capsys.readouterr()
    assert verify_main([str(folder)]) == 0
    results = folder / "metrics.json"
    content = json.loads(results.read_text())
    content["models"]["student"]["rates"][1]["payload_bytes"]["mean"] += 1
    results.write_text(json.dumps(content))
    assert verify_main([str(folder)]) == 1
    assert "student at β 20.48" in capsys.readouterr().out


@pytest.mark.slow
def test_without_rates_it_is_tested_in_the_middle(rates_lab):
    config = config_of(rates_lab, "classification", "no_rates", test__rates=[])
    flags = "-test_only", "-student_only"
    assert rates_lab.run("classification", *flags, config=config, log="middle") == 0
    student = rates_lab.metrics("middle")["models"]["student"]
    assert student["beta"] == pytest.approx(2.56)


@pytest.mark.slow
def test_one_body_for_three_tasks(rates_lab):
    first = read_checkpoint(rates_lab.checkpoint("classification"), "test").model
    for family, prefix in (("detection", "backbone.body."), ("segmentation", "backbone.")):
        other = read_checkpoint(rates_lab.checkpoint(family), "test").model
        shared = {n: t for n, t in first.items() if prefix + n in other}
        assert sum(name.startswith("bottleneck_layer.") for name in shared) == 65
        assert any(name.startswith("layer2.") for name in shared)
        for name, tensor in shared.items():
            assert torch.equal(tensor, other[prefix + name]), name


@pytest.mark.slow
def test_the_second_stage_leaves_what_payloads_depend_on(rates_lab):
    tensors = read_checkpoint(rates_lab.checkpoint("classification"), "test").model
    names = [n for n in tensors if n.startswith("bottleneck_layer.step_sizes")]
    assert len(names) == 5
    assert tensors["bottleneck_layer.entropy_bottleneck._steps"].shape == (61, 12)
    assert tensors["bottleneck_layer.decoder.after.output.weight"].abs().max() > 0


@pytest.mark.slow
def test_a_rate_out_of_the_range(rates_lab, capsys):
    config = config_of(rates_lab, "classification")
    flags = "-test_only", "-student_only", "--rate", "40"
    assert rates_lab.run("classification", *flags, config=config, log="out") == 2
    assert "a rate of β 40: this model has β from 0.32 to 20.48" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("step", [2, 4])
def test_a_killed_run_ends_as_a_whole_one(rates_lab, step, monkeypatch):
    """Draws, running means and steps go on where they were; two steps are a stage."""
    for name in (f"whole{step}", f"killed{step}"):
        best = str(rates_lab.folder / f"{name}.pt")
        values = {"train__checkpoint_steps": 1, "models__student_model__dst_ckpt": best}
        config = config_of(rates_lab, "classification", name, **values)
        run = partial(rates_lab.run, "classification", "-student_only", config=config)
        if name.startswith("killed"):
            with monkeypatch.context() as patch:
                killed_when(patch, StudentTrainer, "learn", call=step)
                with pytest.raises(Killed):
                    run("--seed", "3")
        assert run("--seed", "3", "--resume") == 0
    assert_same_run(rates_lab, f"whole{step}", f"killed{step}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("beta", "words"),
    [
        ({"low": 3, "high": 2}, "0 < low < high, not {'low': 3, 'high': 2}"),
        ({"low": 30}, "0 < low < high, not {'low': 30, 'high': 20.48}"),
        ({"low": 1}, "learnt β from 0.32 to 20.48 in 61 levels, and the config says β from 1 to"),
        ({"low": "x", "high": 2}, "0 < low < high, not"),
        ([1, 2], "must be a number above 0, not"),
    ],
)
def test_a_range_that_is_none(rates_lab, capsys, beta, words):
    config = config_of(rates_lab, "classification", "range", beta=beta)
    assert rates_lab.run("classification", "-test_only", config=config) == 2
    assert words in capsys.readouterr().err
