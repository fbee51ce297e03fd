"""The Gaussian coder: CompressAI's streams to the bit, and nothing trusted that comes in."""

from __future__ import annotations

import math

import pytest
import torch
from compressai.entropy_models import GaussianConditional
from compressai.models.google import get_scale_table

from ladon.codec import GaussianCoder
from ladon.errors import CheckpointError, PayloadError, UsageError


def conditional():
    made = GaussianConditional(None).eval()
    made.update_scale_table(get_scale_table())
    return made


def predicted(shape, seed=0):
    """Scale from below the least to above the greatest, means, and a latent of these."""
    generator = torch.Generator().manual_seed(seed)
    scales = torch.exp(torch.rand(shape, generator=generator) * 9 - 3)
    means = torch.randn(shape, generator=generator) * 5
    latent = means + scales * torch.randn(shape, generator=generator)
    return scales, means, latent


@pytest.mark.parametrize("with_means", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("seed", range(8))
def test_streams_are_compressais_to_the_bit(with_means, batch, seed):
    """Escape of both signs among them; height and width differ."""
    made = conditional()
    own = GaussianCoder(made)
    scales, means, latent = predicted((batch, 5, 7 + seed, 3), seed)
    latent[:, 1, 2] += 40_000.0
    latent[:, 3, 1] -= 123_456.0
    means = means if with_means else None
    rows = own.rows(scales)
    indexes = made.build_indexes(scales)
    assert torch.equal(rows.int(), indexes)
    assert {0, 63} <= set(rows.flatten().tolist())
    payloads = own.encode(latent, rows, means)
    assert payloads == made.compress(latent, indexes, means)
    decoded = own.decode(payloads, rows, means)
    assert torch.equal(decoded, made.decompress(payloads, indexes, means=means))
    assert torch.equal(decoded, own.quantize(latent, means))
    assert GaussianCoder(made, parallel=False).encode(latent, rows, means) == payloads


def test_a_scale_of_the_table_has_its_own_row():
    made = conditional()
    own = GaussianCoder(made)
    scales = made.scale_table.reshape(1, 1, 8, 8).clone()
    assert own.rows(scales).flatten().tolist() == list(range(64))
    odd = torch.tensor([math.nan, math.inf, -math.inf, 0.0]).reshape(1, 1, 2, 2)
    assert torch.equal(own.rows(odd).int(), made.build_indexes(odd))


def test_memory_format_does_not_matter():
    own = GaussianCoder(conditional())
    scales, means, latent = predicted((2, 6, 7, 3))
    expected = own.encode(latent, own.rows(scales), means)
    form = {"memory_format": torch.channels_last}
    rows = own.rows(scales.to(**form))
    assert own.encode(latent.to(**form), rows, means.to(**form)) == expected
    decoded = own.decode(expected, rows.to(**form), means)
    assert torch.equal(decoded, own.quantize(latent, means))


@pytest.mark.parametrize("with_means", [False, True])
def test_estimate_is_close(with_means):
    own = GaussianCoder(conditional())
    scales, means, latent = predicted((4, 8, 23, 21))
    how = own.rows(scales), means if with_means else None
    for estimated, payload in zip(
        own.estimate(latent, *how), own.encode(latent, *how), strict=True
    ):
        assert abs(estimated - len(payload)) <= 0.001 * len(payload) + 16


def test_damaged_payloads_are_refused():
    """Cut, extended, each bit of some words flipped: an error or another latent, never a crash."""
    own = GaussianCoder(conditional(), parallel=False)
    scales, _, latent = predicted((1, 4, 6, 5))
    latent[0, 2] += 5000.0
    rows = own.rows(scales)
    (payload,) = own.encode(latent, rows)
    for bad in (b"", payload[:-1], payload[:-4], payload[:8], payload + b"\0" * 4, b"\xff" * 400):
        with pytest.raises(PayloadError, match=f"payload of {len(bad)} bytes"):
            own.decode([bad], rows)
    refused = 0
    for bit in range(0, 8 * len(payload), 7):
        changed = bytearray(payload)
        changed[bit // 8] ^= 1 << bit % 8
        try:
            assert own.decode([bytes(changed)], rows).shape == latent.shape
        except PayloadError:
            refused += 1
    assert refused > 10


def test_a_payload_that_is_too_short_for_its_scales_is_refused_before_it_is_read():
    own = GaussianCoder(conditional())
    rows = torch.full((1, 8, 50, 50), 63, dtype=torch.uint8)
    with pytest.raises(PayloadError, match="too short for a latent of 50x50"):
        own.decode([b"\0" * 400], rows)


@pytest.mark.parametrize("bad", range(5))
def test_one_damaged_payload_of_a_batch_is_refused(bad):
    own = GaussianCoder(conditional())
    scales, means, latent = predicted((5, 4, 6, 5))
    rows = own.rows(scales)
    payloads = own.encode(latent, rows, means)
    payloads[bad] = payloads[bad][:-4]
    size = len(payloads[bad])
    with pytest.raises(
        PayloadError, match=f"^payload of {size} bytes is damaged: it ends too early"
    ):
        own.decode(payloads, rows, means)


def test_what_does_not_go_together_is_refused():
    own = GaussianCoder(conditional())
    scales, _, latent = predicted((2, 4, 6, 5))
    rows = own.rows(scales)
    for use in (own.encode, own.estimate):
        with pytest.raises(UsageError, match=r"\(2, 4, 6, 5\) and \(2, 4, 6, 4\)"):
            use(latent, rows[..., :4])
        with pytest.raises(UsageError, match="the coder takes float32"):
            use(latent.double(), rows)
    with pytest.raises(UsageError, match="1 payloads for the scales of 2 images"):
        own.decode(own.encode(latent, rows)[:1], rows)
    for odd in (rows.int(), rows + 64):
        with pytest.raises(UsageError, match="scales' rows"):
            own.encode(latent, odd)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda made: made.scale_table.resize_(0), r"missing \(scale_table\)"),
        (lambda made: made.scale_table.resize_(63), "_quantized_cdf is for 64 scales, .* has 63"),
        (lambda made: made.scale_table[5].fill_(math.nan), "holds nan at 5"),
        (lambda made: made.scale_table[0].fill_(-1), "holds -1 at 0"),
        (lambda made: made.scale_table[7].fill_(0.2), "holds 0.2 at 7"),
        (lambda made: setattr(made, "scale_table", made.scale_table.int()), "of torch.int32"),
        (lambda made: setattr(made, "scale_table", made.scale_table[None]), r"shape \(1, 64\)"),
        (lambda made: setattr(made, "scale_table", torch.arange(1.0, 400.0)), "399 scales, over"),
        (lambda made: made._quantized_cdf[3, 2:4].fill_(9), "scale 3 is not a cumulative"),
        (lambda made: made._cdf_length[63].fill_(9999), "scale 63 is not a cumulative"),
        (lambda made: made._offset[2].fill_(-(2**31)), "scale 2 begins at -2147483648"),
        (lambda made: made._offset.resize_(0), r"missing \(_offset\)"),
    ],
)
def test_unusable_tables_are_refused(damage, expected):
    made = conditional()
    damage(made)
    with pytest.raises(CheckpointError, match=expected):
        GaussianCoder(made)
