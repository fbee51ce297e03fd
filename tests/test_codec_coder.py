"""The coder: CompressAI's streams to the bit, and nothing trusted that comes in."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from compressai.entropy_models import EntropyBottleneck

from ladon.codec import LatentCoder, coder
from ladon.errors import CheckpointError, PayloadError, UsageError


def bottleneck(channels, seed=0, scale=10.0):
    """An updated entropy bottleneck with random densities."""
    torch.manual_seed(seed)
    made = EntropyBottleneck(channels, init_scale=scale).eval()
    with torch.no_grad():
        for parameter in (*made.matrices, *made.biases):
            parameter.add_(torch.randn_like(parameter) * 0.3)
        made.quantiles[:, :, 1].add_(torch.randn(channels, 1))
    made.update()
    return made


def latents(made, rng):
    """Random latents of all the kinds that may come: odd shapes, constants, huge outliers."""
    channels = made.channels
    kinds = ("usual", "constant", "outliers", "escapes", "tiny", "wide")
    for number in range(1000 // 20):
        kind = kinds[number % len(kinds)]
        height, width = (int(s) for s in rng.integers(1, 9, 2))
        latent = torch.from_numpy(rng.normal(0, 4, (1, channels, height, width))).float()
        if kind == "constant":
            latent[:] = float(rng.integers(-3, 4))
        elif kind == "outliers":
            at = torch.from_numpy(rng.random(latent.shape) < 0.1)
            latent[at] *= 10.0 ** int(rng.integers(2, 7))  # from 2^27 on CompressAI never ends
        elif kind == "escapes":
            latent += float(rng.choice([-1, 1])) * 1e5
        elif kind == "tiny":
            latent = latent[:, :, :1, :1]
        elif kind == "wide":
            latent = latent[:, :, :1, :]
        yield latent


@pytest.mark.parametrize(
    "channels", [1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 16, 17, 20, 22, 24, 26, 28, 30, 31, 32]
)
def test_streams_are_compressais_to_the_bit(channels):
    """50 latents for each of 20 numbers of channels: 1,000 in all."""
    made = bottleneck(channels, seed=channels, scale=4.0 + channels % 3)
    own, rng = LatentCoder(made), np.random.default_rng(channels)
    for latent in latents(made, rng):
        payloads = own.encode(latent)
        # CompressAI gives itself one word of buffer a symbol but needs two to end: with fewer
        # than three symbols it writes beside its buffer, so only its decoder is asked then
        if latent.numel() > 2:
            assert payloads == made.compress(latent)
        shape = latent.shape[-2:]
        decoded = own.decode(payloads, shape)
        assert torch.equal(decoded, made.decompress(payloads, shape))
        assert torch.equal(decoded, own.quantize(latent))


def test_images_of_a_batch_are_coded_on_their_own():
    made = bottleneck(6)
    own = LatentCoder(made)
    batch = torch.randn(5, 6, 7, 3) * 4
    payloads = own.encode(batch)
    assert payloads == [own.encode(one[None])[0] for one in batch]
    assert torch.equal(own.decode(payloads, (7, 3)), own.quantize(batch))
    assert LatentCoder(made, parallel=False).encode(batch) == payloads


def test_memory_format_does_not_matter():
    own = LatentCoder(bottleneck(6))
    batch = torch.randn(2, 6, 7, 3) * 4
    assert own.encode(batch.to(memory_format=torch.channels_last)) == own.encode(batch)


@pytest.mark.parametrize("scale", [0.3, 2.0, 30.0])
def test_estimate_is_close(scale):
    own = LatentCoder(bottleneck(8))
    batch = torch.randn(4, 8, 33, 31) * scale
    for estimated, payload in zip(own.estimate(batch), own.encode(batch), strict=True):
        assert abs(estimated - len(payload)) <= 0.001 * len(payload) + 16


def payload_and_coder():
    own = LatentCoder(bottleneck(4), parallel=False)
    return own.encode(torch.randn(1, 4, 6, 5) * 4)[0], own


def test_truncated_and_extended_payloads_are_refused():
    payload, own = payload_and_coder()
    short = "is too short for a latent of 6x5|: not a whole number of words|: it ends too early"
    for length in range(len(payload)):
        with pytest.raises(PayloadError, match=rf"^payload of {length} bytes.*({short})$"):
            own.decode([payload[:length]], (6, 5))
    with pytest.raises(PayloadError, match="not a whole number of words"):
        own.decode([payload + b"\0"], (6, 5))
    for more in (b"\0" * 4, b"abcd", payload):
        with pytest.raises(PayloadError, match="is damaged: it does not end where it should"):
            own.decode([payload + more], (6, 5))


def test_another_shape_is_refused():
    payload, own = payload_and_coder()
    for shape in ((6, 4), (6, 6)):
        with pytest.raises(PayloadError, match=rf"^payload of {len(payload)} bytes is damaged: "):
            own.decode([payload], shape)
    with pytest.raises(PayloadError, match="is too short for a latent of 60x50"):
        own.decode([payload], (60, 50))


def corrupted(payload, rng):
    """Flip bits, swaps or replaces words, or makes the payload up altogether."""
    data = np.frombuffer(payload, np.uint8).copy()
    kind = rng.integers(4)
    if kind == 0:
        for _ in range(rng.integers(1, 4)):
            data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    elif kind == 1:
        start = rng.integers(len(data) // 4) * 4
        data[start : start + 4] = rng.integers(0, 256, 4)
    elif kind == 2:
        data = rng.integers(0, 256, 4 * rng.integers(1, 40), dtype=np.uint8)
    else:
        data = np.concatenate([data[8:], data[:8]])
    return data.tobytes()


def survives(count, seed):
    payload, own = payload_and_coder()
    rng, refused = np.random.default_rng(seed), 0
    for _ in range(count):
        try:
            latent = own.decode([corrupted(payload, rng)], (6, 5))
        except PayloadError:
            refused += 1
        else:
            assert latent.shape == (1, 4, 6, 5)
            assert bool(latent.isfinite().all())
    return refused


def test_corrupted_payloads_never_crash():
    assert survives(3_000, 0) > 2_900, "the final state gives away nearly all of them"


def test_a_hundred_thousand_corrupted_payloads_never_crash():
    assert survives(100_000, 1) > 97_000


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda made: made._quantized_cdf.resize_(0), r"missing \(_quantized_cdf\): update\(\)"),
        (lambda made: made._quantized_cdf[2].fill_(7), "channel 2 is not a cumulative"),
        (lambda made: made._quantized_cdf[1, 1].fill_(0), "channel 1 is not a cumulative"),
        (lambda made: made._cdf_length[0].fill_(10_000), "channel 0 is not a cumulative"),
        (lambda made: made._cdf_length[0].fill_(1), "channel 0 is not a cumulative"),
    ],
)
def test_unusable_tables_are_refused(damage, expected):
    made = bottleneck(4)
    damage(made)
    with pytest.raises(CheckpointError, match=expected):
        LatentCoder(made)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda made: made._quantized_cdf.resize_(3, 9), "_quantized_cdf is for 3 channels, .* 4"),
        (lambda made: made._cdf_length.resize_(2), "_cdf_length is for 2 channels, .* has 4"),
        (lambda made: made._offset.resize_(5), "_offset is for 5 channels, .* has 4"),
        (lambda made: made._quantized_cdf.resize_(4, 2), "channel 0 is not a cumulative"),
        (lambda made: made._quantized_cdf.resize_(4), "of odd shape"),
        (lambda made: made._offset.resize_(0), r"missing \(_offset\)"),
        (lambda made: made._offset[3:].fill_(-(2**31)), "channel 3 begins at -2147483648"),
        (lambda made: made._quantized_cdf[3, 2:4].fill_(9), "channel 3 is not a cumulative"),
        (lambda made: setattr(made, "_offset", made._offset.float()), "holds torch.float32, not"),
        (lambda made: made.quantiles.data[1].fill_(math.nan), "medians .* not finite"),
    ],
)
def test_tables_are_compared_with_the_latent(damage, expected):
    made = bottleneck(4)
    damage(made)
    with pytest.raises(CheckpointError, match=expected):
        LatentCoder(made)


@pytest.mark.parametrize(
    "shape", [(1, 5, 3, 3), (1, 3, 3, 3), (1, 1, 3, 3), (4, 3, 3), (1, 4, 0, 3), (1, 4, 9)]
)
@pytest.mark.parametrize("use", ["encode", "quantize", "estimate"])
def test_latents_for_another_coder_are_refused(shape, use):
    own = LatentCoder(bottleneck(4))
    with pytest.raises(UsageError, match=r"a latent of shape \(.* for a coder of 4 channels"):
        getattr(own, use)(torch.zeros(shape))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int32])
def test_latents_of_another_type_are_refused(dtype):
    with pytest.raises(UsageError, match="the coder takes float32"):
        LatentCoder(bottleneck(4)).encode(torch.zeros((1, 4, 2, 2), dtype=dtype))


@pytest.mark.parametrize("shape", [(10**6, 10**6), (1 << 40, 1), (0, 5), (-6, -5)])
def test_a_shape_that_no_payload_fills_takes_no_memory(shape):
    payload, own = payload_and_coder()
    with pytest.raises(PayloadError, match=r"(too short for a|no) latent"):
        own.decode([payload], shape)


def test_the_most_predictable_latent_still_decodes():
    """Nearly no information a symbol: the bound on shapes must let it pass."""
    made = bottleneck(4)
    width = made._quantized_cdf.shape[1]
    made._quantized_cdf.copy_(torch.arange(width).expand(4, width))
    made._cdf_length.fill_(4)
    made._quantized_cdf[:, 1:4] = torch.tensor([1, 65535, 65536])
    made._offset.fill_(-1)
    own = LatentCoder(made)
    latent = own.quantize(torch.zeros(1, 4, 300, 300)) * 0 + own._medians
    payloads = own.encode(latent)
    assert len(payloads[0]) < 40
    assert torch.equal(own.decode(payloads, (300, 300)), latent)


def test_without_numba_the_error_says_what_to_install(monkeypatch):
    """CompressAI's own coder trusts what comes in: there is no way back to it."""
    made = bottleneck(4)
    monkeypatch.setattr(coder, "rans", None)
    monkeypatch.setattr(coder, "_missing", "No module named 'numba'")
    with pytest.raises(UsageError, match=r"cannot be imported \(No module.*pip install numba=="):
        LatentCoder(made)


@pytest.mark.parametrize("reason", ["No module named 'numba'", "Numba needs NumPy 2.4 or less"])
def test_without_numba_the_library_can_be_imported(reason):
    """Training and all that codes nothing needs no coder."""
    program = (
        "import sys\n"
        "class Without:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == 'numba': raise ImportError({reason!r})\n"
        "sys.meta_path.insert(0, Without())\n"
        "import ladon.errors, ladon.models\n"
        "from compressai.entropy_models import EntropyBottleneck\n"
        "made = EntropyBottleneck(2); made.update()\n"
        "try: ladon.codec.LatentCoder(made)\n"
        "except ladon.errors.UsageError as error: print(error)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"entropy coding needs numba, which cannot be imported ({reason}")


@pytest.mark.parametrize("value", [3e9, -3e9, 1e30, math.inf, -math.inf, math.nan])
def test_what_no_symbol_can_hold_still_ends(value):
    """CompressAI's encoder never returns from 2^27 on; a symbol has 32 bits here."""
    own = LatentCoder(bottleneck(4))
    latent = torch.randn(2, 4, 5, 3)
    latent[1, 2, 3, 1] = value
    payloads = own.encode(latent)
    decoded = own.decode(payloads, (5, 3))
    expected = own.quantize(latent)
    outside = torch.zeros_like(latent, dtype=torch.bool)
    outside[1, 2, 3, 1] = True
    assert torch.equal(decoded[~outside], expected[~outside])
    assert bool(decoded.isfinite().all())


@pytest.mark.parametrize("bad", range(5))
def test_one_damaged_payload_of_a_batch_is_refused(bad):
    """Wherever it is, in this thread's share or another's."""
    own = LatentCoder(bottleneck(4))
    payloads = own.encode(torch.randn(5, 4, 6, 5) * 4)
    payloads[bad] = payloads[bad][:-4]
    size = len(payloads[bad])
    with pytest.raises(
        PayloadError, match=f"^payload of {size} bytes is damaged: it ends too early"
    ):
        own.decode(payloads, (6, 5))


def test_latents_of_any_layout_are_rounded_as_torch_does():
    """Halve go to the even neighbour; decoded latents are channels_last, ready for the decoder."""
    made = bottleneck(6)
    own = LatentCoder(made)
    medians = made._get_medians().detach().reshape(1, -1, 1, 1)
    halves = torch.arange(2 * 6 * 7 * 3).reshape(2, 6, 7, 3).float() / 2 - 50
    latent = halves + medians
    for form in (latent, latent.to(memory_format=torch.channels_last), latent.mT.contiguous().mT):
        decoded = own.decode(own.encode(form), (7, 3))
        assert torch.equal(decoded, own.quantize(latent))
        assert decoded.is_contiguous(memory_format=torch.channels_last)
