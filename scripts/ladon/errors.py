"""Errors that speak to a person: each message names the file, key or line and what to do.

Exit codes of every script: 0 done, 1 failed work, 2 wrong usage or input, 130/143 interrupted.
"""

from __future__ import annotations

import logging
import sys


class LadonError(Exception):
    """Work that failed although the input was sound."""

    exit_code = 1


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
    """Returns a library's error as 'ValueError: its message', without line breaks."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": ")


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
    """Says what was wrong, once, in the log if it is set up; returns the exit code.

    Args:
        error: what was wrong.
        rank: of this process.
    """
    if getattr(error, "_is_said", False):
        return error.exit_code
    error._is_said = True
    if rank and isinstance(error, Interrupted):
        return error.exit_code  # all processes stop together, and the first one says it
    text = f"rank {rank}: {error}" if rank else str(error)
    logs = sys.modules.get("ladon.logs")
    if logs is not None and logs.is_set_up():
        # by the name under which people know these lines
        logging.getLogger("ladon.cli").error("%s", text)
    else:
        sys.stderr.write(f"error: {text}\n")
    return error.exit_code
