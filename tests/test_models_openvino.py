"""What OpenVINO runs: equal to PyTorch up to rounding, its hooks called, and gone afterwards."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from test_engine_evaluate import detector
from test_models import coded
from torch import nn
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.ops import FeaturePyramidNetwork

from ladon.models import openvino as runtime
from ladon.models import update_bottleneck
from ladon.models.inference import inference
from ladon.models.openvino import by_openvino
from ladon.models.precision import forward_only

needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="needs OpenVINO"
)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def said_anew():
    runtime._say_once.cache_clear()
    yield
    runtime._core.cache_clear()


def layers(*more: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1), *more).eval()


def pyramid() -> OrderedDict:
    sizes = [("1", 8, 24), ("2", 16, 12), ("3", 32, 6)]
    return OrderedDict((name, torch.randn(2, c, s, s + 2)) for name, c, s in sizes)


@needs_openvino
@pytest.mark.parametrize(
    ("make", "arguments"),
    [
        (layers, lambda: torch.randn(3, 3, 17, 12)),
        (lambda: DeepLabHead(16, 5), lambda: torch.randn(2, 16, 13, 9)),
        (lambda: FeaturePyramidNetwork([8, 16, 32], 8), pyramid),
        (lambda: RPNHead(8, 3), lambda: [torch.randn(2, 8, 9, 7), torch.randn(2, 8, 5, 4)]),
    ],
    ids=["layers", "deeplab", "fpn", "rpn"],
)
def test_a_module_gives_what_pytorch_gives_for_any_size_and_batch(make, arguments, caplog):
    torch.manual_seed(1)
    module, inputs = make().eval(), arguments()
    with forward_only(CPU):
        expected = module(inputs)
        with by_openvino([module], "float32") as taken:
            assert taken == {module}
            found = module(inputs)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
            assert type(found) is type(expected)
            if isinstance(inputs, torch.Tensor):
                assert found.is_contiguous(memory_format=torch.channels_last)
                larger = torch.randn(1, inputs.shape[1], 31, 40)
                result = module(larger)
                assert torch.equal(module(inputs[1:2]), found[1:2]), "the batch changed an image"
                assert torch.equal(module(inputs), found), "an earlier result, or its memory"
                torch.testing.assert_close(module(inputs), expected, rtol=1e-4, atol=1e-5)
        assert "forward" not in vars(module)
        if isinstance(inputs, torch.Tensor):
            torch.testing.assert_close(result, module(larger), rtol=1e-4, atol=1e-5)
    assert not caplog.messages


@needs_openvino
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_models_keep_their_payloads_and_their_scores(precision):
    model = coded(channels=24)
    images = torch.randn(3, 3, 96, 96) * 3
    found = {}
    for count in (1, None):  # one image is PyTorch's
        with inference(model, precision=precision, images=count) as payloads:
            with forward_only(CPU, precision):
                outputs = model(images)
            found[count] = outputs, payloads.pop()
    assert found[1][1] == found[None][1]
    limit = 1e-5 if precision == "float32" else 0.1
    torch.testing.assert_close(found[None][0], found[1][0], rtol=limit, atol=limit)
    assert not torch.equal(found[None][0], found[1][0]), "OpenVINO was not used"


@needs_openvino
def test_a_detector_finds_the_same_boxes():
    model = detector().to(memory_format=torch.channels_last).eval()
    update_bottleneck(model)
    images = [torch.rand(3, 64, 96)]
    found = []
    for count in (1, None):
        with inference(model, images=count), forward_only(CPU):
            found.append(model(images)[0])
            assert (model.backbone.fpn.forward._graph is None) == (count == 1)
    assert len(found[0]["boxes"]) > 0
    for key in ("boxes", "scores", "labels"):
        torch.testing.assert_close(found[1][key], found[0][key], rtol=1e-3, atol=1e-3)


@needs_openvino
def test_hooks_are_called():
    model = nn.Sequential(layers(), layers(nn.ReLU())[1:])
    model[1][1] = nn.Conv2d(4, 4, 1)
    seen = []
    model[0].register_forward_hook(lambda m, i, output: seen.append("module"))
    model[1][1].register_forward_hook(lambda m, i, output: seen.append("inside"))
    with by_openvino([model.eval()], "float32") as taken, forward_only(CPU):
        assert taken == {model[0]}, "what holds a watched layer is PyTorch's"
        model(torch.randn(1, 3, 9, 9))
    assert seen == ["module", "inside"]


class Odd(nn.Module):
    """Computes something else for wide images, which no trace can know."""

    def forward(self, x):
        return x * 2 if x.shape[-1] > 8 else x


class Stubborn(nn.Module):
    """Something that can be traced, and that OpenVINO does not know."""

    def forward(self, x):
        return torch.special.i1e(x)


@needs_openvino
@pytest.mark.parametrize(
    ("odd", "reason"), [(Odd(), "its result differs by 0.5"), (Stubborn(), "OpConversionFailure")]
)
def test_what_openvino_cannot_take_is_pytorchs_and_said_once(odd, reason, caplog):
    module = layers(odd)
    x = torch.randn(2, 3, 12, 12)
    with forward_only(CPU):
        expected = module(x)
        for _ in range(2):
            with by_openvino([module], "float32"):
                assert torch.equal(module(x), expected)
                assert torch.equal(module(x), expected)
    (message,) = caplog.messages
    assert "A Sequential runs in PyTorch, slower: OpenVINO cannot take it" in message
    assert reason in message


@needs_openvino
def test_what_is_not_finite_is_left_to_those_who_look_for_it(caplog):
    """OpenVINO's ReLU makes 0 of NaN."""
    module = layers(nn.ReLU())
    module[0].weight.data[0] = torch.nan
    with by_openvino([module], "float32"), forward_only(CPU):
        assert module(torch.randn(1, 3, 9, 9)).isnan().any()
    assert not caplog.messages


@needs_openvino
def test_an_error_of_the_module_is_the_callers_and_the_module_is_as_before():
    module = layers()
    with (
        pytest.raises(RuntimeError, match="channels"),
        by_openvino([module], "float32"),
        forward_only(CPU),
    ):
        module(torch.randn(1, 5, 9, 9))
    assert "forward" not in vars(module)


@needs_openvino
def test_gradients_are_pytorchs():
    module = layers()
    with by_openvino([module], "float32"):
        module(torch.randn(1, 3, 9, 9)).sum().backward()
    assert module[0].weight.grad is not None


@needs_openvino
@pytest.mark.parametrize(("side", "images", "is_made"), [(10, 10_000, False), (1000, 1_000, True)])
def test_a_graph_is_made_where_it_pays(side, images, is_made):
    """248 weights at 100 pixels are 0.25 billion products in 10,000 images; 1e6 pixels, 248."""
    module = layers()
    with by_openvino([module], "float32", images), forward_only(CPU):
        module(torch.zeros(2, 3, side, side))
        assert (module.forward._graph is not None) == is_made


@needs_openvino
def test_threads_at_once():
    module = layers()
    images = [torch.randn(1, 3, size, size) for size in range(8, 24)]

    def run(x):
        with forward_only(CPU):
            return module(x)

    with by_openvino([module], "float32"):
        expected = list(map(run, images))
    with by_openvino([module], "float32"), ThreadPoolExecutor(4) as pool:
        assert all(map(torch.equal, pool.map(run, images), expected))


def test_without_it_everything_is_pytorchs_and_it_is_said_once(monkeypatch, caplog):
    monkeypatch.setattr(runtime, "_core", lambda: __import__("no_such_openvino"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    module = layers()
    for precision in ("float32", "bf16"):
        with by_openvino([module], precision) as taken:
            assert not taken
            assert "forward" not in vars(module)
    (message,) = caplog.messages
    assert "OpenVINO is not installed" in message
    assert "pip install openvino==" in message


def test_a_processor_without_bf16_leaves_it_to_pytorch(monkeypatch, caplog):
    class Core:
        def get_property(self, device, name):
            return ["FP32", "INT8"]

    monkeypatch.setattr(runtime, "_core", Core)
    with by_openvino([layers()], "bf16") as taken:
        assert not taken
    with by_openvino([layers()], "float32") as taken:
        assert len(taken) == 1
    (message,) = caplog.messages
    assert "no bf16" in message


@needs_openvino
def test_nobody_is_told_about_it(tmp_path):
    """Importing OpenVINO sends an event to Intel unless its telemetry is out of reach."""
    code = (
        "import sys, socket, torch; from torch import nn\n"
        "def refuse(*_, **__): raise SystemExit('a connection')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from ladon.models.openvino import by_openvino\n"
        "module = nn.Sequential(nn.Conv2d(3, 4, 1)).eval()\n"
        "with by_openvino([module], 'float32') as taken, torch.inference_mode():\n"
        "    module(torch.zeros(1, 3, 4, 4)); assert module.forward._graph is not None\n"
        "assert not [m for m in sys.modules if m.startswith('openvino_telemetry.')]\n"
    )
    environment = {"HOME": str(tmp_path), "PYTHONPATH": ":".join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.rglob("*openvino*")), "an identity was written"
