"""Winograd convolution: equal to PyTorch's in float64, whatever the shape, batch and threads."""

import copy
import multiprocessing
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ladon.errors import LadonError
from ladon.kernels import winograd
from ladon.kernels.packed_conv import FusedConv2d
from ladon.kernels.winograd import WinogradConv2d
from ladon.kernels.winograd_kernels import transform_matrices

# kernel, padding, channels in and out, height, width, m: a single pixel, sizes that are no multiple
# of m, more padding than a tile is wide, and both sizes of tiles for both kernels
SHAPES = [
    (2, 0, 16, 16, 2, 2, 3),
    (2, 1, 32, 48, 9, 7, 3),
    (2, (0, 5), 16, 32, 17, 4, 3),
    (2, 0, 48, 32, 47, 50, 5),
    (2, 1, 16, 16, 44, 58, 5),
    (3, 1, 16, 16, 1, 1, 2),
    (3, 1, 64, 32, 13, 13, 2),
    (3, (3, 0), 16, 48, 5, 8, 2),
    (3, 1, 32, 16, 27, 26, 4),
    (3, (0, 4), 16, 32, 31, 23, 4),
]


@pytest.fixture(autouse=True)
def without_matrix_unit(monkeypatch):
    """The transforms are what is tested, whatever processor this is."""
    monkeypatch.setattr(winograd, "_has_matrix_unit", lambda: False)


@pytest.fixture(autouse=True)
def seed_and_threads():
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def made(kernel: int, padding, inputs: int, outputs: int, *, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=padding, bias=bias).requires_grad_(False)


def exact(conv: nn.Conv2d, x: Tensor) -> Tensor:
    bias = None if conv.bias is None else conv.bias.double()
    return F.conv2d(x.double(), conv.weight.double(), bias, padding=conv.padding)


def error(got: Tensor, expected: Tensor) -> float:
    """Largest deviation, relative to the largest value."""
    return ((got.double() - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize(("m", "r"), [(2, 3), (3, 2), (4, 3), (5, 2)])
def test_the_matrices_compute_m_outputs_of_a_filter_of_r(m, r):
    b_t, g, a_t = transform_matrices(m, r)
    rng = np.random.default_rng(0)
    signal, taps = rng.standard_normal(m + r - 1), rng.standard_normal(r)
    got = a_t @ ((g @ taps) * (b_t @ signal))
    assert got == pytest.approx(np.correlate(signal, taps), abs=1e-12)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("kernel", "padding", "inputs", "outputs", "height", "width", "m"), SHAPES)
def test_float32_is_the_convolution(kernel, padding, inputs, outputs, height, width, m, bias):
    conv = made(kernel, padding, inputs, outputs, bias=bias)
    x = torch.randn(2, inputs, height, width)
    winograd = WinogradConv2d.from_conv(conv)
    got, expected = winograd(x), exact(conv, x)
    assert got.shape == expected.shape
    assert got.is_contiguous(memory_format=torch.channels_last)
    assert {m for m, _ in winograd._packed} == {m}  # the tile that the case is there for
    assert error(got, expected) < 5e-6


@pytest.mark.parametrize(("kernel", "padding", "inputs", "outputs", "height", "width", "m"), SHAPES)
def test_bfloat16_is_about_as_exact_as_pytorchs(kernel, padding, inputs, outputs, height, width, m):
    conv = made(kernel, padding, inputs, outputs)
    x = torch.randn(2, inputs, height, width).bfloat16()
    winograd = WinogradConv2d.from_conv(conv)
    expected = exact(conv, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got, pytorchs = winograd(x.float()), conv(x)
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, winograd(x))
    assert error(got, expected) < 3 * error(pytorchs, expected)


@pytest.mark.parametrize("relu", [False, True])
def test_bfloat16_is_left_to_a_processor_that_has_a_unit_for_it(monkeypatch, relu):
    monkeypatch.setattr(winograd, "_has_matrix_unit", lambda: True)
    conv, x = made(3, 1, 32, 48), torch.randn(2, 32, 11, 13)
    fast = WinogradConv2d.from_conv(conv, relu=relu)
    plain = FusedConv2d.from_conv(conv, relu=relu)
    assert torch.equal(fast(x.bfloat16()), plain(x.bfloat16()))
    assert not torch.equal(fast(x), plain(x)), "float32 gains by the transforms"


def test_bfloat16_rounds_to_nearest_even_and_keeps_nan():
    conv = made(3, 1, 16, 16)
    nn.init.dirac_(conv.weight)
    nn.init.constant_(conv.bias, 0.5)
    # bfloat16 has steps of 1 from 128 to 256, so that every sum with the bias lies halfway; pixels
    # so far apart that none meets another in a tile: all but the output's rounding is exact
    x = torch.zeros(1, 16, 32, 64)
    x[:, :, ::8, ::8] = torch.randint(128, 256, (1, 16, 4, 8))
    assert torch.equal(WinogradConv2d.from_conv(conv)(x.bfloat16()), (x + 0.5).bfloat16())
    conv.bias[3] = torch.nan
    got = WinogradConv2d.from_conv(conv, relu=True)(x.bfloat16())
    assert got.isnan().nonzero()[:, 1].unique().tolist() == [3]


def test_relu():
    conv = made(3, 1, 32, 16)
    x = torch.randn(1, 32, 9, 30)
    for images in (x, x.bfloat16()):
        without = WinogradConv2d.from_conv(conv)(images)
        assert (without < 0).any()
        assert torch.equal(WinogradConv2d.from_conv(conv, relu=True)(images), without.relu())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("kernel", "size"), [(2, 53), (2, 20), (3, 50), (3, 13)])
def test_neither_the_batch_nor_the_threads_change_an_image(monkeypatch, kernel, size, dtype):
    # parts of a few rows, the last one smaller, as in large images
    monkeypatch.setattr("ladon.kernels.winograd._PART_BYTES", 80_000)
    conv = made(kernel, 1, 32, 48)
    x = torch.randn(5, 32, size, size).to(dtype)
    winograd = WinogradConv2d.from_conv(conv)
    expected = winograd(x)
    assert error(expected, exact(conv, x)) < (5e-6 if dtype == torch.float32 else 2e-2)
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        assert torch.equal(winograd(x), expected)
        assert torch.equal(winograd(x.contiguous(memory_format=torch.channels_last)), expected)
        for i in range(len(x)):
            assert torch.equal(winograd(x[i : i + 1]), expected[i : i + 1])


def test_two_threads_at_once():
    winograd = WinogradConv2d.from_conv(made(2, 1, 32, 32))
    images = [torch.randn(1, 32, size, size) for size in range(20, 52)]
    expected = [winograd(x) for x in images]
    fresh = copy.deepcopy(winograd)  # packs its weights while the threads run
    with ThreadPoolExecutor(2) as pool:
        got = list(pool.map(fresh, images))
    assert all(map(torch.equal, got, expected))


def _in_child(layer: WinogradConv2d, x: Tensor, pipe) -> None:
    torch.set_num_threads(1)  # as in a DataLoader's worker
    pipe.send(layer(x).numpy())


def test_in_a_forked_process():
    layer = WinogradConv2d.from_conv(made(3, 1, 16, 16))
    x = torch.randn(1, 16, 40, 40)
    expected = layer(x)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_in_child, args=(layer, x, sender))
    child.start()
    try:
        assert receiver.poll(60)
        assert np.array_equal(receiver.recv(), expected.numpy())
    finally:
        child.kill()
        child.join()


def test_the_model_may_be_copied_and_converted():
    conv = made(3, 1, 16, 16)
    x = torch.randn(1, 16, 9, 9)
    model = nn.Sequential(WinogradConv2d.from_conv(conv))
    expected = model(x)
    conv.weight.zero_()
    assert torch.equal(copy.deepcopy(model).to(torch.bfloat16)(x), expected)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(16, 16, 3, stride=2),
        nn.Conv2d(16, 16, 3, dilation=2),
        nn.Conv2d(32, 32, 3, groups=2),
        nn.Conv2d(16, 16, (3, 2)),
        nn.Conv2d(16, 16, 5),
        nn.Conv2d(24, 16, 3),
        nn.Conv2d(16, 24, 3),
        nn.Conv2d(16, 16, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(16, 16, 3, padding="same"),
        nn.ConvTranspose2d(16, 16, 3),
    ],
)
def test_what_it_cannot_replace(conv):
    assert not WinogradConv2d.can_replace(conv)
    with pytest.raises(LadonError, match="no Winograd convolution for Conv"):
        WinogradConv2d.from_conv(conv)


@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(1, 16, 8, 8, dtype=torch.float64),
        torch.zeros(1, 16, 8, 8, requires_grad=True),
        torch.zeros(1, 16, 8, 8, device="meta"),
        torch.zeros(1, 32, 8, 8),
        torch.zeros(16, 8, 8),
        torch.zeros(1, 16, 8, 2),
    ],
)
def test_inputs_that_the_kernels_must_not_see(x):
    with pytest.raises(LadonError, match="is for inference on the CPU"):
        WinogradConv2d.from_conv(made(3, 0, 16, 16))(x)
