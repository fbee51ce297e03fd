"""What a final test depends on besides its config, kept with its results, so that `ladon verify`
can repeat it from the run's folder; and the comparison of the two."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from ladon.errors import CheckpointError, UsageError
from ladon.tasks import Task

COMPARED = (
    "num_images",
    "metrics",
    "data_size_kb",
    "payload_bytes",
    "part_bytes",
    "payload_sha256",
)
"""Keys of a model's results in `metrics.json` that do not depend on the machine's speed."""

AROUND = ("device", "threads", "instructions", "packages")
"""Keys of the record by which results may differ."""


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_flags(
    task: Task, args: argparse.Namespace, settings: Mapping[str, Any], device: str
) -> list[str]:
    """Return the flags under which a task script repeats the test of a run.

    Args:
        task: the task.
        args: the run's flags.
        settings: those that the config may say, too, by name.
        device: of the run.
    """
    flags = ["-test_only", "--device", device, "--seed", str(args.seed)]
    if getattr(args, "deterministic", False):
        flags.append("--deterministic")
    own = argparse.ArgumentParser(add_help=False)
    task.add_flags(own)
    given = [(action.option_strings[-1], getattr(args, action.dest, None), action.default)
             for action in own._actions]  # fmt: skip
    given += [(f"--{name}", value, None) for name, value in settings.items()]
    for name, value, default in given:
        if value is None or value is False or value == default:
            continue
        values = () if value is True else value if isinstance(value, list) else (value,)
        flags += [name, *map(str, values)]
    return flags


def record(
    folder: Path, flags: list[str], files: Iterable[Path], around: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what `metrics.json` keeps of a test.

    Args:
        folder: the run's, with its resolved config.
        flags: from `test_flags`.
        files: checkpoints of the models that were tested.
        around: the script's `task`, and values of the keys `AROUND`.

    Raises:
        OSError: a file cannot be read.
    """
    return {
        "folder": os.getcwd(),  # from which relative paths in the config lead
        "flags": flags,
        "config_sha256": sha256_of(folder / "config.yaml"),
        "files": {str(path): sha256_of(path) for path in dict.fromkeys(files)},
        **around,
    }


@dataclass(frozen=True)
class FinishedTest:
    """The final test of a run, as its folder tells it.

    Attributes:
        run: the folder.
        results: `metrics.json`.
        record: what `record` kept in it.
    """

    run: Path
    results: dict[str, Any]
    record: dict[str, Any]

    @classmethod
    def read(cls, run: Path) -> FinishedTest:
        """Read a run's folder.

        Raises:
            UsageError: it is no run's, the run has no final test, or does not say how it tested.
        """
        if not run.is_dir() or not (run / "config.yaml").is_file():
            what = "has no config.yaml" if run.is_dir() else "there is no such folder"
            raise UsageError(f"{run}: is no run's folder: {what}")
        if not (run / "metrics.json").is_file():
            raise UsageError(
                f"{run}: has no final test (no metrics.json): finish the run with --resume, or "
                "test it with -test_only"
            )
        results = read_results(run / "metrics.json")
        found = results.get("replay")
        if not _is_record(found):
            raise UsageError(
                f"{run / 'metrics.json'}: does not say how it was tested (it is of an older "
                "version): test it anew with -test_only"
            )
        return cls(run.resolve(), results, found)

    def check(self) -> None:
        """See that what was tested is still there.

        Raises:
            UsageError: the config is another one.
            CheckpointError: a checkpoint is gone, or another one.
        """
        if sha256_of(self.run / "config.yaml") != self.record["config_sha256"]:
            raise UsageError(
                f"{self.run}: config.yaml is not the one of metrics.json: another run has begun in "
                "this folder since; finish it, or test this one anew"
            )
        for name, before in self.record["files"].items():
            path = self.folder / name
            if not path.is_file():
                raise CheckpointError(f"{self.run}: its checkpoint {name} is gone: put it back")
            now = sha256_of(path)
            if now != before:
                raise CheckpointError(
                    f"{self.run}: its checkpoint {name} has changed since the test (SHA-256 was "
                    f"{before[:12]}…, is {now[:12]}…): put the old one back, or test anew"
                )

    @property
    def folder(self) -> Path:
        """From where relative paths lead: the folder of the run's start, if it is there."""
        before = Path(self.record["folder"])
        return before if before.is_dir() else Path.cwd()

    @property
    def flags(self) -> list[str]:
        """Flags of the task script that repeat the test, less those that say where to write."""
        only = [] if "teacher" in self.results["models"] else ["-student_only"]
        return [*self.record["flags"], *only, "--config", str(self.run / "config.yaml")]


def _is_record(found: Any) -> TypeGuard[dict[str, Any]]:
    """Whether a value is what `record` writes; it may come from elsewhere."""
    kinds = {"folder": str, "flags": list, "config_sha256": str, "files": dict, "threads": int}
    if not isinstance(found, dict) or not str(found.get("task", "")).isidentifier():
        return False
    is_all = all(isinstance(found.get(key), kind) for key, kind in kinds.items())
    texts = (*found["flags"], *found["files"], *found["files"].values()) if is_all else ()
    return is_all and all(isinstance(text, str) for text in texts)


def read_results(path: Path) -> dict[str, Any]:
    """Read a `metrics.json`.

    Raises:
        UsageError: it is none.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found["models"], dict) or not found["models"]:
            raise TypeError("models")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path}: cannot be read as a run's results: {error}") from error
    return found


@dataclass(frozen=True)
class Difference:
    """A value that is another one now; None where there is none."""

    role: str
    name: str
    before: Any
    now: Any

    @property
    def by(self) -> float | None:
        """By how much, if both are numbers."""
        numbers = (self.before, self.now)
        if not all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers):
            return None
        return self.now - self.before


def compare(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """Compare two `metrics.json`, value by value, to the last bit.

    A key that the first one lacks is of a newer version, and is not compared.
    """
    found = []
    for role, model in before["models"].items():
        other = now["models"].get(role, {})
        ours, theirs = (
            dict(_leaves({key: part.get(key) for key in COMPARED if key in model}))
            for part in (model, other)
        )
        for name in dict.fromkeys((*ours, *theirs)):
            if not _equal(ours.get(name), theirs.get(name)):
                found.append(Difference(role, name, ours.get(name), theirs.get(name)))
    return found


def changed_around(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say by what two tests differ that may be why their results do."""
    ours, theirs = (dict(_leaves({key: kept.get(key) for key in AROUND})) for kept in (before, now))
    return [
        f"{name.removeprefix('packages.')} {ours.get(name)}, now {theirs.get(name)}"
        for name in dict.fromkeys((*ours, *theirs))
        if ours.get(name) != theirs.get(name)
    ]


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping | list):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, item in items:
            yield from _leaves(item, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def _equal(a: Any, b: Any) -> bool:
    is_nan = all(isinstance(value, float) and math.isnan(value) for value in (a, b))
    return is_nan or a == b
