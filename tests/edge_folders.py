"""A tiny three-headed model, and the folder for a device that was exported of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from split_models import write_models

import ladon
from ladon.export.edge import export_edge
from ladon.split.model import SplitModel


@contextmanager
def exported(folder: Path) -> Iterator[tuple[SplitModel, Path]]:
    """Both halves: the model, open, and the device's folder."""
    configs = write_models(folder)
    with ladon.load(configs["ladon"]) as model:
        export_edge(model, folder / "edge", origin={"config": "ladon.yaml"}, licence="MIT")
        yield model, folder / "edge"
