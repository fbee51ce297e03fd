"""The shipped ResNet-50 families: the paper's values, the published names, and small YAML.

Expected values were read from the configs and training logs of the paper's repository.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from ladon.config import check_config, find_config_files, load_config

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
BETAS = ("0.32", "1.28", "5.12", "10.24", "20.48")
NAMES = {
    "ilsvrc2012": "splittable_resnet50-fp-beta{}_from_resnet50",
    "coco2017": "faster_rcnn_splittable_resnet50-fp-beta{}_fpn",
    "pascal_voc2012": "deeplabv3_splittable_resnet50-fp-beta{}_two_stages",
}
MODELS = {
    "ilsvrc2012": "student_model",
    "coco2017": "model",
    "pascal_voc2012": "model",
}
BODY = "./resource/ckpt/ilsvrc2012/ladon/ilsvrc2012-splittable_resnet50-fp-beta{}_from_resnet50.pt"


def shipped(dataset, beta="0.32"):
    return load_config(CONFIGS / dataset / "ladon" / f"{NAMES[dataset].format(beta)}.yaml")


def test_every_shipped_file_is_valid():
    files = find_config_files([CONFIGS])
    assert len(files) >= 15
    for file in files:
        config = load_config(file)
        config.import_dependencies()
        check_config(config)


def test_a_resolved_config_runs_as_it_is(tmp_path):
    """As a run leaves it in its folder; own variables such as `backbone` are resolved in it."""
    for file in find_config_files([CONFIGS, ROOT / "legacy" / "configs"])[::6]:
        resolved = tmp_path / "config.yaml"
        resolved.write_text(load_config(file).dump(variables=False))
        again = load_config(resolved)
        check_config(again)
        assert again.dump() == resolved.read_text(), "nothing of its own is left in it"


@pytest.mark.parametrize("dataset", NAMES)
@pytest.mark.parametrize("beta", BETAS)
def test_a_beta_file_says_beta_and_the_rest_follows(dataset, beta):
    name = NAMES[dataset].format(beta)
    assert len((CONFIGS / dataset / "ladon" / f"{name}.yaml").read_text().splitlines()) <= 10
    config = shipped(dataset, beta)
    assert config.beta == float(beta)
    model = f"models.{MODELS[dataset]}"
    checkpoint = f"./resource/ckpt/{dataset}/ladon/{dataset}-{name}.pt"
    assert config.get(f"{model}.dst_ckpt") == checkpoint
    assert config.get(f"{model}.experiment") == f"{dataset}-{name}"
    if dataset == "ilsvrc2012":
        terms = config.get("train.stage1.criterion.kwargs.sub_terms")
        assert terms["bpp"]["weight"] == float(beta)
    else:
        assert config.get(f"{model}.kwargs.backbone_config.src_ckpt") == BODY.format(beta)


def test_beta_from_the_command_line_moves_everything():
    path = CONFIGS / "coco2017" / "ladon" / f"{NAMES['coco2017'].format('0.32')}.yaml"
    config = load_config(path, assignments=["beta=0.64"])
    assert "beta0.64" in config.get("models.model.dst_ckpt")
    assert config.get("models.model.kwargs.backbone_config.src_ckpt") == BODY.format("0.64")


def test_data_root_moves_every_dataset(tmp_path):
    for dataset in NAMES:
        path = CONFIGS / dataset / "ladon" / f"{NAMES[dataset].format('0.32')}.yaml"
        dump = load_config(path, data_root=str(tmp_path)).dump()
        assert "~/datasets" not in dump
        assert str(tmp_path) in dump


def transforms(config, dataset_id, argument):
    pipeline = config.get("datasets")[dataset_id].value["init"]["kwargs"][argument]
    return {
        t.value["key"].rsplit(".", 1)[-1]: (t.value.get("init") or {}).get("kwargs")
        for t in pipeline.value["init"]["kwargs"]["transforms"]
    }


# of a head's own config: what only trains, and what the three-headed model gives it otherwise
ONLY_ALONE = {
    "num_classes",
    "pretrained",
    "backbone_config",
    "analyzable_layer_key",
    "rpn_batch_size_per_image",
    "rpn_pre_nms_top_n_train",
    "rpn_post_nms_top_n_train",
    "box_batch_size_per_image",
}


@pytest.mark.parametrize("beta", ["0.32", "5.12", "20.48"])
def test_the_demos_three_heads_are_those_that_were_trained(beta):
    folder, name = CONFIGS / "digit_scenes", f"splittable_resnet18-fp-beta{beta}"
    alone = {
        "classification": f"{name}_from_resnet18",
        "detection": f"faster_rcnn_{name}_fpn",
        "segmentation": f"deeplabv3_{name}",
    }
    whole = load_config(folder / "ladon" / f"{alone['classification']}.yaml")
    encoder = whole.get("models.student_model.kwargs.bottleneck_config")
    for task, file in alone.items():
        three = load_config(folder / "ladon-runtime" / f"ladon-{name}_{task}.yaml")
        parts = three.section("models.model")
        assert three.beta == float(beta)
        assert parts["classification"]["kwargs"]["bottleneck_config"] == encoder
        single = load_config(folder / "ladon" / f"{file}.yaml")
        if task == "classification":
            best = single.get("models.student_model.dst_ckpt")
            assert parts[task]["src_ckpt"] == best
            continue
        kwargs = parts[task]["kwargs"]
        assert kwargs.pop("start_ckpt_file_path") == single.get("models.model.dst_ckpt")
        expected = single.section("models.model")["kwargs"]
        for given in (expected, expected.get("backbone_fpn_kwargs", {})):
            for key in ONLY_ALONE & given.keys():
                del given[key]
        if task == "detection":
            anchors = [given.pop("rpn_anchor_generator").value for given in (kwargs, expected)]
            assert anchors[0] == anchors[1]
        assert kwargs == expected


def test_ilsvrc_recipe():
    config = shipped("ilsvrc2012")
    train = transforms(config, "ilsvrc2012/train", "transform")
    assert train["WrappedRandomResizedCrop"] == {"size": [416, 416], "interpolation": "bicubic"}
    assert train["RandomHorizontalFlip"] == {"p": 0.5}
    val = transforms(config, "ilsvrc2012/val", "transform")
    assert val["Resize"] == {"size": 448}
    assert val["CenterCrop"] == {"size": [416, 416]}
    stage1, stage2 = config.section("train.stage1"), config.section("train.stage2")
    assert (stage1["num_epochs"], stage2["num_epochs"]) == (10, 10)
    assert config.get("train.epoch_to_update") == 10
    assert stage1["train_data_loader"]["kwargs"]["batch_size"] == 32
    assert stage2["train_data_loader"]["kwargs"]["batch_size"] == 16
    assert stage1["optimizer"] == {"key": "Adam", "kwargs": {"lr": 1e-3}}
    assert stage1["scheduler"]["kwargs"] == {"milestones": [5, 8], "gamma": 0.1}
    assert stage2["optimizer"] == {
        "key": "SGD",
        "kwargs": {"lr": 1e-3, "momentum": 0.9, "weight_decay": 5e-4},
    }
    assert stage2["scheduler"]["kwargs"] == {"milestones": [5], "gamma": 0.1}
    assert stage1["student"]["frozen_modules"] == ["layer2", "layer3", "layer4"]
    assert stage1["student"]["freeze_batch_norm"] is False
    assert stage2["student"]["frozen_modules"] == [
        "bottleneck_layer.encoder",
        "bottleneck_layer.entropy_bottleneck",
    ]
    terms = stage1["criterion"]["kwargs"]["sub_terms"]
    assert {name: term["weight"] for name, term in terms.items()} == {
        "layer1": 1.0,
        "layer2": 1.0,
        "layer3": 1.0,
        "layer4": 1.0,
        "bpp": 0.32,
    }
    kd = stage2["criterion"]["kwargs"]["sub_terms"]["kd"]["criterion"]["kwargs"]
    assert (kd["temperature"], kd["alpha"], kd["reduction"]) == (1.0, 0.5, "batchmean")


def test_coco_recipe():
    config = shipped("coco2017")
    train = config.section("train")
    assert (train["num_epochs"], train["epoch_to_update"]) == (26, 0)
    batches = train["train_data_loader"]["batch_sampler"]["kwargs"]
    assert batches["batch_size"] == 8
    groups = batches["group_ids"].value["init"]["kwargs"]
    assert groups["aspect_ratio_group_factor"] == 3
    assert groups["dataset"] == "${datasets.coco2017/train}", "the dataset that is trained on"
    assert train["optimizer"]["kwargs"] == {"lr": 0.02, "momentum": 0.9, "weight_decay": 1e-4}
    assert train["optimizer"]["max_grad_norm"] == 1.0
    assert train["scheduler"]["kwargs"] == {"milestones": [16, 22], "gamma": 0.1}
    assert train["model"]["freeze_batch_norm"] is True
    kwargs = config.section("models.model")["kwargs"]
    assert (kwargs["num_classes"], kwargs["min_size"], kwargs["max_size"]) == (91, 416, 416)


def test_voc_recipe():
    config = shipped("pascal_voc2012")
    for dataset_id in ("coco2017/train", "pascal_voc2012/train"):
        train = transforms(config, dataset_id, "transforms")
        assert train["CustomRandomResize"] == {"min_size": 256, "max_size": 832, "square": True}
        assert train["CustomRandomCrop"] == {"size": 416}
    stage1, stage2 = config.section("train.stage1"), config.section("train.stage2")
    assert (stage1["num_epochs"], stage2["num_epochs"]) == (30, 60)
    assert config.get("train.epoch_to_update") == 0
    for stage in (stage1, stage2):
        assert stage["train_data_loader"]["kwargs"]["batch_size"] == 16
        assert stage["optimizer"]["kwargs"] == {"lr": 0.02, "momentum": 0.9, "weight_decay": 1e-4}
        assert stage["optimizer"]["module_wise_kwargs"][2] == {
            "module": "aux_classifier",
            "kwargs": {"lr": 0.01},
        }
        assert stage["scheduler"]["kwargs"]["power"] == 0.9
        assert stage["scheduler"]["scheduling_step"] == 1
        assert stage["model"]["freeze_batch_norm"] is True
        term = stage["criterion"]["kwargs"]["sub_terms"]["ce"]
        assert term["criterion"]["kwargs"]["ignore_index"] == 255
        assert term["criterion_wrapper"]["kwargs"]["weights"] == {"out": 1.0, "aux": 0.5}
