"""legacy/: the same experiments in the legacy schema, its scripts, and where they write."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from ladon.cli import build_parser
from ladon.config import LazyCall, find_config_files, load_config
from ladon.config.core.build import lazy_target
from ladon.paths import run_folder, run_log_path
from ladon.tasks import TASKS

ROOT = Path(__file__).resolve().parents[1]
CURRENT, LEGACY = ROOT / "configs", ROOT / "legacy" / "configs"
DATASETS = ("ilsvrc2012", "coco2017", "pascal_voc2012")
OURS = "-vr"  # models for every rate: no published file is one
NAMES = [
    str(file.relative_to(CURRENT))
    for dataset in DATASETS
    for file in find_config_files([CURRENT / dataset])
    if OURS not in file.stem
]

FAMILIES = (
    "ilsvrc2012/ladon/splittable_resnet50-fp-beta0.32_from_resnet50.yaml",
    "ilsvrc2012/ladon/splittable_resnest269e-fp-beta0.32_from_resnest269e.yaml",
    "coco2017/ladon/faster_rcnn_splittable_resnet50-fp-beta0.32_fpn.yaml",
    "pascal_voc2012/ladon/deeplabv3_splittable_resnet50-fp-beta0.32_two_stages.yaml",
    "coco2017/ladon-runtime/ladon-splittable_resnet50-fp-beta0.32.yaml",
    "ilsvrc2012/baseline/mnasnet0_5.yaml",
    "coco2017/baseline/ssdlite320_mobilenet_v3_large.yaml",
    "pascal_voc2012/baseline/deeplabv3_mobilenet_v3_large.yaml",
    "pascal_voc2012/baseline/lraspp_mobilenet_v3_large.yaml",
)

# Paths whose values may differ between a legacy config and its twin. None does.
INTENDED: set[str] = set()
# What the engine does where a loader names no sampler.
DEFAULT_SAMPLERS = {
    "train_data_loader": "RandomSampler",
    "val_data_loader": "SequentialSampler",
    "test_data_loader": "SequentialSampler",
}


def plain(value, config):
    """A resolved value to compare: calls with their defaults bound, nothing empty, no anchors."""
    if isinstance(value, LazyCall):
        inside = config.resolver.resolve(value.value)
        if value.tag == "!getattr":  # a weights enum's entry, which a file may also name as text
            return inside[1]
        name, target = lazy_target(value, inside, config.own)
        if value.tag == "!import_get":
            return name
        given = (inside.get("init") or {}).get("kwargs") or {}
        bound = inspect.signature(target).bind(**given)
        bound.apply_defaults()
        call = {"!call": f"{target.__module__}.{target.__qualname__}", **bound.arguments}
        return plain(call, config)
    if isinstance(value, dict):
        items = {k: plain(v, config) for k, v in value.items() if not str(k).startswith("_")}
        for name, sampler in DEFAULT_SAMPLERS.items():
            if items.get(name, {}).get("sampler") == {
                "class_or_func": f"torch.utils.data.{sampler}"
            }:
                del items[name]["sampler"]
        return {k: v for k, v in items.items() if v not in (None, {}, [])}
    if isinstance(value, (list, tuple)):
        return [plain(item, config) for item in value]
    return value


def flat(value, path=""):
    if isinstance(value, dict):
        return {p: v for k in value for p, v in flat(value[k], f"{path}/{k}").items()}
    if isinstance(value, list):
        return {p: v for i, item in enumerate(value) for p, v in flat(item, f"{path}/{i}").items()}
    return {path: value}


def resolved(root, name):
    config = load_config(root / name)
    sections = config.resolver.resolve(config.root)
    for name in ("dependencies", "variant"):  # imports; what names are made of
        sections.pop(name, None)
    return flat(plain(sections, config))


def test_both_trees_hold_the_same_69_files():
    assert len(NAMES) == 69
    assert sorted(str(f.relative_to(LEGACY)) for f in find_config_files([LEGACY])) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_legacy_config_and_its_twin_are_the_same_run(name):
    legacy, current = resolved(LEGACY, name), resolved(CURRENT, name)
    differing = {p for p in legacy.keys() | current.keys() if legacy.get(p) != current.get(p)}
    assert {p: (legacy.get(p), current.get(p)) for p in differing - INTENDED} == {}
    assert len(current) > 10


def test_the_comparison_sees_what_matters():
    paths = resolved(LEGACY, FAMILIES[0])
    for piece in ("/datasets/ilsvrc2012/train/!call", "/transform/transforms/0/interpolation"):
        assert any(piece in path for path in paths), piece
    for piece in ("student_model/dst_ckpt", "optimizer/kwargs/lr", "scheduler/kwargs/milestones/0"):
        assert any(piece in path for path in paths), piece
    for piece in ("sub_terms/bpp/weight", "epoch_to_update", "freeze_batch_norm", "num_epochs"):
        assert any(piece in path for path in paths), piece


@pytest.mark.parametrize("name", FAMILIES)
def test_models_and_losses_are_built_alike(name):
    from torchdistill.losses.registry import get_high_level_loss

    import ladon.engine.stage  # noqa: F401  (registers what losses name)
    from ladon.engine.plan import build_stage_section, read_plan
    from ladon.models.architecture_check import tensors
    from ladon.models.build import build_model
    from ladon.models.meta_device import on_meta_device

    kind = {"i": "classification", "c": "detection", "p": "segmentation"}[name[0]]
    found = []
    for root in (LEGACY, CURRENT):
        config = load_config(root / name)
        config.import_dependencies()
        key = "models.student_model" if "models.student_model" in config else "models.model"
        with on_meta_device():
            section = config.build(config.section(key))
            model = tensors(build_model(section, kind, key, load_weights=False))
        losses = []
        for stage in read_plan(config).stages if "train" in config else ():
            criterion = build_stage_section(config, stage)["criterion"]
            losses.append(str(get_high_level_loss(criterion)))
        found.append((model, losses))
    assert found[0] == found[1]
    assert len(found[0][0]) > 100


def test_yaml_stays_small():
    files = [f for root in (CURRENT, LEGACY) for f in root.rglob("*.yaml")]
    lines = {f: len(f.read_text().splitlines()) for f in files}
    assert sum(lines.values()) <= 2600
    assert max(count for f, count in lines.items() if "-beta" in f.name) <= 10


@pytest.mark.parametrize("script", ["image_classification", "object_detection"])
def test_legacy_flags(script):
    published = ["--config", "c.yaml", "--log", "x/y.txt", "--json", '{"a": 1}', "--device", "cpu"]
    published += ["--start_epoch", "1", "--seed", "3", "-test_only", "-student_only", "-no_dp_eval"]
    published += ["-log_config", "--world_size", "2", "--dist_url", "env://", "-adjust_lr"]
    args = build_parser(TASKS[script], legacy=True).parse_args(published)
    assert args.run_log == "x/y.txt"
    assert (args.json, args.seed, args.start_epoch, args.world_size) == ({"a": 1}, 3, 1, 2)
    args = build_parser(TASKS[script], legacy=True).parse_args(
        ["--config", "c", "--run_log", "z.txt"]
    )
    assert args.run_log == "z.txt"
    with pytest.raises(SystemExit):
        build_parser(TASKS[script]).parse_args(["--config", "c.yaml", "--log", "y.txt"])


@pytest.mark.parametrize(
    ("config", "folder"),
    [
        ("legacy/configs/a/x-beta0.32.yaml", "logs/legacy/a/x-beta0.32"),
        ("/repo/legacy/configs/a/x.yml", "logs/legacy/a/x"),
        ("legacy/configs/configs/x.yaml", "logs/x"),
        ("configs/legacy/x.yaml", "logs/legacy/x"),
        ("configs/a/x-beta0.32.yaml", "logs/a/x-beta0.32"),
        ("legacy/x.yaml", "logs/x"),
    ],
)
def test_logs_of_legacy_configs_stand_apart(config, folder):
    assert run_folder(config) == Path(folder)
    assert run_log_path(config) == Path(f"{folder}.txt")
    assert run_folder(config, "legacy/logs/z.txt") == Path("legacy/logs/z")


def test_legacy_environment_is_pinned():
    import tomllib

    pipfile = tomllib.loads((ROOT / "legacy" / "Pipfile").read_text())
    assert "source" not in pipfile
    assert pipfile["packages"]["sc2bench"] == "==0.0.3"
    readme = (ROOT / "legacy" / "README.md").read_text()
    for name, pin in pipfile["packages"].items():
        assert f"{name} {pin.removeprefix('==')}" in readme
