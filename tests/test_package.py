"""The package: what it depends on, its command `ladon`, and that it works where it is installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from tiny import ROOT

from ladon import __version__, launch
from ladon.commands import COMMANDS, TASKS, main
from ladon.config import load_config
from ladon.engine.origin import git_revision

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PIPFILE = tomllib.loads((ROOT / "Pipfile").read_text())


def test_the_pipfile_pins_what_the_package_asks_for():
    """What extras ask for is there for tests; trainings are installed without."""
    extras = [text for extra in PROJECT["optional-dependencies"].values() for text in extra]
    sections = dict(PIPFILE)
    python = sections.pop("requires")["python_version"]
    assert SpecifierSet(PROJECT["requires-python"]).contains(python)
    needed = sections.pop("packages")
    beside = {name: pin for section in sections.values() for name, pin in section.items()}
    for texts, pins in ((PROJECT["dependencies"], needed), (extras, beside)):
        asked = [(canonicalize_name(r.name), r.specifier) for r in map(Requirement, texts)]
        pins = {canonicalize_name(name): pin for name, pin in pins.items()}
        assert texts is extras or {name for name, _ in asked} == pins.keys()
        for name, specifier in asked:
            pin = pins[name] if isinstance(pins[name], str) else pins[name]["version"]
            assert specifier.contains(pin.removeprefix("==")), f"{name} {pin} is not {specifier}"
            assert any(s.operator == "<" for s in specifier), f"{name}: the next may break it"


def test_a_device_is_given_what_the_library_runs_with():
    lines = (ROOT / "scripts/ladon/edge/requirements.txt").read_text().splitlines()
    given = {r.name: r.specifier for r in map(Requirement, lines)}
    extras = PROJECT["optional-dependencies"]
    texts = [*PROJECT["dependencies"], *extras["edge"], *extras["export"]]
    asked = {r.name: r.specifier for r in map(Requirement, texts)}
    assert given["onnxruntime"] == asked["onnxruntime"]
    assert given["pillow"] == asked["pillow"], "its resizing is part of what an encoder sees"
    assert given.keys() == {"numpy", "pillow", "onnxruntime"}


def test_a_commit_is_checked_as_make_lint_does_it():
    makefile = (ROOT / "Makefile").read_text()
    (recipe,) = re.findall(r"^lint: .*\n((?:\t.*\n)+)", makefile, flags=re.MULTILINE)
    checks = [line.strip().replace("$(RUN)", ".venv/bin/python") for line in recipe.splitlines()]
    assert re.search(r"^test: lint .*\n\t\$\(TESTS\) -m 'not slow'$", makefile, flags=re.MULTILINE)
    assert re.search(r"^test-all: lint .*\n\t\$\(TESTS\)$", makefile, flags=re.MULTILINE)
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = [hook for repo in config["repos"] for hook in repo["hooks"]]
    # a hook is given the files, or looks at all of them by itself
    ours = [hook["entry"].replace(" --force-exclude", " .") for hook in hooks]
    assert ours == checks
    assert {hook["language"] for hook in hooks} == {"system"}, "nothing is downloaded"


def test_the_citation_is_readmes():
    paper = yaml.safe_load((ROOT / "CITATION.cff").read_text())["preferred-citation"]
    names = [f"{a['family-names']}, {a['given-names']}" for a in paper["authors"]]
    entry = (ROOT / "README.md").read_text().rpartition("```bibtex")[2]
    shown = {"author": " and ".join(names), "title": paper["title"], "year": paper["year"]}
    for key, value in (shown | {"booktitle": paper["collection-title"]}).items():
        assert re.search(rf"{key} += \{{{re.escape(str(value))}\}}", entry), key


@pytest.fixture
def by_ladon(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/ladon"])


def test_every_command_is_a_script_and_listed_in_one_line(capsys):
    for_all = {"run"}  # a task of a user's own has no script
    # a script of this name would take the place of the standard library's module
    scriptless = {"profile"}
    scripts = {path.stem for path in (ROOT / "scripts").glob("*.py")}
    assert scripts - for_all == COMMANDS.keys() - scriptless
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(COMMANDS) + 6
    for name, text in COMMANDS.items():
        assert any(line.split(maxsplit=1) == [name, text] for line in lines)
    assert max(map(len, lines[4:])) <= 100


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_how_the_command_is_started(name, capsys, by_ladon):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: ladon {name} ")
    assert "scripts/" not in text
    if name not in (*TASKS, "draw_architecture"):
        assert f"    ladon {name}" in text or "or, from the checkout's root: ladon demo" in text


def test_a_hyphen_in_a_command_will_do(capsys, by_ladon):
    with pytest.raises(SystemExit) as stop:
        main(["measure-split", "--help"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith("usage: ladon measure_split ")


@pytest.mark.parametrize("words", [["reports"], ["--config", "x.yaml"], ["report.py"]])
def test_an_unknown_command_is_wrong_usage(words, capsys):
    assert main(words) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == f"error: ladon has no command '{words[0]}': `ladon` lists them\n"


@pytest.mark.parametrize(
    ("argv", "child", "shown", "own"),
    [
        (
            ["/repo/scripts/sweep.py", "-x"],
            [sys.executable, str(ROOT / "scripts" / "report.py")],
            "python scripts/report.py logs",
            ["sweep.py", "-x"],
        ),
        (
            ["/env/bin/ladon", "sweep", "-x"],
            [sys.executable, "-P", "-m", "ladon", "report"],
            "ladon report logs",
            ["ladon", "sweep", "-x"],
        ),
        (
            ["/env/site-packages/ladon/__main__.py", "sweep", "-x"],
            [sys.executable, "-m", "ladon", "report"],
            "ladon report logs",
            ["ladon", "sweep", "-x"],
        ),
        (
            ["/env/site-packages/pytest/__main__.py"],
            [sys.executable, str(ROOT / "scripts" / "report.py")],
            "python scripts/report.py logs",
            ["__main__.py"],
        ),
    ],
)
def test_children_and_messages_follow_how_this_was_started(monkeypatch, argv, child, shown, own):
    monkeypatch.setattr(sys, "argv", argv)
    assert launch.child_command("report") == child
    assert launch.in_words("python scripts/report.py logs") == shown
    assert launch.own_command() == own


def test_an_installed_package_takes_nothing_for_its_checkout(monkeypatch, tmp_path):
    assert launch.checkout() == ROOT
    # an environment in somebody's repository, which has configs, too
    package = tmp_path / ".venv" / "site-packages" / "ladon"
    package.mkdir(parents=True)
    (tmp_path / "configs").mkdir()
    (tmp_path / ".venv" / "configs").mkdir()
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    monkeypatch.setattr(launch, "PACKAGE", package)
    monkeypatch.chdir(tmp_path)
    assert launch.checkout() is None
    assert git_revision() is None
    # a person's own program that uses the library: there is no script to start
    assert launch.child_command("report")[1:] == ["-m", "ladon", "report"]


class Installed:
    """An environment with the package in it, and a folder outside the checkout to work in."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "env" / "bin"
        self.work = folder / "work"
        self.work.mkdir()
        # built elsewhere: setuptools leaves folders in the source
        source = folder / "source"
        source.mkdir()
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, source)
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / "scripts", source / "scripts", ignore=ignored)
        pip = [sys.executable, "-m", "pip"]
        _run([*pip, "wheel", "-q", source, "--no-deps", "--no-build-isolation", "-w", folder])
        (self.wheel,) = folder.glob("*.whl")
        _run([sys.executable, "-m", "venv", "--without-pip", self.bin.parent])
        _run([*pip, "--python", self.bin / "python", "install", "-q", "--no-deps", self.wheel])
        (site,) = self.bin.parent.glob("lib/python*/site-packages")
        outer = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
        (site / "outer.pth").write_text("\n".join(outer))

    def ladon(self, *words: str) -> subprocess.CompletedProcess:
        return _run([self.bin / "ladon", *words], cwd=self.work, check=False)


def _run(command, cwd=None, check=True) -> subprocess.CompletedProcess:
    drop = ("PYTHONPATH", "LADON_DATA_ROOT")
    env = {name: value for name, value in os.environ.items() if name not in drop}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.mark.slow
def test_the_wheel_works_outside_the_checkout(tmp_path):
    installed = Installed(tmp_path)
    package = ROOT / "scripts"
    files = {str(p.relative_to(package)) for p in package.glob("ladon/**/*") if p.is_file()}
    names = set(zipfile.ZipFile(installed.wheel).namelist())
    assert {n for n in names if not re.match(r"ladon_[\w.-]+\.dist-info/", n)} == {
        name for name in files if "__pycache__" not in name
    }
    assert installed.ladon("--version").stdout == f"ladon {__version__}\n"
    assert str(installed.bin.parent) in installed.ladon().stdout

    shipped = ROOT / "configs" / "digit_scenes" / "teacher" / "resnet18.yaml"
    (installed.work / "mine.yaml").write_text(load_config(shipped).dump() + "beta: 1.0\n")
    done = installed.ladon("validate", "mine.yaml")
    assert (done.returncode, done.stdout) == (0, "1 file is fine\n"), done.stderr
    done = installed.ladon("validate")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: name config files or folders: there is no folder configs here\n"

    for name, missing in (("benchmark", "configs"), ("demo", "configs/digit_scenes")):
        done = installed.ladon(name)
        assert (done.returncode, done.stdout) == (2, "")
        assert re.fullmatch(rf"error: .*{missing}.* in a checkout's root\n", done.stderr)

    done = installed.ladon("report", "--published")
    assert done.returncode == 0, done.stderr
    assert "│ Ladon ResNet-50        │ 20.48 │    71.006 │" in done.stdout

    flags = ["--task", "classification", "--config", "mine.yaml", "--betas", "0.32"]
    done = installed.ladon("sweep", *flags, "--dry_run", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert "results: ladon report logs/mine\n" in done.stdout
