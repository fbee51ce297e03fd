"""Short ways to write and load a config in a test."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from ladon.config import Config, load_config, validate_config
from ladon.errors import ConfigError

GOOD = Path(__file__).parent / "distill.yaml"


def write(folder: Path, text: str, name: str = "c.yaml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dedent(text))
    return path


def load(folder: Path, text: str, **options: Any) -> Config:
    return load_config(write(folder, text), **options)


def error_of(folder: Path, text: str, **options: Any) -> str:
    """The message of loading a config, with the folder's name taken out."""
    with pytest.raises(ConfigError) as caught:
        load(folder, text, **options)
    assert caught.value.exit_code == 2
    return str(caught.value).replace(f"{folder}/", "")


def problems_of(config: Config, kind: str | None = None) -> list[str]:
    """The problems of a config, as printed, with the file's folder taken out."""
    folder = f"{config.path.parent}/"
    return [str(problem).replace(folder, "") for problem in validate_config(config, kind)]
