"""Checkpoints that are missing, damaged, unsafe, or made for another model: one message that names
the file and says what to do, no traceback, and the exit code."""

from __future__ import annotations

import argparse
import collections
import io
import os
import pickle
import re
import urllib.error
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from refusals import STUDENT, TEST_STUDENT, line_of
from torchvision.ops.misc import FrozenBatchNorm2d

from ladon.errors import CheckpointError
from ladon.models.checkpoint import read_checkpoint


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
    assert message.startswith("models.teacher_model: the pretrained weights of resnet18 are not ")
    assert f"put it at {tmp_path}/hub/checkpoints/resnet18-f37072fd.pth" in message


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
