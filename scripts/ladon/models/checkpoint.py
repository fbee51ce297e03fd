"""Checkpoints: the one place that reads and writes them.

The published format is a dict ``{model, optimizer, best_value, lr_scheduler, args}`` pickled by
``torch.save`` (torchdistill's ``save_ckpt``). Reading never executes code: only the few classes
that published files hold besides tensors are let in. Reading is strict: every tensor of the model
must be in the file and the other way round.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import logging
import os
import pickle
import re
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from compressai.entropy_models import EntropyBottleneck
from torch import Tensor, nn
from torchvision.ops.misc import FrozenBatchNorm2d

from ladon.errors import CheckpointError, LadonError, UsageError
from ladon.models.bottleneck import CDF_TABLES, set_updated

logger = logging.getLogger(__name__)

# What published files hold besides tensors and plain containers: the parsed arguments, numpy
# scalars (best values), and the class itself of FrozenBatchNorm2d (inside COCO's arguments).
_NUMPY_DTYPES = [type(np.dtype(t)) for t in (np.float64, np.float32, np.int64, np.int32, np.bool_)]
_SCALAR = np.float64(0).__reduce__()[0]
SAFE_GLOBALS: list[Any] = [
    argparse.Namespace,
    FrozenBatchNorm2d,
    np.dtype,
    *_NUMPY_DTYPES,
    # numpy 1 and numpy 2 name the same function differently
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
]

# CompressAI < 1.2.7 -> today's names inside an entropy bottleneck
_OLD_NAME = re.compile(r"(^|\.)entropy_bottleneck\._(matrix|bias|factor)(\d+)$")
_NEW_NAME = {"matrix": "matrices", "bias": "biases", "factor": "factors"}
_LISTED = 5
# how torch's restricted unpickler names what is outside the allow-list
_REFUSED = re.compile(r"GLOBAL (\S+)")


@dataclass
class Checkpoint:
    """What a checkpoint file holds.

    Attributes:
        path: the file.
        model: tensor by name, with today's names.
        best_value: best validation value, if the file has one.
        optimizer: optimizer state, if any.
        lr_scheduler: scheduler state, if any.
        args: arguments of the run that wrote it, if any.
        extra: what else a file with more than a state dict holds.
        is_bare: the file is a state dict and nothing else.
        has_old_names: the file uses names of an older library, which ``model`` has no more.
    """

    path: Path
    model: dict[str, Tensor]
    best_value: float | None = None
    optimizer: dict | None = None
    lr_scheduler: dict | None = None
    args: Any = None
    extra: dict = field(default_factory=dict)
    is_bare: bool = False
    has_old_names: bool = False


def require(path: str | os.PathLike, where: str) -> Path:
    """Returns the path of an existing checkpoint file.

    Args:
        path: file, or a URL whose file torch's hub cache holds or can fetch.
        where: config key that names it, for the error.

    Raises:
        CheckpointError: if it is not there.
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
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(file), progress=False)
        except OSError as error:
            raise CheckpointError(
                f"{where}: cannot download {url} ({error}); put the file at {file}"
            ) from error
    return file


def load_safely(path: Path) -> Any:
    """Loads a torch file without executing anything from it.

    Raises:
        CheckpointError: if the file is damaged or holds objects outside the allow-list.
    """
    try:
        with torch.serialization.safe_globals(SAFE_GLOBALS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        text = str(error)
        refused = _REFUSED.search(text)
        if refused:
            raise CheckpointError(
                f"{path}: refused: it holds objects that would run code when loaded "
                f"({refused.group(1)})"
            ) from error
        reason = _line(text.rpartition("WeightsUnpickler error:")[2])
        raise CheckpointError(f"{path}: not a checkpoint, or damaged: {reason}") from error
    except (RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile, OSError) as error:
        raise CheckpointError(
            f"{path}: truncated or damaged: {_line(str(error)) or type(error).__name__}"
        ) from error
    except Exception as error:
        # torch's restricted unpickler meets arbitrary bytes with arbitrary exceptions
        raise CheckpointError(f"{path}: not a checkpoint, or damaged: {error!r:.160}") from error


def _line(text: str) -> str:
    return text.strip().splitlines()[0][:160] if text.strip() else ""


def read_checkpoint(path: str | os.PathLike, where: str) -> Checkpoint:
    """Reads a published, current or bare (state dict only) checkpoint.

    Args:
        path: the file.
        where: config key that names it, for errors.

    Raises:
        CheckpointError: if it is missing, damaged, unsafe, or holds no model.
    """
    file = require(path, where)
    content = load_safely(file)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{file}: holds a {type(content).__name__}, not a checkpoint")
    full = isinstance(content.get("model"), Mapping)
    state = content["model"] if full else content
    if not state or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise CheckpointError(f"{file}: holds no model: expected tensors by name")
    model = current_names(state)
    has_old_names = model.keys() != state.keys()
    if not full:
        return Checkpoint(file, model, is_bare=True, has_old_names=has_old_names)
    known = {"model", "best_value", "optimizer", "lr_scheduler", "args"}
    return Checkpoint(
        file,
        model,
        best_value=_number(content.get("best_value"), file),
        optimizer=content.get("optimizer"),
        lr_scheduler=content.get("lr_scheduler"),
        args=content.get("args"),
        extra={k: v for k, v in content.items() if k not in known},
        has_old_names=has_old_names,
    )


def _number(best_value: Any, file: Path) -> float | None:
    try:
        return None if best_value is None else float(best_value)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{file}: best_value is no number: {best_value!r:.80}") from error


def current_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames tensors of older library versions to today's names.

    CompressAI 1.2.2's ``entropy_bottleneck._matrix0`` becomes ``entropy_bottleneck.matrices.0``
    (likewise biases and factors); a ``module.`` prefix left by a parallel wrapper goes.
    """
    if state and all(name.startswith("module.") for name in state):
        state = {name[len("module.") :]: tensor for name, tensor in state.items()}
    return {
        _OLD_NAME.sub(lambda m: f"{m[1]}entropy_bottleneck.{_NEW_NAME[m[2]]}.{m[3]}", name): tensor
        for name, tensor in state.items()
    }


def load_into(model: nn.Module, checkpoint: Checkpoint, *, absent_modules_ok: bool = False) -> None:
    """Copies a checkpoint's tensors into a model, strictly, CDF tables included.

    Tables of the entropy bottleneck are taken over as they are (sender and receiver must agree to
    the bit) or emptied where the checkpoint has none; the model's "updated" flags follow.

    Args:
        model: the model, on any device.
        checkpoint: what ``read_checkpoint`` returned.
        absent_modules_ok: let tensors pass whose top-level module the model does not have, as
            when a classifier becomes a backbone without its ``fc``.

    Raises:
        CheckpointError: naming the tensors that are missing, left over or of another shape.
    """
    state = checkpoint.model
    if absent_modules_ok:
        children = {name for name, _ in model.named_children()}
        state = {name: t for name, t in state.items() if name.split(".", 1)[0] in children}
    _check_fit(model, state, checkpoint.path)
    bottlenecks = {n: m for n, m in model.named_modules() if isinstance(m, EntropyBottleneck)}
    for prefix, module in bottlenecks.items():
        for table in CDF_TABLES:
            source, old = state[f"{prefix}.{table}"], getattr(module, table)
            setattr(module, table, torch.empty_like(source, dtype=torch.int32, device=old.device))
    # the base class's method on purpose: sc2bench's own override swallows missing names
    nn.Module.load_state_dict(model, state, strict=False)
    if bottlenecks:
        set_updated(model, all(m._offset.numel() > 0 for m in bottlenecks.values()))


def _check_fit(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    own = model.state_dict()
    # a counter that nothing reads; FrozenBatchNorm2d and old files lack it
    strict = {n for n in own if not n.endswith("num_batches_tracked")}
    given = {n for n in state if not n.endswith("num_batches_tracked")}
    problems = [
        _listing("missing", strict - given),
        _listing("unexpected", given - strict),
        _listing(
            "of another shape",
            (
                f"{n} {tuple(state[n].shape)} instead of {tuple(own[n].shape)}"
                for n in strict & given
                if n.rsplit(".", 1)[-1] not in CDF_TABLES and state[n].shape != own[n].shape
            ),
        ),
    ]
    problems = [p for p in problems if p]
    if problems:
        raise CheckpointError(f"{path}: made for another model: {'; '.join(problems)}")


def _listing(what: str, names: Iterable[str]) -> str:
    names = sorted(names)
    if not names:
        return ""
    more = f", … {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{len(names)} tensors {what} ({', '.join(names[:_LISTED])}{more})"


def write_checkpoint(
    path: str | os.PathLike,
    model: nn.Module,
    *,
    optimizer: dict | None = None,
    lr_scheduler: dict | None = None,
    best_value: float | None = None,
    args: argparse.Namespace | None = None,
) -> None:
    """Writes a checkpoint in the published format, whole or not at all.

    Args:
        path: the file.
        model: its tensors are saved.
        optimizer: state of the optimizer.
        lr_scheduler: state of the scheduler.
        best_value: validation value of these weights.
        args: command line of the run.

    Raises:
        LadonError: if the file cannot be written.
    """
    save_atomically(
        {
            "model": {n: t.detach().cpu().contiguous() for n, t in model.state_dict().items()},
            "optimizer": optimizer,
            "best_value": best_value,
            "lr_scheduler": lr_scheduler,
            "args": args,
        },
        path,
    )


def save_atomically(content: Any, path: str | os.PathLike) -> None:
    """Saves with ``torch.save`` to a temporary file beside ``path`` and renames it.

    Raises:
        LadonError: if the file cannot be written.
    """
    file = Path(path).expanduser()
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, temporary)
        os.replace(temporary, file)
    except (OSError, RuntimeError) as error:
        raise LadonError(f"cannot write checkpoint {file}: {_line(str(error))}") from error
    finally:
        with contextlib.suppress(OSError):  # the folder may be what cannot be written
            temporary.unlink(missing_ok=True)


def check_writable(path: str | os.PathLike, where: str) -> None:
    """Sees before a training that its checkpoint can be written; makes the folder.

    Args:
        path: the file.
        where: config key that names it, for the error.

    Raises:
        UsageError: if it cannot be written.
    """
    file = Path(path).expanduser()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=file.parent):
            pass
    except OSError as error:
        raise UsageError(
            f"checkpoint {file} cannot be written: {error.strerror} (named by {where})"
        ) from error
