"""The device's coder: the strings of `LatentCoder`, whatever writes them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from compressai.entropy_models import EntropyBottleneck
from golden_streams import engine

from ladon.codec import LatentCoder
from ladon.edge.coder import EdgeTables, FactorizedCoder
from ladon.errors import CheckpointError, DataError, PayloadError, UsageError


def pair(rans, channels: int = 5):
    """The library's coder of a prior, and the device's."""
    torch.manual_seed(3)
    prior = EntropyBottleneck(channels, init_scale=6.0).eval()
    with torch.no_grad():
        prior.quantiles[:, :, 1].add_(torch.randn(channels, 1))
    prior.update()
    own = LatentCoder(prior)
    medians = prior._get_medians().detach().reshape(-1).numpy()
    return own, FactorizedCoder(own._cdf, own._length, own._offset, medians, rans=rans)


@pytest.mark.parametrize("name", ["C", "Python"])
@pytest.mark.parametrize("scale", [0.1, 3, 1e3])
def test_strings_and_latents_are_the_librarys(name, scale, tmp_path_factory):
    own, device = pair(engine(name, tmp_path_factory.getbasetemp()))
    latent = torch.randn(1, 5, 9, 14, generator=torch.Generator().manual_seed(1)) * scale
    latent[0, 0, 0] = torch.arange(14) / 2 + own._medians[0, 0, 0]  # halves
    latent[0, 1, 1, :4] = torch.tensor([math.inf, -math.inf, 3e9, -3e9])
    symbols = device.symbols(latent[0].numpy())
    string = device.encode(symbols)
    assert string == own.encode(latent)[0]
    assert np.array_equal(device.decode(string, (9, 14)), symbols)
    decoded = own.decode([string], (9, 14))[0].numpy()
    assert np.array_equal(device.latent(symbols), decoded)


def test_latents_of_any_layout_are_taken():
    _, device = pair(engine("Python", Path()))
    latent = np.random.default_rng(0).normal(0, 4, (5, 6, 7)).astype(np.float32)
    expected = device.encode(device.symbols(latent))
    flipped = np.asfortranarray(latent)
    assert device.encode(device.symbols(flipped)) == expected
    for wrong in (latent[:4], latent.astype(np.float64), latent[None]):
        with pytest.raises(UsageError, match=r"for a coder of 5 channels of float32$"):
            device.symbols(wrong)


def test_damaged_strings_are_refused():
    _, device = pair(engine("Python", Path()))
    string = device.encode(device.symbols(np.ones((5, 6, 7), np.float32)))
    for bad in (string[:-4], string[:-1], string + b"abcd", b""):
        with pytest.raises(PayloadError, match=f"^payload of {len(bad)} bytes"):
            device.decode(bad, (6, 7))


def test_tables_are_kept_and_checked(tmp_path):
    own, device = pair(engine("Python", Path()))
    path = tmp_path / "tables.npz"
    medians, steps = own._grid
    tables = EdgeTables(own._cdf, own._length, own._offset, medians, steps[None])
    tables.save(path)
    latent = np.random.default_rng(0).normal(0, 4, (5, 6, 7)).astype(np.float32)
    symbols = device.symbols(latent)
    assert EdgeTables.load(path).level().encode(symbols) == device.encode(symbols)
    content = path.read_bytes()
    for damage in (b"", content[:100], b"PK" + bytes(200)):
        path.write_bytes(damage)
        with pytest.raises(DataError, match=r"tables\.npz is damaged"):
            EdgeTables.load(path)


def test_tables_of_a_folder_of_format_1(tmp_path):
    own, device = pair(engine("Python", Path()))
    names = "cdf", "length", "offset", "medians"
    arrays = own._cdf, own._length, own._offset, own._grid[0]
    np.savez_compressed(tmp_path / "old.npz", **dict(zip(names, arrays, strict=True)))
    symbols = np.ones((5, 6, 7), np.int32)
    read = EdgeTables.load(tmp_path / "old.npz").level()
    assert read.encode(symbols) == device.encode(symbols)


def test_tables_that_cannot_be_coded_with_are_refused():
    cdf, length = np.array([[0, 9, 65536]] * 2, np.int32), np.full(2, 3, np.int32)
    offset, medians = np.zeros(2, np.int32), np.zeros(2, np.float32)
    FactorizedCoder(cdf, length, offset, medians)
    for damage in (length + 1, length[:1], length - 2):
        with pytest.raises(CheckpointError, match=r"odd shape|not a cumulative distribution"):
            FactorizedCoder(cdf, damage, offset, medians)
    with pytest.raises(CheckpointError, match="not finite"):
        FactorizedCoder(cdf, length, offset, medians + np.nan)
