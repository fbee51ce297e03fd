"""The fast input: the same picture but for single levels, and never another one."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import Subset
from torchvision import transforms

from ladon.benchmark.workload import as_saved, photos
from ladon.data.fast_input import read_tensor, use_fast_input
from ladon.data.folder import ImageFolder
from ladon.errors import DataError

STEPS = (
    transforms.Resize(140),
    transforms.CenterCrop([128, 128]),
    transforms.ToTensor(),
    transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
)
LEVEL = 1 / 255 / 0.224


@pytest.fixture
def folder(tmp_path):
    for number, image in enumerate(photos((200, 300), (300, 200), (427, 640), (96, 96))):
        as_saved(image, tmp_path / "a" / f"{number}.jpg")
    photos((64, 90))[0].convert("L").save(tmp_path / "a" / "grey.png")
    photos((64, 90))[0].save(tmp_path / "a" / "odd.bmp")  # torchvision reads no BMP
    return tmp_path


def test_pictures_are_the_same_but_for_a_level(folder):
    reference = ImageFolder(folder, transforms.Compose(list(STEPS)))
    fast = ImageFolder(folder, transforms.Compose(list(STEPS)))
    assert use_fast_input(Subset(fast, [0]))
    assert use_fast_input(fast), "once more changes nothing"
    for (ours, label), (theirs, expected) in zip(fast, reference, strict=True):
        assert ours.dtype == torch.float32
        assert ours.shape == theirs.shape
        assert label == expected
        difference = (ours - theirs).abs()
        assert float(difference.max()) < 1.01 * LEVEL
        assert float((difference > LEVEL / 2).float().mean()) < 0.02


@pytest.mark.parametrize(
    "odd", [transforms.RandomHorizontalFlip(), transforms.Resize(9, interpolation=0), lambda x: x]
)
def test_what_has_no_fast_form_is_left_alone(folder, caplog, odd):
    dataset = ImageFolder(folder, transforms.Compose([odd, *STEPS]))
    before = dataset.transform, dataset.loader
    assert not use_fast_input(dataset)
    assert (dataset.transform, dataset.loader) == before
    assert "input: fast has no form for ImageFolder with " in caplog.text
    assert not use_fast_input(object())


def test_a_damaged_file_is_named(folder):
    path = folder / "a" / "0.jpg"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match=r"cannot read image .*0\.jpg"):
        read_tensor(path)
    with pytest.raises(DataError, match="there is no such file"):
        read_tensor(folder / "none.jpg")
