"""Wrong variants of the files in configs/own_data: refused with file, line and what to write.

By `validate` where the file alone tells it, by `--dry_run` at the latest; never by the run.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml
from tiny import ROOT

from ladon.cli import main
from ladon.commands.validate import main as validate

TASKS = {
    "teacher": "image_classification",
    "classification": "image_classification",
    "own_loss": "image_classification",
    "detection": "object_detection",
    "segmentation": "semantic_segmentation",
}

LISTED = yaml.safe_load((Path(__file__).parent / "own_data_wrong.yaml").read_text())
VARIANTS = LISTED["variants"]


@pytest.fixture
def files(tmp_path, monkeypatch):
    for name in ("own_data", "_base_"):
        shutil.copytree(ROOT / "configs" / name, tmp_path / "configs" / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "configs" / "own_data"


def test_there_are_thirty_of_them_for_every_file():
    assert len(VARIANTS) >= 30
    changed = {variant[1] for variant in VARIANTS}
    files = (ROOT / "configs" / "own_data").rglob("*.*")
    shipped = {str(f.relative_to(ROOT / "configs" / "own_data")) for f in files}
    assert changed == {name for name in shipped if "__pycache__" not in name}


@pytest.mark.parametrize(
    ("run", "changed", "old", "new", "expected"),
    VARIANTS,
    ids=[f"{n}-{v[1]}" for n, v in enumerate(VARIANTS)],
)
def test_it_is_refused_before_it_runs(files, capsys, run, changed, old, new, expected):
    path = files / changed
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    config = f"configs/own_data/{run}.yaml"
    codes = {"validate": validate([config])}
    said = {"validate": "".join(capsys.readouterr())}
    codes["dry run"] = main(TASKS[run], ["--config", config, "--dry_run", "--device", "cpu"])
    said["dry run"] = "".join(capsys.readouterr())
    assert codes["dry run"] == 2, said
    for where, code in codes.items():
        assert code in (0, 2)
        if code == 2:
            named = [line for line in said[where].splitlines() if expected in line]
            assert named, f"{where}: {said[where]}"
            assert re.search(r"configs/\S+\.yaml:\d+: ", named[0]), named[0]
            assert len(said[where]) < 3000
