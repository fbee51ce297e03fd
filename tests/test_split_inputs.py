"""A config's test transforms, as far as a device can be told them."""

from __future__ import annotations

import pytest
from data_config.helpers import write
from torch import nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from ladon.config import find_config_files, load_config
from ladon.edge.fitting import Fitting, Resize
from ladon.errors import ConfigError
from ladon.split.inputs import fitting_of

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TV = "torchvision.transforms"
NORMALIZE = f"{TV}.Normalize, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]"


def found(folder, *steps, name="transform"):
    """The fitting of a config whose data have these transforms, each 'key, argument: value'."""
    lines = []
    for step in steps:
        key, _, kwargs = step.partition(", ")
        lines.append(f"!import_call {{key: {key}, init: {{kwargs: {{{kwargs}}}}}}}")
    text = f"""
        datasets:
          data: !import_call
            key: torchvision.datasets.ImageFolder
            init:
              kwargs:
                root: nowhere
                {name}: !import_call
                  key: {TV}.Compose
                  init: {{kwargs: {{transforms: [{", ".join(lines)}]}}}}
        test: {{test_data_loader: {{dataset_id: data}}}}
    """
    return fitting_of(load_config(write(folder, text)), nn.Identity())


def test_the_published_ones(tmp_path):
    steps = (f"{TV}.Resize, size: 256", f"{TV}.CenterCrop, size: 224", f"{TV}.ToTensor", NORMALIZE)
    assert found(tmp_path, *steps) == Fitting(Resize(256), (224, 224), mean=MEAN, std=STD)
    steps = (
        "ladon.data.transforms.CustomRandomResize, min_size: 520, max_size: 520",
        "ladon.data.transforms.CustomToTensor",
        "ladon.data.transforms.CustomNormalize, mean: [0.5, 0.5, 0.5], std: [0.2, 0.2, 0.2]",
    )
    half, fifth = (0.5,) * 3, (0.2,) * 3
    wanted = Fitting(Resize(520), mean=half, std=fifth)
    assert found(tmp_path, *steps, name="transforms") == wanted


@pytest.mark.parametrize(
    ("step", "wanted"),
    [
        (f"{TV}.Resize, size: [64, 32]", Fitting(Resize((64, 32)))),
        (f"{TV}.Resize, size: [64]", Fitting(Resize(64))),
        (f"{TV}.Resize, size: 64, max_size: 90", Fitting(Resize(64, 90))),
        (
            "ladon.data.transforms.WrappedResize, interpolation: bicubic, size: 64",
            Fitting(Resize(64, filter="bicubic")),
        ),
        ("torchvision.transforms.v2.Resize, size: 64", Fitting(Resize(64))),
        (f"{TV}.CenterCrop, size: [8, 9]", Fitting(crop=(8, 9))),
    ],
)
def test_each_step(tmp_path, step, wanted):
    assert found(tmp_path, step) == wanted


@pytest.mark.parametrize(
    ("steps", "named"),
    [
        ([f"{TV}.RandomHorizontalFlip"], "RandomHorizontalFlip"),
        ([f"{TV}.CenterCrop, size: 8", f"{TV}.Resize, size: 8"], "Resize"),
        ([f"{TV}.Resize, size: 8", f"{TV}.Resize, size: 9"], "Resize"),
        (
            ["ladon.data.transforms.CustomRandomResize, min_size: 8, max_size: 9"],
            "CustomRandomResize",
        ),
    ],
)
def test_what_no_device_can_be_told_is_refused_with_its_place(tmp_path, steps, named):
    with pytest.raises(ConfigError, match=rf"kwargs.transform in .*c.yaml:8: {named} is nothing"):
        found(tmp_path, *steps)


def test_a_model_that_fits_images_itself_does_so(tmp_path):
    model = nn.Module()
    model.transform = GeneralizedRCNNTransform([640, 800], 1333, MEAN, STD, size_divisible=64)
    config = load_config(write(tmp_path, "models: {}"))
    wanted = Fitting(Resize(800, 1333, of_tensors=True), multiple=64, mean=MEAN, std=STD)
    assert fitting_of(config, model) == wanted
    with pytest.raises(ConfigError, match=r"c.yaml: has no test.test_data_loader with a dataset"):
        fitting_of(config, nn.Identity())


def test_all_shipped_configs_can_be_told():
    """Detectors and three-headed models have a transform of their own, the others a known one."""
    seen = 0
    for file in find_config_files(["configs", "legacy/configs"]):
        config = load_config(file)
        models = config.section("models")
        key = (models.get("student_model") or models.get("model") or {}).get("key")
        if key in ("ladon", "faster_rcnn_model") or "test" not in config or "coco" in str(file):
            continue
        config.import_dependencies()
        assert fitting_of(config, nn.Identity()).mean is not None, file
        seen += 1
    assert seen > 60
