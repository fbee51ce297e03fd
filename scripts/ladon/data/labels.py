"""Names of classes against names: which label each has, and how a message shows them."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence

from ladon.errors import DataError
from ladon.images import shown

logger = logging.getLogger(__name__)


def positions_of(
    found: Sequence[str], names: Sequence[str], root: str | os.PathLike, where: str
) -> list[int]:
    """Give the label of each class folder found: the position of its name among the names.

    Raises:
        DataError: some are not among them, or a name is there twice.
    """
    labels = labels_by_name(found, names, f"{shown(root)}: class folders", where)
    lacking = sorted(set(names) - set(found))
    if lacking:
        logger.warning("%s has no folder for %s of %s", shown(root), shortened(lacking), where)
    return labels


def labels_by_name(found: Sequence[str], names: Sequence[str], what: str, where: str) -> list[int]:
    """Give the label of each name found: its position among the names.

    Args:
        found: names of classes.
        names: by label; '' is the name of none.
        what: was found, and where, for messages: 'FILE: categories'.
        where: whose the names are, likewise.

    Raises:
        DataError: some are not among them, or a name is there twice.
    """
    labels = {name: label for label, name in enumerate(names) if name}
    known = [name for name in names if name]
    if len(labels) < len(known):
        raise DataError(f"{where} names a class twice: {shortened(known)}")
    unknown = [name for name in found if name not in labels]
    if unknown:
        raise DataError(
            f"{what} {shortened(unknown)} are not among the classes of {where}; found are "
            f"{shortened(found)}, known are {shortened(known)}: rename or remove them"
        )
    return [labels[name] for name in found]


def name_problem(own: Mapping[int, str], names: Sequence[str], where: str) -> str | None:
    """Say which label has another name to a model than to a dataset; None if none has.

    Args:
        own: the dataset's names by label, '' where one has none.
        names: the model's by label, likewise.
        where: whose these are, for the message: 'the training set …' or 'the checkpoint …'.
    """
    for label, name in own.items():
        theirs = names[label] if 0 <= label < len(names) else ""
        if name and theirs and name != theirs:
            found, known = ([n for n in some if n] for some in (own.values(), names))
            return (
                f"class {label} is '{shown(name)}', but '{shown(theirs)}' in {where}; found are "
                f"{shortened(found)}, known are {shortened(known)}: use a dataset with the same "
                "classes"
            )
    return None


def shortened(names: Sequence[str]) -> str:
    """Give the first of some names, and how many there are."""
    first = ", ".join(f"'{shown(name)}'" for name in names[:4])
    return first if len(names) <= 4 else f"{first}, … ({len(names)} in all)"
