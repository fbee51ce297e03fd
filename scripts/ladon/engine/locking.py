"""Locks that die with their process: two runs must not write to one folder or one checkpoint."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from pathlib import Path
from typing import Literal

from ladon.errors import UsageError

try:
    import fcntl
except ImportError:  # not a Unix
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

# descriptors of this process's locks: a child made by fork would keep them locked after its parent
_held: set[int] = set()


def _forget_in_child() -> None:
    for descriptor in _held:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)


LockState = Literal["free", "held", "left", "unknown"]
"""Of a lock file: there is none; a process has it; a killed one left it; the system can't tell."""
_GLANCES, _GLANCE = 3, 0.02  # whoever looks at a lock has it for a moment: times, seconds


class Locks:
    """The locks of a run, taken one by one and released together.

    Each is a lock (flock) of the system on a small file, which goes with the lock. After a kill the
    file stays, unlocked.
    """

    def __init__(self) -> None:
        self._taken: list[tuple[Path, int]] = []

    def take(self, path: Path, what: str, advice: str) -> None:
        """Lock a file, made if it is missing.

        Where the file system cannot lock, that is said and nothing is locked; where there can be no
        folder, whoever writes there says it.

        Args:
            path: the file.
            what: what it stands for, for the error.
            advice: what to do if another run has it.

        Raises:
            UsageError: another run has it.
        """
        if fcntl is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError:
            return
        try:
            descriptor = _lock_patiently(path)
        except BlockingIOError:
            raise UsageError(f"{what} is in use by {_owner(path)}: {advice}") from None
        except OSError as error:
            logger.warning(
                "%s cannot be locked (%s): no second run may use it at the same time",
                what,
                error.strerror or error,
            )
            return
        self._taken.append((path, descriptor))
        _held.add(descriptor)

    def release(self) -> None:
        """Release all."""
        while self._taken:
            path, descriptor = self._taken.pop()
            _held.discard(descriptor)
            with contextlib.suppress(OSError):  # the folder may be gone
                path.unlink()  # before the lock goes: another's new file must not be the one
            with contextlib.suppress(OSError):
                os.close(descriptor)


def look_at(path: Path) -> LockState:
    """Tell whether a lock is taken, for whoever watches from outside.

    Args:
        path: the lock file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        return "free" if isinstance(error, FileNotFoundError | NotADirectoryError) else "unknown"
    try:
        if fcntl is None:
            return "unknown"
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        owner = os.read(descriptor, 1000).decode("utf-8", "replace").split()
    except BlockingIOError:
        return "held"
    except OSError:
        return "unknown"
    finally:
        os.close(descriptor)
    # not every network file system knows of another machine's locks, and some have none
    return "left" if len(owner) == 2 and owner[1] == socket.gethostname() else "unknown"


def _lock_patiently(path: Path) -> int:
    """Lock a file, although somebody may be looking at it just now.

    Raises:
        BlockingIOError: it is locked.
        OSError: it cannot be.
    """
    for _ in range(_GLANCES):
        with contextlib.suppress(BlockingIOError):
            return _lock(path)
        time.sleep(_GLANCE)
    return _lock(path)


def _lock(path: Path) -> int:
    """Lock a file and write whose it is; return its descriptor.

    Raises:
        BlockingIOError: it is locked.
        OSError: it cannot be.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # whoever had it may have removed the file since it was opened
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    with contextlib.suppress(OSError):  # a full disk locks, too
                        os.truncate(descriptor, 0)
                        os.write(descriptor, f"{os.getpid()} {socket.gethostname()}\n".encode())
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _owner(path: Path) -> str:
    """Say which process has a lock, as far as its file tells."""
    try:
        pid, host = path.read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return "another run"
    place = "" if host == socket.gethostname() else f" on {host}"
    return f"another run, process {pid}{place}"
