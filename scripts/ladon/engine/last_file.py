"""The file that a run is resumed from: written beside the training, with the one before it kept."""

from __future__ import annotations

import contextvars
import io
import logging
import threading
from pathlib import Path
from typing import Any

import torch

from ladon.engine.earlier import backup_of
from ladon.errors import CheckpointError, LadonError
from ladon.models.checkpoint import cannot_save, load_safely
from ladon.replacing import keep_as, replacing_on_disk

logger = logging.getLogger(__name__)

FORMAT = 1
"""Version of what `last.pt` holds."""


class LastFile:
    """`last.pt`, and `last.backup.pt`: the one before it of the same run.

    Args:
        path: of `last.pt`.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.backup = path, backup_of(path)
        self._thread: threading.Thread | None = None
        self._fell_back = False

    @property
    def is_writing(self) -> bool:
        """Whether a write in the background is under way."""
        return self._thread is not None and self._thread.is_alive()

    def write(self, content: Any) -> None:
        """Write, after the write that is under way.

        Raises:
            LadonError: if it cannot be written.
        """
        self.wait()
        self._replace(_serialised(content))

    def write_behind(self, content: Any) -> None:
        """Take what is to be written as it is now, and write it while the caller goes on.

        One at a time: it waits for the one before. An error is said and changes nothing.
        """
        self.wait()
        data = _serialised(content)
        # its warning goes where this run's lines go
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run, args=(self._try_to_replace, data), name="ladon-last"
        )
        self._thread.start()

    def wait(self) -> None:
        """Wait until nothing is being written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _try_to_replace(self, data: memoryview) -> None:
        try:
            self._replace(data)
        except LadonError as error:
            logger.warning("%s; the training goes on and tries again later", error)

    def _replace(self, data: memoryview) -> None:
        try:
            with replacing_on_disk(self.path, kept=self.backup) as target:
                target.write(data)
        except OSError as error:
            raise cannot_save(self.path, error) from error

    def read(self) -> dict[str, Any]:
        """Read it; the one before where it is damaged, which is said.

        Raises:
            CheckpointError: if both are damaged, or others.
        """
        try:
            return read_last(self.path)
        except CheckpointError as error:
            try:
                content = read_last(self.backup)
            except CheckpointError:
                raise error from None
            self._fell_back = True
            logger.warning("%s; going on with the one before it, %s", error, self.backup.name)
            return content

    def mend(self) -> None:
        """Put the backup in the place of what `read` found damaged.

        Raises:
            LadonError: if it cannot be written.
        """
        if self._fell_back:
            self._fell_back = False
            self.go_back()

    def go_back(self) -> None:
        """Put the one before it in its place.

        Raises:
            LadonError: if it cannot be written.
        """
        try:
            keep_as(self.backup, self.path)
        except OSError as error:
            raise cannot_save(self.path, error) from error


def _serialised(content: Any) -> memoryview:
    """Return the bytes of a file; a copy in the host's memory, whatever device tensors are on."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getbuffer()


def read_last(path: Path) -> dict[str, Any]:
    """Read a `last.pt`.

    Raises:
        CheckpointError: if the file is damaged or another one.
    """
    content = load_safely(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise not_last(path)
    return content


def not_last(path: Path) -> CheckpointError:
    """Return the error of a file that is no `last.pt`."""
    return CheckpointError(f"{path}: not a file to resume from; delete it to start anew")
