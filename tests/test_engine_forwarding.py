"""What a network cannot take: one line with the images' names, and nothing saved is lost."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import Subset
from torchvision.datasets import FakeData

from ladon.engine.forwarding import batch_names, naming_images
from ladon.engine.hooked import HookedModel
from ladon.engine.stage import Stage
from ladon.errors import DataError, LadonError
from ladon.models.checkpoint import load_safely
from ladon.tasks import Task

TEST = ("-test_only", "-student_only")


@pytest.fixture
def tiny_image(own_data):
    """Make the first image to test on so small; return its path."""

    def make(size):
        path = own_data / json.loads((own_data / ANNOTATIONS).read_text())["images"][0]["file_name"]
        Image.new("RGB", size).save(path)
        return path

    return make


ANNOTATIONS = "annotations/instances_val.json"


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1)])
def test_a_test_names_the_image_that_the_model_cannot_take(refused, tiny_image, size):
    path = tiny_image(size)
    message = refused("classification", *TEST, code=1)
    assert message.startswith(f"the model cannot take {path}: RuntimeError: Calculated padded")
    assert message.endswith(
        "look at these images' size and content, or take them out of the dataset"
    )


def test_a_detector_that_cannot_resize_names_the_image(own_lab, own_data, refused, tiny_image):
    """Its own transform is asked for the size before there is a batch."""
    assert own_lab.run("detection") == 0
    path = tiny_image((1, 300))
    content = json.loads((own_data / ANNOTATIONS).read_text())
    content["images"][0].update(width=1, height=300)
    (own_data / ANNOTATIONS).write_text(json.dumps(content))
    message = refused("detection", "-test_only", code=1)
    assert message.startswith(f"the model cannot take {path}: ")
    assert "(H: 96, W: 0)" in message


def test_a_validation_names_the_image_and_last_stays(own_lab, refused, tiny_image):
    path = tiny_image((1, 1))
    best = str(own_lab.folder / "best.pt")
    flags = ("--set", f"models.student_model.dst_ckpt={best}")
    message = refused("classification", *flags, code=1)
    assert message.startswith(f"the model cannot take {path}: ")
    last = load_safely(own_lab.folder / "logs" / "refused" / "last.pt")
    assert last["progress"]["epoch"] == 1, "the first stage, which is not validated"


@pytest.mark.parametrize(
    ("owner", "method", "said"),
    [
        (Stage, "student_loss", "stage1: the student or its losses cannot take "),
        (HookedModel, "__call__", "the teacher cannot take "),
    ],
)
@pytest.mark.parametrize("error", [ValueError("odd\nsize"), TypeError("odd size")])
def test_a_training_names_the_batch_and_keeps_last(
    own_lab, refused, monkeypatch, owner, method, said, error
):
    original, calls = getattr(owner, method), []

    def failing(self, *args):
        calls.append(0)
        if len(calls) == 4:  # the second step of the second epoch
            raise error
        return original(self, *args)

    monkeypatch.setattr(owner, method, failing)
    flags = ["--set", f"models.student_model.dst_ckpt={own_lab.folder / 'best.pt'}"]
    message = refused("classification", *flags, "--set", "train.stage1.num_epochs=2", code=1)
    assert message.startswith(said)
    names = message.removeprefix(said).split(": ")[0]
    *paths, last = names.split(", ")
    assert last.endswith(" and 13 more")
    images = [*paths, last.removesuffix(" and 13 more")]
    assert len(set(images)) == 3
    root = own_lab.data_root / "digit_scenes" / "train"
    assert all(path.startswith(f"{root}/") and path.endswith(".png") for path in images)
    assert f": {type(error).__name__}: odd size; look at" in message
    progress = load_safely(own_lab.folder / "logs" / "refused" / "last.pt")["progress"]
    assert (progress["epoch"], progress["step"]) == (1, 0)


def test_a_resumed_epoch_names_its_own_batch(own_lab, monkeypatch, refused):
    """What was seen before is skipped; names are those of the batch that failed."""
    from ladon.data.samples import SeededDataset

    loaded = []
    original = SeededDataset.__getitem__
    monkeypatch.setattr(
        SeededDataset, "__getitem__", lambda self, pair: loaded.append(pair) or original(self, pair)
    )
    step, calls = Stage.student_loss, []

    def failing(self, *args):
        calls.append(0)
        if len(calls) == 3:
            raise RuntimeError("odd")
        return step(self, *args)

    import signal

    advance = Stage.step

    def stopped(self, loss):
        if len(calls) == 1:
            signal.raise_signal(signal.SIGINT)
        return advance(self, loss)

    monkeypatch.setattr(Stage, "step", stopped)
    monkeypatch.setattr(Stage, "student_loss", failing)
    loader = {"kwargs": {"batch_size": 2, "num_workers": 0}}
    config = own_lab.config(
        "teacher",
        models__model__dst_ckpt=str(own_lab.folder / "best.pt"),
        train__train_data_loader=loader,
    )
    assert own_lab.run("teacher", config=config, log="refused") == 130
    loaded.clear()
    message = refused("teacher", "--resume", config=config, code=1)
    indices = [index for _, index in loaded]
    root = own_lab.data_root / "digit_scenes" / "train"
    files = sorted(root.glob("*/*.png"))
    # the second batch since it was resumed
    assert f" cannot take {files[indices[2]]}, {files[indices[3]]}: RuntimeError: odd" in message


def test_outputs_that_cannot_be_scored_name_the_image(own_lab, refused, monkeypatch):
    monkeypatch.setattr(Task, "predict", lambda self, model, images: torch.zeros(len(images)))
    message = refused("classification", *TEST, code=1)
    root = own_lab.data_root / "digit_scenes" / "val"
    assert message.startswith(f"the outputs cannot be scored for {root}/0/00000.png, ")
    assert ": IndexError: tuple index out of range; look at" in message


@pytest.mark.parametrize(
    "error",
    [DataError("labels"), torch.OutOfMemoryError("full"), KeyboardInterrupt(), LadonError("said")],
)
def test_what_says_more_by_itself_stays(error):
    with pytest.raises(type(error)) as caught, naming_images(lambda: pytest.fail("asked"), "x"):
        raise error
    assert caught.value is error


def test_names_of_a_batch():
    data = FakeData(size=9)
    assert batch_names(data, [4, 4]) == "sample 4 of FakeData"
    assert batch_names(Subset(data, [8, 7, 6, 5]), [0, 1, 2, 3]) == (
        "sample 8 of FakeData, sample 7 of FakeData, sample 6 of FakeData and 1 more"
    )


def test_a_network_of_ones_own_is_answered_in_one_line():
    network = nn.Linear(3, 2)
    with (
        pytest.raises(LadonError, match=r"^net cannot take a.png: RuntimeError: mat1 and mat2"),
        naming_images(lambda: "a.png", "net cannot take"),
    ):
        network(torch.zeros(1, 4))
