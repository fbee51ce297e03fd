"""Curves of a training for TensorBoard, where `--tensorboard` asks for it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ladon.errors import LadonError, cannot_write


class Events:
    """Writes numbers for TensorBoard, or does nothing.

    Args:
        folder: where to; None to do nothing.

    Raises:
        LadonError: if the package is missing, or the folder cannot be written (all methods).
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._writer: Any = None
        if folder is None:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise LadonError("--tensorboard needs the package tensorboard") from error
        threading.excepthook = _quiet(threading.excepthook)
        with self._explained():
            self._writer = SummaryWriter(str(folder))

    def add(self, name: str, value: float, step: int) -> None:
        """Add a point to a curve."""
        if self._writer is not None:
            with self._explained():
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            with self._explained():
                self._writer.flush()  # says what went wrong in the writer's thread; close does not
                self._writer.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise cannot_write(f"--tensorboard: {self._folder}", error) from error


def _quiet(show: Any) -> Any:
    """Leave the writer's thread out of a hook: whoever adds to it next is told the same."""

    def hook(args: Any) -> None:
        if type(args.thread).__name__ != "_AsyncWriterThread":
            show(args)

    return hook
