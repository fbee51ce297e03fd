"""The two halves together say what the whole model says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from split_models import CLASS_NAMES, pixels, write_models
from torchvision import transforms as tv

import ladon
from ladon.codec import Payload
from ladon.errors import DataError, PayloadError, UsageError
from ladon.models.inference import inference
from ladon.split.answers import IGNORED

HEADS = ("classification", "detection", "segmentation")


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def models(configs):
    loaded = {head: ladon.load(path) for head, path in configs.items()}
    yield loaded
    for model in loaded.values():
        model.close()


def whole(config, image):
    """What the model's own forward says of an image, once through its payload."""
    model = ladon.load(config)
    model.close()
    if model.heads in (("classification",), ("segmentation",)):
        batch = torch.from_numpy(model.fit(image).input)[None]
    else:  # it fits images by itself
        batch = [tv.ToTensor()(Image.fromarray(image))]
    with torch.inference_mode(), inference(model.network) as payloads:
        outputs = model.network(batch)
        (size,) = payloads.nbytes
    return outputs, size


def test_three_heads_say_what_the_model_says(models, configs):
    model, image = models["ladon"], pixels()
    payload = model.encode(image)
    answers = model.answer(payload.to_bytes())
    outputs, size = whole(configs["ladon"], image)
    assert payload.num_body_bytes == size
    shares = outputs["classification"][0].softmax(0)
    assert [one.label for one in answers.classes] == shares.topk(5).indices.tolist()
    assert [one.score for one in answers.classes] == pytest.approx(shares.topk(5).values.tolist())
    assert answers.classes[0].name == CLASS_NAMES["classification"][answers.classes[0].label]
    found = outputs["detection"][0]
    assert [one.label for one in answers.objects] == found["labels"].tolist()
    # boxes of up to 120 pixels; both inputs differ by float32's rounding
    boxes = [one.box for one in answers.objects]
    assert np.allclose(boxes, found["boxes"].numpy(), atol=0.05)
    scores = [one.score for one in answers.objects]
    assert np.allclose(scores, found["scores"].numpy(), atol=1e-5)
    assert {one.name for one in answers.objects} <= set(CLASS_NAMES["detection"])
    assert answers.mask.labels.shape == image.shape[:2]
    labels = outputs["segmentation"][0].argmax(0)[: payload.scaled_size[0]].numpy()
    height, width = image.shape[:2]
    nearest = Image.fromarray(labels.astype(np.uint8)).resize((width, height), 0)
    assert np.mean(answers.mask.labels == np.asarray(nearest)) > 0.99


@pytest.mark.parametrize("head", HEADS)
def test_a_model_for_one_task_says_what_it_says_by_itself(models, configs, head):
    model, image = models[head], pixels()
    assert model.heads == (head,)
    answers = model.answer(model.encode(image))
    outputs, _ = whole(configs[head], image)
    assert list(answers) == [head]
    if head == "classification":
        assert answers.classes[0].label == int(outputs[0].argmax())
        assert answers.classes[0].score == pytest.approx(float(outputs[0].softmax(0).max()))
    elif head == "detection":
        boxes = [one.box for one in answers.objects]
        assert np.allclose(boxes, outputs[0]["boxes"].numpy(), atol=0.05)
        scores = [one.score for one in answers.objects]
        assert np.allclose(scores, outputs[0]["scores"].numpy(), atol=1e-5)
    else:
        labels = outputs["out"][0].argmax(0).numpy()
        # 96x96 from the middle of 96x149, of an image of 77x120
        known = answers.mask.labels != IGNORED
        assert known.any(axis=0).nonzero()[0][[0, -1]].tolist() == [21, 97]
        assert np.array_equal(answers.mask.labels[38, 60], labels[48, 48])


@pytest.mark.parametrize("head", [*HEADS, "ladon"])
def test_it_is_the_payload_that_is_answered(models, head):
    """Random networks say much the same of any image; not to the last digit."""
    model = models[head]
    shapes = [model.encode(pixels(seed=seed)) for seed in (1, 2)]
    outputs = []
    for payload in shapes:
        coding = model.bottleneck.coding
        with torch.inference_mode():
            features = coding.decode([[string] for string in payload.strings], payload.shape)
            outputs.append(model._heads(features, [payload], model.heads, None))
    for name in model.heads:
        one, other = (out[name] for out in outputs)
        if name == "detection":
            one, other = one[0]["scores"], other[0]["scores"]
        assert one.shape != other.shape or not torch.equal(one, other), name


def test_only_the_heads_that_are_asked_answer(models):
    model = models["ladon"]
    payload = model.encode(pixels())
    stages = []
    answers = model.answer(payload, ["segmentation"], on_stage=lambda n, s: stages.append(n))
    assert list(answers) == ["segmentation"]
    assert stages == ["decoding", "synthesis", "body", "segmentation"]
    assert list(model.answer(payload, "detection")) == ["detection"]
    with pytest.raises(UsageError, match="no head 'depth': classification, detection, segm"):
        model.answer(payload, ["depth"])


def test_stages_of_each_half_are_told(models):
    stages = []

    def on_stage(name, seconds):
        assert seconds > 0
        stages.append(name)

    for head in HEADS:
        stages.clear()
        payload = models[head].encode(pixels(), on_stage=on_stage)
        assert stages == ["fit", "analysis", "coding"]
        models[head].answer(payload, on_stage=on_stage)
        assert stages[3:] == ["decoding", "synthesis", "body", head]


def test_a_batch_says_what_its_images_say(models):
    model = models["ladon"]
    payloads = [model.encode(pixels(seed=seed)) for seed in range(3)]
    together = model.answer_batch(payloads)
    for payload, one in zip(payloads, together, strict=True):
        alone = model.answer(payload)
        assert [c.label for c in one.classes] == [c.label for c in alone.classes]
        assert np.allclose([o.box for o in one.objects], [o.box for o in alone.objects], atol=0.05)
        assert np.mean(one.mask.labels == alone.mask.labels) > 0.99
    other = model.encode(pixels(120, 77))
    assert model.batch_key(other) != model.batch_key(payloads[0])
    with pytest.raises(UsageError, match="several sizes"):
        model.answer_batch([*payloads, other])


def test_one_encode_one_decode_and_one_body_for_three_heads(models):
    model = models["ladon"]
    network, bottleneck = model.network, model.bottleneck
    parts = {"analysis": bottleneck.analysis, "synthesis": bottleneck.synthesis}
    parts |= {name: getattr(network, name) for name in ("layer2", "layer3", "layer4")}
    counts = dict.fromkeys(parts, 0)

    def counting(name):
        def hook(*_):
            counts[name] += 1

        return hook

    hooks = [part.register_forward_hook(counting(name)) for name, part in parts.items()]
    answers = model.answer(model.encode(pixels()))
    for hook in hooks:
        hook.remove()
    assert list(answers) == list(HEADS)
    assert counts == dict.fromkeys(parts, 1)


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA", "1"])
def test_pictures_of_any_mode(models, mode, tmp_path):
    image = Image.fromarray(pixels(30, 40)).convert(mode)
    payload = models["classification"].encode(image)
    assert payload.image_size == (30, 40)
    image.save(path := tmp_path / "picture.tif")
    assert models["classification"].encode(path) == models["classification"].encode(
        image.convert("RGB")
    )
    assert payload == models["classification"].encode(image.convert("RGB"))


def test_a_picture_is_seen_as_a_person_sees_it(models, tmp_path):
    image = Image.fromarray(pixels(40, 30))
    exif = Image.Exif()
    exif[0x112] = 6  # turned by 90 degrees
    image.save(path := tmp_path / "turned.png", exif=exif)
    payload = models["classification"].encode(path)
    assert payload.image_size == (30, 40)
    assert payload == models["classification"].encode(image.transpose(Image.Transpose.ROTATE_270))


def test_a_picture_of_one_pixel(models):
    for head, model in models.items():
        answers = model.answer(model.encode(np.full((1, 1, 3), 200, np.uint8)))
        assert list(answers) == list(model.heads), head
    assert answers.mask.labels.shape == (1, 1)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3)), r"array \(4, 4, 3\) of float64 is no image"),
        (np.zeros((4, 4, 4), np.uint8), r"\(4, 4, 4\) of uint8 is no image"),
        (np.zeros((0, 4, 3), np.uint8), "is no image"),
        (7, "a int is no image"),
        ("nowhere.png", "nowhere.png: there is no such file"),
    ],
)
def test_what_is_no_image_is_refused(models, image, message):
    with pytest.raises(DataError, match=message):
        models["ladon"].encode(image)


def test_payloads_that_the_model_did_not_write_are_refused(models):
    model = models["ladon"]
    payload = model.encode(pixels())
    with pytest.raises(PayloadError, match="written by encoder 0000000000000000"):
        model.answer(replace(payload, encoder_id=bytes(8)))
    with pytest.raises(PayloadError, match="there is no model of it here"):
        model.answer(replace(payload, encoder_id=bytes(8)).to_bytes())
    with pytest.raises(PayloadError, match="a payload of 2 strings: ladon has 1"):
        model.answer(replace(payload, strings=(*payload.strings, b"")))
    with pytest.raises(PayloadError, match="a latent of 15x22 of an input of 64x96"):
        model.answer(replace(payload, shape=(15, 22)))
    with pytest.raises(PayloadError):
        model.answer(replace(payload, strings=(payload.strings[0][:-4],)))
    assert list(model.answer(payload)) == list(HEADS)


def test_payloads_are_one_encoders_whatever_the_task(models):
    assert len({model.encoder_id for model in models.values()}) == 1
    image = pixels()
    payload = models["detection"].encode(image)
    assert payload == models["ladon"].encode(image)
    assert models["ladon"].answer(payload).objects is not None


def test_bf16_changes_no_payload(tmp_path):
    configs = write_models(tmp_path)
    with (
        ladon.load(configs["ladon"]) as exact,
        ladon.load(configs["ladon"], precision="bf16") as fast,
    ):
        payload = exact.encode(pixels())
        assert fast.encode(pixels()) == payload
        scores = [[c.score for c in model.answer(payload).classes] for model in (exact, fast)]
    assert scores[0] == pytest.approx(scores[1], abs=0.02)


def test_the_model_is_left_as_it_was(tmp_path):
    model = ladon.load(write_models(tmp_path)["classification"])
    assert model.bottleneck.is_coding
    before = Payload.from_bytes(model.encode(pixels()).to_bytes())
    with model:
        pass
    assert not model.bottleneck.is_coding
    with pytest.raises(UsageError, match="no evaluation is open"):
        model.encode(pixels())
    assert before.image_size == (77, 120)
