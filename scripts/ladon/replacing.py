"""Files that are written whole or not at all: beside the old one, whose place they then take."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from ladon.errors import LadonError, why_not_written

TEMPORARY = re.compile(r"\.(?P<name>.+)\.(?P<pid>\d+)\.tmp", re.DOTALL)
"""Name of a temporary file: of the file that it is to become, and of the process that writes it."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the path of a temporary file, which takes a file's place once all went well.

    Whatever is raised leaves the file as it was and no temporary one; a kill leaves one of the name
    `TEMPORARY`.

    Args:
        path: the file, in a folder that exists.

    Raises:
        OSError: if the temporary file cannot take its place.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # the folder may be what cannot be written
            temporary.unlink(missing_ok=True)


@contextmanager
def replacing_on_disk(path: Path, kept: Path | None = None) -> Iterator[BinaryIO]:
    """Give a file to write to, which takes another's place once it is on the disk.

    On the disk, not in its cache, before the old one goes: a power cut leaves one of them.

    Args:
        path: the file; its folder is made.
        kept: a second name under which the old one stays; none if None.

    Raises:
        OSError: if it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        with temporary.open("wb") as target:
            yield target
            target.flush()
            os.fsync(target.fileno())
        if kept is not None and path.is_file():
            keep_as(path, kept)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Put the rename itself on the disk, where the file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def keep_as(path: Path, kept: Path) -> None:
    """Give a file a second name, in place of what has that name, or copy it where none can be.

    Args:
        path: the file, or a link to it.
        kept: the second name.

    Raises:
        OSError: if it cannot be copied.
    """
    with replacing(kept) as temporary:
        temporary.unlink(missing_ok=True)
        try:
            os.link(path.resolve(), temporary)  # costs neither time nor disk
        except OSError:  # another file system, or one that knows no links
            shutil.copy2(path, temporary)


def own_name(stem: str, taken: set[str]) -> str:
    """Return a file's name that no other one of a run has: itself, or with a number.

    Args:
        stem: wanted.
        taken: names that are there; the new one is added.
    """
    names = (stem if not n else f"{stem}-{n + 1}" for n in range(len(taken) + 1))
    name = next(name for name in names if name not in taken)
    taken.add(name)
    return name


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all.

    Raises:
        LadonError: if it cannot be written.
    """
    try:
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise LadonError(f"cannot write {path}: {why_not_written(error)}") from error
