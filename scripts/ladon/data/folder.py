"""Classification data: one folder per class, as in ILSVRC 2012."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torchvision import datasets
from torchvision.datasets.folder import IMG_EXTENSIONS

from ladon.data.labels import positions_of
from ladon.data.listing import Folder, KeptListing, Samples, joined, stamp_of
from ladon.errors import DataError
from ladon.images import MOVE_ROOT, open_image, shown

logger = logging.getLogger(__name__)

# What programs and systems leave beside the classes, thumbnails of the images included.
_NO_CLASSES = {
    "__pycache__",
    "__MACOSX",
    "@eaDir",
    "lost+found",
    "$RECYCLE.BIN",
    "System Volume Information",
}


class ImageFolder(datasets.ImageFolder):
    """torchvision's ImageFolder whose errors name the folder or file that is wrong.

    Hidden folders and files, and what programs leave behind (`__pycache__`, `__MACOSX`), are
    neither classes nor images; a link that leads back to a folder it lies in is not followed.

    Args:
        root: folder with one folder of images per class; `~` is expanded.
        transform: applied to the PIL image.
        target_transform: applied to the class index.
        loader: reads an image file.
        is_valid_file: decides which files are images; by extension if None.
        allow_empty: accept class folders without images.
        class_names: names of the classes by label, or the folder of another set (that of training)
            whose class folders give them; by default the labels are the positions of this set's own
            folders in the order of their names.

    Attributes:
        classes: names of the classes by label.

    Raises:
        DataError: the folder is missing, has no class folders, one of them is empty, or is not
            among the class names.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        transform: Callable | None = None,
        target_transform: Callable | None = None,
        loader: Callable[[str], Any] = open_image,
        is_valid_file: Callable[[str], bool] | None = None,
        allow_empty: bool = False,
        class_names: Sequence[str] | str | os.PathLike | None = None,
    ) -> None:
        self._names, self._names_of = None, "its class_names"
        if isinstance(class_names, str | os.PathLike):
            self._names_of = os.fspath(class_names)
            self._names = folder_class_names(class_names)
        elif class_names is not None:
            self._names = list(class_names)
        root = str(Path(root).expanduser())
        # not torchvision's own, which would go through all samples for their labels
        datasets.VisionDataset.__init__(self, root, None, transform, target_transform)
        self.loader = loader
        self.extensions = IMG_EXTENSIONS if is_valid_file is None else None
        self.classes, self.class_to_idx = self.find_classes(self.root)
        self.samples = self.make_dataset(
            self.root, self.class_to_idx, self.extensions, is_valid_file, allow_empty
        )
        self.imgs = self.samples
        if isinstance(self.samples, Samples):
            self.targets = self.samples.targets
        else:  # a subclass's own
            self.targets = [label for _, label in self.samples]

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        """Give the classes' names by label, and each name's label; torchvision calls this."""
        names = folder_class_names(directory)
        if self._names is not None:
            positions_of(names, self._names, directory, self._names_of)
            names = self._names
        return names, {name: label for label, name in enumerate(names)}

    @staticmethod
    def make_dataset(
        directory: str | Path,
        class_to_idx: dict[str, int],
        extensions: tuple[str, ...] | None = None,
        is_valid_file: Callable[[str], bool] | None = None,
        allow_empty: bool = False,
    ) -> Any:
        """List the images of each class with its label, in torchvision's order: `Samples`."""
        listing, trees = KeptListing(directory), {}
        folders: list[tuple[Folder, int]] = []
        empty = []
        for name in sorted(class_to_idx):
            folder = os.path.join(directory, name)
            if not os.path.isdir(folder):
                continue  # a class of the given names that this set has not
            trees[name] = listing.known(name) or visible_folders(directory, name)
            found = [_images(directory, f, extensions, is_valid_file) for f in trees[name]]
            folders += [(f, class_to_idx[name]) for f in found]
            if not any(f.joined for f in found):
                empty.append(folder)
        if empty and not allow_empty:
            more = f" (and {len(empty) - 1} more like it)" if len(empty) > 1 else ""
            raise DataError(
                f"class folder {shown(empty[0])}{more} holds no images; fill it or remove it"
            )
        listing.keep(trees)
        return Samples(directory, folders)


def _images(
    root: str | Path,
    folder: Folder,
    extensions: tuple[str, ...] | None,
    is_valid_file: Callable[[str], bool] | None,
) -> Folder:
    if is_valid_file is not None:
        path = os.path.join(root, folder.place)
        return folder.only(lambda name: is_valid_file(os.path.join(path, name)))
    return folder.ending_in(tuple(extensions or ()))


def folder_class_names(root: str | os.PathLike) -> list[str]:
    """Give the names of a folder's class folders in their order, without looking into them.

    Raises:
        DataError: the folder is missing or has no class folders.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise DataError(
            f"image folder {shown(root)} does not exist; "
            f"put one folder per class there, set its root, {MOVE_ROOT}"
        )
    try:
        folders = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    except OSError as error:
        raise DataError(f"cannot read image folder {shown(root)}: {error.strerror}") from error
    above = _folders_above(os.path.join(root, "class"))
    names = []
    for name in folders:
        if name.startswith(".") or name in _NO_CLASSES:
            continue
        if _identity(os.path.join(root, name)) in above:
            logger.warning(
                "%s leads back to a folder it lies in: it is no class", shown(root / name)
            )
            continue
        names.append(name)
    if not names:
        raise DataError(
            f"image folder {shown(root)} holds no class folders; expected {shown(root)}/CLASS/*.jpg"
        )
    return names


def visible_files(top: str) -> list[str]:
    """List a tree's files, those behind links too, each real folder at most once."""
    root, name = os.path.split(top)
    return [
        os.path.join(root, folder.place, file)
        for folder in visible_folders(root, name)
        for file in folder.names
    ]


def visible_folders(root: str | os.PathLike, name: str) -> list[Folder]:
    """List the folders of a tree with their files, those behind links too, each at most once.

    Args:
        root: what the tree lies in.
        name: of the tree's top folder.

    Raises:
        DataError: a folder cannot be read.
    """
    top = os.path.join(root, name)
    seen = _folders_above(top) | {_identity(top)}
    found, waiting = [], [name]
    while waiting:
        place = waiting.pop()
        folder = os.path.join(root, place)
        stamp = stamp_of(folder)
        folders, files, has_links = _entries(folder)
        kept = []
        for inner in sorted(folders):
            identity = _identity(os.path.join(folder, inner))
            if inner.startswith(".") or inner in _NO_CLASSES or identity in seen:
                continue
            seen.add(identity)
            kept.append(os.path.join(place, inner))
        waiting += reversed(kept)
        visible = sorted(file for file in files if not file.startswith("."))
        found.append(Folder(place, joined(visible), None if has_links else stamp))
    return sorted(found)


def _entries(folder: str) -> tuple[list[str], list[str], bool]:
    """Give the names of a folder's folders and of its other entries, and whether it has links."""
    folders: list[str] = []
    files: list[str] = []
    has_links = False
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                has_links = has_links or entry.is_symlink()
                (folders if _is_folder(entry) else files).append(entry.name)
    except OSError as error:
        raise DataError(
            f"cannot read folder {shown(folder)}: {error.strerror}; check its permissions"
        ) from error
    return folders, files, has_links


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # what a link leads to cannot be looked at
        return False


def _folders_above(path: str) -> set[tuple[int, int]]:
    """Identify the folders that a path lies in, by its name and, if it is a link, by its target."""
    parents = {*Path(os.path.abspath(path)).parents, *Path(os.path.realpath(path)).parents}
    return {_identity(folder) for folder in parents}


def _identity(folder: str | os.PathLike) -> tuple[int, int]:
    try:
        status = os.stat(folder)
    except OSError as error:  # a link that leads nowhere has just been removed, or no permission
        raise DataError(f"cannot read folder {shown(folder)}: {error.strerror}") from error
    return status.st_dev, status.st_ino
