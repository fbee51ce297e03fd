"""Training on a GPU: the CPU's losses, exact resumption, no waiting, and every way to run it."""

from __future__ import annotations

import json
import math
import os
import socket
import warnings

import pytest
import torch
import warm
from devices import GPU, nothing_random, on_each_device, trained, waits
from stages import batches, make_models, one_step, train_config
from tiny import ROOT, SCRIPTS
from training_runs import assert_same_run, fresh, interrupt_after

from ladon.engine.distributed import World
from ladon.engine.stage import Stage
from ladon.models import find_bottleneck

# what is trained: family, flags, and how near the first loss and the others come to the CPU's;
# a detector draws its samples from a ranking in which an untrained head's boxes are nearly equal
TRAININGS = {
    "stage1": ("classification", (), 1e-3, 5e-2),
    "stage2": ("classification", ("--start_epoch", "1"), 1e-3, 5e-2),
    "detection": ("detection", (), 2e-2, 1e-1),
    "segmentation": ("segmentation", (), 1e-3, 5e-2),
    "variable1": ("variable", (), 1e-3, 5e-2),
    "variable2": ("variable", ("--start_epoch", "1"), 1e-3, 5e-2),
}
on_cuda = pytest.mark.parametrize("device", [pytest.param("cuda", marks=GPU)])
# that two trainings on a CPU are equal is shown elsewhere
CPU_SLOWLY = pytest.param("cpu", marks=pytest.mark.slow)


def each_training(*on_cpu: str):
    """Every training on a GPU, some of them on the CPU, too."""
    pairs = [(name, "cpu") for name in on_cpu]
    gpus = [pytest.param(name, "cuda", marks=GPU, id=f"{name}-cuda") for name in TRAININGS]
    return pytest.mark.parametrize(("training", "device"), [*pairs, *gpus])


def losses_of(lab, monkeypatch, training: str, name: str, device: str, **values) -> list[float]:
    """Train with nothing drawn; return the loss of every step."""
    family, flags, _, _ = TRAININGS[training]
    kept, original = [], Stage.student_loss

    def student_loss(self, *args):
        loss = original(self, *args)
        kept.append(loss.detach())
        return loss

    config = fresh(lab, family, f"{name}_{training}_{device}", **values)
    with monkeypatch.context() as patched:
        nothing_random(patched)
        patched.setattr(Stage, "student_loss", student_loss)
        assert lab.run(family, "-student_only", "--device", device, *flags, config=config) == 0
    return [float(loss) for loss in kept]


def assert_near(found: list[float], expected: list[float], training: str, record) -> None:
    """The first loss comes from equal weights, the others from what was learnt since."""
    _, _, first, others = TRAININGS[training]
    assert len(found) == len(expected) >= 2
    far = [abs(a - b) / abs(b) for a, b in zip(found, expected, strict=True)]
    record("first_loss_relative_difference", far[0])
    record("largest_loss_relative_difference", max(far))
    assert far[0] <= first
    assert max(far) <= others


@each_training("stage1")
def test_losses_are_the_cpus(lab, monkeypatch, record_property, training, device):
    expected = losses_of(lab, monkeypatch, training, "expected", "cpu")
    found = losses_of(lab, monkeypatch, training, "found", device)
    assert all(math.isfinite(loss) for loss in found)
    assert_near(found, expected, training, record_property)


@pytest.mark.parametrize("device", [CPU_SLOWLY, pytest.param("cuda", marks=GPU)])
def test_accumulated_gradients_are_the_cpus(lab, monkeypatch, record_property, device):
    values = {
        "train__stage1__optimizer__grad_accum_step": 2,
        "train__stage1__num_epochs": 2,
        "train__stage1__scheduler": None,
    }
    expected = losses_of(lab, monkeypatch, "stage1", "accumulated", "cpu", **values)
    found = losses_of(lab, monkeypatch, "stage1", "accumulating", device, **values)
    # equal weights in the first two steps, as nothing is learnt before the second is over
    assert found[1] == pytest.approx(expected[1], rel=1e-3)
    assert_near(found, expected, "stage1", record_property)


@on_each_device
def test_losses_do_not_depend_on_the_memory_format(monkeypatch, device):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    images, targets, supp = batches()[0]
    losses = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        teacher, student = (
            model.to(device, memory_format=memory_format) for model in make_models()
        )
        coder = find_bottleneck(student).entropy_bottleneck
        monkeypatch.setattr(coder, "quantize", lambda inputs, mode, means=None: inputs)
        stage = Stage(train_config()["stage1"], student, teacher, 3, World(torch.device(device)))
        stage.begin_epoch()
        batch = images.to(device), targets.to(device), supp
        losses.append(float(stage.student_loss(*batch, stage.teacher_forward(*batch)).detach()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.fixture
def deterministic():
    """Algorithm that give the same bits each time, where torch has them."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    ("steps", "device"),
    [
        pytest.param(3, "cpu", marks=pytest.mark.slow),
        pytest.param(1, "cuda", marks=GPU),
        pytest.param(3, "cuda", marks=GPU),
    ],
)
def test_resumed_equals_uninterrupted(
    own_lab, monkeypatch, record_property, deterministic, steps, device
):
    flags = ("-student_only", "--device", device)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        whole = fresh(own_lab, "classification", "whole", train__log_freq=1)
        assert own_lab.run("classification", *flags, config=whole) == 0
        parts = fresh(own_lab, "classification", "parts", train__log_freq=1)
        with monkeypatch.context() as patched:
            interrupt_after(patched, steps)
            assert own_lab.run("classification", *flags, config=parts) == 130
        assert own_lab.run("classification", *flags, "--resume", config=parts) == 0
    said = {str(w.message)[:90] for w in caught if "deterministic" in str(w.message)}
    record_property("not_deterministic", " | ".join(sorted(said)))
    assert_same_run(own_lab, "whole", "parts")


@on_cuda
def test_a_run_moves_to_the_cpu_and_back(own_lab, monkeypatch, device):
    """Draw differ from there on, which is said; nothing else is lost."""
    config = fresh(own_lab, "classification", "moving", train__log_freq=1)
    for steps, place in ((1, device), (1, "cpu"), (99, device)):
        with monkeypatch.context() as patched:
            interrupt_after(patched, steps)
            flags = ("-student_only", "--device", place, "--resume")
            code = own_lab.run("classification", *flags, config=config)
            assert code == (0 if steps == 99 else 130)
    log = own_lab.log("moving")
    assert log.count("Resuming from") == 2
    said = [line for line in log.splitlines() if "\tWARNING\t" in line and "draws" in line]
    assert len(said) == 2
    epochs = (own_lab.folder / "logs" / "moving" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["steps"] for line in epochs] == [2, 2]


@each_training("stage1", "segmentation")
def test_a_step_does_not_wait(lab, monkeypatch, record_property, training, device):
    """From the teacher to the optimizer; torchvision's detector waits for its boxes."""
    family, flags, _, _ = TRAININGS[training]
    mode = "warn" if family == "detection" else "error"
    watching, places, seen = [], [], []
    forward, step = Stage.teacher_forward, Stage.step

    def teacher_forward(self, *args):
        seen.append(self)
        if seen.count(self) == 2:  # after the stage's first step, in which libraries start
            watched = waits(device, mode)
            places.append(watched.__enter__())
            watching.append(watched)
        return forward(self, *args)

    def finished(self, loss):
        try:
            return step(self, loss)
        finally:
            if watching:
                found = places[-1]
                places[-1] = found()
                watching.pop().__exit__(None, None, None)

    config = fresh(lab, family, f"waiting_{training}_{device}")
    with monkeypatch.context() as patched:
        patched.setattr(Stage, "teacher_forward", teacher_forward)
        patched.setattr(Stage, "step", finished)
        try:
            code = lab.run(family, "-student_only", "--device", device, *flags, config=config)
        finally:
            while watching:  # something in between raised
                watching.pop().__exit__(None, None, None)
    assert code == 0
    assert places, "no second step was watched"
    record_property("waits", sum(map(len, places)))
    record_property("places", " ".join(sorted({place for found in places for place in found})))


@each_training("stage1")
def test_memory_does_not_grow(lab, monkeypatch, record_property, training, device):
    family, flags, _, _ = TRAININGS[training]
    held, original = {}, Stage.step

    def step(self, loss):
        original(self, loss)
        if device != "cpu":
            peak = torch.cuda.max_memory_allocated() / 2**20
            held.setdefault(id(self), []).append((torch.cuda.memory_allocated(), peak))

    config = fresh(lab, family, f"memory_{training}_{device}", train__log_freq=1)
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    with monkeypatch.context() as patched:
        patched.setattr(Stage, "step", step)
        assert lab.run(family, "-student_only", "--device", device, *flags, config=config) == 0
    for stage in held.values():
        record_property("peak_mib", round(stage[-1][1], 1))
        # from the second step on, optimizer and libraries have what they need
        assert stage[-1][0] <= stage[1][0] * 1.05


def launched(command: list[str], tmp_path) -> None:
    """Runs a command as a launcher starts the only process of a run."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    env = os.environ | place | {"MASTER_PORT": str(port)}
    done = warm.run(command, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]


@on_each_device
def test_gradients_go_through_the_process_group(tmp_path, device):
    """NCCL on a GPU, gloo on a CPU; of one process, so that nothing may change."""
    launched([str(ROOT / "tests" / "gpu_worker.py"), str(tmp_path / "out"), device], tmp_path)
    found = torch.load(tmp_path / "out")
    student = one_step(World(torch.device(device)))
    for name, expected in student.named_parameters():
        torch.testing.assert_close(
            found[name], expected.detach().cpu(), rtol=1e-4, atol=1e-6, msg=name
        )


@on_each_device
def test_a_launcher_may_start_one_process(lab, tmp_path, device):
    trained(lab, "classification")
    script = ROOT / "scripts" / f"{SCRIPTS['classification']}.py"
    config = lab.config("classification", f"launched_{device}")
    log = lab.folder / "logs" / f"launched_{device}.txt"
    words = ["--run_log", str(log), "-test_only", "-student_only", "--device", device]
    launched([str(script), "--config", str(config), *words], tmp_path)
    found = lab.metrics(f"launched_{device}")["models"]["student"]
    assert found["payload_bytes"]["n"] == 12
