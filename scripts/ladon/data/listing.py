"""The files of a tree of class folders, kept compactly, and known again at the next start.

ImageNet's 1.3 million files take 300 MB as tuples of Python objects, copied page by page in every
worker that looks at them; here they take 40 MB. Of a set of `KEPT_FROM` files or more the names
are written to `folders` in `$LADON_CACHE`, by default `~/.cache/ladon`, so that the next start asks
only whether a folder has changed since. `LADON_CACHE=off` does without.

A folder is listed anew if its identity or one of its times is another, and is not kept at all if
it holds links, whose targets change without it, or had changed within `_SETTLED` before it was
listed: times have steps, and a server's clock may differ.
"""

from __future__ import annotations

import copy
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from ladon.images import shown
from ladon.replacing import replacing

logger = logging.getLogger(__name__)

CACHE_VARIABLE = "LADON_CACHE"
"""Environment variable: the folder of what is kept between runs, or 'off'."""

KEPT_FROM = 50_000
"""Files from which on a listing is kept; fewer are listed in less than a second."""

_SETTLED = 3600.0  # seconds
_FORMAT = "1"


class Folder(NamedTuple):
    """A folder's visible files.

    Attributes:
        place: the folder's path from the root.
        joined: the sorted names of its files, each with a NUL, which none may contain, at its end.
        stamp: its device, inode, and times of the last modification and change in ns, taken before
            it was listed; None if they do not tell all that may change.
    """

    place: str
    joined: bytes
    stamp: tuple[int, int, int, int] | None

    @property
    def names(self) -> list[str]:
        """Name of each file."""
        return split(self.joined)

    def only(self, is_right: Callable[[str], bool]) -> Folder:
        """Leave out the files whose names are not right."""
        names = self.names
        right = [name for name in names if is_right(name)]
        return self if len(right) == len(names) else self._replace(joined=joined(right))

    def ending_in(self, extensions: tuple[str, ...]) -> Folder:
        """Leave out the files whose names, in lower case, have none of the extensions."""
        if all(extension.rfind(".") == 0 for extension in extensions):  # a name has one at most
            lower = self.joined.lower()
            ending = sum(lower.count(os.fsencode(ext) + b"\0") for ext in extensions)
            if ending == lower.count(b"\0"):
                return self
        return self.only(lambda name: name.lower().endswith(extensions))


class Samples(Sequence[tuple[str, int]]):
    """The (path, label) of each file, as in torchvision's list, made when asked for.

    Args:
        root: of the folders.
        folders: in order, each with the label of its files.
    """

    def __init__(self, root: str | os.PathLike, folders: Iterable[tuple[Folder, int]]) -> None:
        kept = [(folder, label) for folder, label in folders if folder.joined]
        self._paths = [os.path.join(root, folder.place) for folder, _ in kept]
        self._labels = [label for _, label in kept]
        counts = [folder.joined.count(b"\0") for folder, _ in kept]
        self._first = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        self._names = b"".join(folder.joined for folder, _ in kept)
        self._ends = np.flatnonzero(np.frombuffer(self._names, np.uint8) == 0)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: Any) -> Any:
        """Give a file's path and label, or a list of them."""
        if isinstance(index, slice):
            return [self[n] for n in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        folder = int(np.searchsorted(self._first, number, side="right")) - 1
        start = self._ends[number - 1] + 1 if number else 0
        name = os.fsdecode(self._names[start : self._ends[number]])
        return os.path.join(self._paths[folder], name), self._labels[folder]

    def __iter__(self) -> Iterator[tuple[str, int]]:
        for n, (path, label) in enumerate(zip(self._paths, self._labels, strict=True)):
            first, end = self._first[n], self._first[n + 1]
            start = self._ends[first - 1] + 1 if first else 0
            for name in split(self._names[start : self._ends[end - 1] + 1]):
                yield os.path.join(path, name), label

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Samples | list):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    @property
    def targets(self) -> list[int]:
        """Label of each file."""
        counts = np.diff(self._first).tolist()
        parts = ([label] * count for label, count in zip(self._labels, counts, strict=True))
        return list(chain.from_iterable(parts))

    def relabelled(self, labels: Mapping[int, int]) -> Samples:
        """Give the same files with other labels.

        Args:
            labels: the new label of each.
        """
        other = copy.copy(self)
        other._labels = [labels[label] for label in self._labels]
        return other


class KeptListing:
    """What is kept between runs of the class folders of one root.

    Args:
        root: folder of the class folders.
    """

    def __init__(self, root: str | os.PathLike) -> None:
        self._root = os.path.abspath(root)
        self._file = _cache_file(self._root)
        self._started = time.time()
        self._known: dict[str, list[Folder]] = {}
        if self._file is not None and self._file.is_file():
            try:
                self._known = _read(self._file, self._root)
            except Exception as error:  # a damaged file makes numpy and zipfile raise anything
                logger.info("%s is not used: %s", self._file, error)

    def known(self, name: str) -> list[Folder] | None:
        """Give the folders of a class's tree as they were, if they still are so."""
        folders = self._known.get(name)
        if folders is None or any(self._stamp(folder) != folder.stamp for folder in folders):
            return None
        return folders

    def _stamp(self, folder: Folder) -> tuple[int, int, int, int] | None:
        return stamp_of(os.path.join(self._root, folder.place))

    def keep(self, trees: Mapping[str, list[Folder]]) -> None:
        """Write the trees of the classes, if they are large and not written already."""
        count = sum(folder.joined.count(b"\0") for tree in trees.values() for folder in tree)
        if self._file is None or count < KEPT_FROM:
            return
        settled = {
            name: tree
            for name, tree in trees.items()
            if all(f.stamp and max(f.stamp[2:]) / 1e9 < self._started - _SETTLED for f in tree)
        }
        if not settled or settled == self._known:
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self._file) as temporary, temporary.open("wb") as file:
                _write(file, self._root, settled)
        except OSError as error:
            logger.info("the listing of %s is not kept: %s", shown(self._root), error)


def stamp_of(folder: str) -> tuple[int, int, int, int] | None:
    """Give what changes when a folder's entries do; None if it cannot be looked at."""
    try:
        status = os.stat(folder)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns


def _cache_file(root: str) -> Path | None:
    where = os.environ.get(CACHE_VARIABLE)
    if where == "off":
        return None
    if not where:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        where = os.path.join(base, "ladon")
    name = hashlib.sha256(os.fsencode(root)).hexdigest()[:32]
    return Path(where).expanduser() / "folders" / f"{name}.npz"


def joined(names: Iterable[str]) -> bytes:
    """Join names for `Folder.joined`."""
    return b"".join(os.fsencode(name) + b"\0" for name in names)


def split(names: bytes) -> list[str]:
    """Take joined names apart."""
    return os.fsdecode(names).split("\0")[:-1]


def _write(file: IO[bytes], root: str, trees: Mapping[str, list[Folder]]) -> None:
    folders = [folder for tree in trees.values() for folder in tree]
    texts = {
        "heading": joined([_FORMAT, root]),
        "classes": joined(trees),
        "places": joined(folder.place for folder in folders),
        "names": b"".join(folder.joined for folder in folders),
    }
    np.savez(
        file,
        **{name: np.frombuffer(text, np.uint8) for name, text in texts.items()},
        counts=np.array([len(tree) for tree in trees.values()], dtype=np.int64),
        stamps=np.array([folder.stamp for folder in folders], dtype=np.int64),
        sizes=np.array([len(folder.joined) for folder in folders], dtype=np.int64),
    )


def _read(file: Path, root: str) -> dict[str, list[Folder]]:
    """Read what `_write` wrote; whatever is raised, it is something else."""
    with np.load(file, allow_pickle=False) as arrays:
        found = {name: arrays[name] for name in arrays.files}
    heading, classes, places = (
        split(found[name].tobytes()) for name in ("heading", "classes", "places")
    )
    if heading != [_FORMAT, root]:
        raise ValueError("it is another folder's")
    names, ends = found["names"].tobytes(), np.cumsum(found["sizes"]).tolist()
    stamps = [tuple(stamp) for stamp in found["stamps"].tolist()]
    folders = [
        Folder(place, names[start:end], stamp)
        for place, start, end, stamp in zip(places, [0, *ends[:-1]], ends, stamps, strict=True)
    ]
    last = np.cumsum(found["counts"]).tolist()
    return {
        name: folders[start:end]
        for name, start, end in zip(classes, [0, *last[:-1]], last, strict=True)
    }
