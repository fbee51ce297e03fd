"""Errors that speak to a person: each message names the file, key or line and what to do.

Exit codes of every script: 0 done, 1 failed work, 2 wrong usage or input, 128 + N stopped by signal
N after saving what a resumed run needs (130 Ctrl-C, 143 SIGTERM, 138 SIGUSR1).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import sys

# the disk's doing, not the person's: full, over a quota or a limit, failing
_DISK = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO))


class LadonError(Exception):
    """Work that failed although the input was sound."""

    exit_code = 1
    is_said = False  # whether the person has been told of it


class DeviceError(LadonError):
    """A GPU that failed: this process can do nothing with it any more, not even let it go."""


class UsageError(LadonError):
    """Wrong usage or input: the person can mend it."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration file or override that cannot be used."""


class DataError(UsageError):
    """A dataset that is missing, incomplete or holds an unreadable or mislabelled sample."""


class CheckpointError(UsageError):
    """A checkpoint that is missing, damaged, unsafe, or made for another model."""


def in_one_line(error: BaseException) -> str:
    """Return a library's error as 'ValueError: its message', without line breaks."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": ")


def os_error_in(error: BaseException) -> OSError | None:
    """Return the system's error that another one was raised for, itself, or None.

    torch's zip writer, for one, says `unexpected pos` after a write that failed.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno is not None:
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


def disk_failure(error: BaseException) -> OSError | None:
    """Return the system's error behind another one if it says that the disk is full or fails."""
    found = os_error_in(error)
    return found if found is not None and found.errno in _DISK else None


def why_not_written(error: BaseException) -> str:
    """Return in a few words why a file could not be written."""
    found = os_error_in(error)
    if found is None:
        return in_one_line(error)[:200]
    text = found.strerror or str(found)
    return f"{text}; make room on that disk" if found.errno == errno.ENOSPC else text


def of_writing(text: str, error: BaseException) -> LadonError:
    """Return an error of this text: of failed work if the disk is full or fails, else of usage."""
    kind = LadonError if disk_failure(error) else UsageError
    return kind(text)


def cannot_write(what: object, error: BaseException) -> LadonError:
    """Return the error of a file that cannot be written: a wrong path, or a disk that is full.

    Args:
        what: names the file.
        error: what came of writing it.
    """
    return of_writing(f"{what}: cannot be written: {why_not_written(error)}", error)


class Interrupted(LadonError):
    """A run stopped by a signal after it saved what it had.

    Args:
        signum: the signal's number (2 for Ctrl-C, 15 for SIGTERM).
        message: what was saved and how to go on.
    """

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + signum


class PayloadError(UsageError):
    """A payload that no encoder of this model has written: truncated, extended or damaged."""


def report(error: LadonError, rank: int = 0) -> int:
    """Say what was wrong, once, in the log if it is set up; return the exit code.

    Args:
        error: what was wrong.
        rank: of this process.
    """
    if error.is_said:
        return error.exit_code
    error.is_said = True
    if rank and isinstance(error, Interrupted):
        return error.exit_code  # all processes stop together, and the first one says it
    text = f"rank {rank}: {error}" if rank else str(error)
    logs = sys.modules.get("ladon.logs")
    if logs is not None and logs.is_set_up():
        with contextlib.suppress(LadonError):  # it is shown, but the log file is on a full disk
            # by the name under which people know these lines
            logging.getLogger("ladon.cli").error("%s", text)
    else:
        sys.stderr.write(f"error: {text}\n")
    return error.exit_code
