"""A user's own modules: found beside the config file that names them, each config its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest
from data_config.helpers import GOOD
from tiny import ROOT

from ladon.commands.validate import main as validate
from ladon.config import load_config
from ladon.config.core.own_modules import forget_own_modules
from ladon.config.validate.registries import entries, forget_users
from ladon.errors import ConfigError


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    forget_users()


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return path


def built(path, key="a"):
    config = load_config(path)
    config.import_dependencies()
    return config.build(config.get(key))


GET = "a: !import_get {key: my_parts.VALUE}\n"


@pytest.mark.parametrize(
    "named", ["dependencies: my_parts", "dependencies: [{name: my_parts}]", ""]
)
def test_a_module_is_found_beside_the_config_from_any_folder(tmp_path, monkeypatch, named):
    write(tmp_path / "exp" / "my_parts.py", "VALUE = 7")
    config = write(tmp_path / "exp" / "c.yaml", f"{named}\n{GET}")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert built(config) == 7
    assert sys.path[-1] == str(tmp_path / "exp"), "last: a library must not import it"


def test_a_package_is_found_too_with_or_without_init(tmp_path):
    write(tmp_path / "c.yaml", "a: !import_get {key: with_it.inner.VALUE}\n")
    write(tmp_path / "with_it" / "__init__.py", "")
    write(tmp_path / "with_it" / "inner.py", "VALUE = 1")
    assert built(tmp_path / "c.yaml") == 1
    write(tmp_path / "d.yaml", "a: !import_get {key: without_it.inner.VALUE}\n")
    write(tmp_path / "without_it" / "inner.py", "VALUE = 2")
    assert built(tmp_path / "d.yaml") == 2


def test_it_lies_beside_the_base_that_names_it(tmp_path):
    write(tmp_path / "base" / "my_parts.py", "VALUE = 'beside the base'")
    write(tmp_path / "base" / "b.yaml", f"dependencies: [my_parts]\n{GET}")
    top = write(tmp_path / "top" / "c.yaml", "_base_: ../base/b.yaml\n")
    assert built(top) == "beside the base"


def test_an_option_names_what_lies_beside_the_config(tmp_path):
    write(tmp_path / "my_parts.py", "VALUE = 3")
    config = write(tmp_path / "c.yaml", "a: 1\n")
    loaded = load_config(config, assignments=["dependencies=[my_parts]"])
    loaded.import_dependencies()
    assert sys.modules["my_parts"].VALUE == 3


def test_the_working_folder_comes_last(tmp_path, monkeypatch):
    write(tmp_path / "here" / "my_parts.py", "VALUE = 'beside me'")
    config = write(tmp_path / "exp" / "c.yaml", f"dependencies: [my_parts]\n{GET}")
    monkeypatch.chdir(tmp_path / "here")
    assert built(config) == "beside me"


def test_a_module_hidden_by_an_installed_one_is_refused_with_both_paths(tmp_path):
    import colorsys  # of Python itself, not imported by this library

    write(tmp_path / "colorsys.py", "VALUE = 1")
    config = write(tmp_path / "c.yaml", "dependencies:\n  - colorsys\n")
    with pytest.raises(ConfigError) as caught:
        load_config(config).import_dependencies()
    message = str(caught.value)
    assert message.startswith(f"{config}:2: cannot import the dependency")
    assert str(tmp_path / "colorsys.py") in message
    assert f"Python finds {colorsys.__file__} first: rename yours" in message


def test_a_library_does_not_import_what_lies_beside_a_config(tmp_path):
    """The folder is searched last: `random` stays Python's, `utils` of a library stays its own."""
    write(tmp_path / "random.py", "raise SystemExit('the wrong module')")
    write(tmp_path / "my_parts.py", "VALUE = 5")
    config = write(tmp_path / "c.yaml", GET)
    code = (
        "from ladon.config import load_config\n"
        f"c = load_config({str(config)!r}); assert c.build(c.get('a')) == 5\n"
        "import random, tempfile; random.random()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "scripts", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_two_modules_of_one_name_are_not_mixed_up_in_one_process(tmp_path):
    configs = []
    for name in ("first", "second"):
        write(tmp_path / name / "my_parts.py", f"VALUE = {name!r}")
        configs.append(write(tmp_path / name / "c.yaml", GET))
    assert built(configs[0]) == "first"
    with pytest.raises(ConfigError) as caught:
        built(configs[1])
    for name in ("first", "second"):
        assert str(tmp_path / name / "my_parts.py") in str(caught.value)
    assert "rename one of them" in str(caught.value)
    assert forget_own_modules() == {"my_parts"}
    assert built(configs[1]) == "second"


LOSS = """
    from torch import nn
    from torchdistill.losses.registry import register_low_level_loss

    @register_low_level_loss
    class OwnLoss(nn.L1Loss):
        pass

    class Huber(nn.HuberLoss):
        def __init__(self, {argument}=1.0):
            super().__init__()
"""
TERM = "train.stage2.criterion.kwargs.sub_terms.kd"
WRAPPED = {
    "criterion_wrapper": {
        "key": "SimpleLossWrapper",
        "kwargs": {
            "input": {"is_from_teacher": False, "module_path": ".", "io": "output"},
            "target": {"uses_label": True},
        },
    },
    "weight": 1.0,
}


def with_loss(folder, argument, key="my_losses.Huber"):
    """A folder with a sound config that names a loss of the module beside it."""
    write(folder / "my_losses.py", textwrap.dedent(LOSS).replace("{argument}", argument))
    criterion = {"key": key, "kwargs": {argument: 2.0} if "." in key else {}}
    term = json.dumps({**WRAPPED, "criterion": criterion})
    own = f"{TERM.rpartition('.')[0]}.own={term}"
    config = load_config(GOOD, assignments=[own, "dependencies=[my_losses]"])
    return write(folder / "c.yaml", config.dump(variables=False))


def test_validate_gives_each_file_its_own_module(tmp_path, capsys):
    """Losses of one name with other arguments; the registries forget them with their modules."""
    for name in ("one", "two"):
        with_loss(tmp_path / name, f"delta_{name}")
    again = with_loss(tmp_path / "three", "delta_three")
    again.write_text(again.read_text().replace("delta_three: 2.0", "delta_one: 2.0"))
    assert validate([str(tmp_path)]) == 2
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 2, shown
    assert "three" in shown[0]
    assert "Huber takes no such argument" in shown[0]


def test_what_an_earlier_file_registered_is_forgotten(tmp_path, capsys):
    with_loss(tmp_path / "a", "delta", key="OwnLoss")
    other = with_loss(tmp_path / "b", "delta", key="OwnLoss")
    (tmp_path / "b" / "my_losses.py").write_text("")
    assert validate([str(tmp_path)]) == 2
    shown = capsys.readouterr().out.splitlines()
    assert [line for line in shown if 'there is no loss term "OwnLoss"' in line] == shown[:1]
    assert str(other) in shown[0]
    forget_users()
    assert "MSELoss" in entries("loss term")
    assert "OwnLoss" not in entries("loss term")


def test_the_resolved_config_runs_from_another_folder(tmp_path, monkeypatch):
    """What a run writes into its log folder names the module's folder, named by a key or not."""
    text = "dependencies: [math, [my_parts], {name: in_pack.inner}]\n"
    write(tmp_path / "exp" / "my_parts.py", "VALUE = 7")
    write(tmp_path / "exp" / "on_demand.py", "VALUE = 8")
    write(tmp_path / "exp" / "in_pack" / "__init__.py", "")
    write(tmp_path / "exp" / "in_pack" / "inner.py", "VALUE = 9")
    values = "datasets: [" + ", ".join(
        f"!import_get {{key: {name}.VALUE}}" for name in ("my_parts", "on_demand", "in_pack.inner")
    )
    first = load_config(write(tmp_path / "exp" / "c.yaml", f"{text}{values}]\n"))
    first.import_dependencies()
    assert first.build(first.get("datasets")) == [7, 8, 9]
    dumped = write(tmp_path / "logs" / "c" / "config.yaml", first.dump(variables=False))
    forget_own_modules()
    again = load_config(dumped)
    folder = str(tmp_path / "exp")
    assert again.dependencies == [
        "math",
        {"name": "my_parts", "path": folder},
        {"name": "in_pack.inner", "path": folder},
        {"name": "on_demand", "path": folder},
    ]
    again.import_dependencies()
    assert again.build(again.get("datasets")) == [7, 8, 9]
    assert again.dump(variables=False) == first.dump(variables=False), "and from there again"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dependencies: [my_prts]", r"c\.yaml:1: .*\"my_prts\".*did you mean \"my_parts\"\?"),
        ("dependencies: [{name: x, path: nowhere}]", r"c\.yaml:1: there is no x\.py in .*nowhere"),
        ("dependencies: [{name: x, path: 3}]", r"c\.yaml:1: the path of a dependency is a folder"),
        ("dependencies: [broken]", r"c\.yaml:1: .*\"broken\": ZeroDivisionError"),
        ("\na: !import_get {key: my_prts.VALUE}", r'c\.yaml:2: .*did you mean "my_parts"\?'),
        ("\na: !import_get {key: my_parts.VALU}", r'c\.yaml:2: .*did you mean "VALUE"\?'),
        ("\na: !import_get {key: broken.VALUE}", r'c\.yaml:2: cannot import "broken\.VALUE": Zero'),
    ],
)
def test_what_cannot_be_found_is_named_with_its_line(tmp_path, text, message):
    write(tmp_path / "my_parts.py", "VALUE = 1")
    write(tmp_path / "broken.py", "1 / 0")
    with pytest.raises(ConfigError, match=message):
        built(write(tmp_path / "c.yaml", text))


SPAWNED = """
    import torch
    from ladon.config import load_config
    from torch.utils.data import DataLoader

    if __name__ == "__main__":
        config = load_config("exp/c.yaml")
        data = config.build(config.get("a"))
        loader = DataLoader(data, num_workers=1, multiprocessing_context="spawn")
        print([int(batch) for batch in loader])
"""


@pytest.mark.slow
def test_a_spawned_worker_finds_the_module(tmp_path):
    dataset = """
        class Numbers:
            def __len__(self):
                return 2

            def __getitem__(self, index):
                return index + 40
    """
    write(tmp_path / "exp" / "my_data.py", dataset)
    write(tmp_path / "exp" / "c.yaml", "a: !import_call {key: my_data.Numbers}\n")
    script = write(tmp_path / "other" / "read.py", SPAWNED)
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "scripts")},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "[40, 41]\n", done.stderr
