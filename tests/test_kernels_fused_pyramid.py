"""The pyramid whose sums take no pass of their own is torchvision's, up to rounding."""

from __future__ import annotations

import copy
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from ladon.kernels.fused_pyramid import FusedPyramid
from ladon.kernels.packed_conv import FusedConv2d
from ladon.models.inference import inference

pytestmark = [
    pytest.mark.usefixtures("no_grad"),
    pytest.mark.skipif(not FusedConv2d.is_available(), reason="oneDNN has no bfloat16 here"),
]


@pytest.fixture
def no_grad():
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def made(**kwargs) -> FeaturePyramidNetwork:
    return FeaturePyramidNetwork([16, 32, 48], 16, **kwargs).eval()


def maps() -> OrderedDict[str, torch.Tensor]:
    """Maps whose sides are no multiples of each other."""
    sizes = {"low": (16, 21, 27), "mid": (32, 11, 13), "high": (48, 5, 7)}
    return OrderedDict((name, torch.randn(2, *size)) for name, size in sizes.items())


@pytest.mark.parametrize("extra", [None, LastLevelMaxPool()])
def test_it_is_the_pyramid_and_leaves_its_input(extra):
    pyramid, x = made(extra_blocks=extra), maps()
    before = copy.deepcopy(x)
    expected = copy.deepcopy(pyramid).double()(OrderedDict((n, m.double()) for n, m in x.items()))
    got = FusedPyramid(pyramid)(x)
    assert list(got) == list(expected)
    for name, found in got.items():
        torch.testing.assert_close(found, expected[name].float(), rtol=1e-5, atol=1e-5)
    assert all(torch.equal(x[name], before[name]) for name in x)


def test_bfloat16_is_about_as_exact_as_pytorchs():
    pyramid, x = made(), maps()
    expected = pyramid(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got, pytorchs = FusedPyramid(pyramid)(x), pyramid(x)
    for name, exact in expected.items():
        assert got[name].dtype == torch.bfloat16
        errors = [(each[name].float() - exact).abs().max() for each in (got, pytorchs)]
        assert errors[0] < 2 * errors[1]


def test_an_evaluation_exchanges_it_with_its_normalisation_folded():
    model, x = nn.Sequential(made(norm_layer=nn.BatchNorm2d)).eval(), maps()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
    pyramid, expected = model[0], model(x)
    with inference(model):
        assert type(model[0]) is FusedPyramid
        got = model(x)
    assert model[0] is pyramid
    for name, found in got.items():
        torch.testing.assert_close(found, expected[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("how", ["watched", "normalised", "of another class", "of float64"])
def test_what_it_cannot_replace(how):
    pyramid = made(norm_layer=nn.BatchNorm2d if how == "normalised" else None)
    if how == "watched":
        pyramid.inner_blocks[1].register_forward_hook(lambda *_: None)
    elif how == "of another class":
        pyramid.__class__ = type("Own", (FeaturePyramidNetwork,), {})
    elif how == "of float64":
        pyramid.double()
    assert not FusedPyramid.can_replace(pyramid)
