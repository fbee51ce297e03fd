"""RoIAlign by several threads: what torchvision's gives, to the bit."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torchvision.ops import MultiScaleRoIAlign

from ladon.kernels.roi_align import ThreadedRoIAlign


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


@pytest.mark.parametrize("counts", [(100, 57), (0, 200), (97, 1), (3, 4), (0, 0), (33, 32)])
def test_every_box_is_pooled_as_by_one_thread(counts):
    pool = MultiScaleRoIAlign(["0", "1", "2"], 7, 2)
    with torch.inference_mode():
        found = ThreadedRoIAlign(pool)(pyramid(), boxes(*counts), SIZES)
        own = MultiScaleRoIAlign(["0", "1", "2"], 7, 2)
        expected = own(pyramid(), boxes(*counts), SIZES)
    assert found.shape == (sum(counts), 8, 7, 7)
    assert torch.equal(found, expected)
    assert found.is_inference() == expected.is_inference()


def test_the_first_boxes_decide_nothing():
    """torchvision's keeps the maps' scales from its first call: so must this."""
    pool = ThreadedRoIAlign(MultiScaleRoIAlign(["0", "1", "2"], 7, 2))
    again = MultiScaleRoIAlign(["0", "1", "2"], 7, 2)
    for counts in ((2, 1), (150, 90)):
        assert torch.equal(
            pool(pyramid(), boxes(*counts), SIZES), again(pyramid(), boxes(*counts), SIZES)
        )
    assert pool.pool.scales == again.scales


def test_threads_have_the_callers_autocast():
    pool = MultiScaleRoIAlign(["0", "1", "2"], 7, 2)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = ThreadedRoIAlign(pool)(pyramid(torch.bfloat16), boxes(90, 80), SIZES)
        expected = pool(pyramid(torch.bfloat16), boxes(90, 80), SIZES)
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)


def test_an_error_arrives():
    pool = ThreadedRoIAlign(MultiScaleRoIAlign(["0"], 7, 2))
    with pytest.raises(AssertionError, match="boxes tensor shape"):
        pool({"0": torch.zeros(2, 8, 16, 16)}, [torch.zeros(200, 3)], SIZES[:1])
