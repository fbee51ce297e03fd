"""Families: which runs there are, and what stands on what."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import ROOT

from ladon.commands import sweep as sweep_script
from ladon.errors import UsageError
from ladon.sweeps.families import Family
from ladon.sweeps.jobs import Job
from ladon.tasks import find_task

BETAS = ("0.32", "1.28", "5.12", "10.24", "20.48")


@pytest.fixture
def in_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


def graph(jobs: list[Job]) -> dict[str, tuple[str, ...]]:
    return {job.title: tuple(need.title for need in job.needs) for job in jobs}


def test_a_published_family_is_classification_then_what_loads_it(in_checkout):
    """The layout that the published files have (ilsvrc2012, coco2017, pascal_voc2012)."""
    jobs = Family(name="resnet50").jobs()
    assert graph(jobs) == {
        **{f"student β {beta}": () for beta in BETAS},
        **{f"detection β {beta}": (f"student β {beta}",) for beta in BETAS},
        **{f"segmentation β {beta}": (f"student β {beta}",) for beta in BETAS},
    }
    assert [job.title.split()[0] for job in jobs] == (
        ["student"] * 5 + ["detection"] * 5 + ["segmentation"] * 5
    )
    for job in jobs:
        assert f"-beta{job.beta}_" in f"{job.config.stem}_"
        assert f"beta{job.beta}" in job.checkpoint.name
    assert jobs[5].command()[1:] == [
        str(ROOT / "scripts/object_detection.py"),
        "--config",
        "configs/coco2017/ladon/faster_rcnn_splittable_resnet50-fp-beta0.32_fpn.yaml",
    ]


def test_the_demo_s_family_has_a_teacher_by_either_name(in_checkout):
    names = "digit_scenes", "resnet18", "resnet18-vr"
    by_data, by_network, of_every_rate = (graph(Family(name=n).jobs()) for n in names)
    assert by_data == by_network | of_every_rate
    assert of_every_rate == {
        "teacher": (),
        "student": ("teacher",),
        "detection": ("student",),
        "segmentation": ("student",),
    }
    by_data = by_network
    assert list(by_data)[:2] == ["teacher", "student β 0.32"]
    assert by_data["student β 20.48"] == ("teacher",)
    assert len(by_data) == 10


def test_betas_and_flags(in_checkout):
    family = Family(name="digit_scenes", betas=("5.120",), flags=("--data_root", "here"))
    jobs = family.jobs()
    assert list(graph(jobs)) == [
        "teacher", "student β 5.12", "detection β 5.12", "segmentation β 5.12",
    ]  # fmt: skip
    assert all(job.arguments()[-2:] == ["--data_root", "here"] for job in jobs)
    assert str(jobs[0].loaded.get("data_root")) == "here"


def test_one_config_for_several_betas_stands_on_its_own_beta(in_checkout):
    jobs = Family(folder=Path("configs/own_data"), betas=("0.5", "2")).jobs()
    found = graph(jobs)
    assert found["student (classification) β 2"] == ("teacher",)
    assert found["segmentation β 0.5"] == ("student (classification) β 0.5",)
    assert len(found) == 9
    detection = next(job for job in jobs if job.title == "detection β 2")
    assert detection.arguments() == [
        "--config", "configs/own_data/detection.yaml",
        "--run_log", "logs/own_data/detection-beta2.txt",
        "--set", "beta=2",
    ]  # fmt: skip
    without = Family(folder=Path("configs/own_data")).jobs()
    assert "detection β 1.28" in graph(without)  # the configs' own
    assert without[0].run_log is None


def test_a_test_stands_on_nothing(in_checkout):
    jobs = Family(name="resnest269e", betas=("0.32",), test_only=True).jobs()
    assert graph(jobs) == dict.fromkeys(
        ("student β 0.32", "detection β 0.32", "segmentation β 0.32"), ()
    )
    assert all("-test_only" in job.arguments(resume=True) for job in jobs)


@pytest.mark.parametrize(
    ("family", "message"),
    [
        (Family(name="resnet34"), r"no config of a family 'resnet34' \(its networks are resnest"),
        (Family(name="resnet50", betas=("3", "0.32")), "family 'resnet50' has no config for β 3"),
        (Family(name="resnet50", betas=("big",)), "β must be a number above 0, not 'big'"),
        (
            Family(name="resnet50", tasks=(find_task("detection"),)),
            r"beta0\.32_fpn\.yaml: needs resource/.*from_resnet50\.pt, which does not exist: "
            r"configs/ilsvrc2012/.* makes it: add classification to --tasks",
        ),
        (Family(folder=Path("imgs")), "imgs: there is no config that trains a model"),
    ],
    ids=["name", "beta", "number", "foundation", "empty"],
)
def test_mistakes_are_named(in_checkout, family, message):
    with pytest.raises(UsageError, match=message):
        family.jobs()


def write(path: str, dst: str, src: str | None = None, beta: str | None = None) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    source = f"src_ckpt: {src}" if src else ""
    model = f"{{key: resnet18, dst_ckpt: '{dst}', {source}}}"
    text = f"models: {{model: {model}}}\ntrain: {{num_epochs: 1}}\n"
    Path(path).write_text(text + (f"beta: {beta}\n" if beta else ""))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            [("a/x.yaml", "best.pt"), ("a/y.yaml", "./best.pt")],
            r"a/x\.yaml and a/y\.yaml would both write to best\.pt",
        ),
        (
            [("a/1/x.yaml", "1.pt"), ("a/2/x.yaml", "2.pt")],
            r"a/1/x\.yaml and a/2/x\.yaml would both write to logs/x",
        ),
        (
            [("a/x.yaml", "1.pt", "2.pt"), ("a/y.yaml", "2.pt", "1.pt")],
            r"in a circle: a/x\.yaml -> a/y\.yaml -> a/x\.yaml",
        ),
    ],
    ids=["checkpoint", "folder", "circle"],
)
def test_runs_that_cannot_be_put_in_order_are_refused(tmp_path, monkeypatch, files, message):
    monkeypatch.chdir(tmp_path)
    for file in files:
        write(*file)
    with pytest.raises(UsageError, match=message):
        Family(folder=Path("a")).jobs()


def test_one_checkpoint_for_all_betas_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("a/x.yaml", "best.pt", beta="1.0")
    with pytest.raises(UsageError, match=r"would both write to best\.pt"):
        Family(folder=Path("a"), betas=("1", "2")).jobs()


def test_the_plan_is_printed_and_nothing_runs(in_checkout, capsys):
    assert sweep_script.main(["--family", "resnet50", "--betas", "0.32", "--dry_run"]) == 0
    out = capsys.readouterr().out
    assert "│ student β 0.32      │ new   │ –              │" in out
    assert "│ segmentation β 0.32 │ new   │ student β 0.32 │" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--task detection", "missing --config, --betas; or name a --family"),
        ("--family x --config y", "--family and --configs do not go with --config"),
        ("--family x --fused", "do not go with --fused"),
        ("--task t --config c --betas 1 --tasks detection", "of one config it is --task"),
        ("--family x --gpus_per_job 1", "--gpus_per_job is of --engine ray and slurm"),
        ("--family x --engine slurm --address y", "--address is of --engine ray"),
        ("--task t --config c --betas 1 --fused --jobs 2", "leave out --engine and --jobs"),
        ("--family resnet50 --tasks depth", "no task is called 'depth'"),
    ],
)
def test_flags_that_do_not_go_together(in_checkout, capsys, arguments, message):
    assert sweep_script.main(arguments.split()) == 2
    assert message in capsys.readouterr().err
