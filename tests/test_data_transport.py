"""Batches from a loader's workers: one block and one file each, equal to what was packed."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections import OrderedDict, namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import ROOT
from torch.utils.data import Dataset
from torchvision import tv_tensors

from ladon.data.batching import (
    batch_by_size,
    unpacked_batches,
)
from ladon.data.loaders import (
    build_eval_loader,
    build_train_loader,
)
from ladon.data.samplers import image_size
from ladon.data.transport import Packed, unpacked

Pair = namedtuple("Pair", "first second")


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return (type(a), a.dtype, a.shape) == (type(b), b.dtype, b.shape) and torch.equal(a, b)
    if isinstance(a, dict):
        return type(a) is type(b) and list(a) == list(b) and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    return a == b


CONTENTS = {
    "dtypes": [
        torch.arange(5, dtype=d)
        for d in (torch.uint8, torch.int64, torch.float32, torch.float64, torch.bfloat16)
    ],
    "bool and scalars": (torch.tensor([True, False, True]), torch.tensor(3), torch.tensor(2.5)),
    "empty": {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    "strided": [torch.arange(24).reshape(2, 3, 4).permute(2, 0, 1), torch.arange(9)[::2]],
    "containers": Pair(OrderedDict(b=torch.ones(2), a=[torch.zeros(1)]), {"x": ("text", 3, None)}),
    "other things": [Image.new("RGB", (3, 2)), np.arange(3).tolist(), b"bytes"],
    "tensors that are more": [tv_tensors.Mask(torch.ones(2, 2)), torch.eye(3).to_sparse()],
}


@pytest.mark.parametrize("name", CONTENTS)
def test_what_is_unpacked_is_what_was_packed(name):
    content = CONTENTS[name]
    got = Packed(content).unpack()
    if name == "tensors that are more":
        assert isinstance(got[0], tv_tensors.Mask)
        assert got[1].is_sparse
        assert torch.equal(got[1].to_dense(), torch.eye(3))
    else:
        assert equal(got, content)


def test_all_tensors_share_one_block():
    content = [torch.full((3, 5), n, dtype=torch.uint8) for n in range(4)] + [torch.ones(7)]
    got = Packed(content).unpack()
    assert len({tensor.untyped_storage().data_ptr() for tensor in got}) == 1
    assert unpacked(content) is content, "what was not packed passes"


class Boxes(Dataset):
    """Images of three sizes with targets of several tensors, as detection has them."""

    def __len__(self):
        return 60

    def __getitem__(self, index):
        side = (8, 10, 12)[index % 3]
        names = ("boxes", "labels", "area", "iscrowd")
        target = {name: torch.full((2,), float(index)) for name in names}
        return torch.full((3, side, side), index, dtype=torch.uint8), target


@pytest.mark.parametrize("most", [1, 3])
def test_samples_that_wait_long_have_memory_of_their_own(monkeypatch, most):
    """A rare size waits long; its batch's shared memory, and its file, must not stay open."""
    monkeypatch.setattr("ladon.data.batching._MOST_WAITING", most)
    loader = build_eval_loader(Boxes(), {"kwargs": {"batch_size": 4, "num_workers": 1}})
    seen = {}
    for samples in batch_by_size(loader, image_size, lambda size: 20 if size == (8, 8) else 1):
        for index, image, target in samples:
            seen[index] = int(image[0, 0, 0]), float(target["area"][1])
            if image.shape[-1] == 8:
                # the last of the twenty is 57, in the loader's fifteenth batch of four
                assert image.is_shared() == target["boxes"].is_shared()
                if index // 4 < 14 - 2 * most:
                    assert not image.is_shared(), index
    assert seen == {n: (n, float(n)) for n in range(60)}


@pytest.mark.parametrize("build", ["eval", "train"])
@pytest.mark.parametrize("workers", [0, 1])
def test_loaders_give_the_same_with_and_without_workers(build, workers):
    kwargs = {"batch_size": 4, "num_workers": workers}
    if build == "eval":
        loader = build_eval_loader(Boxes(), {"kwargs": kwargs})
        first = next(unpacked_batches(loader))
        assert [index for index, _, _ in first] == [0, 1, 2, 3]
        assert equal(first[2][2], Boxes()[2][1])
    else:
        section = {"kwargs": kwargs, "collate_fn": "coco_collate_fn"}
        loader = build_train_loader(Boxes(), section, seed=1)
        loader.batch_sampler.set_epoch(0)
        images, targets, supp = next(unpacked_batches(loader))
        indices = [int(image[0, 0, 0]) for image in images]
        assert all(equal(t, Boxes()[i][1]) for i, t in zip(indices, targets, strict=True))
        assert supp == [{}] * 4


def main():
    """In a process of its own: two large batches under way with few files to open."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
    section = {"kwargs": {"batch_size": 50, "num_workers": 2}}
    batches = list(batch_by_size(build_eval_loader(Boxes(), section), image_size, lambda size: 20))
    sys.stdout.write(str(sum(len(batch) for batch in batches)))


def test_a_large_batch_opens_one_file():
    """50 images with 4 tensors each were 250 files."""
    code = "from test_data_transport import main; main()"
    path = [str(ROOT / "scripts"), str(Path(__file__).parent)]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {path}; {code}"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.strip() == "60", done.stderr[-500:]
