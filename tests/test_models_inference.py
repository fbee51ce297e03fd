"""Evaluation made fast: what is folded, cast and exchanged changes no result that matters."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import timm
import torch
from compressai.layers import GDN1
from sc2bench.models import layer
from students import coded, detector, splittable
from torch import nn
from torchvision.models import resnet50
from torchvision.models.segmentation import deeplabv3_resnet50

from ladon.bottlenecks.encoder import encode_latent
from ladon.kernels.fused_blocks import FusedInverseGDN1
from ladon.models import freeze_batch_norm, update_bottleneck
from ladon.models.inference import FoldedGDN1, _folded, inference
from ladon.models.precision import float32_where_it_matters, forward_only
from ladon.modules import override_methods

CPU = torch.device("cpu")


def unsettled(model):
    """The model with BatchNorm statistics that make a difference."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return model.eval()


@pytest.mark.parametrize("inverse", [False, True])
def test_folded_gdn_is_gdn_to_the_bit(inverse):
    torch.manual_seed(0)
    gdn = GDN1(8, inverse=inverse)
    with torch.no_grad():
        gdn.gamma.add_(torch.rand(8, 8) * 0.2)
        gdn.beta.mul_(1.7)
    x = torch.randn(2, 8, 9, 7).to(memory_format=torch.channels_last)
    with torch.no_grad():
        gdn.to(memory_format=torch.channels_last)
        assert torch.equal(FoldedGDN1(gdn)(x), gdn(x))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_inverse_gdn_in_one_pass_is_the_same_up_to_rounding(dtype, tolerance):
    torch.manual_seed(0)
    gdn = GDN1(32, inverse=True)
    with torch.no_grad():
        gdn.gamma.add_(torch.rand(32, 32) * 0.2)
        gdn.beta.mul_(1.7)
        folded = FoldedGDN1(gdn)
        x = torch.randn(2, 32, 9, 7).to(memory_format=torch.channels_last)
        expected = folded(x)
        with torch.autocast("cpu", dtype, enabled=dtype is torch.bfloat16):
            found = FusedInverseGDN1(folded.gamma, folded.beta)(x)
    assert found.dtype is dtype
    torch.testing.assert_close(found.float(), expected, rtol=tolerance, atol=tolerance)


def segmenter():
    torch.manual_seed(0)
    return deeplabv3_resnet50(weights=None, weights_backbone=None, aux_loss=True).eval()


def test_a_head_that_only_trains_is_left_out_of_evaluation():
    model, images = segmenter(), torch.rand(1, 3, 48, 48)
    with torch.no_grad():
        expected = model(images)
    with inference(model), forward_only(CPU):
        found = model(images)
    assert list(expected) == ["out", "aux"]
    assert list(found) == ["out"]
    torch.testing.assert_close(found["out"], expected["out"], rtol=1e-3, atol=1e-4)
    assert model.aux_classifier is not None
    seen = []
    model.aux_classifier[0].register_forward_hook(lambda *_: seen.append(1))
    with inference(model), forward_only(CPU):
        model(images)
    assert seen == [1], "somebody wants to see it"


@pytest.mark.parametrize(
    ("make", "layers"),
    [
        (lambda: resnet50(), 53),
        (lambda: freeze_batch_norm(resnet50()), 53),
        # two in the stem's Sequential (the third norm stands outside of it and stays); in each of
        # four blocks two, two more in its attention, and one in its shortcut
        (lambda: timm.create_model("resnest14d", num_classes=5), 2 + 4 * (2 + 2 + 1)),
    ],
    ids=["resnet50", "frozen", "resnest14d"],
)
def test_batch_norm_is_folded_where_it_surely_follows(make, layers):
    torch.manual_seed(0)
    model = unsettled(make())
    before = [type(m) for m in model.modules()]
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(images)
        with _folded(model, fused=False):
            folded = sum(isinstance(m, nn.Identity) for m in model.modules())
            found = model(images)
        with inference(model):
            fused = model(images)
        again = model(images)
    assert folded - sum(t is nn.Identity for t in before) == layers
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(fused, expected, rtol=1e-3, atol=1e-3)
    assert not torch.equal(found, expected), "nothing was folded"
    assert torch.equal(again, expected), "the model is not what it was"
    assert [type(m) for m in model.modules()] == before


class PreActivation(nn.Module):
    """Names as in a residual block, but the normalisation comes first."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        return self.conv1(self.bn1(x))


def test_unknown_blocks_and_watched_layers_are_left_alone():
    own = unsettled(PreActivation())
    with inference(own):
        assert type(own.bn1) is nn.BatchNorm2d
    watched = unsettled(nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3)))
    seen = []
    watched[0].register_forward_hook(lambda m, i, output: seen.append(output))
    with inference(watched), forward_only(CPU):
        watched(torch.zeros(1, 4, 8, 8))
    assert len(seen) == 1
    training = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)).train()
    with inference(training):
        assert type(training[1]) is nn.BatchNorm2d, "batch statistics cannot be folded"


def test_an_error_leaves_the_model_as_it_was():
    model = coded()
    names = [type(m) for m in model.modules()]
    with pytest.raises(RuntimeError, match="boom"), inference(model, precision="bf16"):
        raise RuntimeError("boom")
    assert [type(m) for m in model.modules()] == names
    assert not vars(model.bottleneck_layer).keys() & {"encode", "decode", "forward"}
    assert "forward" not in vars(model.bottleneck_layer.encoder)
    assert not any(m._forward_hooks for m in model.modules())


def test_replaced_methods_nest():
    module = nn.ReLU()
    with override_methods(module, forward=lambda x: "outer"):
        with override_methods(module, forward=lambda x: "inner"):
            assert module(0) == "inner"
        assert module(0) == "outer"
    assert "forward" not in vars(module)


@pytest.mark.parametrize("mode", ["full", "encode", "estimate"])
def test_bf16_changes_no_payload(mode):
    model = coded(channels=24)
    images = torch.randn(3, 3, 96, 96) * 3
    found = {}
    for precision in ("float32", "bf16"):
        with inference(model, mode, precision=precision) as payloads:
            with forward_only(CPU, precision):
                outputs = model(images)
            found[precision] = outputs, payloads.pop()
    assert found["bf16"][1] == found["float32"][1]
    assert found["bf16"][0].dtype == torch.float32
    assert not torch.equal(found["bf16"][0], found["float32"][0]), "bf16 was not used"
    torch.testing.assert_close(found["bf16"][0], found["float32"][0], rtol=0.1, atol=0.1)


def test_payloads_do_not_depend_on_batch_precision_or_folding():
    """Byte for byte what the unfolded encoder gives, image by image."""
    model = coded(channels=24)
    images = torch.randn(5, 3, 96, 96) * 3
    bottleneck = model.bottleneck_layer
    with torch.inference_mode():
        latents = [encode_latent(bottleneck.encoder, image[None]) for image in images]
        expected = [len(bottleneck.entropy_bottleneck.compress(z)[0]) for z in latents]
        with inference(model):
            folded = encode_latent(bottleneck.encoder, images)
    assert torch.equal(folded, torch.cat(latents))
    with inference(model, precision="bf16") as payloads, forward_only(CPU, "bf16"):
        model(images)
        assert payloads.pop()[0] == expected


def test_a_model_before_update_is_scored_as_sc2bench_does():
    """The quantised latent goes on; likelihoods, which cost as much as a layer, are left out."""
    model = splittable().eval().to(memory_format=torch.channels_last)
    images = torch.randn(2, 3, 64, 64)
    calls = []
    model.bottleneck_layer.entropy_bottleneck.register_forward_hook(lambda *_: calls.append(1))
    with torch.inference_mode():
        expected = model(images)
        with inference(model) as payloads:
            found = model(images)
            assert payloads.pop() == ([], [])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert len(calls) == 1


def test_detector_keeps_anchors_and_boxes_in_float32():
    """torchvision makes anchors in the features' dtype: bf16 would round 300 to 300 or 302."""
    model = detector().to(memory_format=torch.channels_last).eval()
    update_bottleneck(model)
    seen = {}
    generator, head = model.rpn.anchor_generator, model.rpn.head
    generator.register_forward_hook(lambda m, i, output: seen.update(anchors=output[0].dtype))
    head.conv.register_forward_hook(lambda m, i, output: seen.update(conv=output.dtype))
    with inference(model, precision="bf16"), forward_only(CPU, "bf16"):
        found = model([torch.rand(3, 64, 96)])[0]
    assert seen == {"anchors": torch.float32, "conv": torch.bfloat16}
    assert found["boxes"].dtype == found["scores"].dtype == torch.float32
    assert len(found["boxes"]) > 0


def test_encoder_and_entropy_model_train_in_float32():
    model = splittable().train()
    seen = []
    bottleneck = model.bottleneck_layer
    bottleneck.encoder.register_forward_hook(lambda m, i, output: seen.append(output.dtype))
    bottleneck.entropy_bottleneck.register_forward_hook(
        lambda m, i, output: seen.extend(o.dtype for o in output)
    )
    with float32_where_it_matters(model), torch.autocast("cpu", torch.bfloat16):
        outputs = model.layer2(bottleneck(torch.rand(1, 3, 64, 64)))
    assert seen == [torch.float32] * 3
    assert outputs.dtype == torch.bfloat16


def test_threads_keep_their_own_payloads():
    model = coded(channels=24)
    batches = [torch.randn(1, 3, 64, 64) * scale for scale in (0.1, 1, 3, 10)]

    def passing(images):
        with forward_only(CPU):
            model(images)
        return payloads.pop()

    with inference(model) as payloads:
        expected = [passing(images) for images in batches]
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(passing, batches)) == expected
    assert len({tuple(nbytes) for nbytes, _ in expected}) > 1


def test_compiled_modules_are_put_back(monkeypatch):
    """Compiling takes half a minute; what is compiled is counted, the encoder is not."""
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled.append(self))
    model = coded()
    with inference(model, compiled=True):
        inner = {id(m) for m in compiled}
    bottleneck = model.bottleneck_layer
    assert {id(m) for m in (model.layer2, model.layer4, bottleneck.decoder)} <= inner
    assert id(bottleneck.encoder) not in inner
    assert all(m._compiled_call_impl is None for m in model.modules())


@pytest.mark.parametrize("updated", [False, True])
def test_another_bottleneck_runs_as_sc2bench_has_it(updated, caplog, monkeypatch):
    """One that a user registered with sc2bench is evaluated with its own coder."""
    own = type("OwnBottleneck", (layer.SHPBasedResNetBottleneck,), {})
    monkeypatch.setitem(layer.LAYER_CLASS_DICT, "OwnBottleneck", own)
    kwargs = {"num_latent_channels": 4, "num_bottleneck_channels": 6, "num_target_channels": 64}
    model = splittable(bottleneck={"key": "OwnBottleneck", "kwargs": kwargs}).eval()
    if updated:
        update_bottleneck(model)
    model.to(memory_format=torch.channels_last)
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected = model(images)
        with inference(model) as payloads:
            found = model(images)
            assert payloads.pop() == ([], [])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert "sc2bench codes this bottleneck itself" in caplog.text
