"""What holds for whatever is drawn: of configs, samplers, transforms, metrics and streams."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from golden_streams import Case, engine, random_case
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO
from torch.utils.data import SequentialSampler

from ladon.config.core.merge import DELETE, drop_delete_marks, merge
from ladon.config.core.nodes import SourceLocation, from_plain
from ladon.data.loaders import EpochBatchSampler
from ladon.data.samplers import GroupedBatchSampler
from ladon.data.transforms import (
    CustomCenterCrop,
    CustomCompose,
    CustomRandomCrop,
    CustomRandomHorizontalFlip,
    CustomRandomResize,
    CustomToTensor,
)
from ladon.metrics.accuracy import Accuracy
from ladon.metrics.coco import CocoMetric
from ladon.metrics.confusion import IGNORED, ConfusionMatrix

few = settings(max_examples=40, deadline=None, derandomize=True, database=None)

KEYS = st.sampled_from("abc")
PLAIN = st.dictionaries(
    KEYS,
    st.recursive(
        st.none() | st.integers(0, 3) | st.lists(st.integers(0, 3), max_size=2),
        lambda inner: st.dictionaries(KEYS, inner, max_size=3),
        max_leaves=6,
    ),
    max_size=3,
)
MARK = SourceLocation("a.yaml", 1)


def config(plain):
    return from_plain(plain, MARK)


def merged(old, new):
    """Two layers by the definition: mappings key by key, anything else is replaced."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    return old | {key: merged(old.get(key), value) for key, value in new.items()}


@settings(few, max_examples=25)
@given(PLAIN, PLAIN, PLAIN)
def test_layers_merge_key_by_key_and_leave_each_other_alone(a, b, c):
    layers = [config(plain) for plain in (a, b, c)]
    found = merge(merge(layers[0], layers[1]), layers[2])
    assert found == merged(merged(a, b), c)
    assert layers == [a, b, c]
    assert merge(config(a), config({})) == merge(config({}), config(a)) == a
    assert merge(found, config(c)) == found


@settings(few, max_examples=25)
@given(PLAIN, PLAIN)
def test_what_deletes_replaces(a, b):
    made = merge(config({"x": a}), config({"x": {**b, DELETE: True}}))
    drop_delete_marks(made)
    assert made == {"x": b}


class Numbered(torch.utils.data.Dataset):
    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return index


@few
@given(
    st.integers(1, 40), st.integers(1, 9), st.integers(1, 5), st.integers(0, 3), st.integers(0, 9)
)
def test_ranks_deal_out_an_epoch_and_a_resumed_one_is_its_tail(size, batch, ranks, epoch, skip):
    shards = []
    for rank in range(ranks):
        sampler = EpochBatchSampler(
            Numbered(size), None, None, {"batch_size": batch}, 5, rank, ranks
        )
        sampler.set_epoch(epoch)
        shards.append(list(sampler))
        sampler.set_epoch(epoch, skip * ranks)
        assert list(sampler) == shards[-1][skip:]
        assert sampler.remaining == len(shards[-1][skip:])
    rounds = len(shards[0])
    assert [len(shard) for shard in shards] == [rounds] * ranks
    dealt = [shards[n % ranks][n // ranks] for n in range(rounds * ranks)]
    count = -(-size // batch)
    assert rounds == -(-count // ranks)
    assert sorted(index for one in dealt[:count] for _, index in one) == list(range(size))
    assert all(one == dealt[n % count] for n, one in enumerate(dealt))
    assert {e for one in dealt for e, _ in one} == {epoch}


@few
@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(1, 9))
def test_grouped_batches_are_full_and_of_one_group(groups, size):
    batches = list(GroupedBatchSampler(SequentialSampler(groups), groups, size))
    assert len(batches) == len(groups) // size
    assert all(len(batch) == size for batch in batches)
    assert all(len({groups[index] for index in batch}) == 1 for batch in batches)
    full = sum(count // size for count in Counter(groups).values())
    assert all(len({*batch}) == size for batch in batches[:full])


SIDES = st.integers(1, 24)


@few
@given(SIDES, SIDES, SIDES, SIDES, st.integers(0, 99), st.booleans())
def test_image_and_mask_stay_together(width, height, rows, columns, seed, central):
    ids = np.random.default_rng(seed).integers(0, 21, (height, width), dtype=np.uint8)
    torch.manual_seed(seed)
    crop = (CustomCenterCrop if central else CustomRandomCrop)((rows, columns))
    transform = CustomCompose(
        [CustomRandomHorizontalFlip(0.5), crop, CustomToTensor(as_bytes=True)]
    )
    image, mask = transform(Image.fromarray(np.stack([ids] * 3, 2)), Image.fromarray(ids))
    assert image.shape == (3, rows, columns)
    assert mask.shape == (rows, columns)
    is_padded = mask == IGNORED
    assert torch.equal(image[1].long(), mask.masked_fill(is_padded, 0))
    assert int((~is_padded).sum()) == min(rows, height) * min(columns, width)
    assert set(mask[~is_padded].tolist()) <= {*ids.ravel().tolist()}


@few
@given(SIDES, SIDES, SIDES, st.integers(0, 9), st.booleans())
def test_resized_pairs_have_one_size_and_masks_no_new_class(width, height, low, more, square):
    ids = np.arange(width * height, dtype=np.uint8).reshape(height, width) % 7 * 3
    torch.manual_seed(low)
    resize = CustomRandomResize(low, low + more, square=square)
    image, mask = resize(Image.fromarray(ids).convert("RGB"), Image.fromarray(ids))
    assert image.size == mask.size
    assert low <= min(image.size) <= low + more
    assert not square or image.width == image.height
    assert {*np.unique(mask)} <= {*np.unique(ids)}


def splits(draw, count):
    """Cut 0..count into batches, and give each to one of three processes."""
    cuts = sorted(draw(st.sets(st.integers(1, max(1, count - 1)), max_size=4)) | {0, count})
    parts = [(a, b) for a, b in pairwise(cuts) if b > a]
    return [(part, draw(st.integers(0, 2))) for part in parts]


@few
@given(st.data(), st.integers(1, 12), st.integers(2, 8), st.integers(0, 99))
def test_scores_are_the_same_whoever_evaluates_what(data, count, classes, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(0, 3, (count, classes, 2, 3), generator=generator).float()
    labels = torch.randint(0, classes, (count, 2, 3), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = IGNORED
    split = splits(data.draw, count)
    for make, outputs, targets in (
        (lambda: ConfusionMatrix(classes), logits, labels),
        (Accuracy, logits[..., 0, 0], labels[:, 0, 0] % classes),
    ):
        whole, parts = make(), [make() for _ in range(3)]
        whole.update(outputs, targets)
        for (start, end), process in split:
            parts[process].update(outputs[start:end], targets[start:end])
        values = whole.compute([whole.state()])
        assert parts[0].compute([part.state() for part in parts]) == values
        shares = [v for name, v in values.items() if name.startswith(("acc", "mean", "pixel"))]
        assert all(0 <= share <= 100 for share in shares)
    assert values["acc1"] <= values["acc5"]


@settings(few, max_examples=15)
@given(st.data(), st.integers(1, 6), st.integers(0, 99))
def test_average_precision_is_the_same_whoever_evaluates_what(data, count, seed):
    rng = np.random.default_rng(seed)
    coco = COCO()
    boxes = rng.integers(1, 50, (count, 3, 4)).astype(float)
    coco.dataset = {
        "images": [{"id": i} for i in range(count)],
        "categories": [{"id": 1}, {"id": 2}],
        "annotations": [
            {"id": 3 * i + n, "image_id": i, "category_id": n % 2 + 1, "iscrowd": 0}
            | {"bbox": boxes[i, n].tolist(), "area": float(boxes[i, n, 2:].prod())}
            for i in range(count)
            for n in range(3)
        ],
    }
    coco.createIndex()
    corners = torch.from_numpy(np.concatenate([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], 2))
    shift = torch.from_numpy(rng.integers(0, 9, corners.shape)).double()
    outputs = [
        {
            "boxes": corners[i] + shift[i],
            "labels": torch.tensor([1, 2, 1]),
            "scores": torch.from_numpy(rng.random(3)),
        }
        for i in range(count)
    ]
    targets = [{"image_id": torch.tensor(i)} for i in range(count)]
    whole, parts = CocoMetric(coco), [CocoMetric(coco) for _ in range(3)]
    whole.update(outputs, targets)
    for (start, end), process in splits(data.draw, count):
        parts[process].update(outputs[start:end], targets[start:end])
    values = whole.compute([whole.state()])
    assert parts[0].compute([part.state() for part in parts]) == values
    assert values["AP"] <= values["AP50"]


@few
@given(st.integers(0, 99), st.lists(st.integers(-(2**20), 2**20), min_size=1, max_size=12))
def test_any_symbols_come_back_from_their_stream(seed, symbols):
    drawn = random_case(np.random.default_rng(seed), has_rows=True)
    rows = np.resize(drawn.rows, (1, len(symbols)))
    made = Case(np.array([symbols], np.int32), rows, *drawn.tables)
    coder = engine("Python", Path())
    status, found = made.decoded(coder, made.encoded(coder))
    assert status == 0
    assert np.array_equal(found, made.symbols)
