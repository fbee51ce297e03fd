"""Images as bytes until they are where the network is: the same values to the bit."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Subset
from torchvision import datasets
from torchvision import transforms as tv

from ladon.data.coco import coco_dataset
from ladon.data.device_input import DeviceInput, split_input
from ladon.data.fast_input import use_fast_input
from ladon.data.folder import ImageFolder
from ladon.data.transforms import CustomCenterCrop, CustomCompose, CustomNormalize, CustomToTensor
from ladon.data.voc import VOCSegmentation

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of images that hold every byte value in every channel."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for n in range(3):
        path = root / str(n % 2) / f"{n}.png"
        path.parent.mkdir(exist_ok=True)
        pixels = np.stack([rng.permutation(np.repeat(np.arange(256), 4)) for _ in range(3)], -1)
        Image.fromarray(pixels.reshape(32, 32, 3).astype(np.uint8)).save(path)
    return root


def compare(dataset, count):
    """Assert that splitting leaves values and dataset as they are; return the two."""
    before = [dataset[n][0] for n in range(count)]
    split, finish = split_input(dataset)
    assert finish is not None
    for n in range(count):
        image, target = split[n]
        assert image.dtype is torch.uint8
        assert torch.equal(finish(image), before[n])
        assert torch.equal(finish(image[None])[0], before[n]), "a batch"
        assert torch.equal(finish([image, image])[1], before[n]), "a list"
        whole = dataset[n]
        assert torch.equal(whole[0], before[n]), "the dataset itself is as it was"
        assert repr(target) == repr(whole[1])
    return split, finish


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("kind", [ImageFolder, datasets.ImageFolder])
def test_a_classifiers_images(folder, normalize, fast, kind):
    steps = [tv.Resize(24), tv.CenterCrop(20), tv.ToTensor()]
    steps += [tv.Normalize(MEAN, STD)] if normalize else []
    dataset = kind(folder, tv.Compose(steps))
    if fast:
        assert use_fast_input(dataset)
    _, finish = compare(dataset, 3)
    mean, std = (tuple(MEAN), tuple(STD)) if normalize else (None, None)
    assert finish == DeviceInput(mean, std, multiplies=fast)


def test_every_byte_is_what_normalising_gives(folder):
    dataset = ImageFolder(folder, tv.Compose([tv.ToTensor(), tv.Normalize(MEAN, STD)]))
    compare(dataset, 3)
    compare(Subset(Subset(dataset, [2, 1, 0]), [0, 2]), 2)


def test_a_segmenters_and_a_detectors_images(scenes):
    root = scenes / "digit_scenes"
    annotations = next(root.rglob("*val*.json"))
    name = json.loads(annotations.read_text())["images"][0]["file_name"]
    images = next(path for path in (root, *root.rglob("*")) if (path / name).is_file())
    detection = coco_dataset(images, annotations, annotated_only=False)
    split, finish = compare(detection, 2)
    assert finish == DeviceInput()
    assert torch.equal(split[0][1]["boxes"], detection[0][1]["boxes"])
    joint = CustomCompose([CustomCenterCrop(64), CustomToTensor(), CustomNormalize(MEAN, STD)])
    segmentation = coco_dataset(
        images, annotations, annotated_only=False, is_segment=True, transforms=joint
    )
    compare(segmentation, 2)


def test_what_is_not_known_is_left_alone(folder):
    class Own(ImageFolder):
        def __getitem__(self, index):
            image, target = super().__getitem__(index)
            return image * 2, target

    class Masks(VOCSegmentation):
        pass

    composed = tv.Compose([tv.ToTensor(), tv.Normalize(MEAN, STD)])
    augmented = tv.Compose([tv.ToTensor(), tv.RandomErasing(1.0)])
    for dataset in (
        Own(folder, composed),
        ImageFolder(folder, augmented),
        ImageFolder(folder, tv.ToTensor()),
        ImageFolder(folder),
        Subset(Own(folder, composed), [0]),
        [(torch.zeros(3, 4, 4), 0)],
    ):
        assert split_input(dataset) == (dataset, None)


def test_images_that_are_no_bytes_are_not_scaled():
    """As ToTensor has it: a grey image in mode F keeps its values."""
    image = torch.tensor([[[0.5, 7.0]]])
    assert torch.equal(DeviceInput((0.5,), (2.0,))(image), torch.tensor([[[0.0, 3.25]]]))
