"""Names of classes against names: which label each has, and how a message shows them."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

from ladon.data.images import shown
from ladon.errors import DataError

logger = logging.getLogger(__name__)


def positions_of(
    found: Sequence[str], names: Sequence[str], root: str | os.PathLike, where: str
) -> list[int]:
    """Give the label of each class folder found: the position of its name among the names.

    Raises:
        DataError: some are not among them, or a name is there twice.
    """
    labels = {name: label for label, name in enumerate(names)}
    if len(labels) < len(names):
        raise DataError(f"{where} names a class twice: {shortened(names)}")
    unknown = [name for name in found if name not in labels]
    if unknown:
        raise DataError(
            f"{shown(root)}: class folders {shortened(unknown)} are not among the classes of "
            f"{where}; found are {shortened(found)}, known are {shortened(names)}: "
            "rename or remove them"
        )
    lacking = sorted(set(names) - set(found))
    if lacking:
        logger.warning("%s has no folder for %s of %s", shown(root), shortened(lacking), where)
    return [labels[name] for name in found]


def shortened(names: Sequence[str]) -> str:
    """Give the first of some names, and how many there are."""
    first = ", ".join(f"'{shown(name)}'" for name in names[:4])
    return first if len(names) <= 4 else f"{first}, … ({len(names)} in all)"
