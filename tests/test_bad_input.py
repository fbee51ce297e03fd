"""Bad input through the real command line: one message that names the file, the key or the line
and says what to do, no traceback, and the exit code (2 wrong usage or input, 1 failed work)."""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import json
import logging
import os
import pickle
import re
import resource
import shutil
import subprocess
import sys
import urllib.error
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
import yaml
from PIL import Image
from tiny import ROOT, Lab
from torch.utils.data import Dataset, Subset
from torchdistill.datasets.wrapper import BaseDatasetWrapper
from torchvision.ops.misc import FrozenBatchNorm2d

from ladon.cli import main
from ladon.data.loaders import (
    bucketed,
    build_eval_loader,
    build_train_loader,
    collate,
    iterate,
)
from ladon.data.samplers import image_size
from ladon.errors import CheckpointError, DataError, LadonError
from ladon.models.checkpoint import read_checkpoint, write_checkpoint
from ladon.tasks import TASKS

STUDENT = "models.student_model"
TEST_STUDENT = ("-test_only", "-student_only")


@pytest.fixture
def own_lab(lab, tmp_path):
    """A lab of the test's own, with the shared teacher and classifier."""
    made = Lab(tmp_path / "own", lab.data_root)
    (made.folder / "ckpt").mkdir()
    for family in ("teacher", "classification"):
        made.checkpoint(family).symlink_to(lab.checkpoint(family))
    return made


@pytest.fixture
def own_data(own_lab, tmp_path):
    """The lab's data as a copy that a test may damage."""
    copy = tmp_path / "data"
    shutil.copytree(own_lab.data_root, copy)
    own_lab.data_root = copy
    return copy / "digit_scenes"


@pytest.fixture
def refused(own_lab, capsys):
    """Runs a family's script, which must fail as promised; returns the message."""

    def run(family: str, *flags: str, config: Path | None = None, code: int = 2) -> str:
        capsys.readouterr()
        found = own_lab.run(family, *flags, config=config, log="refused")
        shown = capsys.readouterr().err
        assert found == code, shown
        return message_of(shown, own_lab.folder / "logs" / "refused.txt")

    return run


def message_of(shown: str, log: Path | None = None) -> str:
    """The one message among what was shown: before logging is set up, or as the last log line."""
    assert "Traceback" not in shown
    early = re.findall(r"^error: (.*)", shown, flags=re.MULTILINE | re.DOTALL)
    late = [line.split("\t")[-1] for line in shown.splitlines() if "\tERROR\t" in line]
    assert len(early) + len(late) == 1, shown
    if late and log is not None and log.is_file():
        assert log.read_text().rstrip().splitlines()[-1].endswith(f"\tERROR\tladon.cli\t{late[0]}")
    return (early + late)[0].rstrip()


def edited(path: Path, old: str, new: str) -> Path:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return path


def line_of(path: Path, text: str) -> int:
    return path.read_text().split(text)[0].count("\n") + 1


# --- configs -----------------------------------------------------------------------------------


def test_missing_config_names_the_file_and_a_near_one(refused, own_lab):
    path = own_lab.config("teacher", "teacher_a")
    message = refused("teacher", config=path.with_name("teachr_a.yaml"))
    assert message == (
        f'config file not found: {path.parent}/teachr_a.yaml; did you mean "teacher_a.yaml"?'
    )
    assert not (own_lab.folder / "logs").exists(), "nothing is written before the config is read"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"train:\n  stage1: {num_epochs: 2\n", ":"),
        (b"", "the file is empty"),
        (b"- a\n- b\n", "must be a mapping"),
        (b"\xff\xfe\x00b\x00e", "not UTF-8 text"),
        (b"\x89PNG\r\n\x1a\n\0\0\0", "not UTF-8 text"),
        (b"a: !!python/object/apply:os.system ['touch owned']\n", ":1: tag !!python/.* is refused"),
    ],
)
def test_a_file_that_is_no_config_is_named(
    refused, own_lab, tmp_path, monkeypatch, content, expected
):
    monkeypatch.chdir(tmp_path)
    path = own_lab.folder / "broken.yaml"
    path.write_bytes(content)
    assert re.search(f"^{re.escape(str(path))}.*{expected}", refused("teacher", config=path))
    assert not (tmp_path / "owned").exists()


def test_a_folder_is_no_config(refused, own_lab):
    assert "is a folder" in refused("teacher", config=own_lab.folder)


def test_yaml_syntax_error_names_file_and_line(refused, own_lab):
    path = own_lab.config("teacher", "broken")
    path.write_text(f"{path.read_text()}test:\n  test_data_loader: [a\n  b: 1\n")
    line = len(path.read_text().splitlines())
    assert refused("teacher", config=path).startswith(f"{path}:{line}: ")


def test_unknown_key_names_file_line_and_the_likely_key(refused, own_lab):
    path = edited(own_lab.config("teacher", "broken"), "num_epochs", "num_epoch")
    message = refused("teacher", config=path)
    line = line_of(path, "num_epoch:")
    assert message == f'{path}:{line}: train.num_epoch: unknown key; did you mean "num_epochs"?'


def test_several_problems_are_all_reported(refused, own_lab):
    path = edited(own_lab.config("teacher", "broken"), "num_epochs", "num_epoch")
    path.write_text(f"{path.read_text()}beta: -1\ntets: {{}}\n")
    lines = refused("teacher", "--set", "train.optimizer.key=AdmW", config=path).splitlines()
    assert len(lines) == 4
    assert [line for line in lines if line.startswith(f"{path}:{line_of(path, 'beta')}: beta: ")]
    assert any(line.startswith("--set: train.optimizer.key: ") for line in lines)
    assert any("tets: unknown key" in line for line in lines)


@pytest.mark.parametrize("value", ["0", "-1", "0.0", "high", "true", ".nan", ".inf", "[1]"])
@pytest.mark.parametrize("by", ["file", "set", "json"])
def test_beta_must_be_a_number_above_zero(refused, own_lab, value, by):
    if by == "json" and value in (".nan", ".inf"):
        value = {".nan": "NaN", ".inf": "Infinity"}[value]
    path = own_lab.config("classification", "broken")
    where = {"file": f"{path}:", "set": "--set: ", "json": "--json: "}[by]
    if by == "file":
        edited(path, "beta: 0.32", f"beta: {value}")
    flags = {
        "file": [],
        "set": ["--set", f"beta={value}"],
        "json": ["--json", f'{{"beta": {json.dumps(value) if value == "high" else value}}}'],
    }[by]
    message = refused("classification", *flags, config=path)
    assert message.splitlines()[0].startswith(where)
    assert "beta: must be a number above 0, not " in message


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--set", "train.num_epochs"], "--set train.num_epochs: write it as PATH=VALUE"),
        (["--set", "=3"], "--set =3: the path before the = is empty"),
        (["--set", "beta.high=3"], 'no "high" in beta: beta is '),
        (["--set", "train.num_epochs=[1"], "--set train.num_epochs: "),
        (["--set", "test.test_data_loader.kwargs.batch_size=0"], "batch_size"),
        (["--set", "test.test_data_loader.kwargs.batch_size=two"], "batch_size"),
        (["--set", "test.test_data_loader.dataset_id=digit_scenes/vla"], '"digit_scenes/val"'),
        (["--set", "models.teacher_model.key=[1]"], "key: must be the name of a classification"),
        (["--set", "models.teacher_model.kwargs=5"], "kwargs: must be a mapping, not a number"),
        (["--set", "test=null"], "has no test.test_data_loader: nothing to test on"),
        (["--set", "train=null"], "has no train section; add -test_only to test"),
        (["--set", "models.teacher_model.kwargs.num_classes=-3"], "cannot build resnet18: Runtime"),
        (["--set", "train.stage1.train_data_loader.kwargs.drop_last=maybe"], "drop_last: must be"),
        (["--json", '{"models": 5}'], "--json: models: must be a mapping"),
        (["--device", "cuda:99"], "--device cuda:99: this machine has"),
        (["--device", "nonsense"], "--device nonsense: not a device"),
        (["--device", "mps"], "--device mps: not a device"),
        (["--device", "meta"], "--device meta: not a device"),
        (["--world_size", "2"], "--world_size 2: start the processes with `torchrun"),
    ],
)
def test_unusable_flags_are_named(refused, own_lab, flags, expected):
    path = own_lab.config("classification", "flags")
    assert expected in refused("classification", *flags, config=path)


@pytest.mark.parametrize(
    ("task", "flags", "expected"),
    [
        ("image_classification", ["--json", "[1]"], "argument --json: must be a JSON object"),
        ("image_classification", ["--json", "{beta: 1}"], "argument --json: not JSON"),
        ("image_classification", ["--seed", "x"], "argument --seed: invalid int value"),
        ("image_classification", ["--seed", "-1"], "argument --seed: must be between 0 and"),
        ("image_classification", ["--seed", str(2**40)], "argument --seed: must be between 0 and"),
        ("image_classification", ["--start_epoch", "-1"], "argument --start_epoch: must be 0"),
        ("image_classification", ["--nonsense"], "unrecognized arguments: --nonsense"),
        ("object_detection", ["--iou_types", "segm"], "argument --iou_types: "),
        ("object_detection", ["--iou_types", "bbox", "segm"], "argument --iou_types: "),
        ("semantic_segmentation", ["--num_classes", "0"], "argument --num_classes: must be 1"),
        ("semantic_segmentation", ["--num_classes", "-3"], "argument --num_classes: must be 1"),
    ],
)
def test_unusable_flags_are_refused_at_once(capsys, task, flags, expected):
    with pytest.raises(SystemExit) as left:
        main(task, ["--config", "x.yaml", *flags])
    assert left.value.code == 2
    assert expected in capsys.readouterr().err.splitlines()[-1]


def test_cuda_where_there_is_none(refused, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    message = refused("teacher", "--device", "cuda")
    assert message.startswith("--device cuda: this machine has 0 CUDA devices; use --device cpu")


SUB_TERMS = "train.criterion.kwargs.sub_terms"


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("train.optimizer.kwargs.lr=-3", "cannot set up: ValueError: Invalid learning rate: -3.0"),
        ("train.optimizer.kwargs.weight_decay=null", "cannot set up: TypeError: "),
        ("train.scheduler.kwargs.max_lr=[]", "cannot set up: ValueError: max_lr must have"),
        (f"{SUB_TERMS}.ce=null", "cannot set up: TypeError: "),
        (
            f"{SUB_TERMS}.ce.criterion_wrapper.kwargs.input.module_path=fc",
            "criterion asks for 'fc'",
        ),
    ],
)
def test_what_a_stage_cannot_be_made_of(refused, assignment, expected):
    message = refused("teacher", "--set", assignment)
    assert message.startswith("train")
    assert expected in message


def test_entropy_coding_in_a_stage_that_hooks_the_bottleneck(refused):
    message = refused("classification", "--set", "train.epoch_to_update=stage1")
    assert "the criterion asks for 'output', which the models do not give" in message


def test_empty_values_of_a_stage_are_as_good_as_missing(own_lab):
    flags = [f"train.model={{{key}: null}}" for key in ("frozen_modules", "sequential")]
    for value in (*flags, "train.model={forward_hook: null}"):
        assert own_lab.run("teacher", "--set", value) == 0


def test_out_of_memory_says_what_to_do(refused, monkeypatch):
    def predict(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB.")

    monkeypatch.setattr(TASKS["image_classification"], "predict", predict)
    message = refused("classification", *TEST_STUDENT, code=1)
    assert message.startswith("the memory of cpu does not suffice: lower batch_size (")


def test_log_config_prints_what_is_run(own_lab, capsys):
    flags = ["-log_config", "--set", "beta=5.12", "--json", '{"train": {"log_freq": 7}}']
    flags += ["--set", f"{STUDENT}.dst_ckpt={own_lab.checkpoint('classification')}"]
    assert own_lab.run("classification", *TEST_STUDENT, *flags) == 0
    for text in (capsys.readouterr().err, own_lab.log("classification")):
        shown = text.split("Resolved config:\n")[1]
        shown = re.split(r"^\d{4}/\d\d/\d\d ", shown, flags=re.MULTILINE)[0]
        config = yaml.load(shown, Loader=_Tagged)
        assert config["beta"] == 5.12
        assert config["train"]["log_freq"] == 7
        terms = config["train"]["stage1"]["criterion"]["kwargs"]["sub_terms"]
        assert terms["bpp"]["weight"] == 5.12, "resolved"


class _Tagged(yaml.SafeLoader):
    """Reads tagged nodes as None."""


_Tagged.add_multi_constructor("!", lambda *_: None)


def test_unwritable_log_names_the_flag(refused, own_lab, capsys):
    (own_lab.folder / "file").write_text("x")
    (own_lab.folder / "folder.txt").mkdir()
    config = own_lab.config("teacher")
    for log in ("file/log.txt", "folder.txt"):
        path = own_lab.folder / log
        code = main("image_classification", ["--config", str(config), "--run_log", str(path)])
        assert code == 2
        shown = capsys.readouterr().err
        assert message_of(shown).startswith(f"--run_log {path}: cannot be written: ")


def test_unwritable_run_folder_is_named(refused, own_lab):
    (own_lab.folder / "logs").mkdir()
    (own_lab.folder / "logs" / "refused").write_text("a file where the run folder goes")
    assert refused("teacher") == f"{own_lab.folder}/logs/refused: cannot be written: File exists"


# --- checkpoints -------------------------------------------------------------------------------


def test_missing_student_checkpoint_names_file_and_key(refused, own_lab):
    path = own_lab.checkpoint("classification")
    path.unlink()
    config = own_lab.config("classification", "missing")
    message = refused("classification", *TEST_STUDENT, config=config)
    line = line_of(config, "dst_ckpt")
    assert message.startswith(
        f"checkpoint not found: {path} (named by {STUDENT}.dst_ckpt in {config}:{line}); "
    )


@pytest.mark.parametrize("family", ["detection", "segmentation"])
def test_missing_backbone_checkpoint_names_file_and_key(refused, own_lab, family):
    path = own_lab.checkpoint("classification")
    path.unlink()
    message = refused(family)
    assert message.startswith(f"checkpoint not found: {path} (named by ")
    assert "models.model.kwargs.backbone_config.src_ckpt" in message


@pytest.mark.parametrize("flags", [(), ("-test_only",)])
def test_missing_teacher_checkpoint_names_file_and_key(refused, own_lab, flags):
    path = own_lab.checkpoint("teacher")
    path.unlink()
    message = refused("classification", *flags)
    assert message.startswith(f"checkpoint not found: {path} (named by ")
    assert "models.teacher_model.src_ckpt" in message


def test_a_teacher_without_any_weights_is_refused(refused):
    message = refused("classification", "--set", "models.teacher_model.src_ckpt=null")
    assert "random weights are no teacher" in message


def test_a_pretrained_teacher_may_lack_its_file(own_lab, monkeypatch, capsys):
    own_lab.checkpoint("teacher").unlink()
    model = torchvision.models.resnet18()
    weights = torchvision.models.ResNet18_Weights
    monkeypatch.setattr(weights, "get_state_dict", lambda *_, **__: model.state_dict())
    config = own_lab.config(
        "classification",
        "warned",
        models__teacher_model={
            "key": "resnet18",
            "kwargs": {"num_classes": 1000, "weights": "IMAGENET1K_V1"},
            "src_ckpt": str(own_lab.checkpoint("teacher")),
        },
    )
    assert own_lab.run("classification", "-test_only", config=config) == 0
    warnings = [line for line in own_lab.log("warned").splitlines() if "\tWARNING\t" in line]
    assert len(warnings) == 1
    assert (
        f"models.teacher_model.src_ckpt: {own_lab.checkpoint('teacher')} not found" in warnings[0]
    )
    assert set(own_lab.metrics("warned")["models"]) == {"teacher", "student"}


def test_weights_that_cannot_be_downloaded(refused, own_lab, monkeypatch, tmp_path):
    def urlopen(*_, **__):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    monkeypatch.setattr("torch.hub.urlopen", urlopen, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    teacher = {"src_ckpt": None, "kwargs": {"num_classes": 1000, "weights": "IMAGENET1K_V1"}}
    config = own_lab.config("classification", "offline", models__teacher_model=teacher)
    message = refused("classification", "-test_only", config=config)
    assert message.startswith("models.teacher_model: pretrained weights of resnet18 are not in ")
    assert "cannot be downloaded" in message


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("resnet_name=resnet34", r"missing \(layer2\.2"),
        ("bottleneck_config.kwargs.num_bottleneck_channels=6", r"of another shape \(bottleneck_"),
        ("num_classes=7", r"of another shape \(fc\.bias \(10,\) instead of \(7,\)"),
    ],
)
def test_checkpoint_of_another_model(refused, own_lab, assignment, expected):
    flags = ["--set", f"{STUDENT}.kwargs.{assignment}"]
    message = refused("classification", *TEST_STUDENT, *flags)
    assert message.startswith(f"{own_lab.checkpoint('classification')}: made for another model: ")
    assert re.search(expected, message)


def test_backbone_of_another_model(refused, own_lab):
    flags = ["--set", "models.model.kwargs.backbone_config.kwargs.resnet_name=resnet34"]
    message = refused("segmentation", *flags)
    assert message.startswith(f"{own_lab.checkpoint('classification')}: made for another model: ")


def replace_checkpoint(lab, content: bytes) -> Path:
    path = lab.checkpoint("classification")
    path.unlink()
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_truncated_checkpoints_are_refused(lab, tmp_path, legacy):
    content = torch.load(lab.checkpoint("classification"), weights_only=False)
    whole = io.BytesIO()
    torch.save(content, whole, _use_new_zipfile_serialization=not legacy)
    whole = whole.getvalue()
    path = tmp_path / "cut.pt"
    for length in (
        0,
        1,
        2,
        30,
        100,
        1000,
        5000,
        len(whole) // 2,
        len(whole) - 1000,
        len(whole) - 1,
    ):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"(truncated|damaged)") as caught:
            read_checkpoint(path, "test")
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)
    path.write_bytes(whole)
    assert read_checkpoint(path, "test").model


@pytest.mark.parametrize(
    "content",
    [b"", b"PK\x03\x04", b"not a checkpoint\n", b"\x00" * 5000, b"<html>404</html>", b"\x80\x02."],
)
def test_files_that_are_no_checkpoint_are_refused(refused, own_lab, content):
    path = replace_checkpoint(own_lab, content)
    message = refused("classification", *TEST_STUDENT)
    assert message.startswith(f"{path}: ")
    assert "damaged" in message
    assert "run code" not in message


def test_truncated_checkpoint_through_the_command_line(refused, own_lab, lab):
    content = lab.checkpoint("classification").read_bytes()
    path = replace_checkpoint(own_lab, content[: len(content) // 3])
    assert refused("classification", *TEST_STUDENT).startswith(f"{path}: truncated or damaged")


def test_a_folder_is_no_checkpoint(refused, own_lab):
    path = own_lab.checkpoint("classification")
    path.unlink()
    path.mkdir()
    message = refused("classification", *TEST_STUDENT)
    assert f"{path} " in message
    assert "folder" in message


class Touch:
    """Its pickle creates a file when it is loaded."""

    def __init__(self, path: Path, call=os.system) -> None:
        self.path, self.call = path, call

    def __reduce__(self):
        argument = f"touch {self.path}" if self.call is os.system else str(self.path)
        return (self.call, (argument,))


@pytest.mark.parametrize("call", [os.system, os.mkdir, eval, Path.touch])
@pytest.mark.parametrize("place", ["whole", "args", "best_value", "optimizer", "raw", "legacy"])
def test_a_checkpoint_never_runs_code(own_lab, lab, tmp_path, place, call):
    owned = tmp_path / "owned"
    evil = Touch(owned, call)
    if call is eval:
        evil = Touch(Path(f"open({str(owned)!r}, 'w')"), eval)
    path = own_lab.checkpoint("classification")
    good = torch.load(path, weights_only=False)
    path.unlink()
    if place == "raw":
        path.write_bytes(pickle.dumps(evil))
    elif place in ("whole", "legacy"):
        torch.save(evil, path, _use_new_zipfile_serialization=place == "whole")
    elif place == "args":
        torch.save(good | {"args": argparse.Namespace(config="x.yaml", more=[evil])}, path)
    else:
        torch.save(good | {place: {"state": evil}}, path)
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path, "test")
    assert not owned.exists()
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    if place != "raw":
        assert "refused: it holds objects that would run code" in str(caught.value)


def test_refused_code_through_the_command_line(refused, own_lab, lab, tmp_path):
    good = torch.load(lab.checkpoint("classification"), weights_only=False)
    evil = io.BytesIO()
    torch.save(good | {"args": argparse.Namespace(json=Touch(tmp_path / "owned"))}, evil)
    path = replace_checkpoint(own_lab, evil.getvalue())
    message = refused("classification", *TEST_STUDENT)
    assert message == (
        f"{path}: refused: it holds objects that would run code when loaded (posix.system)"
    )
    assert not (tmp_path / "owned").exists()


def test_last_checkpoint_of_a_resumed_run_never_runs_code(refused, own_lab, tmp_path):
    folder = own_lab.folder / "logs" / "refused"
    folder.mkdir(parents=True)
    torch.save({"format": 1, "stage": Touch(tmp_path / "owned")}, folder / "last.pt")
    message = refused("classification", "--resume")
    assert message.startswith(f"{folder / 'last.pt'}: refused: ")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([1, 2], "holds a list, not a checkpoint"),
        ({}, "holds no model"),
        ({"model": {}}, "holds no model"),
        ({"model": {"a": 1}}, "holds no model"),
        ({"model": {1: torch.zeros(1)}}, "holds no model"),
        ({"format": 1, "weights": "x"}, "holds no model"),
        ({"model": {"a": torch.zeros(1)}, "best_value": "high"}, "best_value"),
    ],
)
def test_files_of_another_content_are_refused(tmp_path, content, expected):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=expected):
        read_checkpoint(tmp_path / "a.pt", "test")


@pytest.mark.parametrize(
    "content",
    [
        {"format": 1},
        {"format": 1, "model": 1, "progress": {}, "stage": None, "generators": []},
        {"format": 2},
        [],
    ],
)
def test_other_files_are_not_resumed_from(refused, own_lab, content):
    folder = own_lab.folder / "logs" / "refused"
    folder.mkdir(parents=True)
    torch.save(content, folder / "last.pt")
    message = refused("classification", "--resume")
    assert message.startswith(f"{folder / 'last.pt'}: not a file to resume from")


def test_what_published_checkpoints_hold_besides_tensors_is_let_in(own_lab, tmp_path):
    path = own_lab.checkpoint("classification")
    good = torch.load(path, weights_only=False)
    args = argparse.Namespace(
        config="x.yaml", json=None, lr=0.1, iou_types=["bbox"], norm_layer=FrozenBatchNorm2d
    )
    scheduler = {
        "milestones": collections.Counter([5, 8]),
        "_last_lr": [0.1],
        "order": collections.OrderedDict(a=1),
    }
    for best in (np.float64(37.5), np.float32(37.5), np.int64(37), 37.5, torch.tensor(37.5)):
        extra = {"args": args, "lr_scheduler": scheduler, "best_value": best}
        torch.save(good | extra, tmp_path / "a.pt")
        found = read_checkpoint(tmp_path / "a.pt", "test")
        assert found.best_value == float(best)
        assert found.args == args
        assert found.lr_scheduler == scheduler


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_numpy_scalars_of_either_numpy_are_let_in(own_lab, tmp_path, module):
    """numpy 2 pickles a scalar's constructor under another name than numpy 1."""
    own = tmp_path / "own.pt"
    torch.save({"model": {"a": torch.zeros(1)}, "best_value": np.float64(37.5)}, own)
    with zipfile.ZipFile(own) as source, zipfile.ZipFile(tmp_path / "a.pt", "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("data.pkl"):
                content, count = re.subn(rb"numpy\._?core\.multiarray", module, content)
                assert count == 1
            target.writestr(name, content)
    assert read_checkpoint(tmp_path / "a.pt", "test").best_value == 37.5


# --- data --------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["flag", "variable", "config"])
@pytest.mark.parametrize("family", ["teacher", "detection", "segmentation"])
def test_missing_data_names_the_folder_and_how_to_move_the_root(
    refused, own_lab, tmp_path, monkeypatch, family, by
):
    root = tmp_path / "nowhere"
    flags = []
    config = None
    if by == "flag":
        flags = ["--data_root", str(root)]
    elif by == "variable":
        monkeypatch.setenv("LADON_DATA_ROOT", str(root))
    else:
        config = own_lab.config(family, "nowhere", data_root=str(root))
    message = refused(family, *flags, config=config)
    assert f"{root}/digit_scenes" in message
    assert "does not exist" in message
    assert "--data_root" in message
    assert "LADON_DATA_ROOT" in message


@pytest.mark.parametrize("split", ["train", "val"])
def test_missing_data_is_found_before_training_starts(refused, own_lab, own_data, split):
    """Not after the first epoch, when the validation set is first used."""
    shutil.rmtree(own_data / split)
    message = refused("teacher")
    assert f"image folder {own_data / split} does not exist" in message
    assert "Epoch: [0]" not in own_lab.log("refused")


def test_missing_data_of_the_final_test_is_found_before_training_starts(refused, own_lab, own_data):
    text = (
        f"datasets:\n  other: !import_call\n    key: ladon.data.folder.ImageFolder\n    init:\n"
        f"      kwargs: {{root: {own_data}/test}}\n"
    )
    config = own_lab.config("teacher", "other")
    config.write_text(config.read_text() + text)
    flags = ["--set", "test.test_data_loader.dataset_id=other"]
    message = refused("teacher", *flags, config=config)
    assert f"image folder {own_data / 'test'} does not exist" in message
    assert "Epoch: [0]" not in own_lab.log("refused")


def first(folder: Path, pattern: str) -> Path:
    return min(folder.rglob(pattern))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_truncated_image_is_named(refused, own_lab, own_data, split, workers):
    path = first(own_data / split, "*.png")
    cut(path)
    loader = "train.train_data_loader" if split == "train" else "test.test_data_loader"
    flags = ["--set", f"{loader}.kwargs.num_workers={workers}"]
    flags += [] if split == "train" else ["-test_only"]
    message = refused("teacher", *flags)
    assert message.startswith(f"cannot read image {path}: ")
    assert message.endswith("replace or remove it")


@pytest.mark.parametrize("content", ["cut", b"", b"<html>", b"\xff\xd8\xff\xe0"])
def test_a_damaged_jpeg_is_named(refused, own_lab, own_data, content):
    path = first(own_data / "val", "*.png").with_suffix(".JPEG")
    Image.effect_noise((96, 96), 90).convert("RGB").save(path)
    cut(path) if content == "cut" else path.write_bytes(content)
    message = refused("teacher", "-test_only")
    assert message.startswith(f"cannot read image {path}: ")


def test_an_empty_class_folder_is_named(refused, own_data):
    (own_data / "train" / "99").mkdir()
    message = refused("teacher")
    assert message.startswith(f"class folder {own_data / 'train' / '99'} holds no images")


def test_more_classes_than_the_model_has(refused, own_data):
    shutil.copytree(own_data / "train" / "0", own_data / "train" / "99")
    message = refused("teacher")
    assert message == "a label does not fit the model's classes: Target 10 is out of bounds."


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_a_transform_cannot_take_is_named(refused, own_data, workers):
    path = first(own_data / "train", "*.png")
    Image.new("RGB", (20, 20)).save(path)
    flags = ["--set", f"train.train_data_loader.kwargs.num_workers={workers}"]
    message = refused("teacher", *flags)
    assert message.startswith(f"cannot load {path}: ValueError: Required crop size (96, 96) ")


@pytest.mark.parametrize("workers", [0, 2])
def test_images_that_make_no_batch(refused, own_data, workers):
    path = first(own_data / "val", "*.png")
    Image.new("RGB", (20, 20)).save(path)
    flags = ["--set", "train.train_data_loader.dataset_id=digit_scenes/val"]
    flags += ["--set", f"train.train_data_loader.kwargs.num_workers={workers}"]
    message = refused("teacher", *flags, "--set", "train.train_data_loader.kwargs.batch_size=12")
    assert "cannot make a batch" in message
    assert "[3, 20, 20]" in message


def coco(own_data: Path, split: str = "val") -> Path:
    return own_data / "annotations" / f"instances_{split}.json"


def test_coco_file_naming_an_image_that_is_not_there(refused, own_data):
    content = json.loads(coco(own_data, "train").read_text())
    name = content["images"][3]["file_name"]
    (own_data / name).unlink()
    message = refused("detection")
    assert message.startswith(f"{own_data / name} does not exist (1 of 40 images that ")
    assert str(coco(own_data, "train")) in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "is not valid JSON"),
        ("[]", "has no list 'images'"),
        ('{"images": [], "annotations": [], "categories": []}', "lists no annotated images"),
        ('{"images": [{}], "annotations": [], "categories": []}', r"images\[0\] lacks"),
    ],
)
def test_broken_coco_file_is_named(refused, own_data, content, expected):
    coco(own_data, "train").write_text(content)
    message = refused("detection")
    assert message.startswith(str(coco(own_data, "train")))
    assert re.search(expected, message)


def test_missing_coco_file_is_named(refused, own_data):
    coco(own_data).unlink()
    assert f"annotation file {coco(own_data)} does not exist" in refused("detection")


def test_mask_with_a_class_out_of_range_is_named(refused, own_data):
    path = first(own_data / "VOCdevkit" / "VOC2012" / "SegmentationClass", "*.png")
    with Image.open(path) as mask:
        mask = mask.copy()
    mask.putpixel((3, 4), 77)
    mask.save(path)
    message = refused("segmentation")
    assert message.startswith(f"mask {path} holds class id 77; ")


def test_missing_mask_is_named(refused, own_data):
    path = first(own_data / "VOCdevkit" / "VOC2012" / "SegmentationClass", "*.png")
    path.unlink()
    assert refused("segmentation").startswith(f"{path} does not exist (1 of ")


def test_too_few_samples_for_a_batch(refused):
    message = refused("teacher", "--set", "train.train_data_loader.kwargs.batch_size=64")
    assert "digit_scenes/train" in message
    assert "40 samples fill no batch" in message


EMPTY = (
    "datasets:\n  empty: !import_call\n    key: ladon.data.folder.ImageFolder\n    init:\n"
    "      kwargs: {{root: {root}, allow_empty: true}}\n"
)


@pytest.mark.parametrize("loader", ["test.test_data_loader", "train.train_data_loader"])
def test_a_set_without_samples(refused, own_lab, loader):
    root = own_lab.folder / "nothing"
    (root / "class").mkdir(parents=True)
    config = own_lab.config("teacher", "empty")
    config.write_text(config.read_text() + EMPTY.format(root=root))
    flags = ["-test_only"] if loader.startswith("test") else []
    message = refused("teacher", *flags, "--set", f"{loader}.dataset_id=empty", config=config)
    assert "empty: the dataset holds no samples" in message


class Named(Dataset):
    """A folder-like dataset whose second sample raises."""

    samples = [("a/0.png", 0), ("a/1.png", 0), ("a/2.png", 0)]

    def __len__(self):
        return 3

    def __getitem__(self, index):
        if index == 1:
            raise KeyError("two\nlines")
        return torch.zeros(3, 4, 4), 0


class Nameless(Named):
    samples = None


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("dataset", "name"),
    [
        (Named(), "a/1.png"),
        (Subset(Named(), [2, 1]), "a/1.png"),
        (BaseDatasetWrapper(Named()), "a/1.png"),
        (Nameless(), "sample 1 of Nameless"),
    ],
)
def test_whatever_a_dataset_raises_names_the_sample(dataset, name, workers):
    section = {"kwargs": {"batch_size": 1, "num_workers": workers}}
    expected = rf"^cannot load {name}: KeyError: 'two\\nlines'$"
    loader = build_train_loader(dataset, section, seed=0)
    with pytest.raises(DataError, match=expected) as caught:
        list(iterate(loader))
    if workers == 0:
        assert isinstance(caught.value.__cause__, KeyError)
    loader = build_eval_loader(dataset, section)
    with pytest.raises(DataError, match=expected):
        list(bucketed(loader, image_size, 1))


def test_samples_that_make_no_batch_are_a_data_error():
    samples = [(0, torch.zeros(3, 4, 4), 0), (1, torch.zeros(3, 4, 5), 0)]
    with pytest.raises(DataError, match=r"cannot make a batch.*stack expects"):
        collate(samples)


# --- failed work -------------------------------------------------------------------------------


@contextlib.contextmanager
def disk_for(nbytes: int):
    """Lets this process write no file longer than this, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_names_the_checkpoint(refused, own_lab):
    path = own_lab.folder / "ckpt" / "best.pt"
    with disk_for(1_000_000):
        message = refused("teacher", "--set", f"models.model.dst_ckpt={path}", code=1)
    assert message.startswith(f"cannot write checkpoint {path}: ")
    assert list(path.parent.glob("*best*")) == [], "nothing half-written stays"


def test_a_full_disk_leaves_the_old_checkpoint_whole(tmp_path):
    path = tmp_path / "a.pt"
    model = torch.nn.Linear(300, 300)
    write_checkpoint(path, model)
    before = path.read_bytes()
    with disk_for(10_000), pytest.raises(LadonError, match=f"cannot write checkpoint {path}"):
        write_checkpoint(path, model)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["a.pt"]


@pytest.mark.parametrize("what", ["parent is a file", "is a folder"])
def test_an_unwritable_checkpoint_path_is_found_before_training(refused, own_lab, what):
    path = own_lab.folder / "x" / "best.pt"
    if what == "is a folder":
        path.mkdir(parents=True)
    else:
        path.parent.write_text("a file")
    message = refused("teacher", "--set", f"models.model.dst_ckpt={path}")
    assert str(path) in message
    assert "models.model.dst_ckpt" in message
    assert "Epoch: [0]" not in own_lab.log("refused")


def test_a_run_folder_that_goes_away_is_named(refused, own_lab, monkeypatch):
    """The disk under the logs fails after the first epoch."""
    from ladon.engine.run import Run

    original = Run.log_epoch

    def log_epoch(self, record):
        (self.folder / "metrics.jsonl").mkdir()
        original(self, record)

    monkeypatch.setattr(Run, "log_epoch", log_epoch)
    message = refused("teacher", code=1)
    assert message.startswith(f"cannot write {own_lab.folder}/logs/refused/metrics.jsonl: ")


# --- the process itself ------------------------------------------------------------------------


def script(*args: str, cwd: Path, code: str | None = None) -> subprocess.CompletedProcess:
    start = ["-c", code] if code else [str(ROOT / "scripts" / "image_classification.py")]
    env = os.environ | {"PYTHONPATH": str(ROOT / "scripts"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *start, *args],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_exit_code_and_message_arrive_outside(tmp_path):
    done = script("--config", "nowhere.yaml", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: config file not found: nowhere.yaml\n"


def test_late_error_arrives_outside_and_in_the_log(own_lab):
    own_lab.checkpoint("classification").unlink()
    config = own_lab.config("classification", "missing")
    log = own_lab.folder / "log.txt"
    flags = ["--config", str(config), "--run_log", str(log), "--device", "cpu"]
    done = script(*flags, *TEST_STUDENT, cwd=own_lab.folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert message_of(done.stderr, log).startswith("checkpoint not found: ")
    assert done.stderr.splitlines()[-1] == log.read_text().splitlines()[-1]


INTERRUPTED = """
import os, signal, sys

class Interrupt:
    def find_spec(self, name, *rest):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
from ladon.cli import main
sys.exit(main("image_classification", sys.argv[1:]))
"""


@pytest.mark.parametrize("module", ["yaml", "torch", "torchvision"])
def test_interrupt_during_start_up(own_lab, module):
    config = own_lab.config("teacher")
    code = INTERRUPTED.format(module=module)
    done = script("--config", str(config), cwd=own_lab.folder, code=code)
    assert done.returncode == 130, done.stderr
    assert done.stderr == "interrupted\n"


def test_errors_before_and_after_logging_is_set_up(own_lab, capsys):
    config = own_lab.config("teacher")
    assert own_lab.run("teacher", "--set", "beta=0", config=config) == 2
    assert capsys.readouterr().err.startswith("error: --set: beta: must be a number above 0")
    assert not (own_lab.folder / "logs").exists()
    assert own_lab.run("teacher", "--set", "models.model.dst_ckpt=null", config=config) == 2
    shown = capsys.readouterr().err
    assert "error: " not in shown
    assert "\tERROR\tladon.cli\t" in shown.splitlines()[-1]
    assert own_lab.log("teacher").splitlines()[-1] == shown.splitlines()[-1]
    assert not any(isinstance(h, logging.FileHandler) for h in logging.getLogger().handlers)
