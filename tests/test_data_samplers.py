"""Aspect-ratio groups, grouped batches and collate functions."""

import logging
from collections import Counter

import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, RandomSampler, SequentialSampler, Subset
from torchdistill.datasets.registry import get_batch_sampler, get_collate_func

from ladon.data import collate  # noqa: F401  registers
from ladon.data.folder import ImageFolder
from ladon.data.samplers import GroupedBatchSampler, create_aspect_ratio_groups


class Sized(Dataset):
    def __init__(self, sizes):
        self.sizes = sizes

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        raise AssertionError("no image needs reading")


class Unsized(Sized):
    def __init__(self, sizes):
        self.shapes = sizes

    def __len__(self):
        return len(self.shapes)

    def __getitem__(self, index):
        return torch.zeros(3, *self.shapes[index]), 0


# Edges at k = 3: 0.5, 0.63, 0.794, 1, 1.26, 1.587, 2; an edge belongs to the wider group.
RATIOS = {0.4: 0, 0.5: 1, 0.6: 1, 0.7: 2, 0.9: 3, 1.0: 4, 1.3: 5, 1.6: 6, 1.9: 6, 2.0: 7, 9.0: 7}
SIZES = [(1000, int(1000 * ratio)) for ratio in RATIOS]


def test_groups_split_width_over_height_at_powers_of_two(caplog):
    with caplog.at_level(logging.INFO, "ladon"):
        assert create_aspect_ratio_groups(Sized(SIZES)) == list(RATIOS.values())
    assert "[1, 2, 1, 1, 1, 1, 2, 2]" in caplog.text


def test_factor_0_splits_tall_from_wide():
    assert create_aspect_ratio_groups(Sized([(3, 2), (2, 2), (2, 3)]), 0) == [0, 1, 1]


def test_groups_of_a_subset_and_of_images_without_sizes(tmp_path):
    subset = Subset(Subset(Sized(SIZES), [10, 0, 5]), [1, 2])
    assert create_aspect_ratio_groups(subset) == [0, 4]
    (tmp_path / "class").mkdir()
    Image.new("RGB", (10, 30)).save(tmp_path / "class" / "tall.png")
    Image.new("RGB", (30, 10)).save(tmp_path / "class" / "wide.png")
    assert create_aspect_ratio_groups(ImageFolder(tmp_path)) == [0, 7]
    assert create_aspect_ratio_groups(Unsized([(9, 3), (3, 3)])) == [0, 4]


@pytest.mark.parametrize("seed", range(5))
def test_batches_hold_one_group_and_their_number_is_fixed(seed):
    torch.manual_seed(seed)
    groups = torch.randint(0, 5, (103,)).tolist()
    sampler = GroupedBatchSampler(RandomSampler(groups), groups, 8)
    batches = list(sampler)
    assert len(batches) == len(sampler) == 12
    assert all(len(batch) == 8 for batch in batches)
    assert all(len({groups[i] for i in batch}) == 1 for batch in batches)
    uses = Counter(i for batch in batches for i in batch)
    assert max(uses.values()) <= 2


def test_leftovers_are_completed_with_earlier_members_the_fullest_first():
    groups = [0, 0, 0, 1, 1, 1, 1, 1, 2]
    batches = list(GroupedBatchSampler(SequentialSampler(groups), groups, 3))
    assert batches == [[0, 1, 2], [3, 4, 5], [6, 7, 3]]


def test_a_group_smaller_than_its_gap_is_repeated():
    groups = [0, 1, 2, 3]
    assert list(GroupedBatchSampler(SequentialSampler(groups), groups, 4)) == [[0, 0, 0, 0]]


def test_yielded_batches_are_not_changed_later():
    groups = [0] * 5
    batches = GroupedBatchSampler(SequentialSampler(groups), groups, 2)
    assert list(batches) == [[0, 1], [2, 3]]


def test_names_are_registered():
    assert get_batch_sampler("GroupedBatchSampler") is GroupedBatchSampler
    for name in ("coco_collate_fn", "coco_seg_collate_fn", "coco_seg_eval_collate_fn"):
        assert callable(get_collate_func(name))
    for name in ("pascal_seg_collate_fn", "pascal_seg_eval_collate_fn", "default_collate_w_pil"):
        assert callable(get_collate_func(name))


def test_detection_collate_keeps_samples_apart():
    fn = get_collate_func("coco_collate_fn")
    a, b = torch.zeros(3, 4, 5), torch.zeros(3, 6, 2)
    assert fn([(a, {"x": 1}), (b, {"x": 2})]) == ([a, b], [{"x": 1}, {"x": 2}])
    assert fn([(a, {}, {"s": 1})]) == ([a], [{}], [{"s": 1}])


def test_segmentation_collate_pads_images_with_0_and_masks_with_255():
    samples = [
        (torch.ones(3, 4, 5), torch.ones(4, 5, dtype=torch.int64)),
        (torch.ones(3, 6, 2), torch.ones(6, 2, dtype=torch.int64)),
    ]
    images, masks = get_collate_func("coco_seg_eval_collate_fn")(samples)
    assert (tuple(images.shape), tuple(masks.shape)) == ((2, 3, 6, 5), (2, 6, 5))
    assert masks.dtype == torch.int64
    assert (masks[0, 4:] == 255).all()
    assert (masks[1, :, 2:] == 255).all()
    assert (images[0, :, 4:] == 0).all()
    assert int((masks == 1).sum()) == 4 * 5 + 6 * 2
    triples = [(*sample, {"i": i}) for i, sample in enumerate(samples)]
    same_images, same_masks, supp = get_collate_func("coco_seg_collate_fn")(triples)
    assert torch.equal(same_images, images)
    assert torch.equal(same_masks, masks)
    assert supp == ({"i": 0}, {"i": 1})
