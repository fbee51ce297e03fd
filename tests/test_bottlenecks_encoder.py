"""The encoder's pinned execution: flags of the process, threads, and when it is recorded."""

from __future__ import annotations

import types
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from compressai.entropy_models import EntropyBottleneck
from students import coded, splittable
from torch import nn

from ladon.bottlenecks import encoder as encoder_module
from ladon.bottlenecks.encoder import Encoder, encode_latent, pinned_arithmetic
from ladon.models import entropy_coding, use_own_noise
from ladon.models.inference import inference
from ladon.models.precision import float32_where_it_matters

CPU = torch.device("cpu")


def flags():
    cudnn = torch.backends.cudnn
    return cudnn.enabled, cudnn.deterministic, cudnn.allow_tf32


class Watching(nn.Module):
    """Stands for an encoder; notes the process's flags at every image."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(flags())
        return x[:, :1]


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("allow_tf32", [True, False])
def test_threads_see_pinned_flags_and_leave_the_process_its_own(deterministic, allow_tf32):
    """Set within each encode, 5 of 1,600 ran with TF32, and the flags stayed in 5 of 5 runs."""
    model = coded()
    bottleneck = model.bottleneck_layer
    bottleneck.encoder = watching = Watching()
    images = torch.rand(4, 4, 8, 8)
    with torch.backends.cudnn.flags(deterministic=deterministic, allow_tf32=allow_tf32):
        before = flags()
        with inference(model, "encode"), ThreadPoolExecutor(4) as pool:
            runs = [pool.submit(encode_latent, bottleneck.encoder, images) for _ in range(400)]
            assert all(run.result().shape == (4, 1, 8, 8) for run in runs)
        assert flags() == before
        assert set(watching.seen) == {(True, True, False)}
        assert len(watching.seen) == 1600
        with pytest.raises(ZeroDivisionError), entropy_coding(model):
            1 / 0  # noqa: B018
        assert flags() == before


@pytest.mark.parametrize("model", [coded, splittable], ids=["updated", "not yet"])
def test_every_evaluation_is_pinned(model):
    with entropy_coding(model().eval()):
        assert flags() == (True, True, False)
    with inference(nn.Sequential(nn.Conv2d(3, 4, 1)).eval()):
        assert flags() == (True, True, False), "a model without a bottleneck, too"


class CudaImages:
    """Looks like images on a GPU, as far as it is decided whether to record."""

    is_cuda = True

    def __init__(self, side):
        self.shape = torch.Size((2, 3, side, side))

    def __getitem__(self, item):
        return self


@pytest.fixture
def records(monkeypatch):
    """The sizes that were recorded; nothing is."""
    made = []

    def record(encoder, images, pool):
        made.append(images.shape[-1])
        if images.shape[-1] == 13:
            raise RuntimeError("operation not permitted\nwhen stream is capturing")
        return types.SimpleNamespace(replay=lambda images: f"replayed {images.shape[-1]}")

    monkeypatch.setattr(encoder_module, "_Record", record)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 0))
    monkeypatch.setattr(encoder_module, "encode_latent", lambda _, images: "run")
    return made


def test_an_encoder_is_recorded_once_for_each_of_a_few_sizes(records):
    encode = Encoder(nn.Sequential(nn.Conv2d(3, 4, 1)))
    with torch.inference_mode():
        for side in (4, 5, 4, 4, 5):
            assert encode(CudaImages(side)) == f"replayed {side}"
        assert records == [4, 5]
        for side in range(20, 40):
            encode(CudaImages(side))
        assert len(records) == 8
        assert encode(CudaImages(39)) == "run"
        assert encode(CudaImages(4)) == "replayed 4"
    assert encode(CudaImages(4)) == "run", "with gradients there is nothing to replay"


def test_a_watched_encoder_is_run(records):
    encoder = nn.Sequential(nn.Conv2d(3, 4, 1))
    encode = Encoder(encoder)
    handle = encoder[0].register_forward_hook(lambda *_: None)
    with torch.inference_mode():
        assert encode(CudaImages(4)) == "run"
        handle.remove()
        assert encode(CudaImages(4)) == "replayed 4"


def test_an_encoder_that_cannot_be_recorded_is_run_and_it_is_said_once(records, caplog):
    caplog.set_level("INFO")
    encode = Encoder(nn.Sequential(nn.Conv2d(3, 4, 1)))
    with torch.inference_mode():
        assert [encode(CudaImages(13)), encode(CudaImages(13)), encode(CudaImages(4))] == [
            "run"
        ] * 3
    assert records == [13]
    (line,) = caplog.messages
    assert "operation not permitted" in line


def test_on_a_cpu_it_is_the_plain_encoder():
    encoder = coded().bottleneck_layer.encoder.eval()
    images = torch.rand(3, 3, 32, 32)
    with torch.inference_mode(), pinned_arithmetic():
        assert torch.equal(Encoder(encoder)(images), encode_latent(encoder, images))


@pytest.mark.parametrize("training", [True, False])
def test_the_entropy_bottlenecks_forward_is_compressais(training):
    """The same outputs, likelihoods and gradients to the bit, of the same noise."""
    found = []
    for own in (True, False):
        torch.manual_seed(0)
        model = splittable(channels=5)
        bottleneck = model.bottleneck_layer.entropy_bottleneck.train(training)
        if own:
            generator = use_own_noise(model, 3, CPU)
        else:
            generator = torch.Generator().manual_seed(3)

            def quantize(inputs, mode, means=None, generator=generator, bottleneck=bottleneck):
                if mode != "noise":
                    return EntropyBottleneck.quantize(bottleneck, inputs, mode, means)
                return inputs + torch.empty_like(inputs).uniform_(-0.5, 0.5, generator=generator)

            bottleneck.quantize = quantize
        latent = torch.linspace(-9, 9, 2 * 5 * 4 * 3).reshape(2, 5, 4, 3).requires_grad_()
        outputs, likelihoods = bottleneck(latent)
        (outputs.square().sum() - likelihoods.log().sum()).backward()
        gradients = [p.grad for p in bottleneck.parameters() if p.grad is not None]
        found.append([outputs, likelihoods, latent.grad, *gradients])
    assert len(found[0]) > 8
    for mine, theirs in zip(*found, strict=True):
        assert torch.equal(mine, theirs)
        assert mine.is_contiguous() == theirs.is_contiguous()


def test_bf16_keeps_the_forward_of_the_instance():
    """What `use_own_noise` put there must not give way to the class's."""
    model = splittable(channels=5)
    use_own_noise(model, 3, CPU)
    called = []
    inner = model.bottleneck_layer.entropy_bottleneck.forward
    model.bottleneck_layer.entropy_bottleneck.forward = lambda x: called.append(x) or inner(x)
    with float32_where_it_matters(model):
        model.bottleneck_layer.entropy_bottleneck(torch.zeros(1, 5, 2, 2, dtype=torch.bfloat16))
    assert [x.dtype for x in called] == [torch.float32]
