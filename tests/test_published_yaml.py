"""Files in the published formats load unchanged and without noise (the files are our own)."""

from __future__ import annotations

import logging
import re
import warnings
from pathlib import Path

import pytest
from data_config.helpers import load, problems_of, write

from ladon.config import load_config, validate_config
from ladon.config.core.aliases import ALIASES, MODULE_ALIASES, resolve_name
from ladon.config.core.nodes import TAGS

FOLDER = Path(__file__).parent / "data_config"
PUBLISHED = FOLDER / "published_detect.yaml"
FILES = sorted(FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_they_load_without_problems_or_noise(path, caplog):
    with caplog.at_level(logging.INFO), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        config = load_config(path)
        assert validate_config(config) == []
    ladons = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert ladons == []
    assert [w for w in caught if "ladon" in str(w.filename)] == []


def test_every_tag_and_every_alias_is_tried():
    text = "".join(path.read_text() for path in FILES)
    assert [tag for tag in TAGS if not re.search(rf"{tag}\s", text)] == []
    published = [name for name in ALIASES if not name.startswith("torchvision.datasets.folder")]
    assert [name for name in published if f"'{name}'" not in text] == []


@pytest.mark.parametrize("name", ALIASES)
def test_aliases_lead_somewhere(name):
    assert resolve_name(name) is resolve_name(ALIASES[name])


def test_the_published_package_is_importable():
    config = load_config(PUBLISHED)
    config.import_dependencies()
    assert MODULE_ALIASES["custom"] == "ladon.data"


def test_every_tag_computes(tmp_path):
    config = load_config(PUBLISHED)
    home = config.get("datasets")["boxes/train"].value
    assert config.resolver.resolve(home["_home"]) == str(Path("~/somewhere").expanduser())
    assert config.resolver.resolve(home["_here"]) == str(Path.cwd())
    kwargs = config.resolver.resolve(home)["init"]["kwargs"]
    assert kwargs["img_dir_path"] == str(Path("~/datasets/boxes/train2017").expanduser())
    model = config.build(config.section("models.model"))
    assert model["kwargs"]["min_size"] == 320
    assert model["kwargs"]["weights"].name == "COCO_V1"
    assert model["_common"] == [("a", 2)]
    assert model["_named"].label == "c"
    assert model["dst_ckpt"] == "./resource/ckpt/boxes-fasterrcnn_mobilenet_v3_large_320_fpn.pt"


def test_anchors_on_keys_and_shared_nodes():
    config = load_config(PUBLISHED)
    loader = config.section("train.train_data_loader")
    assert loader["dataset_id"] == "boxes/train"
    groups = loader["batch_sampler"]["kwargs"]["group_ids"]
    dataset = config.resolver.resolve(groups.value)["init"]["kwargs"]["dataset"]
    assert dataset is config.get("datasets")["boxes/train"]


def test_keys_that_nobody_reads_are_in_the_tried_files():
    tried = "".join(path.read_text() for path in FILES)
    for key in ("cache_output", "adaptations", "experiment", "in_channels_stage2", "_note"):
        assert f"{key}:" in tried


@pytest.mark.parametrize(
    ("right", "wrong", "hint"),
    [
        ("collate_fn: 'coco_collate_fn'", "collate_fn: 'coco_colate_fn'", "coco_collate_fn"),
        ("    cache_output:", "    cache_ouptut:", "cache_output"),
        ("      kwargs:\n        batch_size", "      kwarg:\n        batch_size", "kwargs"),
        ("max_grad_norm: 1.0", "max_grad_nrom: 1.0", "max_grad_norm"),
        ("frozen_modules:", "frozen_module:", "frozen_modules"),
        ("model_term:", "modle_term:", "model_term"),
        ("annotated_only: True", "anotated_only: True", "annotated_only"),
        ("custom.transform.CustomCompose", "custom.transform.CustomCompse", "CustomCompose"),
        ("{size: 48, interpolation", "{size: 48, interpolatoin", "interpolation"),
    ],
)
def test_a_misspelt_key_gets_its_line_and_a_suggestion(tmp_path, right, wrong, hint):
    text = PUBLISHED.read_text()
    assert right in text
    line = text[: text.index(right)].count("\n") + 1
    config = load_config(write(tmp_path, text.replace(right, wrong, 1)))
    problems = problems_of(config)
    assert any(
        p.startswith(f"c.yaml:{line}: ") and "did you mean" in p and f'{hint}"?' in p
        for p in problems
    ), problems


def test_sections_may_mix_the_schemas(tmp_path):
    config = load_config(FOLDER / "legacy_ladon.yaml")
    assert list(config.get("datasets")) == ["pictures/val"]
    legacy = """  boxes:
    type: 'cocodetect'
    splits:
      tiny: {dataset_id: 'boxes/tiny', images: 'i', annotations: 'a.json', annotated_only: False}

models:
"""
    text = PUBLISHED.read_text().replace("models:\n", legacy, 1)
    config = load(tmp_path, text, assignments=["test.test_data_loader.dataset_id=boxes/tiny"])
    assert {"boxes/train", "boxes/tiny"} <= set(config.get("datasets"))
    assert validate_config(config) == []


def test_published_pretrained_flags_build_without_noise():
    from ladon.models.build import build_model
    from ladon.models.meta_device import on_meta_device

    kwargs = {"pretrained": True, "pretrained_backbone": True, "num_classes": 21}
    section = {"key": "lraspp_mobilenet_v3_large", "kwargs": kwargs}
    with on_meta_device(), warnings.catch_warnings():
        warnings.simplefilter("error")
        build_model(section, "segmentation", "models.model", load_weights=False)
