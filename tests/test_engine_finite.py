"""Numbers that are not finite: never saved, never scored."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RPNHead

from ladon.engine.finite import FiniteRecord, Watch, not_finite
from ladon.engine.stage import Stage
from ladon.engine.student_trainer import StudentTrainer
from ladon.models.checkpoint import load_safely
from ladon.tasks import Task
from ladon.tensors import is_finite, map_tensors

TEST = ("-test_only", "-student_only")
SPOILT = [math.nan, math.inf, -math.inf]


@pytest.mark.parametrize("value", SPOILT)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_one_value_among_many_shows(value, dtype):
    tensor = torch.zeros(3, 5, dtype=dtype)
    assert is_finite(tensor).item()
    tensor[1, 2] = value
    assert not is_finite(tensor).item()
    assert is_finite(torch.empty(0, 4, dtype=dtype)).item()


def test_weights_and_buffers_are_named():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    assert not_finite(model) == []
    with torch.no_grad():
        model[0].bias[1] = math.nan
        model[1].running_var[0] = math.inf
    assert not_finite(model) == ["0.bias", "1.running_var"]
    assert not_finite(nn.ReLU()) == []


@pytest.mark.parametrize(("value", "part"), [(math.nan, "weight"), (-math.inf, "running_mean")])
def test_spoilt_weights_are_neither_best_nor_last(own_lab, refused, monkeypatch, value, part):
    """The loss was finite; the last step of the epoch spoils what nobody computes with again."""
    original, steps = Stage.step, []

    def step(self, loss):
        original(self, loss)
        steps.append(0)
        if len(steps) == 4:
            norm = next(m for m in self.student.model.modules() if isinstance(m, nn.BatchNorm2d))
            with torch.no_grad():
                getattr(norm, part).view(-1)[0] = value

    monkeypatch.setattr(Stage, "step", step)
    best = own_lab.folder / "best.pt"
    loader = {"kwargs": {"batch_size": 20, "num_workers": 0, "drop_last": True}}
    config = own_lab.config(
        "teacher",
        models__model__dst_ckpt=str(best),
        train__num_epochs=3,
        train__train_data_loader=loader,
    )
    message = refused("teacher", config=config, code=1)
    last = own_lab.folder / "logs" / "refused" / "last.pt"
    assert message == (
        f"weights are not finite (NaN or infinite) in stage1, epoch 1, after step 1: bn1.{part}; "
        f"they are not saved, {last} keeps the last good state. Lower the learning rate or look "
        "at the data"
    )
    content = load_safely(last)
    assert (content["progress"]["epoch"], content["progress"]["step"]) == (1, 0)
    for state in (content["model"], load_safely(best)["model"]):
        assert all(bool(t.isfinite().all()) for t in state.values() if t.is_floating_point())


def test_no_last_is_promised_where_there_is_none(own_lab, refused, monkeypatch):
    monkeypatch.setattr(
        Stage, "step", lambda self, _: self.student.model.fc.weight.data.fill_(math.nan)
    )
    best = f"models.model.dst_ckpt={own_lab.folder / 'best.pt'}"
    message = refused("small", "--set", best, code=1)
    assert "nothing was saved yet" in message
    assert "last.pt" not in message


def test_an_interruption_does_not_save_spoilt_weights(own_lab, refused, monkeypatch):
    import signal

    original = Stage.step

    def step(self, loss):
        original(self, loss)
        with torch.no_grad():
            self.student.model.fc.bias[0] = math.inf
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Stage, "step", step)
    best = f"models.model.dst_ckpt={own_lab.folder / 'best.pt'}"
    message = refused("small", "--set", best, code=1)
    assert "epoch 0, after step 0: fc.bias; they are not saved" in message
    assert not (own_lab.folder / "logs" / "refused" / "last.pt").exists()


def test_a_buffer_that_was_never_finite_is_not_complained_of(own_lab, monkeypatch):
    from ladon import run_models

    original = run_models.build_model

    def build_model(*args, **kwargs):
        model = original(*args, **kwargs)
        if hasattr(model, "fc"):
            model.fc.register_buffer("mask", torch.tensor([0.0, -math.inf]))
        return model

    monkeypatch.setattr(run_models, "build_model", build_model)
    config = own_lab.config("small", models__model__dst_ckpt=str(own_lab.folder / "best.pt"))
    monkeypatch.setattr("ladon.app.load_best", lambda *_: None)
    assert own_lab.run("small", config=config, log="mask") == 0


@pytest.mark.parametrize("value", SPOILT)
def test_logits_that_are_not_finite_end_a_test(own_lab, refused, monkeypatch, value):
    original, calls = Task.predict, []

    def predict(self, model, images):
        outputs = original(self, model, images)
        calls.append(len(images))
        if len(calls) == 2:
            outputs[-1, 3] = value
        return outputs

    monkeypatch.setattr(Task, "predict", predict)
    flags = ("--set", "test.test_data_loader.kwargs.batch_size=4")
    message = refused("classification", *TEST, *flags, code=1)
    first = sorted((own_lab.data_root / "digit_scenes" / "val").glob("*/*.png"))[4]
    assert message == (
        "the model's outputs are not finite (NaN or infinite), first in the batch that begins with "
        f"{first}: look at the checkpoint's weights and at this data"
    )
    assert not (own_lab.folder / "logs" / "refused" / "metrics.json").exists()


def test_logits_that_are_not_finite_end_a_validation(own_lab, refused, monkeypatch):
    monkeypatch.setattr(StudentTrainer, "check_weights", lambda _: None)
    monkeypatch.setattr(
        Task, "predict", lambda self, model, images: torch.full((len(images), 10), math.nan)
    )
    best = own_lab.folder / "best.pt"
    message = refused("small", "--set", f"models.model.dst_ckpt={best}", code=1)
    assert message.startswith("the model's outputs are not finite")
    assert not best.exists()


def test_a_segmenters_auxiliary_outputs_are_not_scored(own_lab, monkeypatch, refused):
    assert own_lab.run("segmentation") == 0
    original = Task.predict

    def predict(which):
        def call(self, model, images):
            outputs = dict(original(self, model, images))
            outputs[which] = torch.full_like(outputs["out"], math.nan)
            return outputs

        return call

    monkeypatch.setattr(Task, "predict", predict("aux"))
    assert own_lab.run("segmentation", "-test_only", log="aux") == 0
    monkeypatch.setattr(Task, "predict", predict("out"))
    message = refused("segmentation", "-test_only", code=1)
    assert message.startswith("the model's outputs are not finite")


@pytest.mark.parametrize(
    ("owner", "method", "what"),
    [
        (RoIHeads, "forward", "boxes or scores"),
        (RPNHead, "forward", "proposed boxes or their scores"),
    ],
)
def test_a_detectors_nan_show_although_it_drops_them(
    own_lab, refused, monkeypatch, owner, method, what
):
    """Of NaN scores nothing is above the threshold: AP 0, and exit 0, as it was."""
    assert own_lab.run("detection") == 0
    original = getattr(owner, method)

    def forward(self, *args, **kwargs):
        if not self.training and owner is RoIHeads:
            with torch.no_grad():
                for parameter in self.box_predictor.parameters():
                    parameter.fill_(math.nan)
        found = original(self, *args, **kwargs)
        if self.training or owner is RoIHeads:
            return found
        return map_tensors(lambda tensor: torch.full_like(tensor, math.nan), found)

    monkeypatch.setattr(owner, method, forward)
    message = refused("detection", "-test_only", code=1)
    assert message.startswith(f"{what} are not finite (NaN or infinite), first in the batch that")


def test_a_record_is_read_once_and_keeps_the_first():
    record, watch = FiniteRecord(), Watch()
    assert record.read() is None
    for index, value in ((0, 1.0), (4, math.nan), (8, math.inf), (12, 2.0)):
        watch.note("logits", {"a": [torch.tensor([value, 0.0])], "n": torch.tensor([1])})
        watch.note("latent", torch.zeros(2))
        record.add(watch.pop(), index)
    assert watch.pop() == {}
    assert record.read() == ("logits", 4)
