"""What the page shows of a picture: what files of it weigh, and answers in a screen's size."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image
from serving import payload
from split_models import pixels
from torchvision.transforms import functional as F

from ladon.codec import Fit, Payload
from ladon.serve.page.results import compared, result_of
from ladon.serve.page.samples import samples
from ladon.split.answers import IGNORED, Answers, Found, Mask

FRAME = (128, 128, 128)


def fitted(image: Image.Image, scaled: tuple[int, int], seen: tuple[int, int], fit: Fit) -> Payload:
    """The payload of an image that was fitted to an encoder in some way."""
    size = image.height, image.width
    made = payload(1, image=size)
    return Payload(
        strings=made.strings,
        shape=made.shape,
        encoder_id=made.encoder_id,
        kind=made.kind,
        image_size=size,
        scaled_size=scaled,
        input_size=seen,
        fit=fit,
    )


def weight(image: Image.Image, **settings) -> int:
    file = io.BytesIO()
    image.save(file, **settings)
    return file.tell()


def test_files_of_a_picture_that_is_taken_as_it_is():
    image = Image.fromarray(pixels())
    (whole,) = compared(image, fitted(image, (77, 120), (77, 120), Fit.NONE))
    assert (whole["of"], whole["size"]) == ("whole", [120, 77])
    assert whole["png"] == weight(image, format="PNG")
    assert list(whole["jpeg"]) == [90, 75, 50, 25]
    assert whole["jpeg"][75] == weight(image, format="JPEG", quality=75, optimize=True)


def test_files_of_what_the_encoder_saw():
    image = Image.fromarray(pixels())
    seen, whole = compared(image, fitted(image, (32, 50), (30, 31), Fit.CROPPED))
    assert (seen["of"], seen["size"], whole["of"]) == ("seen", [31, 30], "whole")
    scaled = image.resize((50, 32), Image.Resampling.BILINEAR)
    assert seen["png"] == weight(F.center_crop(scaled, [30, 31]), format="PNG")
    assert whole["png"] == weight(image, format="PNG")


def test_an_enlarged_or_padded_picture_is_compared_as_it_is():
    image = Image.fromarray(pixels())
    (one,) = compared(image, fitted(image, (154, 240), (160, 256), Fit.PADDED))
    assert (one["of"], one["size"]) == ("whole", [120, 77])


def test_a_large_picture_becomes_no_file_in_its_own_size():
    image = Image.new("RGB", (2049, 1024))
    (one,) = compared(image, fitted(image, (32, 64), (32, 64), Fit.RESIZED))
    assert one["of"] == "seen"
    long = Image.new("RGB", (65535, 1))  # more than JPEG can have
    _, whole = compared(long, fitted(long, (32, 64), (32, 64), Fit.RESIZED))
    assert (whole["jpeg"], whole["png"]) == ({}, weight(long, format="PNG"))


@pytest.mark.parametrize("width", [640, 2560])
def test_answers_are_drawn_where_they_are(width):
    """A large picture is drawn in half its size; its box, mask and their colors stay in place."""
    height, scale = width // 2, 1 if width == 640 else 2
    labels = np.zeros((height, width), np.uint8)
    labels[:, : width // 4] = 1
    labels[-height // 4 :] = IGNORED
    box = (width / 2, height / 4, width * 3 / 4, height / 2)
    objects = (Found(1, "a", 0.9, box), Found(2, "b", 0.4, (0, 0, width, height)))
    answers = Answers((), objects, Mask(labels, ("background", "c")))
    image = Image.new("RGB", (width, height), FRAME)
    result = result_of(_png(image), fitted(image, (32, 64), (32, 64), Fit.RESIZED), answers)

    header, _, content = result["picture"].partition(",")
    assert header == "data:image/jpeg;base64"
    drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(content)))).astype(int)
    height, width = drawn.shape[:2]
    assert result["picture_size"] == [width, height]
    assert width == (1280 if scale == 2 else 2 * 640)
    green = np.array([0x26, 0xFF, 0x65])  # of label 1
    assert np.abs(drawn[height * 3 // 8, width // 2] - green).max() < 60  # the box's left side
    assert np.abs(drawn[height // 2, width // 8] - (0.55 * green + 0.45 * 128)).max() < 12
    for row, column in ((height // 2 + height // 8, width // 2), (height - 9, width // 8)):
        assert np.abs(drawn[row, column] - 128).max() < 12  # neither background nor what is unseen
    assert [(one["name"], one["share"]) for one in result["answers"]["segmentation"]] == [
        ("background", 0.75 * 0.75),
        ("not seen by the encoder", 0.25),
        ("c", 0.75 * 0.25),
    ]
    assert [one["name"] for one in result["answers"]["detection"]] == ["a"]
    assert result["answers"]["detection"][0]["box"] == list(box)


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_samples_are_always_the_same_pictures():
    found = samples()
    assert list(found) == ["scene-3", "scene-5", "scene-8", "china", "flower"]
    sizes = {name: Image.open(io.BytesIO(one.data)).size for name, one in found.items()}
    assert sizes["scene-3"] == (96, 96)
    assert sizes["china"] == (640, 427)
    assert found["scene-8"].alt == "a large handwritten 8 with a small 7 and a small 6"
