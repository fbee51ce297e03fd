"""Every task and stage on a CUDA device that is not there: no tensor left behind, no waiting.

The shipped digit-scenes families, on fake tensors (`fake_cuda`): a CPU tensor mixed in, or
something for which the host would wait, fails the test; each kind is planted to see that it does.

What this cannot see: values, and so anything that depends on them; random generators, events,
streams, recorded graphs and pinned memory; memory formats; whether a GPU has the kernels. The
entropy coder works on the host: its `encode` and `decode` are stand-ins; the encoder runs layer
by layer. Noise is drawn with a CPU generator, because a CUDA one needs a driver. torchvision's
detectors wait for boxes (to check, sample and filter them) and copy constants from the host: these
waits are answered with fixed sizes, and only counted. Backward and optimizer need a driver too:
they run on the `meta` device in float32, where PyTorch does not choose `foreach` optimizers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any
from unittest import mock

import pytest
import torch
from fake_cuda import (
    CUDA,
    META,
    HostWaitsError,
    NoWaiting,
    cuda_autocast,
    fake_tensors,
    move,
)
from three_heads import sections as three_sections
from tiny import FAMILIES
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily

from ladon.bottlenecks import factorized, set_updated
from ladon.codec import LatentCoder
from ladon.config import Config, load_config
from ladon.engine.distributed import World
from ladon.engine.loss_meter import LossMeter
from ladon.engine.plan import build_stage_section, read_plan
from ladon.engine.stage import Stage
from ladon.metrics.accuracy import Accuracy
from ladon.metrics.confusion import ConfusionMatrix
from ladon.models import build_model, find_bottleneck, use_own_noise
from ladon.models.inference import inference
from ladon.models.precision import forward_only
from ladon.modules import override_methods
from ladon.tasks import TASKS

TASK_OF = {
    "classification": "image_classification",
    "detection": "object_detection",
    "segmentation": "semantic_segmentation",
}
STAGES = [("classification", 1), ("classification", 2), ("detection", 1), ("segmentation", 1)]
stages = pytest.mark.parametrize(("family", "number"), STAGES)
tasks = pytest.mark.parametrize("family", list(TASK_OF))
precisions = pytest.mark.parametrize("precision", ["float32", "bf16"])
SIDE, CLASSES, STEPS = 96, 10, 4


@cache
def config_of(family: str) -> Config:
    config = load_config(FAMILIES / "ladon" / "_base_" / f"{family}.yaml", overrides={"beta": 0.32})
    config.import_dependencies()
    return config


def built(family: str, key: str) -> nn.Module:
    """A model of a shipped family with random weights, on the CPU."""
    config = config_of(family)
    section = config.build(config.section(f"models.{key}"))
    return build_model(section, family, key, load_weights=False)


def three_headed() -> nn.Module:
    section = {"key": "ladon", **three_sections()}
    return build_model(section, "classification", "three heads", load_weights=False)


class Models:
    """The models, built once and moved to one device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._made: dict[str, nn.Module] = {}

    def _get(self, name: str, build: Callable[[], nn.Module]) -> nn.Module:
        if name not in self._made:
            with unset_fake_temporarily():
                model = build()
            self._made[name] = move(model, self._device)
        return self._made[name]

    def student(self, family: str) -> nn.Module:
        if family == "three heads":
            return self._get(family, three_headed)
        key = "student_model" if family == "classification" else "model"
        return self._get(family, lambda: built(family, key))

    def teacher(self, family: str) -> nn.Module | None:
        if family != "classification":
            return None
        return self._get("teacher", lambda: built(family, "teacher_model"))


@pytest.fixture(scope="module")
def mode() -> Any:
    return fake_tensors()


@pytest.fixture(scope="module")
def fake_models() -> Models:
    return Models(CUDA)


@pytest.fixture(scope="module")
def meta_models() -> Models:
    return Models(META)


@pytest.fixture
def cuda(mode: Any, fake_models: Models) -> Iterator[Models]:
    """Models on a fake GPU, while fake tensors are all there is."""
    with mode, cuda_autocast():
        yield fake_models


def batch_of(family: str, device: torch.device) -> tuple[Any, Any, list[dict]]:
    """Two images with their targets, as the task's loader collates them."""
    images = torch.zeros(2, 3, SIDE, SIDE, device=device)
    if family == "classification":
        return images, torch.zeros(2, dtype=torch.int64, device=device), [{}, {}]
    if family == "segmentation":
        return images, torch.zeros(2, SIDE, SIDE, dtype=torch.int64, device=device), [{}, {}]
    targets = [
        {
            "boxes": torch.zeros(3, 4, device=device),
            "labels": torch.zeros(3, dtype=torch.int64, device=device),
        }
        for _ in range(2)
    ]
    return list(images), targets, [{}, {}]


@contextlib.contextmanager
def training(
    models: Models, family: str, number: int, device: torch.device, precision: str = "float32"
) -> Iterator[Stage]:
    """A stage of a shipped family as `StudentTrainer` enters it."""
    config = config_of(family)
    student = models.student(family)
    plan = read_plan(config)
    stage_plan = plan.stages[number - 1]
    set_updated(student, stage_plan.first_epoch >= plan.update_epoch)
    use_own_noise(student, 7, torch.device("cpu"))
    section = build_stage_section(config, stage_plan)
    stage = Stage(
        section, student, models.teacher(family), STEPS, World(device), precision=precision
    )
    stage.begin_epoch()
    try:
        yield stage
    finally:
        stage.close()


def train_forward(stage: Stage, batch: tuple[Any, Any, Any]) -> tuple[Tensor, NoWaiting]:
    """Teacher, student and loss of a batch; a wait is an error."""
    losses = LossMeter(0.0, 0, stage._world.device)
    with NoWaiting() as watch:
        teacher_io = stage.teacher_forward(*batch)
        loss = stage.student_loss(*batch, teacher_io)
        losses.add(loss)
    return loss, watch


class CoderStandIn(LatentCoder):
    """Payloads of eight bytes; quantisation is the real one."""

    def __init__(self, entropy_bottleneck: nn.Module) -> None:
        self._medians = entropy_bottleneck._get_medians().detach().reshape(1, -1, 1, 1)
        self._steps = None
        self._cdf = [None] * self._medians.shape[1]  # one table a channel, all that is asked of it

    def encode(self, latent: Tensor) -> list[bytes]:
        return [b"\0" * 8] * len(latent)

    def decode(self, payloads: Sequence[bytes], shape: Sequence[int]) -> Tensor:
        size = (len(payloads), self._medians.shape[1], *shape)
        return torch.zeros(size, device=self._medians.device)


def evaluated(
    models: Models, family: str, precision: str, coding: str = "full"
) -> tuple[Any, NoWaiting]:
    """Output of two images as `evaluate` gets them; a wait is an error."""
    model = models.student(family).eval()
    set_updated(model, True)
    images, _, _ = batch_of("detection" if family == "three heads" else family, CUDA)
    encoder = find_bottleneck(model).encoder
    with (
        # Module.to cannot exchange fake tensors; their memory format is not looked at
        override_methods(encoder, to=lambda **_: encoder),
        mock.patch.object(factorized, "LatentCoder", CoderStandIn),
        mock.patch("ladon.bottlenecks.encoder.Encoder._record", return_value=None),
        inference(model, coding, precision=precision) as payloads,
        forward_only(CUDA, precision),
        NoWaiting() as watch,
    ):
        outputs = model(images)
        assert payloads.pop()[0] == [8, 8]
    return outputs, watch


def tensors_in(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    values = value.values() if isinstance(value, dict) else value
    return [tensor for one in values for tensor in tensors_in(one)]


def layer_of(model: nn.Module, name: str) -> nn.Module:
    """A layer of the ResNet that a model stands on."""
    return next(m for n, m in model.named_modules() if f".{n}".endswith(f".{name}"))


@contextlib.contextmanager
def watched(model: nn.Module, look: Callable[[Tensor], Any]) -> Iterator[None]:
    """Somebody looks at the output of the body's third layer."""
    layer = layer_of(model, "layer3")
    handle = layer.register_forward_hook(lambda m, i, output: look(output) and None)
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def types_seen(model: nn.Module) -> Iterator[list[torch.dtype]]:
    """The type that the body computes with, to see that autocast had effect."""
    seen: list[torch.dtype] = []
    with watched(model, lambda output: seen.append(output.dtype)):
        yield seen


@stages
@precisions
def test_teacher_student_and_loss_stay_on_the_device(cuda, family, number, precision):
    with (
        training(cuda, family, number, CUDA, precision) as stage,
        types_seen(cuda.student(family)) as body,
    ):
        loss, watch = train_forward(stage, batch_of(family, CUDA))
    assert body == [torch.bfloat16 if precision == "bf16" else torch.float32]
    assert loss.is_cuda
    assert loss.requires_grad
    assert loss.dtype == torch.float32
    assert bool(watch.torchvisions) is (family == "detection")


@pytest.mark.parametrize("family", [*TASK_OF, "three heads"])
@precisions
def test_evaluation_stays_on_the_device(cuda, family, precision):
    with types_seen(cuda.student(family)) as body:
        outputs, watch = evaluated(cuda, family, precision)
    assert tensors_in(outputs)
    assert all(tensor.is_cuda for tensor in tensors_in(outputs))
    assert body == [torch.bfloat16 if precision == "bf16" else torch.float32]
    assert bool(watch.torchvisions) is (family in ("detection", "three heads"))


def test_evaluation_without_decoding_stays_on_the_device(cuda):
    """As validation does; what follows the bottleneck is the same."""
    outputs, _ = evaluated(cuda, "classification", "float32", "encode")
    assert outputs.is_cuda


@pytest.mark.parametrize("family", ["classification", "segmentation"])
def test_metrics_do_not_wait(cuda, family):
    """Detection's waits once per batch, by design."""
    outputs, _ = evaluated(cuda, family, "float32")
    metric = metric_of(family)
    with NoWaiting():
        for _ in range(2):  # the second adds to the first
            metric.update(outputs, batch_of(family, CUDA)[1])


@stages
def test_backward_and_optimizer_step_run_on_one_device(meta_models, no_autocast, family, number):
    with training(meta_models, family, number, META) as stage:
        before = stage.learning_rates
        for _ in range(stage.grad_accum_step):
            batch = batch_of(family, META)
            with NoWaiting():
                io = stage.teacher_forward(*batch)
                stage.step(stage.student_loss(*batch, io))
        learnt = [p for group in stage.optimizer.param_groups for p in group["params"]]
        assert stage.optimizer.state.keys() & set(learnt)
        assert stage.learning_rates != before


# planted faults: a check that cannot fail would be none


@contextlib.contextmanager
def buffer_left_behind(model: nn.Module) -> Iterator[None]:
    """A running mean that did not move with the rest."""
    norm = layer_of(model, "layer3.0.bn1")
    moved = norm.running_mean
    norm._buffers["running_mean"] = torch.zeros(moved.shape, device="cpu")
    try:
        yield
    finally:
        norm._buffers["running_mean"] = moved


@contextlib.contextmanager
def host_waits(model: nn.Module) -> Iterator[None]:
    """Somebody reads a value while the model runs."""
    with watched(model, lambda output: float(output.detach().sum())):
        yield


MIXED = r"same device.*cuda.*cpu|same device.*cpu.*cuda|two different devices"
WAITS = r"makes the host wait for the device, at .*test_fake_cuda\.py:\d+"
FAULTS = pytest.mark.parametrize(
    ("plant", "error", "message"),
    [(buffer_left_behind, RuntimeError, MIXED), (host_waits, HostWaitsError, WAITS)],
    ids=["buffer left behind", "host waits"],
)


@stages
@FAULTS
def test_a_planted_fault_in_training_is_found(cuda, family, number, plant, error, message):
    with (
        training(cuda, family, number, CUDA) as stage,
        plant(cuda.student(family)),
        pytest.raises(error, match=message),
    ):
        train_forward(stage, batch_of(family, CUDA))


@pytest.mark.parametrize("family", [*TASK_OF, "three heads"])
@FAULTS
def test_a_planted_fault_in_evaluation_is_found(cuda, family, plant, error, message):
    with plant(cuda.student(family)), pytest.raises(error, match=message):
        evaluated(cuda, family, "float32")


@pytest.mark.parametrize(("family", "number"), [s for s in STAGES if s != ("classification", 1)])
def test_targets_left_on_the_host_are_found_by_the_loss(cuda, family, number):
    images, _, supp = batch_of(family, CUDA)
    _, targets, _ = batch_of(family, torch.device("cpu"))
    with (
        training(cuda, family, number, CUDA) as stage,
        pytest.raises((RuntimeError, HostWaitsError), match=f"{MIXED}|makes the host wait"),
    ):
        train_forward(stage, (images, targets, supp))


@pytest.mark.parametrize("family", ["classification", "segmentation"])
def test_targets_left_on_the_host_are_found_by_the_metric(cuda, family):
    size = (2, CLASSES) if family == "classification" else (2, CLASSES, SIDE, SIDE)
    outputs = torch.zeros(size, device=CUDA)
    _, targets, _ = batch_of(family, torch.device("cpu"))
    with (
        # they read values of labels on the host
        mock.patch.object(ConfusionMatrix, "_check_labels"),
        mock.patch.object(Accuracy, "_check_labels"),
        NoWaiting(),
        pytest.raises(RuntimeError, match=MIXED),
    ):
        metric_of(family).update(outputs, targets)


@tasks
def test_a_wait_in_backward_is_found(meta_models, no_autocast, family):
    with training(meta_models, family, 1, META) as stage:
        trained = next(p for p in stage.optimizer.param_groups[0]["params"] if p.requires_grad)
        handle = trained.register_post_accumulate_grad_hook(lambda p: float(p.grad.sum()))
        batch = batch_of(family, META)
        with NoWaiting():
            loss = stage.student_loss(*batch, stage.teacher_forward(*batch))
        try:
            with NoWaiting(), pytest.raises(HostWaitsError, match=WAITS):
                stage.step(loss)
        finally:
            handle.remove()
            stage.optimizer.zero_grad()


@pytest.mark.parametrize(
    "look",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).any()),
        lambda x: x.tolist(),
        lambda x: torch.equal(x, x),
        lambda x: x.cpu(),
        lambda x: x.nonzero(),
        lambda x: torch.where(x > 0),
        lambda x: x[x > 0],
        lambda x: torch.unique(x),
        lambda x: x[torch.zeros(2, dtype=torch.int64)],
        lambda x: torch.tensor([1.0, 2.0], device=x.device),
        lambda x: torch.ones(3).to(x.device),
        lambda x: x.copy_(torch.ones(2, 3)),
    ],
)
def test_whatever_waits_is_refused(cuda, look):
    x = torch.zeros(2, 3, device=CUDA)
    with NoWaiting(), pytest.raises(HostWaitsError, match=WAITS):
        look(x)


def test_what_does_not_wait_is_allowed(cuda):
    x, host = torch.zeros(2, 3, device=CUDA), torch.ones(3)
    with NoWaiting() as watch:
        x[x > 0] = 1.0
        x[0] = 2.0
        indices = torch.arange(2, device=x.device)
        found = [x[indices], torch.where(x > 0, 1.0, x), x * torch.tensor(2.0), x.topk(2).indices]
        found += [host.to(x.device, non_blocking=True), torch.full((3,), 1.0, device=x.device)]
        assert all(tensor.is_cuda for tensor in found)
    assert not watch.torchvisions


def metric_of(family: str) -> Any:
    if family == "segmentation":
        return ConfusionMatrix(CLASSES + 1)
    return TASKS[TASK_OF[family]].metric(None, {})


@pytest.fixture
def no_autocast(monkeypatch):
    """There is no autocast for the meta device, not even one that is off."""
    monkeypatch.setattr("ladon.engine.stage.autocast", lambda *_: contextlib.nullcontext())
