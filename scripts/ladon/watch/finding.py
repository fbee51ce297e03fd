"""Finds the folders of runs at and below paths, those that appear later included."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ladon.errors import UsageError
from ladon.paths import METRICS_FILE, RUN_MARKERS, run_folder

_MARKERS = (METRICS_FILE, *RUN_MARKERS)
_OF_OTHERS = {"tensorboard", "wandb", "mlruns"}  # folders in which no run's can be


class Finder:
    """The runs that a person named.

    Args:
        paths: run folders, their logs or other files, and folders above them.

    Raises:
        UsageError: there is no run at any of them.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths, self._seen = list(paths), dict[Path, None]()
        missing = [path for path in paths if not _exists(path)]
        if len(missing) == len(self._paths):
            raise UsageError(f"no such run: {', '.join(map(str, missing))}")
        self.find()
        if all(path in missing for path in self._seen):
            there = ", ".join(str(path) for path in paths if path not in missing)
            raise UsageError(
                f"no run in {there}: name run folders (logs/…), or a folder above them"
            )

    def find(self) -> list[Path]:
        """Return the folders in the order in which they were first seen.

        One that is gone since stays, and so does a named one that is not there yet.
        """
        for path in self._paths:
            self._seen.update(dict.fromkeys(_runs_at(path)))
        return list(self._seen)


def _exists(path: Path) -> bool:
    return path.exists() or run_folder("", path).exists()


def _runs_at(path: Path) -> list[Path]:
    if path.is_file() or not path.exists():
        log = run_folder("", path)  # of a log its folder
        return [path.parent if path.name in _MARKERS else log]
    found = []
    for folder, subfolders, names in os.walk(path):
        subfolders[:] = sorted(n for n in subfolders if n not in _OF_OTHERS and n[0] != ".")
        if any(marker in names for marker in _MARKERS):
            found.append(Path(folder))
    return found


def short_names(folders: Sequence[Path]) -> list[str]:
    """Return what to call folders: their paths, less what all of them begin with."""
    if len(folders) == 1:
        return [folders[0].name or str(folders[0])]
    try:
        common = os.path.commonpath([folder.absolute().parent for folder in folders])
    except ValueError:  # different drives
        return [str(folder) for folder in folders]
    return [os.path.relpath(folder, common) for folder in folders]
