import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode

from ladon.data.seeding import seeded_rng
from ladon.data.transforms import (
    CustomCenterCrop,
    CustomCompose,
    CustomNormalize,
    CustomRandomCrop,
    CustomRandomHorizontalFlip,
    CustomRandomResize,
    CustomToTensor,
    WrappedRandomResizedCrop,
    WrappedResize,
)


def pair(width, height):
    """A mask, and an image whose red channel repeats it."""
    ids = (np.arange(width * height) % 21).reshape(height, width).astype(np.uint8)
    return Image.fromarray(np.stack([ids] * 3, axis=2)), Image.fromarray(ids)


def test_random_resize_square_draws_every_size_in_the_closed_range():
    torch.manual_seed(0)
    resize = CustomRandomResize(3, 5, square=True)
    sizes = set()
    for _ in range(60):
        image, mask = resize(*pair(8, 6))
        assert image.size == mask.size
        assert image.width == image.height
        sizes.add(image.width)
    assert sizes == {3, 4, 5}


def test_random_resize_keeps_the_aspect_by_the_shorter_side():
    image, mask = CustomRandomResize(10)(*pair(40, 20))
    assert image.size == mask.size == (20, 10)


def test_resized_masks_hold_only_ids_that_were_there():
    ids = np.zeros((20, 20), np.uint8)
    ids[:, 10:] = 20
    mask = Image.fromarray(ids)
    _, resized = CustomRandomResize(7, square=True)(mask.convert("RGB"), mask)
    assert set(np.unique(resized)) == {0, 20}


def test_random_resize_recompresses_the_image_alone():
    image, mask = pair(32, 32)
    rough, same_mask = CustomRandomResize(32, jpeg_quality=5)(image, mask)
    assert not np.array_equal(image, rough)
    assert np.array_equal(mask, same_mask)


def test_random_resize_refuses_an_empty_range():
    with pytest.raises(ValueError, match="span no sizes"):
        CustomRandomResize(5, 4)


@pytest.mark.parametrize(("p", "flipped"), [(0.0, False), (1.0, True)])
def test_flip_moves_image_and_mask_together(p, flipped):
    image, mask = pair(5, 4)
    new_image, new_mask = CustomRandomHorizontalFlip(p)(image, mask)
    expected = np.asarray(mask)[:, ::-1] if flipped else np.asarray(mask)
    assert np.array_equal(new_mask, expected)
    assert np.array_equal(np.asarray(new_image)[..., 0], expected)


def test_random_crop_cuts_one_window_from_both():
    torch.manual_seed(3)
    image, mask = CustomRandomCrop(6)(*pair(17, 13))
    assert mask.size == (6, 6)
    assert np.array_equal(np.asarray(image)[..., 0], mask)


@pytest.mark.parametrize("mode", ["L", "P"])
@pytest.mark.parametrize("crop", [CustomRandomCrop(8), CustomCenterCrop((8, 8))])
def test_crops_pad_images_with_0_and_masks_with_255(crop, mode):
    image, mask = pair(5, 3)
    if mode == "P":
        mask.putpalette([0] * 768)
    cut_image, cut_mask = crop(image, mask)
    ids = np.asarray(cut_mask)
    assert ids.shape == (8, 8)
    assert (ids[3:] == 255).all()
    assert (ids[:, 5:] == 255).all()
    assert np.array_equal(ids[:3, :5], mask)
    assert (np.asarray(cut_image)[3:] == 0).all()


def test_center_crop_is_central():
    _, mask = CustomCenterCrop(2)(*pair(6, 4))
    assert np.array_equal(mask, np.asarray(pair(6, 4)[1])[1:3, 2:4])


def test_to_tensor_gives_documented_types_and_leaves_what_it_is_told_to():
    image, mask = pair(5, 4)
    x, y = CustomToTensor()(image, mask)
    assert (x.dtype, tuple(x.shape)) == (torch.float32, (3, 4, 5))
    assert (y.dtype, tuple(y.shape)) == (torch.int64, (4, 5))
    assert float(x.max()) == pytest.approx(19 / 255)
    assert CustomToTensor(converts_sample=False)(image, mask)[0] is image
    assert CustomToTensor(converts_target=False)(image, mask)[1] is mask


def test_compose_normalizes_after_conversion():
    image = Image.new("RGB", (2, 2), (255, 0, 51))
    normalise = CustomNormalize(mean=[0.5, 0.5, 0.5], std=[0.5, 0.25, 0.1])
    x, _ = CustomCompose([CustomToTensor(), normalise])(image, Image.new("L", (2, 2)))
    assert x[:, 0, 0].tolist() == pytest.approx([1.0, -2.0, -3.0])


def test_wrapped_interpolation_by_name():
    crop = WrappedRandomResizedCrop(size=[4, 4], interpolation="bicubic")
    assert crop.interpolation is InterpolationMode.BICUBIC
    assert WrappedResize(size=4).interpolation is InterpolationMode.BILINEAR
    assert WrappedResize(size=[4, 4])(Image.new("RGB", (9, 7))).size == (4, 4)
    with pytest.raises(ValueError, match="'cubic' is none of nearest"):
        WrappedResize(size=4, interpolation="cubic")


def test_draws_follow_the_seeded_generators():
    transform = CustomCompose(
        [CustomRandomResize(10, 20), CustomRandomHorizontalFlip(0.5), CustomRandomCrop(9)]
    )
    results = []
    for seed in (1, 1, 2):
        with seeded_rng(seed):
            results.append(np.asarray(transform(*pair(31, 23))[0]))
    assert np.array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])
