"""From an image's bytes to its payload on a GPU: the CPU's values, and no core that spins."""

from __future__ import annotations

import pytest
import torch
from devices import on_each_device
from hyperpriors import KINDS, student
from students import coded

from ladon.bottlenecks import entropy_coding, find_bottleneck
from ladon.bottlenecks.encoder import Encoder, encode_latent, pinned_arithmetic
from ladon.codec import LatentCoder
from ladon.data.device_input import DeviceInput

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@on_each_device
@pytest.mark.parametrize("multiplies", [False, True])
@pytest.mark.parametrize("constants", [(None, None), (MEAN, STD)], ids=["scaled", "normalised"])
def test_bytes_become_the_same_values(multiplies, constants, device):
    """To the bit: a GPU multiplies by a reciprocal where one isn't careful."""
    finish = DeviceInput(*constants, multiplies=multiplies)
    images = torch.arange(256, dtype=torch.uint8).repeat(3).reshape(1, 3, 16, 16)
    found = finish(images.to(device))
    assert found.device.type == device
    assert torch.equal(found.cpu(), finish(images))


@on_each_device
@pytest.mark.parametrize("kind", KINDS)
def test_both_sides_of_a_hyperprior_predict_the_same(kind, device):
    """Decoded by another coding than it was encoded by, it is what the encoder quantised."""
    model = student(kind, updated=True).to(device, memory_format=torch.channels_last)
    bottleneck = find_bottleneck(model)
    images = torch.randn(3, 3, 64, 96, generator=torch.Generator().manual_seed(1)).to(device)
    with torch.inference_mode():
        with entropy_coding(model):
            coded = [bottleneck.encode(images) for _ in range(2)]
        assert coded[0] == coded[1]
        with entropy_coding(model, "encode"):
            expected = bottleneck.decode(**bottleneck.encode(images))
        with entropy_coding(model):
            assert torch.equal(bottleneck.decode(**coded[0]), expected)


@on_each_device
def test_a_recorded_encoder_gives_the_same_bits(device):
    encoder = coded(channels=24).bottleneck_layer.encoder.eval()
    encoder.to(device, memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(1)
    sizes = ((5, 64, 96), (2, 96, 64), (1, 64, 96))
    batches = [torch.randn(n, 3, h, w, generator=generator).to(device) for n, h, w in sizes]
    encode = Encoder(encoder)
    with torch.inference_mode(), pinned_arithmetic():
        expected = [encode_latent(encoder, images) for images in batches]
        for _ in range(2):
            for images, latent in zip(batches, expected, strict=True):
                assert torch.equal(encode(images), latent)
    assert len(encode._records) == (2 if device == "cuda" else 0)


@on_each_device
def test_the_coder_waits_without_spinning_and_decodes_to_pinned_memory(monkeypatch, device):
    model = coded(channels=6).to(device)
    coder = LatentCoder(model.bottleneck_layer.entropy_bottleneck)
    events, pinned, empty = [], [], torch.empty
    if device == "cuda":
        event = torch.cuda.Event
        monkeypatch.setattr(torch.cuda, "Event", lambda **how: events.append(how) or event(**how))

    def recorded(*size, **how):
        pinned.append(how.get("pin_memory", False))
        return empty(*size, **how)

    monkeypatch.setattr(torch, "empty", recorded)
    latent = coder.quantize(
        torch.randn(3, 6, 9, 7, generator=torch.Generator().manual_seed(2)).to(device)
    )
    decoded = coder.decode(coder.encode(latent), (9, 7))
    assert torch.equal(decoded, latent)
    on_gpu = device == "cuda"
    assert events == ([{"blocking": True}] if on_gpu else [])
    assert pinned == ([True, True] if on_gpu else [False]), "of the encoder's latent, and of ours"
