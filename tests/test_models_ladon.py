"""The three-headed model: equal to the single-task models, strict about what it is made of."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from three_heads import ON_LAYER2, picture, saved, sections, single_models, three_headed

from ladon.errors import CheckpointError, ConfigError
from ladon.models import build_model, entropy_coding, write_checkpoint
from ladon.models.describe import num_classes_of
from ladon.models.input_size import encoder_input_size
from ladon.models.ladon import HEADS, ThreeHeadedLadon
from ladon.tasks import TASKS

ON_BOTTLENECK = {
    "return_layer_dict": {"bottleneck_layer": "out"},
    "num_input_channels": 64,
    "uses_aux": False,
}
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


@torch.inference_mode()
@pytest.mark.parametrize("segmentation", [{}, ON_LAYER2, ON_BOTTLENECK])
def test_every_head_equals_its_single_task_model_exactly(tmp_path, segmentation):
    own = {"segmentation": segmentation}
    models = single_models(**own)
    ladon = three_headed(saved(models, tmp_path), own=own)
    image = picture()
    answers = ladon([image])
    normalised = (image - MEAN[:, None, None]) / STD[:, None, None]
    for model in models.values():
        model.eval()
    assert torch.equal(answers["classification"], models["classification"](normalised[None]))
    (found,), (expected,) = answers["detection"], models["detection"]([image])
    assert len(expected["boxes"]) > 0
    for key in ("boxes", "labels", "scores"):
        assert torch.equal(found[key], expected[key]), key
    assert torch.equal(answers["segmentation"], models["segmentation"](normalised[None])["out"])


@torch.inference_mode()
def test_detection_of_an_image_that_is_resized_and_padded(tmp_path):
    models = single_models()
    ladon = three_headed(saved(models, tmp_path))
    image = picture((70, 120))
    models["detection"].eval()
    (found,), (expected,) = ladon([image])["detection"], models["detection"]([image])
    assert torch.equal(found["boxes"], expected["boxes"])


@torch.inference_mode()
def test_one_encode_for_three_answers(tmp_path):
    ladon = three_headed(saved(single_models(), tmp_path))
    with entropy_coding(ladon) as payloads:
        answers = ladon([picture(), picture()])
        nbytes, _ = payloads.pop()
    assert set(answers) == {"classification", "detection", "segmentation"}
    assert len(nbytes) == 2
    assert set(ladon([picture()], heads=("detection",))) == {"detection"}


STAGES = ("layer2", "layer3", "layer4")


@torch.inference_mode()
@pytest.mark.parametrize(
    ("segmentation", "heads", "expected"),
    [
        (ON_LAYER2, None, STAGES),
        (ON_LAYER2, ("segmentation",), STAGES[:1]),
        (ON_LAYER2, ("segmentation", "classification"), STAGES),
        (ON_LAYER2, ("detection",), STAGES),
        (ON_BOTTLENECK, ("segmentation",), ()),
        ({}, ("segmentation",), STAGES),
    ],
)
def test_the_body_runs_once_and_as_far_as_its_heads_read(tmp_path, segmentation, heads, expected):
    own = {"segmentation": segmentation}
    ladon = three_headed(saved(single_models(**own), tmp_path), own=own)
    passes = []
    for name in STAGES:
        layer = ladon.get_submodule(name)
        layer.register_forward_hook(lambda *_, name=name: passes.append(name))
    ladon([picture(), picture()], heads=heads)
    assert passes == list(expected)


@torch.inference_mode()
@pytest.mark.parametrize("task", list(TASKS.values()))
def test_tasks_take_their_own_head(tmp_path, task):
    ladon = three_headed(saved(single_models(), tmp_path))
    ladon.answering = task.model_kind
    answer = task.predict(ladon, [picture()])
    if task.name == "image_classification":
        assert answer.shape == (1, 10)
    elif task.name == "object_detection":
        assert set(answer[0]) == {"boxes", "labels", "scores"}
    else:
        assert answer.shape == (1, 5, 96, 96)
    assert encoder_input_size(picture((70, 120)), ladon) == (64, 96)


def test_statistics_that_moved_are_named_and_the_classifiers_body_is_used(tmp_path, caplog):
    """Published detection checkpoints carry their own BatchNorm statistics."""
    models = single_models()
    with torch.no_grad():
        models["detection"].backbone.body.layer3[0].bn1.running_mean += 0.25
    paths = saved(models, tmp_path)
    with caplog.at_level(logging.WARNING):
        ladon = three_headed(paths)
    assert "detection.pt: its body differs" in caplog.text
    assert "all of them BatchNorm statistics" in caplog.text
    assert "Largest difference: 0.25 (layer3.0.bn1.running_mean)" in caplog.text
    own = models["classification"].layer3[0].bn1.running_mean
    assert torch.equal(ladon.layer3[0].bn1.running_mean, own)
    chosen = three_headed(paths, body="detection")
    moved = models["detection"].backbone.body.layer3[0].bn1.running_mean
    assert torch.equal(chosen.layer3[0].bn1.running_mean, moved)
    assert torch.equal(chosen.fc.weight, models["classification"].fc.weight)


def test_weights_of_another_body_are_a_loud_warning(tmp_path, caplog):
    models = single_models()
    with torch.no_grad():
        models["segmentation"].backbone.layer2[0].conv1.weight += 1
    three_headed(saved(models, tmp_path))
    assert "its head was trained on another body" in caplog.text


@pytest.mark.parametrize("other", [{"channels": 6}, {"name": "resnet34"}])
def test_checkpoints_whose_bodies_do_not_fit_are_refused(tmp_path, other):
    """Another C, another backbone."""
    paths = saved(single_models(), tmp_path)
    odd = build_model(sections(**other)["detection"], "detection", "x")
    write_checkpoint(paths["detection"], odd)
    with pytest.raises(CheckpointError, match=r"detection.pt: made for another model"):
        three_headed(paths)


def test_a_body_that_ends_early_is_compared_as_far_as_it_goes(tmp_path, caplog):
    """As the demo's segmenter, which ends with layer 3."""
    own = {"segmentation": ON_LAYER2}
    models = single_models(**own)
    three_headed(saved(models, tmp_path), own=own)
    assert "differs" not in caplog.text
    with torch.no_grad():
        models["segmentation"].backbone.layer3[0].bn1.running_mean += 0.25
    three_headed(saved(models, tmp_path), own=own)
    assert "segmentation.pt: its body differs" in caplog.text
    assert "Largest difference: 0.25 (layer3.0.bn1.running_mean)" in caplog.text
    assert "detection.pt" not in caplog.text


def test_a_head_on_another_layer_than_its_model_is_refused(tmp_path):
    paths = saved(single_models(segmentation=ON_LAYER2), tmp_path)
    with pytest.raises(CheckpointError, match=r"segmentation.pt: made for another model"):
        three_headed(paths)


def test_a_body_that_ends_early_cannot_be_the_shared_one(tmp_path):
    own = {"segmentation": ON_LAYER2}
    paths = saved(single_models(**own), tmp_path)
    text = r"models\.model\.body: the segmentation model has no layer4, which classification reads"
    with pytest.raises(ConfigError, match=text):
        three_headed(paths, own=own, body="segmentation")
    assert three_headed(paths, own=own, body="detection").layers["segmentation"] == {
        "out": "layer2"
    }


@pytest.mark.parametrize(
    ("head", "changes", "text"),
    [
        (
            "segmentation",
            {"return_layer_dict": {"layer3": "aux", "avgpool": "out"}},
            r"models\.model\.segmentation\.kwargs\.return_layer_dict: avgpool is no part of the "
            r"body: name some of bottleneck_layer, layer2, layer3, layer4",
        ),
        (
            "detection",
            {
                "backbone_fpn_kwargs": {
                    "return_layer_dict": {"layer4": "1", "avgpool": "2"},
                    "in_channels_list": [512, 512],
                }
            },
            r"detection\.kwargs\.backbone_fpn_kwargs\.return_layer_dict: avgpool is no part",
        ),
        (None, {"body": "segmenter"}, r"models\.model\.body: segmenter is none of classification"),
    ],
)
def test_what_no_shared_body_can_give_is_refused(head, changes, text):
    section = {"key": "ladon", **sections()}
    (section if head is None else section[head]["kwargs"]).update(changes)
    with pytest.raises(ConfigError, match=text):
        build_model(section, "classification", "models.model", load_weights=False)


def test_numbers_of_classes_that_no_part_says_are_the_checkpoints(tmp_path):
    models = single_models()
    ladon = three_headed(saved(models, tmp_path), counts=False)
    found = {head: num_classes_of(ladon.head_state(head)) for head in HEADS}
    assert found == {"classification": 10, "detection": 4, "segmentation": 5}
    assert torch.equal(ladon.fc.weight, models["classification"].fc.weight)


def test_names_of_classes_and_their_number_are_each_heads_own(tmp_path):
    models, names = single_models(), [f"class {n}" for n in range(10)]
    paths = saved(models, tmp_path)
    write_checkpoint(paths["classification"], models["classification"], classes=names)
    ladon = three_headed(paths)
    assert ladon.class_names["classification"] == names
    assert ladon.class_names["detection"] is None
    found = {head: num_classes_of(ladon.head_state(head)) for head in HEADS}
    assert found == {"classification": 10, "detection": 4, "segmentation": 5}


@pytest.mark.parametrize("head", HEADS)
def test_every_checkpoint_must_be_there(tmp_path, head):
    """The published code scored random weights."""
    paths = saved(single_models(), tmp_path)
    paths[head].unlink()
    with pytest.raises(CheckpointError, match=rf"{head}.pt \(named by models.model.{head}"):
        three_headed(paths)


def test_published_name_of_the_segmentation_checkpoint_leads_to_the_written_one(tmp_path, caplog):
    """The published three-headed files left out `_two_stages`."""
    paths = saved(single_models(), tmp_path)
    paths["segmentation"].rename(tmp_path / "segmentation_two_stages.pt")
    assert isinstance(three_headed(paths), ThreeHeadedLadon)
    assert "segmentation_two_stages.pt" in caplog.text
    assert Path(paths["segmentation"]).exists() is False
