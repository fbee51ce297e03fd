"""`--safe`: what a stranger's config cannot do."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from unittest import mock

import pytest

from ladon import cli
from ladon.commands import sweep, validate
from ladon.config import load_config, validate_config
from ladon.config.core.safe import is_safe_mode, resolve_safely
from ladon.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
GETATTR = "!getattr [!import_get {key: torchvision.transforms.Compose}, __init__]"


@pytest.fixture(autouse=True)
def _environment_as_it_was():
    with mock.patch.dict(os.environ):
        yield


@pytest.fixture
def canary(tmp_path, monkeypatch):
    """A folder of traps; the file `canary` in it is there once one of them has run."""
    monkeypatch.chdir(tmp_path)
    ran = "import pathlib; pathlib.Path('canary').touch()\n"
    (tmp_path / "beside.py").write_text(f"{ran}\ndef f(): pass\n")
    (tmp_path / "hubconf.py").write_text(f"{ran}\ndef resnet(): pass\n")
    (tmp_path / "trap.pt").write_bytes(pickle.dumps(Trap()))
    yield tmp_path / "canary"
    assert not (tmp_path / "canary").exists(), "code of the config's author has run"


class Trap:
    """Touches the canary when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch canary",)


def use(folder: Path, text: str) -> None:
    """All that a run does with a config."""
    (folder / "c.yaml").write_text(text)
    config = load_config(folder / "c.yaml")
    config.import_dependencies()
    for name in ("datasets", "models", "train", "metric"):
        config.build(config.section(name))


CALLS = {
    "the system": "{key: os.system, init: {args: [touch canary]}}",
    "through torch": "{key: torch.os.system, init: {args: [touch canary]}}",
    "through a part": "{key: torch.nn.modules.module.torch.os.system, init: {args: [true]}}",
    "through vision": "{key: torchvision.datasets.folder.os.system, init: {args: [touch canary]}}",
    "by package": "{package: torch.os, key: system, init: {args: [touch canary]}}",
    "eval": '{key: builtins.eval, init: {args: [\'open("canary", "w")\']}}',
    "an alias' module": "{key: ladon.data.folder.os.system, init: {args: [touch canary]}}",
    "a process": "{key: subprocess.check_call, init: {args: [[touch, canary]]}}",
    "a pickle": "{key: torch.load, init: {args: [trap.pt], kwargs: {weights_only: false}}}",
    "a pickle's class": "{key: torch.serialization.load, init: {args: [trap.pt]}}",
    "a hub": "{key: torch.hub.load, init: {args: [., resnet], kwargs: {source: local}}}",
    "a compiler": "{key: torch.utils.cpp_extension.load_inline, init: {args: [x, 'int x;']}}",
    "a library": "{key: torch.ops.load_library, init: {args: [trap.pt]}}",
    "torchdistill's pickle": "{package: torchdistill.common.file_util, key: load_pickle, "
    "init: {args: [trap.pt]}}",
    "torchdistill's import": "{package: torchdistill.common.main_util, key: import_call, "
    "init: {args: [os.system]}}",
    "torchdistill's checkpoint": "{key: torchdistill.models.util.load_module_ckpt}",
    "torchdistill's hub": "{key: torchdistill.models.registry.get_model, init: {args: [x, .]}}",
    "ladon's import": "{key: ladon.config.resolve_name, init: {args: [beside.f]}}",
    "ladon's children": "{key: ladon.children.Children}",
    "ladon's files": "{key: ladon.data.digits.make_digit_scenes, init: {args: [.]}}",
    "a data set that unpickles": "{key: torchvision.datasets.LSUN, init: {args: [.]}}",
    "weights from anywhere": "{key: torchvision.models.WeightsEnum, init: {args: [X, {}]}}",
    "a program's path": "{key: sc2bench.transforms.codec.BPGModule, init: {args: [touch]}}",
    "timm's loader": "{key: timm.models.load_checkpoint}",
    "a method": "{key: torch.nn.Module.load_state_dict}",
    "something private": "{key: torchvision.models._api.get_model}",
    "beside the file": "{key: beside.f}",
    "a module": "{key: torch.nn.functional}",
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("tag", ["!import_call", "!import_get"])
def test_a_name_that_leads_elsewhere_is_refused(canary, monkeypatch, call, tag):
    monkeypatch.setenv("LADON_SAFE", "1")
    with pytest.raises(ConfigError, match=r"c\.yaml:1: \".*\" is refused by --safe: "):
        use(canary.parent, f"datasets: {{x: {tag} {call}}}")


@pytest.mark.parametrize(
    "text",
    [
        "datasets: {x: !call_method {obj: text, method_name: upper}}",
        "datasets: {x: !setattr [text, a, 1]}",
        "datasets: {x: !import_call_method {package: torchvision, class_name: models.Weights, "
        "method_name: __init__}}",
        f"datasets: {{x: {GETATTR}}}",
        f"datasets: {{x: !access_by_index_or_key {{data: !getattr [{GETATTR}, __globals__], "
        "index_or_key: os}}",
        "datasets: {x: !getattr [!import_get {key: torch.nn.Linear}, forward]}",
        "models: {model: {key: resnet, repo_or_dir: ., kwargs: {source: local}}}",
        "models: {model: {key: load_checkpoint, kwargs: {}}}",
        "models: {model: {key: WeightsEnum, kwargs: {}}}",
        "models: {model: {key: x, kwargs: {backbone_config: {key: create_model}}}}",
        "train: {scheduler: {key: partial, kwargs: {}}}",
    ],
)
def test_tags_and_keys_that_lead_elsewhere_are_refused(canary, monkeypatch, text):
    monkeypatch.setenv("LADON_SAFE", "1")
    with pytest.raises(ConfigError, match="is refused by --safe: an author who is not trusted"):
        use(canary.parent, text)


@pytest.mark.parametrize(
    "entry",
    [
        "beside",
        "[beside]",
        "{name: beside, path: .}",
        "{name: ladon.data, path: .}",
        "{name: .beside, package: torch}",
        "[.os, torch]",
        "os",
        "antigravity",
        "torch._inductor",
        "ladon.__main__",
        "7",
    ],
)
def test_dependencies_are_of_the_known_packages(canary, monkeypatch, entry):
    monkeypatch.setenv("LADON_SAFE", "1")
    with pytest.raises(ConfigError, match=r"c\.yaml:1: the dependency .* is refused by --safe"):
        use(canary.parent, f"dependencies: [{entry}]")


def test_a_registrys_dotted_key_is_refused_by_validation(canary, monkeypatch):
    monkeypatch.setenv("LADON_SAFE", "1")
    text = "train: {criterion: {key: beside.f, kwargs: {}}, optimizer: {key: os.system}}"
    (canary.parent / "c.yaml").write_text(text)
    problems = [str(one) for one in validate_config(load_config("c.yaml"))]
    for name in ("beside.f", "os.system"):
        assert any(f'"{name}" is refused by --safe' in one for one in problems), problems


def test_without_it_these_run(tmp_path, monkeypatch):
    """So that the tests above would notice."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LADON_SAFE", raising=False)
    use(tmp_path, f"datasets: {{x: !import_call {CALLS['through torch']}}}")
    assert (tmp_path / "canary").is_file()


@pytest.mark.parametrize(
    "name",
    [
        "torch.nn.CrossEntropyLoss",
        "torch.optim.AdamW",
        "torch.optim.lr_scheduler.OneCycleLR",
        "torch.utils.data.RandomSampler",
        "torchvision.transforms.Compose",
        "torchvision.transforms.v2.Resize",
        "torchvision.transforms.InterpolationMode.BILINEAR",
        "torchvision.models.resnet.ResNet50_Weights",
        "torchvision.models.detection.anchor_utils.AnchorGenerator",
        "torchvision.datasets.ImageFolder",
        "coco.dataset.coco_dataset",
        "custom.transform.CustomCompose",
        "utils.dataset.get_num_iterations",
        "ladon.data.masks.MaskFolder",
        "torch.float32",
    ],
)
def test_what_a_config_is_made_of_is_let_in(name):
    assert resolve_safely(name) is not None


def test_published_and_shipped_configs_are_fine(monkeypatch, capsys):
    monkeypatch.setenv("LADON_SAFE", "1")
    files = [
        "legacy/configs/coco2017/ladon/faster_rcnn_splittable_resnet50-fp-beta0.32_fpn.yaml",
        "legacy/configs/pascal_voc2012/baseline/lraspp_mobilenet_v3_large.yaml",
        "configs/ilsvrc2012/ladon/splittable_resnet50-fp-beta0.32_from_resnet50.yaml",
        "configs/digit_scenes/ladon/splittable_resnet18-fp-beta0.32_from_resnet18.yaml",
    ]
    assert validate.main([str(ROOT / file) for file in files]) == 0, capsys.readouterr().out


def test_every_command_that_reads_a_config_has_the_flag(canary, capsys):
    (canary.parent / "c.yaml").write_text("dependencies: [beside]\n")
    assert cli.main("image_classification", ["--config", "c.yaml", "--safe"]) == 2
    assert "the dependency 'beside' is refused by --safe" in capsys.readouterr().err
    assert is_safe_mode(), "child processes read it, too"
    os.environ.pop("LADON_SAFE")
    assert cli.main("own_task", ["--config", "c.yaml", "--safe"]) == 2, "before its flags are known"
    for name in ("predict", "export", "serve", "profile", "measure_split", "verify", "validate"):
        with pytest.raises(SystemExit, match="0"):
            __import__(f"ladon.commands.{name}", fromlist=["main"]).main(
                ["edge", "--help"] if name == "export" else ["--help"]
            )
        assert "--safe" in capsys.readouterr().out, name


def test_a_sweep_passes_it_on(tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("beta: 1.0\n")
    flags = ["--task", "classification", "--config", str(config), "--betas", "1", "--safe"]
    request = sweep.parse_args(flags)
    assert "--safe" in request.wanted.passed_on


@pytest.mark.parametrize(
    ("value", "is_safe"), [("1", True), ("0", False), ("", False), ("off", False)]
)
def test_the_variable_says_it(monkeypatch, value, is_safe):
    monkeypatch.setenv("LADON_SAFE", value)
    assert is_safe_mode() is is_safe
