"""Checkpoints: the one place that reads and writes them.

The published format is a dict `{model, optimizer, best_value, lr_scheduler, args}` pickled by
`torch.save` (torchdistill's `save_ckpt`). Reading never executes code (`safe_load`) and is
strict: every tensor of the model must be in the file and the other way round (`fit`). What is
written holds plain values only, so that `torch.load` reads it with its defaults.
"""

from __future__ import annotations

import argparse
import errno
import os
import tempfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ladon.distrust import check_sha256, known_sha256, not_meant, require_known
from ladon.errors import CheckpointError, LadonError, of_writing, why_not_written
from ladon.models.fit import check_finite, first_bad, load_into
from ladon.models.safe_load import load_safely
from ladon.models.weights import current_names, find_weights, has_old_names
from ladon.replacing import replacing_on_disk

__all__ = [
    "Checkpoint",
    "cannot_save",
    "check_finite",
    "check_writable",
    "current_names",
    "load_into",
    "load_safely",
    "noting_files",
    "plain",
    "read_checkpoint",
    "require",
    "save_atomically",
    "write_checkpoint",
]

_KNOWN = {"best_value", "optimizer", "lr_scheduler", "args", "classes"}


@dataclass
class Checkpoint:
    """The contents of a checkpoint file.

    Attributes:
        path: the file.
        model: tensor by name, with today's names; its `_metadata` holds the modules' versions.
        best_value: best validation value, if the file has one.
        optimizer: optimizer state, if any.
        lr_scheduler: scheduler state, if any.
        args: arguments of the run that wrote it, if any: a dict, or old files' Namespace.
        classes: names of the model's classes, if the file has them.
        extra: what else a file with more than a state dict holds.
        is_bare: the file is a state dict and nothing else.
        has_old_names: the file uses names of an older library, which `model` has no more.
    """

    path: Path
    model: Mapping[str, Tensor]
    best_value: float | None = None
    optimizer: dict | None = None
    lr_scheduler: dict | None = None
    args: Any = None
    classes: list[str] | None = None
    extra: dict = field(default_factory=dict)
    is_bare: bool = False
    has_old_names: bool = False


def require(path: str | os.PathLike, where: str) -> Path:
    """Return the path of an existing checkpoint file.

    Args:
        path: file, or a URL whose file torch's hub cache holds or can fetch, and whose SHA-256 is
            known (`ladon.distrust.known_sha256`).
        where: config key that names it, for the error.

    Raises:
        CheckpointError: if it is not there, or a URL's file is another one.
    """
    text = str(path)
    if text.startswith(("http://", "https://")):
        return _fetch(text, where)
    file = Path(text).expanduser()
    if file.is_dir():
        raise CheckpointError(f"{file} is a folder, not a checkpoint (named by {where})")
    if not file.is_file():
        raise CheckpointError(
            f"checkpoint not found: {file} (named by {where}); "
            "train it, unzip the released checkpoints here, or name another file"
        )
    return file


def _fetch(url: str, where: str) -> Path:
    plain, _, _ = url.partition("#")
    file = Path(torch.hub.get_dir()) / "checkpoints" / plain.rsplit("/", 1)[-1]
    digits = known_sha256(url)
    if file.is_file():
        if digits is not None:
            check_sha256(file, digits)
        return file
    digits = require_known(url, file)
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(plain, str(file), digits, progress=False)
    except OSError as error:
        raise CheckpointError(
            f"{where}: cannot download {plain} ({error}); put the file at {file}"
        ) from error
    except RuntimeError as error:
        raise not_meant(where, plain, error) from error
    return file


_noting: list[list[Path]] = []  # of `noting_files`, the innermost last


@contextmanager
def noting_files() -> Iterator[list[Path]]:
    """Note which checkpoints are read within, by whomever.

    Yields:
        Their files, filled as they are read.
    """
    files: list[Path] = []
    _noting.append(files)
    try:
        yield files
    finally:
        _noting.pop()


def read_checkpoint(path: str | os.PathLike, where: str, key: str | None = None) -> Checkpoint:
    """Read a published, current or bare (state dict only) checkpoint.

    Args:
        path: the file.
        where: config key that names it, for errors.
        key: the file's key under which the weights are; None: wherever they are, if one place only.

    Raises:
        CheckpointError: if it is missing, damaged, unsafe, or holds no model, or several.
    """
    file = require(path, where)
    for files in _noting:
        files.append(file)
    content = load_safely(file)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{file}: holds a {type(content).__name__}, not a checkpoint")
    state, place = find_weights(content, file, key)
    model, old = current_names(state), has_old_names(state)
    if place is None:
        return Checkpoint(file, model, is_bare=True, has_old_names=old)
    return Checkpoint(
        file,
        model,
        best_value=_number(content.get("best_value"), file),
        optimizer=content.get("optimizer"),
        lr_scheduler=content.get("lr_scheduler"),
        args=content.get("args"),
        classes=_classes(content.get("classes"), file),
        extra={k: v for k, v in content.items() if k not in _KNOWN and k != place},
        has_old_names=old,
    )


def _number(best_value: Any, file: Path) -> float | None:
    try:
        return None if best_value is None else float(best_value)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{file}: best_value is no number: {best_value!r:.80}") from error


def _classes(names: Any, file: Path) -> list[str] | None:
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{file}: classes are no list of names: {names!r:.80}")
    return names


def plain(value: Any) -> Any:
    """Return a value of nothing but plain ones, as any safe loader reads them; others as text."""
    if isinstance(value, argparse.Namespace):
        value = vars(value)
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, bool) or value is None:
        return value
    for kind in (str, int, float):  # subclasses, an enum's members say, would need their class
        if isinstance(value, kind):
            return kind(value)
    return str(value)


def _may_be_infinite(model: nn.Module) -> dict[str, Tensor]:
    """Buffers that hold infinities by design, as masks do; statistics are none of them."""
    return {
        name: buffer
        for name, buffer in model.named_buffers()
        if buffer.is_floating_point()
        and not name.rpartition(".")[2].startswith("running_")
        and not bool(buffer.isnan().any())
    }


def write_checkpoint(
    path: str | os.PathLike,
    model: nn.Module,
    *,
    optimizer: dict | None = None,
    lr_scheduler: dict | None = None,
    best_value: float | None = None,
    args: argparse.Namespace | Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
) -> None:
    """Write a checkpoint in the published format, whole or not at all.

    Args:
        path: the file.
        model: its tensors are saved.
        optimizer: state of the optimizer.
        lr_scheduler: state of the scheduler.
        best_value: validation value of these weights.
        args: command line of the run; written as a dict of plain values.
        classes: names of the model's classes.

    Raises:
        LadonError: if the file cannot be written, or the weights are not finite.
    """
    state = model.state_dict()
    bad = first_bad(state, _may_be_infinite(model))
    if bad is not None:
        raise LadonError(f"checkpoint {path} is not written: {bad}; the training has diverged")
    tensors = OrderedDict((n, t.detach().cpu().contiguous()) for n, t in state.items())
    # MNASNet asks for its version while it loads, and older layers convert by theirs
    metadata = getattr(state, "_metadata", OrderedDict())
    tensors._metadata = metadata  # type: ignore[attr-defined]
    content: dict[str, Any] = {
        "model": tensors,
        "optimizer": optimizer,
        "best_value": None if best_value is None else float(best_value),
        "lr_scheduler": lr_scheduler,
        "args": None if args is None else plain(args),
    }
    if classes is not None:
        content["classes"] = [str(name) for name in classes]
    save_atomically(content, path)


def save_atomically(content: Any, path: str | os.PathLike) -> None:
    """Save with `torch.save` to a temporary file beside `path` and rename it.

    It is on the disk, not in its cache, before the old one goes: a power cut leaves one of them.

    Raises:
        LadonError: if the file cannot be written.
    """
    file = Path(path).expanduser()
    try:
        with replacing_on_disk(file) as target:
            torch.save(content, target)
    except (OSError, RuntimeError) as error:
        raise cannot_save(file, error) from error


def cannot_save(file: Path, error: BaseException) -> LadonError:
    """Return the error of a checkpoint that could not be written."""
    return LadonError(f"cannot write checkpoint {file}: {why_not_written(error)}")


def check_writable(path: str | os.PathLike, where: str) -> None:
    """See before a training that its checkpoint can be written; make the folder.

    Args:
        path: the file.
        where: config key that names it, for the error.

    Raises:
        LadonError: if it cannot be written.
    """
    file = Path(path).expanduser()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=file.parent):
            pass
    except OSError as error:
        text = f"checkpoint {file} cannot be written: {why_not_written(error)} (named by {where})"
        raise of_writing(text, error) from error
