"""What a dataset gives for a sample: a pair, or an error that names dataset and index."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import Dataset

from ladon.data.batching import unpacked_batches
from ladon.data.loaders import build_eval_loader, build_train_loader
from ladon.errors import DataError


class Odd(Dataset):
    """Gives something else than a pair."""

    def __init__(self, sample):
        self.sample = sample

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return self.sample if index == 4 else (torch.zeros(1), index)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("build", ["train", "eval"])
def test_a_sample_that_is_none_names_dataset_and_index(build, workers):
    loader = {"kwargs": {"batch_size": 2, "num_workers": workers}}
    made = (
        build_train_loader(Odd(None), loader, 0)
        if build == "train"
        else build_eval_loader(Odd(None), loader)
    )
    with pytest.raises(DataError) as caught:
        list(unpacked_batches(made))
    assert str(caught.value) == (
        "cannot load sample 4 of Odd: it is None, not a pair of image and target: let __getitem__ "
        "return both, and leave out of the dataset what has none"
    )


@pytest.mark.parametrize(
    ("sample", "found"),
    [((), "a tuple of 0"), ([1], "a list of 1"), (torch.zeros(2, 3), "a Tensor"), ("ab", "a str")],
)
def test_a_sample_that_is_no_pair_is_refused(sample, found):
    loader = build_eval_loader(Odd(sample), {"kwargs": {"num_workers": 0}})
    with pytest.raises(DataError, match=f"^cannot load sample 4 of Odd: it is {found}, not a pair"):
        list(unpacked_batches(loader))
