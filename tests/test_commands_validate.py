"""The validation script, with stand-ins for what it starts: its lines and exit codes."""

from pathlib import Path

import pytest

from ladon.commands import validate
from ladon.errors import ConfigError


@pytest.fixture
def validate_script(monkeypatch):
    """`validate` on stand-ins for what it asks of `ladon.config`."""

    def load_config(path, overrides=None, assignments=(), data_root=None):
        if "unreadable" in str(path):
            raise ConfigError(f"{path}:1: not YAML")
        return path

    stand_ins = {
        "find_config_files": lambda paths: [Path(path) for path in paths if path != "empty"],
        "load_config": load_config,
        "validate_config": lambda path: (
            [f"{path}:3: a: 1", f"{path}:4: b: 2"] * ("bad" in str(path))
        ),
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(validate, name, stand_in)
    monkeypatch.setattr("ladon.engine.precheck.Precheck.check", lambda self, config: [])
    return validate


def test_every_problem_of_every_file_is_reported(validate_script, capsys):
    assert validate_script.main(["unreadable.yaml", "bad.yaml", "good.yaml"]) == 2
    assert capsys.readouterr().out.splitlines() == [
        "unreadable.yaml:1: not YAML",
        "bad.yaml:3: a: 1",
        "bad.yaml:4: b: 2",
        "3 files checked, 3 problems",
    ]


def test_fine_files_and_wrong_usage(validate_script, capsys):
    assert validate_script.main(["good.yaml", "fine.yaml"]) == 0
    assert capsys.readouterr().out == "2 files are fine\n"
    assert validate_script.main(["empty"]) == 2
    assert validate_script.main(["good.yaml", "--json", "{"]) == 2
    assert validate_script.main(["good.yaml", "--json", "[1]"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in errors] == ["error"] * 3
