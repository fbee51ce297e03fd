"""The batch of one image: foreseen where BatchNorm cannot learn from it, taken where it can."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ladon.data.loaders import EpochBatchSampler
from ladon.engine.forwarding import naming_images
from ladon.engine.single_image import foreseeing_single_image
from ladon.errors import ConfigError, LadonError

WHERE = "train.train_data_loader in a.yaml:3"


def pooled(norm):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), norm)


@pytest.mark.parametrize(
    ("model", "size", "fails"),
    [
        (nn.Sequential(nn.BatchNorm2d(4)), 2, False),
        (nn.Sequential(nn.BatchNorm2d(4)), 1, True),
        (pooled(nn.BatchNorm2d(4)), 8, True),
        (pooled(nn.BatchNorm2d(4, track_running_stats=False)), 8, True),
        (pooled(nn.BatchNorm2d(4).eval()), 8, False),
        (pooled(nn.GroupNorm(2, 4)), 8, False),
        (pooled(nn.GroupNorm(4, 4)), 8, True),
        (pooled(nn.Flatten()).append(nn.BatchNorm1d(4)), 8, True),
    ],
)
def test_what_a_batch_of_one_fails_at_is_foreseen_in_a_larger_one(model, size, fails):
    """And nothing else is: torch itself judges."""
    if fails:
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            model(torch.randn(1, 4, size, size))
        with pytest.raises(ConfigError) as caught, foreseeing_single_image(model, 3, WHERE):
            model(torch.randn(3, 4, size, size))
        assert str(caught.value).startswith(f"{WHERE}: the last batch has a single image, of which")
        assert "drop_last: true" in str(caught.value)
    else:
        model(torch.randn(1, 4, size, size))
        with foreseeing_single_image(model, 3, WHERE):
            model(torch.randn(3, 4, size, size))
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_the_failure_itself_says_the_way_out():
    """Where the images of a later batch are smaller."""
    with pytest.raises(LadonError) as caught, naming_images(lambda: "7.png", "cannot take"):
        pooled(nn.BatchNorm2d(4))(torch.randn(1, 4, 8, 8))
    assert str(caught.value).startswith("cannot take 7.png: ValueError: Expected more than 1 value")
    assert str(caught.value).endswith("set drop_last: true, or another batch_size")


@pytest.mark.parametrize(
    ("kwargs", "smallest"),
    [({"batch_size": 3}, 1), ({"batch_size": 3, "drop_last": True}, 3), ({"batch_size": 7}, 7)],
)
@pytest.mark.parametrize("rank", [0, 1])
def test_the_smallest_batch_is_known_to_every_process(kwargs, smallest, rank):
    order = EpochBatchSampler(range(7), None, None, kwargs, 0, rank, 2)
    assert order.smallest == smallest


def segmenter(lab, batch_size, drop_last):
    return lab.config(
        "segmentation",
        "one",
        models__model__dst_ckpt=str(lab.folder / "one.pt"),
        train__train_data_loader__kwargs={
            "batch_size": batch_size,
            "num_workers": 0,
            "drop_last": drop_last,
        },
    )


def test_a_training_that_would_fail_at_its_end_does_not_begin(own_lab, refused):
    """DeepLabv3 pools globally: 40 images in batches of 13 leave one."""
    message = refused("segmentation", config=segmenter(own_lab, 13, False))
    assert message.startswith("train.train_data_loader.kwargs.batch_size in ")
    assert "one.yaml:" in message
    assert "convs.4.2 has one value per channel" in message
    assert "Epoch: [0]" not in own_lab.log("refused")


def test_a_training_without_its_last_image_runs(own_lab):
    assert own_lab.run("segmentation", config=segmenter(own_lab, 13, True)) == 0


def test_a_classifier_learns_from_a_single_image(own_lab):
    """Its features have more than one value per channel."""
    config = own_lab.config(
        "teacher",
        "one",
        models__model__dst_ckpt=str(own_lab.folder / "one.pt"),
        train__train_data_loader__kwargs={"batch_size": 13, "num_workers": 0},
    )
    assert own_lab.run("teacher", config=config) == 0
