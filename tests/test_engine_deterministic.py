"""`--deterministic`: the same run twice in two processes, and what is refused."""

from __future__ import annotations

import json
import os
from unittest import mock

import pytest
import torch
import warm
from devices import FAMILIES, GPU
from tiny import ROOT, SCRIPTS
from torch.nn import functional
from training_runs import assert_same_run, fresh

from ladon.engine.deterministic import arithmetic, deterministic, flat_cross_entropy, refusal
from ladon.engine.forwarding import naming_images
from ladon.errors import UsageError
from ladon.process import pin_arithmetic

FRESH = ("MKL_CBWR", "MKL_DYNAMIC", "OMP_DYNAMIC", "CUBLAS_WORKSPACE_CONFIG")


@pytest.fixture(autouse=True)
def _environment_as_it_was():
    """What a run in this process pins is no other test's."""
    with mock.patch.dict(os.environ):
        yield


def run_alone(lab, family, name, workers, device):
    """Train and test in a process of its own."""
    loader = {"num_workers": workers, "batch_size": 8}
    stages = ("train__stage1", "train__stage2") if family == "classification" else ("train",)
    values = {f"{stage}__train_data_loader": {"kwargs": loader} for stage in stages}
    config = fresh(lab, family, name, **values)
    flags = ["--config", config, "--run_log", lab.folder / "logs" / f"{name}.txt"]
    env = {key: value for key, value in os.environ.items() if key not in FRESH}
    if device == "cuda":
        # torchvision compiles RoIAlign's reproducible form, for longer than a test may take: on an
        # H200 over 100 s in each process
        env["TORCHDYNAMO_DISABLE"] = "1"
    done = warm.run(
        [
            ROOT / "scripts" / f"{SCRIPTS[family]}.py",
            *flags,
            *("--device", device, "-student_only", "--deterministic"),
        ],
        env=env,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("family", "device"),
    [
        ("segmentation", "cpu"),
        *(pytest.param(name, "cpu", marks=pytest.mark.slow) for name in FAMILIES[:-1]),
        *(pytest.param(name, "cuda", marks=GPU) for name in FAMILIES),
    ],
)
def test_two_processes_do_the_same_to_the_bit(own_lab, family, device):
    """Weights, curves, metrics and payloads, without workers and with two."""
    for name, workers in (("alone", 0), ("workers", 2)):
        run_alone(own_lab, family, name, workers, device)
    assert_same_run(own_lab, "alone", "workers")
    ours, theirs = (own_lab.metrics(n)["models"]["student"] for n in ("alone", "workers"))
    assert len(ours["payload_sha256"]) == 64
    for key in ("metrics", "payload_bytes", "data_size_kb", "payload_sha256", "num_images"):
        assert ours[key] == theirs[key], key


def test_a_resumed_run_with_other_threads_says_so(own_lab, monkeypatch):
    config = fresh(own_lab, "small", "threads")
    assert own_lab.run("small", config=config) == 0
    record = own_lab.folder / "logs" / "threads" / "run.json"
    before = json.loads(record.read_text())
    assert before["threads"] == torch.get_num_threads()
    assert before["deterministic"] is False
    record.write_text(json.dumps(before | {"threads": 64}))
    assert own_lab.run("small", "--resume", "--deterministic", config=config) == 0
    here = torch.get_num_threads()
    assert f"--resume: {here} threads here, 64 when " in own_lab.log("threads")
    assert "set OMP_NUM_THREADS=64 for the same ones" in own_lab.log("threads")
    assert json.loads(record.read_text())["deterministic"] is True


def test_the_settings_are_as_before_afterwards():
    with deterministic(True):
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.backends.cudnn.deterministic
        assert not torch.backends.cudnn.benchmark
        assert functional.cross_entropy.__module__ == "ladon.engine.deterministic"
    assert not torch.are_deterministic_algorithms_enabled()
    assert functional.cross_entropy.__module__ == "torch.nn.functional"
    with deterministic(False):
        assert not torch.are_deterministic_algorithms_enabled()


def test_an_operator_without_a_reproducible_form_is_named(refused, monkeypatch):
    """`put_` has none, on a CPU either."""

    def forward(self, input, target):
        return input.mean() + torch.zeros(2).put_(torch.tensor([0, 0]), torch.ones(2)).sum()

    monkeypatch.setattr(torch.nn.CrossEntropyLoss, "forward", forward)
    message = refused("small", "--deterministic")
    assert message.startswith("--deterministic: put_ has no form that gives the same twice: ")
    assert "replace the layer or loss that calls it" in message
    assert message.endswith("or leave out --deterministic")


def test_it_is_named_where_images_would_be():
    with (
        pytest.raises(UsageError, match="--deterministic: put_ has no form"),
        deterministic(True),
        naming_images(lambda: "x.png", "the student cannot take"),
    ):
        torch.zeros(2).put_(torch.tensor([0]), torch.ones(1))


def test_a_call_of_cublas_says_which_variable_is_missing():
    error = RuntimeError(
        "Deterministic behavior was enabled with either `torch.use_deterministic_algorithms(True)` "
        "or `at::Context::setDeterministicAlgorithms(true)`, but this operation is not "
        "deterministic because it uses CuBLAS and you have CUDA >= 10.2."
    )
    assert "CUBLAS_WORKSPACE_CONFIG=:4096:8" in str(refusal(error))
    assert refusal(RuntimeError("shapes differ")) is None
    assert refusal(ValueError("x does not have a deterministic implementation")) is None


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("shares", [False, True])
def test_the_flat_cross_entropy_is_the_one_of_maps(reduction, shares):
    torch.manual_seed(0)
    scores = torch.randn(2, 5, 3, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 5, (2, 3, 4))
    labels[0, 0] = 255
    target = torch.rand(2, 5, 3, 4, dtype=torch.float64).softmax(1) if shares else labels
    kwargs = {"reduction": reduction, "label_smoothing": 0.1}
    kwargs |= {} if shares else {"ignore_index": 255, "weight": torch.rand(5, dtype=torch.float64)}
    losses = [f(scores, target, **kwargs) for f in (functional.cross_entropy, flat_cross_entropy)]
    torch.testing.assert_close(*losses)
    gradients = [torch.autograd.grad(loss, scores)[0] for loss in losses]
    torch.testing.assert_close(*gradients)


def test_what_the_environment_says_stays(monkeypatch):
    for name in FRESH:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    pin_arithmetic()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
    assert os.environ["MKL_DYNAMIC"] == os.environ["OMP_DYNAMIC"] == "FALSE"
    assert arithmetic()["threads"] == torch.get_num_threads()
