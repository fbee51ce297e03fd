"""RoIAlign with channels next to each other: what torchvision's gives, up to rounding."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torchvision.ops import MultiScaleRoIAlign

from ladon.kernels.roi_align import FastRoIAlign


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def pyramid(dtype: torch.dtype = torch.float32) -> OrderedDict[str, torch.Tensor]:
    drawn = torch.Generator().manual_seed(0)
    maps = {str(n): torch.randn(2, 8, 64 >> n, 80 >> n, generator=drawn) for n in range(3)}
    channels_last = torch.channels_last
    found = {n: m.to(dtype).contiguous(memory_format=channels_last) for n, m in maps.items()}
    return OrderedDict(found, pool=torch.zeros(2, 8, 1, 1))


def boxes(*counts: int) -> list[torch.Tensor]:
    drawn = torch.Generator().manual_seed(1)
    corners = [torch.rand(count, 4, generator=drawn) * 120 for count in counts]
    return [torch.cat([c[:, :2], c[:, :2] + c[:, 2:] + 1], dim=1) for c in corners]


SIZES = [(256, 320), (250, 300)]


def pools(*levels: str, ratio: int = 2) -> tuple[FastRoIAlign, MultiScaleRoIAlign]:
    names = list(levels)
    fast = FastRoIAlign(MultiScaleRoIAlign(names, (7, 5), ratio))
    return fast, MultiScaleRoIAlign(names, (7, 5), ratio)


@pytest.mark.parametrize("counts", [(100, 57), (0, 200), (97, 1), (0, 0), (1, 0)])
@pytest.mark.parametrize(("levels", "ratio"), [("012", 2), ("012", -1), ("1", 3)])
def test_boxes_are_pooled_as_by_torchvision(counts, levels, ratio):
    fast, plain = pools(*levels, ratio=ratio)
    with torch.inference_mode():
        found = fast(pyramid(), boxes(*counts), SIZES)
        expected = plain(pyramid(), boxes(*counts), SIZES)
    assert found.shape == (sum(counts), 8, 7, 5)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_boxes_over_the_edge_and_without_extent():
    """Samples outside by more than a cell count as zero, and no box is narrower than one."""
    corners = [[-40, -30, 20, 9], [300, 240, 400, 300], [10, 10, 10, 10], [0, 0, 320, 256.0]]
    given = [torch.tensor(corners), torch.tensor(corners[::-1])]
    fast, plain = pools("0", "1", "2")
    torch.testing.assert_close(
        fast(pyramid(), given, SIZES), plain(pyramid(), given, SIZES), rtol=1e-5, atol=1e-5
    )


def test_the_first_boxes_decide_nothing():
    """torchvision's keeps the maps' scales from its first call: so must this."""
    fast, plain = pools("0", "1", "2")
    for counts in ((2, 1), (150, 90)):
        found, expected = (each(pyramid(), boxes(*counts), SIZES) for each in (fast, plain))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert fast.pool.scales == plain.scales


def test_the_number_of_threads_changes_nothing():
    found = []
    for count in (1, 3):
        torch.set_num_threads(count)
        found.append(pools("0", "1", "2")[0](pyramid(), boxes(190, 80), SIZES))
    assert torch.equal(*found)


def test_other_maps_are_left_to_torchvision():
    fast, plain = pools("0", "1", "2")
    given = [image.double() for image in boxes(90, 80)]
    found, expected = (each(pyramid(torch.float64), given, SIZES) for each in (fast, plain))
    assert found.dtype == torch.float64
    assert torch.equal(found, expected)
