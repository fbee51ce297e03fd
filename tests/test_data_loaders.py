import logging
import random
import signal
from multiprocessing import active_children

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, RandomSampler, SequentialSampler, Subset

from ladon.data import loaders
from ladon.data.batching import (
    batch_by_size,
    collate,
    end_workers,
    unpacked_batches,
    unwrap_worker_error,
)
from ladon.data.loaders import (
    EpochBatchSampler,
    IndexedDataset,
    SeededDataset,
    build_eval_loader,
    build_train_loader,
    get_num_iterations,
)
from ladon.data.samplers import image_size
from ladon.errors import ConfigError, DataError


class Noise(Dataset):
    """Samples that draw from all three global generators."""

    def __init__(self, length=20):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        draws = [random.random(), np.random.rand(), float(torch.rand(()))]
        return torch.tensor([index, *draws], dtype=torch.float64), index


class Shapes(Dataset):
    """Images of two sizes by turns, 4x6 and 6x4; the last sample is damaged on demand."""

    def __init__(self, length=10, damaged=False):
        self.length = length
        self.damaged = damaged

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if self.damaged and index == self.length - 1:
            try:
                raise OSError("truncated")
            except OSError as error:
                raise DataError(f"cannot read image {index}.jpg: truncated; remove it") from error
        return torch.full((3, *((4, 6) if index % 2 else (6, 4))), index), index


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    monkeypatch.setattr(loaders, "usable_cores", lambda: 2)


def rng_states():
    _, keys, position, *_ = np.random.get_state()
    return random.getstate(), keys.tolist(), position, torch.get_rng_state().tolist()


def order(batches):
    return [[index for _, index in batch] for batch in batches]


def train_epoch(epoch=0, skip=0, workers=0, seed=7, **config):
    kwargs = {"batch_size": 4, "num_workers": workers}
    loader = build_train_loader(Noise(), {"kwargs": kwargs, **config}, seed)
    loader.batch_sampler.set_epoch(epoch, skip)
    return torch.stack([batch[0] for batch in unpacked_batches(loader)])


def test_num_iterations_of_the_published_recipes():
    # Facts from the published logs: ILSVRC at 32 and 16, and VOC's 1464 images at 16.
    assert get_num_iterations(range(1281167), 32, 1) == 40037
    assert get_num_iterations(range(1281167), 16, 1) == 80073
    assert get_num_iterations(range(1464), 16, 1) == 92
    assert get_num_iterations(range(10), 2, 3) == 2


def test_order_depends_on_seed_and_epoch_only():
    def epoch_order(seed, epoch, **kwargs):
        batches = EpochBatchSampler(Noise(), None, None, {"batch_size": 4}, seed, **kwargs)
        batches.set_epoch(epoch)
        return order(batches)

    torch.manual_seed(1)
    first = epoch_order(0, 3)
    torch.manual_seed(2)
    assert epoch_order(0, 3) == first
    assert sorted(index for batch in first for index in batch) == list(range(20))
    assert epoch_order(0, 4) != first
    assert epoch_order(1, 3) != first
    assert epoch_order(-1, 3) != first


def test_going_back_to_an_epoch_repeats_it():
    batches = EpochBatchSampler(Noise(), None, None, {"batch_size": 4}, 0)
    batches.set_epoch(1)
    first = list(batches)
    assert list(batches) == first
    batches.set_epoch(2)
    list(batches)
    batches.set_epoch(1)
    assert list(batches) == first
    assert {epoch for batch in first for epoch, _ in batch} == {1}


@pytest.mark.parametrize(("drop_last", "count"), [(False, 7), (True, 6)])
def test_plain_batches_follow_drop_last(drop_last, count):
    batches = EpochBatchSampler(Noise(), None, None, {"batch_size": 3, "drop_last": drop_last}, 0)
    assert len(batches) == len(list(batches)) == count


def test_the_users_sampler_and_batch_sampler_are_used():
    sampler = {"class_or_func": SequentialSampler, "kwargs": None}
    batches = EpochBatchSampler(Noise(5), sampler, None, {"batch_size": 2}, 0)
    assert order(batches) == [[0, 1], [2, 3], [4]]
    grouped = {"key": "GroupedBatchSampler", "kwargs": {"batch_size": 2, "group_ids": [0, 1] * 3}}
    assert order(EpochBatchSampler(Noise(6), sampler, grouped, {}, 0)) == [[0, 2], [1, 3], [4, 0]]
    twice = {"class_or_func": RandomSampler, "kwargs": {"replacement": True, "num_samples": 50}}
    assert len(EpochBatchSampler(Noise(5), twice, None, {"batch_size": 5}, 0)) == 10


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_ranks_share_the_batches_and_see_equally_many(world_size):
    whole = order(EpochBatchSampler(Noise(), None, None, {"batch_size": 4}, 0))
    shards = [
        order(EpochBatchSampler(Noise(), None, None, {"batch_size": 4}, 0, rank, world_size))
        for rank in range(world_size)
    ]
    rounds = get_num_iterations(Noise(), 4, world_size)
    assert {len(shard) for shard in shards} == {rounds}
    dealt = [shards[i % world_size][i // world_size] for i in range(rounds * world_size)]
    assert dealt[:5] == whole
    assert dealt[5:] == whole[: len(dealt) - 5]


def test_skip_yields_the_tail_and_keeps_the_length():
    full = train_epoch(epoch=2)
    assert torch.equal(train_epoch(epoch=2, skip=3), full[3:])
    batches = EpochBatchSampler(Noise(), None, None, {"batch_size": 4}, 7)
    batches.set_epoch(2, skip=3)
    assert (len(batches), batches.remaining) == (5, 2)
    batches.set_epoch(2, skip=9)
    assert (len(batches), batches.remaining, list(batches)) == (5, 0, [])


@pytest.mark.parametrize(("before", "now"), [(1, 1), (2, 2), (2, 1), (1, 2), (3, 2), (2, 4)])
@pytest.mark.parametrize("rounds", [0, 1, 2])
def test_another_number_of_processes_sees_the_batches_that_are_left(before, now, rounds):
    """And no other ones, but for the last round's filling: the epoch's first."""

    def shard(rank, size, skip):
        made = EpochBatchSampler(Noise(26), None, None, {"batch_size": 4}, 0, rank, size)
        made.set_epoch(1, skip)
        return made

    whole = order(shard(0, 1, 0))
    assert len(whole) == 7
    done = [order(shard(rank, before, 0))[:rounds] for rank in range(before)]
    seen = [batch for turn in zip(*done, strict=True) for batch in turn]
    shards = [shard(rank, now, len(seen)) for rank in range(now)]
    left = [batch for turn in zip(*map(order, shards), strict=True) for batch in turn]
    assert {made.remaining for made in shards} == {len(left) // now}
    assert (seen + left)[:7] == whole
    assert (seen + left)[7:] == whole[: len(seen + left) - 7]
    assert len(left) - (7 - len(seen)) < now
    assert {made.total for made in shards} == {7}


def test_a_set_smaller_than_a_batch_is_an_error():
    with pytest.raises(DataError, match="training set: 3 samples fill no batch"):
        len(EpochBatchSampler(Noise(3), None, None, {"batch_size": 4, "drop_last": True}, 0))


def test_augmentation_does_not_depend_on_workers():
    alone = train_epoch(epoch=1)
    assert torch.equal(train_epoch(epoch=1, workers=2), alone)
    by_index = alone.flatten(0, 1)
    by_index = by_index[by_index[:, 0].argsort()]
    other = train_epoch(epoch=2).flatten(0, 1)
    other = other[other[:, 0].argsort()]
    assert not (by_index[:, 1:] == other[:, 1:]).any()
    assert len(by_index[:, 1:].unique()) == 60


def test_persistent_workers_go_through_several_epochs():
    config = {"kwargs": {"batch_size": 4, "num_workers": 1}}
    loader = build_train_loader(Noise(), config, 7)
    assert loader.persistent_workers
    for epoch in (0, 1):
        loader.batch_sampler.set_epoch(epoch)
        got = torch.stack([batch[0] for batch in unpacked_batches(loader)])
        assert torch.equal(got, train_epoch(epoch))


@pytest.mark.parametrize("workers", [0, 1])
def test_the_main_process_keeps_its_random_numbers(workers):
    before = rng_states()
    train_epoch(workers=workers)
    list(
        batch_by_size(
            build_eval_loader(Noise(), {"kwargs": {"num_workers": workers}}), len, lambda size: 1
        )
    )
    assert rng_states() == before


def test_training_samples_get_a_supplementary_dict():
    assert SeededDataset(Noise(), 0, requires_supp=True)[0, 3][2] == {}
    assert len(SeededDataset(Noise(), 0)[0, 3]) == 2
    for expected, config in ((3, {}), (2, {"requires_supp": False})):
        loader = build_train_loader(Noise(), config, 0)
        assert len(next(iter(unpacked_batches(loader)))) == expected
    loader = build_train_loader(Noise(), {"collate_fn": "coco_collate_fn"}, 0)
    assert next(iter(loader))[2] == [{}]


def test_a_dataset_wrapper_of_the_config_is_applied():
    config = {
        "dataset_wrapper": {
            "key": "CRDDatasetWrapper",
            "kwargs": {"num_negative_samples": 2, "mode": "exact", "ratio": 0},
        }
    }
    dataset = Noise(6)
    dataset.classes, dataset.targets = ["a", "b"], [0, 1] * 3
    dataset.__class__ = type("Labelled", (Noise,), {"__getitem__": lambda d, i: (i, d.targets[i])})
    loader = build_train_loader(dataset, config, 0)
    _, _, supp = next(iter(loader))
    assert supp["contrast_idx"].shape == (1, 3)
    assert len(list(build_eval_loader(dataset, config))) == 6


def test_unknown_names_are_config_errors():
    with pytest.raises(ConfigError, match=r"no_such_fn.*dependencies"):
        build_train_loader(Noise(), {"collate_fn": "no_such_fn"}, 0)
    with pytest.raises(ConfigError, match="NoSampler"):
        list(EpochBatchSampler(Noise(), None, {"key": "NoSampler"}, {}, 0))


def test_workers_are_capped_at_the_cores_and_it_is_said_once(caplog):
    loaders._log_cap.cache_clear()
    config = {"kwargs": {"num_workers": 16}}
    with caplog.at_level(logging.INFO, "ladon"):
        assert build_train_loader(Noise(), config, 0).num_workers == 2
        assert build_eval_loader(Noise(), config).num_workers == 2
    assert caplog.text.count("2 loader workers instead of 16") == 1


@pytest.mark.parametrize(("cores", "workers"), [(2, 0), (7, 0), (8, 1), (64, 2)])
def test_beside_a_network_on_the_cpu_few_workers_start(monkeypatch, cores, workers):
    monkeypatch.setattr(loaders, "usable_cores", lambda: cores)
    config = {"kwargs": {"num_workers": 2, "prefetch_factor": 3}}
    loader = build_eval_loader(Noise(), config, network_on_cpu=True)
    assert loader.num_workers == workers
    assert len(list(loader)) == 20


def test_loader_kwargs_are_passed_on_and_what_needs_workers_is_left_out():
    kwargs = {"num_workers": 0, "prefetch_factor": 4, "shuffle": True, "persistent_workers": True}
    loader = build_train_loader(Noise(), {"kwargs": kwargs}, 0)
    assert (loader.num_workers, loader.persistent_workers) == (0, False)
    kwargs = {"num_workers": 1, "prefetch_factor": 4, "persistent_workers": False}
    loader = build_train_loader(Noise(), {"kwargs": kwargs}, 0)
    assert (loader.prefetch_factor, loader.persistent_workers) == (4, False)


def test_a_large_batch_is_sent_in_parts():
    loader = build_eval_loader(Noise(40), {"kwargs": {"batch_size": 64}})
    assert [len(samples) for samples in unpacked_batches(loader)] == [16, 16, 8]
    (whole,) = batch_by_size(loader, len, lambda size: 64)
    assert [index for index, _, _ in whole] == list(range(40))


def test_batches_are_stacked_into_pinned_memory(monkeypatch):
    """The same batch as without; what cannot be stacked is refused in the same words."""
    pinned, empty = [], torch.empty

    def recorded(*size, pin_memory=False, **how):
        pinned.append(pin_memory)
        return empty(*size, **how)

    monkeypatch.setattr(torch, "empty", recorded)
    samples = [(n, torch.full((3, 4, 4), n, dtype=torch.uint8), n % 2) for n in range(3)]
    plain, found = collate(samples), collate(samples, pin_memory=True)
    assert pinned == [True]
    assert found[0] == plain[0] == [0, 1, 2]
    assert torch.equal(found[1], plain[1])
    assert torch.equal(found[2], plain[2])
    own = collate(samples, lambda pairs: (len(pairs), "targets"), pin_memory=True)
    assert own == ([0, 1, 2], 3, "targets")
    uneven = [(0, torch.zeros(3, 4, 4), 0), (1, torch.zeros(3, 5, 4), 0)]
    for pin_memory in (False, True):
        with pytest.raises(DataError, match="cannot make a batch of samples of shape"):
            collate(uneven, pin_memory=pin_memory)


def test_workers_ignore_ctrl_c():
    class Signals(Noise):
        def __getitem__(self, index):
            ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            return torch.tensor([ignored, torch.get_num_threads() == 1]), index

    before = signal.getsignal(signal.SIGINT)
    (_, flags, _), *_ = next(
        unpacked_batches(build_eval_loader(Signals(), {"kwargs": {"num_workers": 1}}))
    )
    assert flags.all()
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("world_size", [1, 3])
def test_evaluation_counts_each_sample_once(world_size):
    config = {"kwargs": {"batch_size": 4, "drop_last": True}}
    seen = [
        index
        for rank in range(world_size)
        for samples in build_eval_loader(Noise(), config, rank, world_size)
        for index, _, _ in samples
    ]
    assert sorted(seen) == list(range(20))


def test_evaluation_follows_the_configured_sampler_and_ignores_batch_samplers(caplog):
    config = {
        "sampler": {"class_or_func": RandomSampler, "kwargs": None},
        "batch_sampler": {"key": "x"},
    }
    first, second = ([s[0][0] for s in build_eval_loader(Noise(), config)] for _ in range(2))
    assert first == second != sorted(first)
    assert "batch_sampler is ignored" in caplog.text


def test_evaluation_samples_are_the_same_at_every_call():
    dataset = IndexedDataset(Subset(Noise(), [5, 6]))
    index, sample, target = dataset[1]
    assert (len(dataset), index, target) == (2, 1, 6)
    assert torch.equal(dataset[1][1], sample)
    assert not torch.equal(dataset[0][1][1:], sample[1:])


@pytest.mark.parametrize(
    ("batch_size", "expected"),
    [
        (1, [[i] for i in range(10)]),
        (2, [[0, 2], [1, 3], [4, 6], [5, 7], [8], [9]]),
        (4, [[0, 2, 4, 6], [1, 3, 5, 7], [8], [9]]),
        (99, [[0, 2, 4, 6, 8], [1, 3, 5, 7, 9]]),
    ],
)
def test_buckets_hold_one_size(batch_size, expected):
    loader = build_eval_loader(Shapes(), {"kwargs": {"batch_size": 3}})
    lists = list(batch_by_size(loader, image_size, lambda size: batch_size))
    assert [[index for index, _, _ in samples] for samples in lists] == expected
    assert all(len({image_size(image) for _, image, _ in samples}) == 1 for samples in lists)


def test_collate_uses_the_users_function():
    samples = next(batch_by_size(build_eval_loader(Shapes(), {}), image_size, lambda size: 2))
    indices, images, targets = collate(samples)
    assert (indices, tuple(images.shape), targets.tolist()) == ([0, 2], (2, 3, 6, 4), [0, 2])
    indices, images, targets = collate(samples, "coco_collate_fn")
    assert (indices, len(images), targets) == ([0, 2], 2, [0, 2])
    masks = [(i, torch.zeros(3, 2, 2), torch.zeros(2, 2)) for i in range(3)]
    assert collate(masks, "coco_seg_eval_collate_fn")[2].shape == (3, 2, 2)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_sample_gives_its_own_one_line_message(workers):
    config = {"kwargs": {"num_workers": workers, "batch_size": 2}, "collate_fn": "coco_collate_fn"}
    dataset = Shapes(damaged=True)
    train = unpacked_batches(build_train_loader(dataset, config, 0))
    test = batch_by_size(build_eval_loader(dataset, config), image_size, lambda size: 2)
    for run in (train, test):
        with pytest.raises(DataError) as caught:
            list(run)
        assert str(caught.value) == "cannot read image 9.jpg: truncated; remove it"


def test_no_worker_outlives_an_error_whose_traceback_is_kept():
    config = {"kwargs": {"num_workers": 2, "batch_size": 2}, "collate_fn": "coco_collate_fn"}
    dataset = Shapes(damaged=True)
    train, test = build_train_loader(dataset, config, 0), build_eval_loader(dataset, config)
    before = set(active_children())
    for batches in (unpacked_batches(train), batch_by_size(test, image_size, lambda size: 2)):
        with pytest.raises(DataError) as caught:
            list(batches)
        assert caught.tb is not None
        assert set(active_children()) <= before
    dataset.damaged = False  # the loader can be used again
    assert sum(len(batch[0]) for batch in unpacked_batches(train)) == len(dataset)
    assert set(active_children()) > before
    end_workers(train)
    assert set(active_children()) <= before
    end_workers(train)


def test_an_error_of_the_main_process_is_left_alone():
    error = DataError("mask x.png holds class id 30")
    assert unwrap_worker_error(error) is error
