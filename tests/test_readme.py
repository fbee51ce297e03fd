"""README's commands run as written: each one is built and checked, without data or weights."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest

from ladon.cli import main

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
TASKS = ("image_classification", "object_detection", "semantic_segmentation")
BLOCKS = [b.replace("\\\n", " ") for b in re.findall(r"```shell\n(.*?)```", README, flags=re.S)]


def expanded(block):
    """The commands of a block, its `for beta in …` loop rolled out."""
    loop = re.match(r"for beta in ([\d. ]+); do\n(.*)\ndone", block, flags=re.S)
    if loop is None:
        return [line.split("#")[0].strip() for line in block.splitlines() if line.strip()]
    return [loop[2].strip().replace("${beta}", beta) for beta in loop[1].split()]


def task_commands():
    """Task and flags of every command that runs a shipped config."""
    commands = [shlex.split(c) for block in BLOCKS for c in expanded(block)]
    for words in commands:
        if (
            words[0] == "python"
            and Path(words[1]).stem in TASKS
            and "my_experiment" not in str(words)
        ):
            yield Path(words[1]).stem, words[2:]


COMMANDS = list(task_commands())


def test_all_loops_of_the_published_readme_are_there():
    loops = [
        block for block in BLOCKS if block.startswith("for beta in 0.32 1.28 5.12 10.24 20.48")
    ]
    assert len(loops) == 6
    assert len([c for c in COMMANDS if "-test_only" in c[1]]) >= 31


@pytest.mark.parametrize("number", range(len(COMMANDS)))
def test_command_runs_as_written(number, monkeypatch, tmp_path):
    task, flags = COMMANDS[number]
    monkeypatch.chdir(ROOT)
    before = set(os.listdir(ROOT / "logs"))
    assert main(task, [*flags, "--dry_run", "--device", "cpu"]) == 0
    assert set(os.listdir(ROOT / "logs")) == before, "a dry run leaves nothing behind"


@pytest.mark.parametrize("number", [n for n, (_, f) in enumerate(COMMANDS) if "0.32" in str(f)])
def test_the_same_command_trains_without_test_only(number, monkeypatch):
    task, flags = COMMANDS[number]
    monkeypatch.chdir(ROOT)
    flags = [flag for flag in flags if flag not in ("-test_only", "-student_only")]
    expected = 2 if "runtime" in str(flags) else 0  # the three-headed model is only tested
    assert main(task, [*flags, "--dry_run", "--device", "cpu"]) == expected


def test_config_example_is_valid(tmp_path, monkeypatch):
    example = re.search(r"```yaml\n(.*?)```", README, flags=re.S)[1]
    (tmp_path / "my_experiment.yaml").write_text(example.replace("configs/", f"{ROOT}/configs/"))
    monkeypatch.chdir(tmp_path)
    flags = ["--config", "my_experiment.yaml", "-log_config", "--dry_run", "--device", "cpu"]
    assert main("image_classification", flags) == 0


def test_named_files_and_pictures_exist():
    for path in re.findall(r'(?:src|srcset)="([^"]+)"|\]\((imgs/[^)]+)\)', README):
        assert (ROOT / (path[0] or path[1])).is_file(), path
