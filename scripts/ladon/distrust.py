"""What libraries read from files and networks, kept from running anything.

Whoever opens it: torch's own allow-list for what is unpickled, tar archives that stay in their
folder, and downloads whose SHA-256 is known. A person who wants otherwise says so by the variables
named here.
"""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch
from urllib.parse import urlsplit

from ladon.errors import CheckpointError

UNCHECKED = "LADON_UNCHECKED_DOWNLOADS"
"""Environment variable: 1 to use downloads of which no SHA-256 is known."""

# read by torch.load at each call; the second is a person's, who wants the opposite
_ONLY_WEIGHTS, _NOT_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
# the first digits of a file's SHA-256, as torch's hub and torchvision put them into its name
_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.[^/]*$")
_IN_FRAGMENT = re.compile(r"sha256=([0-9a-f]{64})")


@contextmanager
def running_nothing() -> Iterator[None]:
    """Within it torch.load makes only what torch's allow-list has, and tar archives stay inside.

    Python before 3.14 lets an archive write anywhere unless it is told otherwise.
    """
    before = os.environ.get(_ONLY_WEIGHTS)
    if _NOT_ONLY not in os.environ:
        os.environ[_ONLY_WEIGHTS] = "1"
    inside = staticmethod(tarfile.data_filter)
    try:
        with patch.object(tarfile.TarFile, "extraction_filter", inside, create=True):
            yield
    finally:
        if before is None:
            os.environ.pop(_ONLY_WEIGHTS, None)
        else:
            os.environ[_ONLY_WEIGHTS] = before


def allows_unchecked() -> bool:
    """Whether the person wants downloads of which no SHA-256 is known."""
    return os.environ.get(UNCHECKED, "") not in ("", "0")


def known_sha256(url: str) -> str | None:
    """Return the first digits, 8 or more, of the SHA-256 of what a URL names; None if unknown.

    They stand behind it, `…/x.pt#sha256=…`, all 64 of them, or in its name, `…/x-0cc87c48.pth`.

    Raises:
        CheckpointError: what stands behind the `#` is something else.
    """
    parts = urlsplit(url)
    if parts.fragment:
        found = _IN_FRAGMENT.fullmatch(parts.fragment)
        if found is None:
            raise CheckpointError(f"{url}: behind its # must stand sha256= and 64 digits (0-9a-f)")
        return found[1]
    named = _IN_NAME.search(parts.path)
    return None if named is None else named[1]


def require_known(url: str, file: Path | str) -> str | None:
    """Return the digits by which a download is to be checked; None where that is not wanted.

    Args:
        url: of the download.
        file: where it is to go.

    Raises:
        CheckpointError: they are not known, and the person has not said to go on without.
    """
    digits = known_sha256(url)
    if digits is None and not allows_unchecked():
        raise CheckpointError(
            f"{url} is not downloaded: nothing says which file it is to be; write its SHA-256 "
            f"behind it (#sha256=…), put the file at {file} yourself, or set {UNCHECKED}=1"
        )
    return digits


def not_meant(where: str, url: str, error: BaseException) -> CheckpointError:
    """Return the error of a download that torch found to be another file, and has not kept."""
    return CheckpointError(f"{where}: {url} is not the file that is meant: {error}")


def check_sha256(file: Path, digits: str) -> None:
    """See that a file is the one that is meant.

    Raises:
        CheckpointError: it is another one.
    """
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if not found.startswith(digits):
        raise CheckpointError(
            f"{file}: its SHA-256 begins with {found[: len(digits)]}, not with {digits}: it is "
            "damaged, or another file; remove it and fetch it anew"
        )
