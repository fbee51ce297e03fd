"""Images become inputs as the evaluation's own transforms make them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as tv
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from ladon.codec import Fit
from ladon.edge.fitting import FILTERS, Fitting, Resize, crop_offset, resized_as_tensor
from ladon.errors import DataError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZES = [(77, 120), (120, 77), (96, 96), (1, 1), (245, 184), (5, 64), (333, 37)]


def picture(height, width, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("filter_name", ["bilinear", "bicubic", "nearest"])
def test_resize_and_crop_equal_torchvisions(size, filter_name):
    image = picture(*size)
    mode = tv.InterpolationMode(filter_name)
    theirs = tv.Compose(
        [tv.Resize(40, mode), tv.CenterCrop(33), tv.ToTensor(), tv.Normalize(MEAN, STD)]
    )
    fitted = Fitting(Resize(40, filter=filter_name), (33, 33), mean=MEAN, std=STD)(image)
    assert torch.equal(theirs(image), torch.from_numpy(fitted.input))
    assert fitted.fit is Fit.CROPPED
    resized = tv.Resize(40)(image)
    assert fitted.scaled_size == (resized.height, resized.width)
    assert fitted.image_size == size
    assert fitted.input_size == (33, 33)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("shorter", "longest"), [(96, 96), (50, 90), (64, None)])
def test_a_detectors_resizing_is_torchvisions(size, shorter, longest):
    image = picture(*size)
    transform = GeneralizedRCNNTransform(shorter, longest or 100_000, MEAN, STD).eval()
    theirs, _ = transform([tv.ToTensor()(image)])
    resize = Resize(shorter, longest, of_tensors=True)
    fitted = Fitting(resize, multiple=32, mean=MEAN, std=STD)(image)
    assert [fitted.scaled_size] == theirs.image_sizes
    assert fitted.input_size == tuple(theirs.tensors.shape[-2:])
    # float32's rounding of coordinates, up to 1e-4 of a pixel, times steps of up to 4.4
    assert torch.allclose(theirs.tensors[0], torch.from_numpy(fitted.input), atol=2e-4)


def test_longest_side_equals_torchvisions():
    for size in SIZES:
        theirs = tv.Resize(40, max_size=55)(picture(*size))
        assert Resize(40, 55).target(*size) == (theirs.height, theirs.width)


def test_an_image_that_fits_is_only_normalised():
    image = picture(20, 30)
    fitted = Fitting(mean=MEAN, std=STD)(image)
    theirs = tv.Compose([tv.ToTensor(), tv.Normalize(MEAN, STD)])(image)
    assert torch.equal(theirs, torch.from_numpy(fitted.input))
    assert fitted.fit is Fit.NONE
    assert Fitting(Resize((20, 30)))(image).fit is Fit.NONE
    assert Fitting(Resize((10, 30)))(image).fit is Fit.RESIZED
    assert Fitting(multiple=16)(image).fit is Fit.PADDED
    assert Fitting(crop=(20, 30))(image).fit is Fit.NONE


def test_what_is_padded_is_zero():
    fitted = Fitting(multiple=16, mean=MEAN, std=STD)(picture(20, 30))
    assert fitted.input.shape == (3, 32, 32)
    assert not fitted.input[:, 20:].any()
    assert not fitted.input[:, :, 30:].any()
    assert fitted.input[:, :20, :30].all()


def test_halves_are_rounded_as_torchvision_rounds_them():
    for scaled in ((10, 9), (11, 12), (13, 14)):
        image = Image.fromarray(np.arange(scaled[0] * scaled[1], dtype=np.uint8).reshape(scaled))
        top, left = crop_offset(scaled, (4, 5))
        assert tv.CenterCrop((4, 5))(image).getpixel((0, 0)) == image.getpixel((left, top))


def test_interpolation_equals_torchs():
    values = np.random.default_rng(1).random((2, 7, 5), np.float32)
    for size in ((14, 10), (3, 9), (7, 5), (1, 1)):
        theirs = torch.nn.functional.interpolate(
            torch.from_numpy(values)[None], size, mode="bilinear", align_corners=False
        )
        ours = resized_as_tensor(values.transpose(1, 2, 0), size, lambda v: v.transpose(2, 0, 1))
        assert torch.allclose(theirs[0], torch.from_numpy(ours), atol=1e-6)


@pytest.mark.parametrize(
    "fitting",
    [
        Fitting(),
        Fitting(Resize(256), (224, 224), mean=MEAN, std=STD),
        Fitting(Resize((64, 32), filter="bicubic"), multiple=32),
        Fitting(Resize(800, 1333, of_tensors=True), multiple=32, mean=MEAN, std=STD),
    ],
)
def test_it_survives_json(fitting):
    assert Fitting.from_plain(json.loads(json.dumps(fitting.to_plain()))) == fitting


def test_filters_are_pillows():
    assert all(hasattr(Image.Resampling, name.upper()) for name in FILTERS)


def test_images_that_cannot_be_fitted_are_refused():
    with pytest.raises(DataError, match=r"20x30 .* smaller than the 24x24"):
        Fitting(crop=(24, 24))(picture(20, 30))
    with pytest.raises(DataError, match=r"image of 1x3000 would become .* of 800x2400000"):
        Fitting(Resize(800))(picture(1, 3000))
    with pytest.raises(DataError, match="more than 16,777,216 pixels"):
        Fitting()(Image.new("RGB", (5000, 4000)))
