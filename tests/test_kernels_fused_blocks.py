"""Fused bottleneck blocks: equal to the folded blocks, whatever the batch; inputs left alone."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from ladon.errors import LadonError
from ladon.kernels.fused_blocks import FusedBottleneck, FusedConv2d, replaced_blocks
from ladon.kernels.winograd import WinogradConv2d


@pytest.fixture(autouse=True)
def seed_and_threads():
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def made_block(
    inputs: int, planes: int, *, stride: int = 1, dilation: int = 1, block=Bottleneck, **kwargs
) -> nn.Module:
    """A block as folding leaves it: convolutions with a bias, no normalisation."""
    outputs = planes * block.expansion
    downsample = None
    if stride != 1 or inputs != outputs:
        downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride), nn.Identity())
    made = block(
        inputs,
        planes,
        stride,
        downsample,
        dilation=dilation,
        norm_layer=lambda channels: nn.Identity(),
        **kwargs,
    )
    for conv in made.modules():
        if isinstance(conv, nn.Conv2d):
            conv.bias = nn.Parameter(torch.randn(conv.out_channels))
    return made.eval().requires_grad_(False)


BLOCKS = {
    "no downsample": {"inputs": 64, "planes": 16},
    "downsample": {"inputs": 32, "planes": 16},
    "stride": {"inputs": 64, "planes": 32, "stride": 2},
    "dilation": {"inputs": 64, "planes": 16, "dilation": 2},
    "no Winograd": {"inputs": 48, "planes": 12},
}


def error(got: Tensor, expected: Tensor) -> float:
    """Largest deviation, relative to the largest value."""
    return ((got.double() - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(14, 11), (1, 1)])
@pytest.mark.parametrize("kind", BLOCKS)
def test_float32_is_the_block(kind, size, layout):
    block = made_block(**BLOCKS[kind])
    x = torch.randn(2, BLOCKS[kind]["inputs"], *size).contiguous(memory_format=layout)
    before = x.clone()
    fused = FusedBottleneck.from_block(block)
    got, expected = fused(x), copy.deepcopy(block).double()(x.double())
    assert (expected == 0).any()  # the last ReLU is at work
    assert got.dtype == torch.float32
    assert error(got, expected) < 5e-6
    assert torch.equal(x, before)
    assert got.data_ptr() != x.data_ptr()
    kinds = {"dilation": FusedConv2d, "stride": FusedConv2d, "no Winograd": FusedConv2d}
    assert type(fused.conv2) is kinds.get(kind, WinogradConv2d)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", BLOCKS)
def test_autocast_is_about_as_exact_as_the_block(kind, dtype):
    block = made_block(**BLOCKS[kind])
    x = torch.randn(2, BLOCKS[kind]["inputs"], 14, 11).to(dtype)
    before = x.clone()
    expected = copy.deepcopy(block).double()(x.double())
    fused = FusedBottleneck.from_block(block)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got, blocks = fused(x), block(x)
    assert got.dtype == torch.bfloat16
    assert error(got, expected) < 2 * error(blocks, expected)
    assert torch.equal(x, before)
    # float32 is not affected by what was packed for bfloat16
    assert error(fused(x.float()), expected) < 5e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", BLOCKS)
def test_neither_the_batch_nor_the_first_shape_changes_an_image(kind, dtype):
    fused = FusedBottleneck.from_block(made_block(**BLOCKS[kind]))
    other = copy.deepcopy(fused)
    x = torch.randn(4, BLOCKS[kind]["inputs"], 26, 26).to(dtype)
    expected = fused(x)
    other(torch.randn(1, BLOCKS[kind]["inputs"], 7, 40).to(dtype))
    for count in (1, 2, 3):
        assert torch.equal(fused(x[:count]), expected[:count])
        assert torch.equal(other(x[:count]), expected[:count])


@pytest.mark.parametrize("relu", [True, False])
def test_the_sum_overwrites_only_what_is_owned(relu):
    conv = nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False).requires_grad_(False)
    fused = FusedConv2d.from_conv(conv, relu=relu)
    x = torch.randn(2, 16, 9, 8)
    shortcut = torch.randn(2, 32, 5, 4).contiguous(memory_format=torch.channels_last)
    expected = conv(x) + shortcut
    expected, plain = (expected.relu(), conv(x).relu()) if relu else (expected, conv(x))
    before = shortcut.clone()
    torch.testing.assert_close(fused(x), plain)
    torch.testing.assert_close(fused(x, shortcut), expected)
    assert torch.equal(shortcut, before)
    got = fused(x, shortcut, owned=True)
    torch.testing.assert_close(got, expected)
    assert got.data_ptr() == shortcut.data_ptr()


@pytest.mark.parametrize("first", ["no downsample", "downsample"])
def test_a_chain_of_blocks_keeps_one_sum_and_leaves_its_input_alone(first):
    chain = nn.Sequential(
        made_block(**BLOCKS[first]), made_block(64, 16), made_block(64, 16), nn.Identity()
    )
    x = torch.randn(2, BLOCKS[first]["inputs"], 14, 11).contiguous(
        memory_format=torch.channels_last
    )
    before, expected = x.clone(), copy.deepcopy(chain).double()(x.double())
    for parent, name, block in replaced_blocks(chain):
        parent._modules[name] = block
    assert [block.owns_input for block in list(chain)[:3]] == [False, True, True]
    sums = []
    for block in chain:
        sums.append(block(sums[-1] if sums else x))
    assert len({total.data_ptr() for total in sums} | {x.data_ptr()}) == 2
    assert error(sums[-1], expected) < 5e-6
    assert torch.equal(x, before)
    # whatever goes through them: equal to blocks that own nothing
    for block in list(chain)[1:3]:
        block.owns_input = False
    assert torch.equal(chain(x), sums[-1])


def test_a_block_owns_nothing_that_somebody_else_may_keep():
    def owners(parent):
        return [(name, block.owns_input) for _, name, block in replaced_blocks(parent)]

    watched = nn.Sequential(*(made_block(64, 16) for _ in range(3)))
    watched[0].register_forward_hook(lambda *_: None)
    assert owners(watched) == [("1", False), ("2", True)]
    assert owners(nn.ModuleList(made_block(64, 16) for _ in range(2))) == [
        ("0", False),
        ("1", False),
    ]


@pytest.mark.parametrize("size", [(17, 17), (33, 17), (5, 40), (36, 36), (37, 37), (1, 1)])
@pytest.mark.parametrize("dilation", [12, 36, (3, 40)])
@pytest.mark.parametrize("stride", [1, 2])
def test_taps_that_only_padding_reaches_are_left_out(size, dilation, stride):
    """DeepLab's atrous pyramid on small maps: of 3x3 taps one to nine are on the map."""
    conv = nn.Conv2d(5, 7, 3, stride, dilation, dilation)
    rows, columns = (dilation, dilation) if isinstance(dilation, int) else dilation
    with torch.inference_mode():
        fused = FusedConv2d.from_conv(conv)
        x = torch.randn(2, 5, *size).contiguous(memory_format=torch.channels_last)
        y = fused(x)
        assert torch.allclose(y, conv(x), atol=1e-5)
    ((_, cut),) = fused._packed
    assert cut == (rows >= size[0], columns >= size[1])


def test_two_threads_at_once():
    fused = FusedBottleneck.from_block(made_block(32, 16))
    images = [torch.randn(1, 32, size, size) for size in range(10, 30)]
    expected = [fused(x) for x in images]
    fresh = copy.deepcopy(fused)  # packs its weights while the threads run
    with ThreadPoolExecutor(2) as pool:
        got = list(pool.map(fresh, images))
    assert all(map(torch.equal, got, expected))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_it_keeps_the_weights_it_was_made_with(layout):
    block = made_block(64, 16).to(memory_format=layout)
    x = torch.randn(1, 64, 9, 9)
    model = nn.Sequential(FusedBottleneck.from_block(block))
    expected = copy.deepcopy(block)(x)
    for conv in (block.conv1, block.conv2, block.conv3):
        conv.weight.zero_()
    torch.testing.assert_close(copy.deepcopy(model).to(torch.bfloat16)(x), expected)
    assert not model.state_dict()


def test_replaced_blocks_lists_what_can_be_exchanged_and_changes_nothing():
    model = ResNet(Bottleneck, [1, 2, 1, 1], norm_layer=lambda channels: nn.Identity())
    model = model.eval().requires_grad_(False)
    model.layer2[1].conv2.register_forward_hook(lambda *_: None)
    x = torch.randn(2, 3, 64, 64)
    expected = model(x)
    found = replaced_blocks(model)
    parents = [model.layer1, model.layer2, model.layer3, model.layer4]
    assert [(parent, name) for parent, name, _ in found] == [(parent, "0") for parent in parents]
    assert not any(isinstance(module, FusedBottleneck) for module in model.modules())
    for parent, name, block in found:
        parent._modules[name] = block
    assert error(model(x), expected.double()) < 1e-5


def _with_hook(name: str) -> nn.Module:
    block = made_block(32, 16)
    block.get_submodule(name).register_forward_hook(lambda *_: None)
    return block


def _with(**children: nn.Module) -> nn.Module:
    block = made_block(32, 16)
    for name, child in children.items():
        setattr(block, name, child)
    return block


@pytest.mark.parametrize(
    "make",
    [
        lambda: made_block(64, 16).train(),
        lambda: made_block(64, 16).double(),
        lambda: made_block(64, 16).to("meta"),
        lambda: made_block(64, 16, groups=2, base_width=32),
        lambda: made_block(64, 64, block=BasicBlock),
        lambda: Bottleneck(64, 16).eval(),
        lambda: _with_hook(""),
        lambda: _with_hook("relu"),
        lambda: _with_hook("downsample"),
        lambda: _with_hook("downsample.1"),
        lambda: _with(bn3=nn.BatchNorm2d(64)),
        lambda: _with(relu=nn.SiLU()),
        lambda: _with(downsample=nn.Conv2d(32, 64, 1)),
        lambda: _with(downsample=nn.Sequential(nn.Conv2d(32, 64, 1), nn.BatchNorm2d(64))),
        lambda: _with(conv1=nn.Conv2d(32, 16, 1, padding="same")),
        lambda: nn.Conv2d(16, 16, 1),
    ],
)
def test_what_it_cannot_replace(make):
    module = make()
    assert not FusedBottleneck.can_replace(module)
    with pytest.raises(LadonError, match="no fused block for this"):
        FusedBottleneck.from_block(module)
    assert FusedBottleneck.can_replace(made_block(64, 16))


@pytest.mark.parametrize(
    "conv", [nn.Conv2d(16, 16, 3, groups=2), nn.Conv2d(16, 16, 3, padding_mode="reflect")]
)
def test_convolutions_it_cannot_replace(conv):
    with pytest.raises(LadonError, match="no fused convolution for Conv2d"):
        FusedConv2d.from_conv(conv)


@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(1, 64, 8, 8, dtype=torch.float64),
        torch.zeros(1, 64, 8, 8, requires_grad=True),
        torch.zeros(1, 64, 8, 8, device="meta"),
        torch.zeros(1, 32, 8, 8),
        torch.zeros(64, 8, 8),
    ],
)
def test_inputs_that_the_operators_must_not_see(x):
    fused = FusedBottleneck.from_block(made_block(64, 16))
    with pytest.raises(LadonError, match="is for inference on the CPU"):
        fused(x)
