"""README's page "Your own data": its commands run as written on data made on the spot."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import own_data
import pytest
import torch
from tiny import ROOT
from torchvision.models import ResNet18_Weights, resnet18

from ladon.cli import main
from ladon.commands.report import main as report
from ladon.models.checkpoint import read_checkpoint
from ladon.models.describe import describe

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGE = README.partition("## Your own data\n")[2].partition("\n## ")[0]
COMMANDS = [
    shlex.split(line.partition("#")[0])
    for block in re.findall(r"```shell\n(.*?)```", PAGE, flags=re.S)
    for line in block.splitlines()
    if line.startswith("python scripts/")
]
# less of everything, for the test's sake; what the page is about stays as it stands there
KWARGS = "models.model.kwargs"
SMALL = {
    "teacher": ["train.num_epochs=2"],
    "classification": ["train.stage1.num_epochs=1", "train.stage2.num_epochs=1"],
    "own_loss": ["train.stage1.num_epochs=1", "train.stage2.num_epochs=1"],
    "detection": ["train.num_epochs=1", f"{KWARGS}.min_size=96", f"{KWARGS}.max_size=96"],
    "segmentation": ["train.num_epochs=1"],
}  # fmt: skip
LOADERS = ("num_workers=0", "batch_size=4")


def small(config: str) -> list[str]:
    """Flags that make a run of the page small."""
    step = Path(config).stem
    stages = ("stage1.", "stage2.") if step in ("classification", "own_loss") else ("",)
    loaders = [f"train.{stage}train_data_loader" for stage in stages]
    loaders += [f"train.{stages[-1]}val_data_loader", "test.test_data_loader"]
    values = [f"{loader}.kwargs.{value}" for loader in loaders for value in LOADERS]
    words = ["resnet=resnet18", *SMALL[step], *values]
    return [flag for word in words for flag in ("--set", word)]


class Workplace:
    """A folder like a checkout's root, with data and (random) weights of ImageNet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "configs").symlink_to(ROOT / "configs")

    def run(self, command: list[str], *more: str) -> int:
        """Run a command of the page for a task."""
        task, config = Path(command[1]).stem, command[command.index("--config") + 1]
        return main(task, [*command[2:], *small(config), "--device", "cpu", *more])

    def metrics(self, step: str) -> dict:
        return json.loads((self.folder / "logs" / "own_data" / step / "metrics.json").read_text())


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The page's data are there, and ImageNet's weights."""
    folder = tmp_path_factory.mktemp("own")
    made = Workplace(folder)
    own_data.write_all(folder / "data")
    hub, cached = torch.hub.get_dir(), folder / "hub" / "checkpoints"
    cached.mkdir(parents=True)
    torch.manual_seed(0)
    torch.save(resnet18().state_dict(), cached / ResNet18_Weights.DEFAULT.url.rpartition("/")[2])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("LADON_DATA_ROOT", str(folder / "data"))
        torch.hub.set_dir(folder / "hub")
        yield made
        torch.hub.set_dir(hub)


@pytest.fixture(scope="module")
def workplace(place):
    """The page's commands have run in it, one after another."""
    for command in COMMANDS[:-1]:
        assert place.run(command, "--overwrite") == 0, command
    return place


def test_the_pages_first_command_trains_on_its_data(place):
    assert place.run(COMMANDS[0], "--set", "train.num_epochs=1") == 0
    found = place.metrics("teacher")
    assert found["classes"] == own_data.CLASSES
    assert found["num_images"] == 2 * len(own_data.CLASSES)


def test_the_page_names_every_file_of_the_folder():
    named = set(re.findall(r"configs/own_data/(\w+\.\w+)", PAGE))
    files = {path.name for path in (ROOT / "configs" / "own_data").iterdir() if path.is_file()}
    assert named == files


@pytest.mark.slow
def test_three_answers_and_one_report(workplace, capsys):
    keys = {"classification": "acc1", "detection": "AP", "segmentation": "mean_iou"}
    for step, key in keys.items():
        found = workplace.metrics(step)
        assert found["key_metric"] == key
        assert found["models"]["student"]["payload_bytes"]["mean"] > 0
    script, *flags = COMMANDS[-1][1:]
    assert script == "scripts/report.py"
    capsys.readouterr()
    assert report(flags) == 0
    shown = capsys.readouterr().out
    for name in ("ant", "car", "road"):
        assert name in shown
    assert "worst class" in shown


@pytest.mark.slow
def test_class_names_travel(workplace):
    names = {
        "teacher": own_data.CLASSES,
        "classification": own_data.CLASSES,
        "detection": ["background", *own_data.CATEGORIES.values()],
        "segmentation": own_data.MASK_CLASSES,
    }
    checkpoints = {path.stem: path for path in workplace.folder.glob("resource/ckpt/own_data/*.pt")}
    for step, expected in names.items():
        assert workplace.metrics(step)["classes"] == expected
        (path,) = [p for p in checkpoints.values() if workplace_name(step, p.stem)]
        assert read_checkpoint(path, "test").classes == expected
        shown = "\n".join(describe(path).lines())
        assert all(name in shown for name in expected)


def workplace_name(step: str, name: str) -> bool:
    return {
        "teacher": name == "own_data-resnet18",
        "classification": name.startswith("own_data-splittable"),
        "detection": "faster_rcnn" in name,
        "segmentation": "deeplabv3" in name,
    }[step]


@pytest.mark.slow
def test_predictions_speak_the_datas_language(workplace):
    (command,) = [c for c in COMMANDS if "configs/own_data/detection.yaml" in c]
    out = workplace.folder / "boxes.jsonl"
    flags = ("-test_only", "--predictions", str(out), "--run_log", "again.txt")
    assert workplace.run(command, *flags, "--set", "models.model.kwargs.box_score_thresh=0.0") == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [Path(line["image"]).name for line in lines] == [f"val{n}.png" for n in range(1, 5)]
    found = {
        (i, n) for line in lines for i, n in zip(line["category_ids"], line["classes"], strict=True)
    }
    assert found
    assert found <= set(own_data.CATEGORIES.items())


@pytest.mark.slow
@pytest.mark.parametrize("ids", [(1, 2, 3)])
def test_ids_of_categories_change_nothing(workplace, ids, tmp_path, monkeypatch):
    (command,) = [c for c in COMMANDS if "configs/own_data/detection.yaml" in c]
    own_data.write_boxes(tmp_path / "own_data", ids)
    monkeypatch.setenv("LADON_DATA_ROOT", str(tmp_path))
    checkpoint = tmp_path / "numbered.pt"
    flags = ("--run_log", str(tmp_path / "log.txt"), "--set", f"models.model.dst_ckpt={checkpoint}")
    assert workplace.run(command, *flags) == 0
    (other,) = workplace.folder.glob("resource/ckpt/own_data/*faster_rcnn*.pt")
    ours, theirs = (read_checkpoint(path, "test").model for path in (checkpoint, other))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    found = json.loads((tmp_path / "log" / "metrics.json").read_text())["models"]["student"]
    expected = workplace.metrics("detection")["models"]["student"]
    for key in ("metrics", "payload_bytes", "data_size_kb"):
        assert found[key] == expected[key]


@pytest.mark.slow
def test_a_test_of_other_classes_is_refused_with_both_lists(
    workplace, tmp_path, monkeypatch, capsys
):
    (command,) = [c for c in COMMANDS if "configs/own_data/classification.yaml" in c]
    own_data.write_classes(tmp_path / "own_data", ["ant", "bee", "cow", "dog", "elk"])
    monkeypatch.setenv("LADON_DATA_ROOT", str(tmp_path))
    assert workplace.run(command, "-test_only", "--run_log", str(tmp_path / "log.txt")) == 2
    shown = capsys.readouterr().err.splitlines()[-1]
    assert "'cow'" in shown
    assert "'cat'" in shown


@pytest.mark.slow
def test_heads_are_new_and_the_rest_is_imagenets(workplace):
    """After no step: what the page's teacher starts from."""
    from ladon.config import load_config
    from ladon.models import build_model

    config = load_config(
        ROOT / "configs" / "own_data" / "teacher.yaml", assignments=["resnet=resnet18"]
    )
    model = build_model(
        config.build(config.section("models.model")), "classification", "models.model"
    )
    file = (
        workplace.folder / "hub" / "checkpoints" / ResNet18_Weights.DEFAULT.url.rpartition("/")[2]
    )
    source = torch.load(file)
    own = model.state_dict()
    assert own["fc.weight"].shape == (5, 512)
    assert all(torch.equal(own[n], t) for n, t in source.items() if not n.startswith("fc."))
