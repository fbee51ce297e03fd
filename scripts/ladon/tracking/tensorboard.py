"""Curves of a training for TensorBoard, where `--tensorboard` asks for it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ladon.errors import LadonError, cannot_write
from ladon.tracking.journal import Sink, stage_curves


class Events(Sink):
    """Writes curves for TensorBoard: of the steps, of each stage's epochs, and of the validation.

    Args:
        folder: where to.

    Raises:
        LadonError: if the package is missing, or the folder cannot be written (all methods).
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise LadonError("--tensorboard needs the package tensorboard") from error
        threading.excepthook = _quiet(threading.excepthook)
        with self._explained():
            self._writer: Any = SummaryWriter(str(folder))

    def step(self, values: Mapping[str, float], step: int) -> None:
        """Add a point to the curves `train/…`."""
        self._add({f"train/{name}": value for name, value in values.items()}, step)

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Add a point to the curves `stage1/…` (or of another stage), and to `val/…`."""
        validated = record.get("val") or {}
        values = {f"val/{name}": v for name, v in validated.items() if isinstance(v, float)}
        self._add(values | stage_curves(record), record["epoch"])

    def _add(self, values: Mapping[str, float], step: int) -> None:
        with self._explained():
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is left."""
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
