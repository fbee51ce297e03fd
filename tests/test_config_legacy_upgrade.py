"""The legacy schema becomes the current one on load, whatever lies over or under it."""

from __future__ import annotations

import pytest
from data_config.helpers import GOOD, error_of, load, problems_of, write

from ladon.config import load_config, validate_config
from ladon.errors import ConfigError

FOLDER = GOOD.parent
DISTILL, DETECT, SEGMENT = (FOLDER / f"legacy_{n}.yaml" for n in ("distill", "detect", "segment"))


def call_of(config, dataset_id):
    """The class or function of a dataset, and its arguments."""
    node = config.get("datasets")[dataset_id]
    resolved = config.resolver.resolve(node.value)
    return resolved["key"], resolved["init"]["kwargs"]


def steps_of(config, transform):
    resolved = config.resolver.resolve(transform.value)
    steps = [config.resolver.resolve(s.value) for s in resolved["init"]["kwargs"]["transforms"]]
    return resolved["key"], [(s["key"], (s.get("init") or {}).get("kwargs")) for s in steps]


@pytest.mark.parametrize("path", [DISTILL, DETECT, SEGMENT, FOLDER / "legacy_ladon.yaml"])
def test_legacy_files_are_valid(path):
    assert validate_config(load_config(path)) == []


def test_what_a_legacy_file_became_loads_as_the_same(tmp_path):
    for path in (DISTILL, DETECT, SEGMENT):
        dump = load_config(path).dump()
        again = write(tmp_path, dump)
        assert load_config(again).dump() == dump
        assert "params" not in dump


def test_image_folder_datasets():
    config = load_config(DISTILL)
    assert list(config.get("datasets")) == ["pictures/train", "pictures/val"]
    key, kwargs = call_of(config, "pictures/train")
    assert key == "torchvision.datasets.ImageFolder"  # the alias table puts ours in its place
    assert kwargs["root"] == "~/dataset/pictures/train"
    assert steps_of(config, kwargs["transform"]) == (
        "torchvision.transforms.Compose",
        [
            (
                "ladon.data.transforms.WrappedRandomResizedCrop",
                {"size": [64, 64], "interpolation": "bicubic"},
            ),
            ("torchvision.transforms.RandomHorizontalFlip", {"p": 0.5}),
            ("torchvision.transforms.ToTensor", None),
            ("torchvision.transforms.Normalize", {"mean": [0.5] * 3, "std": [0.2] * 3}),
        ],
    )


def test_coco_and_voc_datasets():
    config = load_config(SEGMENT)
    key, kwargs = call_of(config, "coco/train")
    assert key == "ladon.data.coco.coco_dataset"
    transforms = kwargs.pop("transforms")
    assert kwargs == {
        "img_dir_path": "~/dataset/coco/train2017",
        "ann_file_path": "~/dataset/coco/annotations/train.json",
        "annotated_only": True,
        "is_segment": True,  # random_horizontal_flip beside a list of transforms is ignored (D7)
    }
    compose, steps = steps_of(config, transforms)
    assert compose == "ladon.data.transforms.CustomCompose"
    assert [name.rsplit(".", 1)[-1] for name, _ in steps] == [
        "CustomRandomResize",
        "CustomRandomHorizontalFlip",
        "CustomRandomCrop",
        "CustomToTensor",
        "CustomNormalize",
    ]
    key, kwargs = call_of(config, "voc/train")
    assert key == "torchvision.datasets.VOCSegmentation"
    assert steps_of(config, kwargs.pop("transforms"))[1] == steps
    assert kwargs == {"root": "~/dataset", "image_set": "train", "year": "2012", "download": False}
    assert call_of(load_config(DETECT), "boxes/train")[1]["random_horizontal_flip"] == 0.5


def test_the_data_root_moves_legacy_files_too(tmp_path):
    config = load_config(SEGMENT, data_root=str(tmp_path))
    assert call_of(config, "voc/val")[1]["root"] == str(tmp_path)
    assert call_of(config, "coco/train")[1]["img_dir_path"] == f"{tmp_path}/coco/train2017"


def test_models_and_the_four_meanings_of_ckpt():
    config = load_config(DISTILL)
    teacher, student = (
        config.section("models.teacher_model"),
        config.section("models.student_model"),
    )
    assert teacher["src_ckpt"] == "./resource/ckpt/teacher/pictures-resnet18.pt"
    assert student["dst_ckpt"] == "./resource/ckpt/pictures-splittable_resnet.pt"
    assert "src_ckpt" not in student
    assert student["key"] == "splittable_resnet"
    assert student["kwargs"]["pre_transform"] is None
    assert student["kwargs"]["bottleneck_config"]["key"] == "FPBasedResNetBottleneck"
    analyzers = student["kwargs"]["analysis_config"]["analyzer_configs"]
    assert analyzers == [{"key": "FileSizeAnalyzer", "kwargs": {"unit": "KB"}}]
    detector = load_config(DETECT).section("models.model")
    assert detector["kwargs"]["backbone_config"]["src_ckpt"] == "./resource/ckpt/backbone.pt"
    assert detector["dst_ckpt"] == "./resource/ckpt/boxes-detector.pt"
    # a URL is nothing that training could write
    model = load_config(SEGMENT).section("models.model")
    assert model["src_ckpt"] == "https://example.org/lraspp.pth"
    assert "dst_ckpt" not in model
    parts = load_config(FOLDER / "legacy_ladon.yaml").section("models.model")
    assert parts["key"] == "ladon"
    assert parts["classification"]["src_ckpt"] == "./resource/ckpt/classifier.pt"
    assert parts["detection"]["kwargs"]["start_ckpt_file_path"] == "./resource/ckpt/detector.pt"


def test_transforms_in_front_of_a_model(tmp_path):
    model = (
        "models: {model: {name: splittable_resnet, params: {pre_transform_params:"
        " [{type: Resize, params: {size: 8}}]}}}"
    )
    node = load(tmp_path, model).get("models.model.kwargs.pre_transform")
    assert node.value["key"] == "torchvision.transforms.Compose"


def test_loaders_and_samplers():
    loader = load_config(DISTILL).section("train.stage1.train_data_loader")
    assert loader["kwargs"] == {"batch_size": 8, "num_workers": 2}
    sampler = loader["sampler"]["class_or_func"]
    assert (sampler.tag, sampler.value["key"]) == ("!import_get", "torch.utils.data.RandomSampler")
    config = load_config(SEGMENT)
    sampler = config.section("train.stage2.train_data_loader")["sampler"]["class_or_func"]
    assert sampler.value["key"] == "torch.utils.data.SequentialSampler"
    config = load_config(DETECT)
    loader = config.section("train.train_data_loader")
    assert loader["kwargs"] == {"num_workers": 4}
    assert loader["batch_sampler"]["kwargs"]["batch_size"] == 8
    groups = loader["batch_sampler"]["kwargs"]["group_ids"]
    kwargs = config.resolver.resolve(groups.value)["init"]["kwargs"]
    assert kwargs["aspect_ratio_group_factor"] == 3
    assert kwargs["dataset"] is config.get("datasets")["boxes/train"]


def test_optimizers_and_schedulers():
    config = load_config(SEGMENT)
    optimizer = config.section("train.stage1.optimizer")
    assert optimizer == {
        "key": "SGD",
        "kwargs": {"lr": 0.02, "momentum": 0.9},
        "module_wise_kwargs": [
            {"module": "backbone", "kwargs": {}},
            {"module": "classifier", "kwargs": {"lr": 0.01}},
        ],
    }
    # the text 'None' stood for the length of the stage's loader
    scheduler = config.section("train.stage1.scheduler")
    assert scheduler["kwargs"] == {"num_epochs": 3, "power": 0.9}
    assert scheduler["scheduling_step"] == 1


def test_losses():
    config = load_config(DISTILL)
    first = config.section("train.stage1.criterion")
    assert first["key"] == "WeightedSumLoss"
    terms = first["kwargs"]["sub_terms"]
    assert set(first["kwargs"]) == {"sub_terms"}  # org_term's factor is 0
    assert terms["bpp"]["weight"] == 0.64
    assert "criterion_wrapper" not in terms["bpp"]
    assert terms["layer1"]["criterion_wrapper"] == {
        "key": "SimpleLossWrapper",
        "kwargs": {
            "input": {"is_from_teacher": False, "module_path": "bottleneck_layer", "io": "output"},
            "target": {"is_from_teacher": True, "module_path": "layer1", "io": "output"},
        },
    }
    second = config.section("train.stage2.criterion.kwargs.sub_terms")
    assert second["kd"]["criterion"]["kwargs"]["teacher_module_path"] == "."
    assert second["kd"]["criterion"]["kwargs"]["alpha"] == 0.5
    term = load_config(SEGMENT).section("train.stage2.criterion.kwargs.sub_terms.ce")
    assert term["criterion_wrapper"]["key"] == "DictLossWrapper"
    assert term["criterion_wrapper"]["kwargs"]["weights"] == {"out": 1.0, "aux": 0.5}
    assert term["weight"] == 1.0
    config = load_config(DETECT)
    assert config.section("train.criterion") == {
        "key": "WeightedSumLoss",
        "func2extract_model_loss": "extract_model_loss_dict",
        "kwargs": {"model_term": {"weight": 1.0}},
    }
    # a model that returns its own losses needs the targets
    assert config.get("train.model.forward_proc") == "forward_batch_target"
    assert "apex" not in load_config(DISTILL).section("train.stage1")


def test_a_loss_on_plain_outputs_and_on_the_label(tmp_path):
    text = """
    train:
      criterion:
        type: GeneralizedCustomLoss
        org_term: {criterion: {type: CrossEntropyLoss, params: }, factor: 0.5}
        sub_terms:
          ce:
            criterion: {type: CrossEntropyLoss, params: {reduction: sum}}
            params:
              input: {is_from_teacher: False, module_path: fc, io: output}
              target: {is_from_teacher: False, module_path: , io: }
            factor: 2.0
    """
    terms = load(tmp_path, text).section("train.criterion.kwargs.sub_terms")
    assert terms["ce"]["criterion_wrapper"]["kwargs"]["target"] == {"uses_label": True}
    assert terms["org"]["criterion_wrapper"]["key"] == "SimpleLossWrapper"
    assert terms["org"]["weight"] == 0.5


def test_problems_name_the_users_line(tmp_path):
    lines = DISTILL.read_text().splitlines()
    wrong = {
        "interpolation: 'bicubic'": "interpolatoin: 'bicubic'",
        "wrapper: 'DistributedDataParallel'": "warpper: 'DistributedDataParallel'",
        "milestones: [1]": "milestone: [1]",
        "entropy_module_path:": "entropy_path:",
    }
    expected = []
    for old, new in wrong.items():
        line = next(n for n, text in enumerate(lines) if old in text)
        lines[line] = lines[line].replace(old, new)
        # arguments are listed at their key, or at the mapping that stands in their line
        expected.append(line + 1)
    config = load_config(write(tmp_path, "\n".join(lines)))
    problems = problems_of(config)
    for line in expected:
        assert any(p.startswith(f"c.yaml:{line}: ") for p in problems), (line, problems)
    assert any('did you mean "interpolation"?' in p for p in problems)
    assert any('did you mean "wrapper"?' in p for p in problems)


def test_misspelt_legacy_keys(tmp_path):
    text = DISTILL.read_text()
    text = text.replace("optimizer: {type: 'Adam', params", "optimizer: {type: 'Adam', parms")
    text = text.replace("    random_sample: False", "    random_sampel: False")
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, text))
    found = str(caught.value)
    assert 'train.stage1.optimizer.parms: unknown key; did you mean "params"?' in found
    assert (
        'test.test_data_loader.random_sampel: unknown key; did you mean "random_sample"?' in found
    )
    assert found.count("c.yaml:") == 3  # the validation loader's, too


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("datasets: {a: {type: ImageFolder, split: {}}}", 'needs "splits"; did you mean "split"?'),
        ("datasets: {a: {splits: {}}}", 'datasets.a needs "type"'),
        ("datasets: {a: {type: X, splits: {b: {}}}}", 'datasets.a.splits.b needs "dataset_id"'),
        (
            "datasets: {a: {type: X, splits: {b: {dataset_id: b, random_split: {}}}}}",
            "splits.b.random_split is not supported",
        ),
        (
            "datasets: {a: {type: X, splits: {b: {dataset_id: b, params: {transform_params: 3}}}}}",
            "must be a list of transforms, not a number",
        ),
        (
            "test: {test_data_loader: {dataset_id: b, random_sample: 'yes'}}",
            "random_sample must be true or false",
        ),
        (
            "models: {model: {name: a, key: b}}",
            'models.model: "name" and "key" are the same: leave one of them out',
        ),
        (
            "train: {criterion: {type: GeneralizedCustomLoss, func2extract_org_loss: "
            "extract_simple_org_loss_dict, org_term: {criterion: {type: MSELoss}, factor: 1}}}",
            "factor needs a number for each output of the model",
        ),
    ],
)
def test_what_cannot_be_understood(tmp_path, text, expected):
    message = error_of(tmp_path, text)
    assert message.startswith("c.yaml:1: ")
    assert expected in message


def test_set_names_current_keys():
    assignments = ["train.stage1.num_epochs=5", "train.stage1.optimizer.kwargs.lr=0.5"]
    config = load_config(DISTILL, assignments=assignments)
    assert config.get("train.stage1.optimizer.kwargs.lr") == 0.5
    assert config.get("train.epoch_to_update") == 5  # still the first epoch of stage 2


@pytest.mark.parametrize("path", [DISTILL, GOOD])
@pytest.mark.parametrize(
    "override",
    [
        {"train": {"stage1": {"train_data_loader": {"batch_size": 3}}}},
        {"train": {"stage1": {"train_data_loader": {"kwargs": {"batch_size": 3}}}}},
    ],
)
def test_json_in_either_schema_over_either(path, override):
    config = load_config(path, overrides=override)
    loader = config.section("train.stage1.train_data_loader")
    assert loader["kwargs"]["batch_size"] == 3
    assert loader["kwargs"]["num_workers"] in (0, 2)
    assert "batch_size" not in loader
    assert validate_config(config) == []


def test_json_moves_a_legacy_checkpoint():
    for key in ("ckpt", "dst_ckpt"):
        override = {"models": {"student_model": {key: "x.pt"}}}
        config = load_config(DISTILL, overrides=override)
        assert config.get("models.student_model.dst_ckpt") == "x.pt"
        assert validate_config(config) == []


def test_a_current_file_over_a_legacy_one(tmp_path):
    text = f"""
    _base_: {DISTILL}
    datasets:
      pictures/val: !import_call
        key: torchvision.datasets.FakeData
    models:
      student_model:
        kwargs: {{bottleneck_config: {{kwargs: {{num_bottleneck_channels: 6}}}}}}
    train: {{stage1: {{optimizer: {{kwargs: {{lr: 0.5}}}}}}}}
    """
    config = load(tmp_path, text)
    assert validate_config(config) == []
    assert config.get("datasets")["pictures/val"].value["key"] == "torchvision.datasets.FakeData"
    assert "pictures/train" in config.get("datasets")
    bottleneck = config.section("models.student_model.kwargs.bottleneck_config.kwargs")
    assert bottleneck == {"num_bottleneck_channels": 6, "num_target_channels": 64}
    assert config.section("train.stage1.optimizer") == {"key": "Adam", "kwargs": {"lr": 0.5}}


def test_a_legacy_file_over_legacy_and_current_ones(tmp_path):
    layer = "train: {stage1: {optimizer: {params: {lr: 0.5}}, scheduler: {type: MultiStepLR}}}"
    for base in (DISTILL, GOOD):
        config = load(tmp_path, f"_base_: {base}\n{layer}")
        assert config.get("train.stage1.optimizer.kwargs.lr") == 0.5
        assert config.get("train.stage1.optimizer.key") == ("Adam" if base == DISTILL else "SGD")
        assert config.get("train.stage1.scheduler.key") == "MultiStepLR"
