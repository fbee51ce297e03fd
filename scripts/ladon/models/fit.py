"""Puts a checkpoint's tensors into a model, strictly, after the modules converted old ones."""

from __future__ import annotations

import copy
import logging
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Set
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torchvision.models import MNASNet

from ladon.bottlenecks import known_bottleneck, set_updated
from ladon.bottlenecks.entropy import entropy_models, has_tables, rules_of, set_tables, tables
from ladon.errors import CheckpointError
from ladon.models.safe_pickle import printable
from ladon.models.weights import PREFIXES

if TYPE_CHECKING:
    from ladon.models.checkpoint import Checkpoint

logger = logging.getLogger(__name__)

_LISTED = 5


def load_into(model: nn.Module, checkpoint: Checkpoint, *, absent_modules_ok: bool = False) -> None:
    """Copy a checkpoint's tensors into a model, strictly, CDF tables included.

    Tables of the entropy bottleneck are taken over as they are (sender and receiver must agree to
    the bit) or emptied where the checkpoint has none; the model's "updated" flags follow.

    Args:
        model: the model, on any device.
        checkpoint: what `read_checkpoint` returned.
        absent_modules_ok: let tensors pass whose top-level module the model does not have, as
            when a classifier becomes a backbone without its `fc`.

    Raises:
        CheckpointError: naming the tensors that are missing, left over, of another shape, not
            finite, or no tables that can be coded with. The model is then as it was.
    """
    path = checkpoint.path
    state = wrapped_as(model, checkpoint.model)
    if absent_modules_ok:
        children = {name for name, _ in model.named_children()}
        kept = ((n, t) for n, t in state.items() if n.split(".", 1)[0] in children)
        state = _with_metadata(kept, getattr(state, "_metadata", None))
    _know_mnasnet(model, state)
    if _problems(model.state_dict(), state, set(tables(model))):
        _check_converted(model, state, path)
    for name, module in entropy_models(model).items():
        _check_entropy_model(f"{name}." if name else "", module, state, path)
    check_finite(state, path, model.state_dict())
    _make_room(model, state)
    try:
        # the base class's method on purpose: sc2bench's own override swallows missing names
        nn.Module.load_state_dict(model, state, strict=False)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path}: made for another model: {reason:.300}") from error
    if found := entropy_models(model).values():
        set_updated(model, all(map(has_tables, found)))


def completed(model: nn.Module, checkpoint: Checkpoint) -> Checkpoint:
    """Let a model start from a checkpoint whose bottleneck is of a plainer kind.

    Returns:
        The checkpoint with what the model's bottleneck adds; or as it was.
    """
    bottleneck = known_bottleneck(model)
    if bottleneck is None:
        return checkpoint
    state = wrapped_as(model, checkpoint.model)
    prefix = next(name for name, module in model.named_modules() if module is bottleneck) + "."
    own = {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
    more = bottleneck.completed(own)
    if more is None:
        return checkpoint
    logger.info("%s: the bottleneck starts from one of a plainer kind", checkpoint.path)
    others = [(n, t) for n, t in state.items() if not n.startswith(prefix)]
    items = [*others, *((prefix + name, tensor) for name, tensor in more.items())]
    return replace(checkpoint, model=_with_metadata(items, getattr(state, "_metadata", None)))


def check_finite(
    state: Mapping[str, Tensor], path: Path, own: Mapping[str, Tensor] | None = None
) -> None:
    """Refuse weights that are NaN or infinite, and variances below zero.

    Args:
        state: tensors by name.
        path: their file, for the error.
        own: the model's tensors; where one is not finite by design (a mask), the file's may be so.

    Raises:
        CheckpointError: naming the first bad tensor.
    """
    bad = first_bad(state, own)
    if bad is not None:
        raise CheckpointError(
            f"{path}: damaged weights: {bad}; the training that wrote it diverged, or the file "
            "was changed: use another checkpoint"
        )


def first_bad(state: Mapping[str, Tensor], own: Mapping[str, Tensor] | None = None) -> str | None:
    """Return what is wrong with the first tensor that no sound training gives, or None."""
    for name, tensor in state.items():
        if not tensor.is_floating_point() or tensor.numel() == 0 or tensor.is_meta:
            continue
        tensor = tensor.detach()
        place = (own or {}).get(name)
        if place is not None and place.is_floating_point() and place.itemsize < tensor.itemsize:
            tensor = tensor.to(place.dtype)  # what is finite in float64 may not be so there
        low, high = (tensor if tensor.itemsize > 1 else tensor.float()).aminmax()
        shown = printable(name[:160])
        if not bool((high - high + low - low) == 0):
            if place is None or bool(place.isfinite().all()):
                count = int((~tensor.float().isfinite()).sum())
                return f"{shown} holds {count:,} of {tensor.numel():,} numbers that are not finite"
        elif name.rsplit(".", 1)[-1] == "running_var" and bool(low < 0):
            return f"{shown} holds a negative variance ({float(low):.4g})"
    return None


def wrapped_as(model: nn.Module, state: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
    """Return the state with the prefix that all of the model's own names have, if it lacks it."""
    own = list(model.state_dict())
    for prefix in PREFIXES:
        wanted = bool(own) and all(name.startswith(prefix) for name in own)
        if wanted and not any(name.startswith(prefix) for name in state):
            metadata = getattr(state, "_metadata", None) or {}
            named = {(f"{prefix}{n}" if n else prefix[:-1]): v for n, v in metadata.items()}
            return _with_metadata(((f"{prefix}{n}", t) for n, t in state.items()), named)
    return _with_metadata(state.items(), getattr(state, "_metadata", None))


def _with_metadata(items: Iterable[tuple[str, Tensor]], metadata: Any) -> OrderedDict[str, Tensor]:
    state: OrderedDict[str, Tensor] = OrderedDict(items)
    if isinstance(metadata, Mapping):
        # a version is a small number; anything else would end in a module's comparison
        state._metadata = OrderedDict(  # type: ignore[attr-defined]
            (name, {"version": found["version"]})
            for name, found in metadata.items()
            if isinstance(found, Mapping) and type(found.get("version")) is int
        )
    return state


def _know_mnasnet(model: nn.Module, state: OrderedDict[str, Tensor]) -> None:
    """Give an MNASNet the version that it asks for where the file does not say it.

    The first version differs by its stem of 32 channels only.
    """
    for name, module in model.named_modules():
        if not isinstance(module, MNASNet):
            continue
        metadata = getattr(state, "_metadata", None)
        if metadata is None:
            metadata = state._metadata = OrderedDict()  # type: ignore[attr-defined]
        if metadata.get(name, {}).get("version") not in (1, 2):
            stem = state.get(f"{name}.layers.0.weight" if name else "layers.0.weight")
            is_first = stem is not None and stem.shape[:1] == (32,) and module.alpha != 1.0
            own = module.layers[0].weight.shape[0] == 32
            metadata[name] = {"version": 1 if is_first and not own else 2}


def _check_converted(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Raise unless the modules' own `_load_from_state_dict` make the state fit.

    They convert on the way: torchvision's of FPN, RPN, RetinaNet, Mask R-CNN, ViT and MNASNet,
    CompressAI's and torch's own. They do so here on a copy without memory, so that a model is
    left alone by a checkpoint that does not fit.
    """
    own = model.state_dict()
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
    memo: dict[int, Any] = {}
    for number, tensor in tensors.items():
        empty = torch.empty_like(tensor, device="meta")
        memo[number] = nn.Parameter(empty, False) if isinstance(tensor, nn.Parameter) else empty
    converted: dict[str, Tensor] = {}
    unexpected: list[str] = []
    try:
        skeleton = copy.deepcopy(model, memo)
        _make_room(skeleton, state)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that nothing is copied into a tensor without memory
            _convert(skeleton, dict(state), "", state, converted, unexpected)
        own = skeleton.state_dict()
    except Exception as error:  # an odd model cannot be copied: judge by the names as they are
        logger.debug("cannot try the modules' own conversions: %r", error)
        converted, unexpected = dict(state), []
    converted |= {n: state.get(n, torch.empty(0)) for n in unexpected}
    problems = _problems(own, converted, set(tables(model)))
    if problems:
        raise CheckpointError(f"{path}: made for another model: {'; '.join(problems)}")
    logger.info("%s: tensors of an older library converted to today's names", path)


def _convert(
    module: nn.Module,
    given: dict[str, Tensor],
    prefix: str,
    state: Mapping[str, Tensor],
    converted: dict[str, Tensor],
    unexpected: list[str],
) -> None:
    """Do what `nn.Module.load_state_dict` does, keeping what each module made of its part."""
    metadata = (getattr(state, "_metadata", None) or {}).get(prefix[:-1], {})
    module._load_from_state_dict(given, prefix, metadata, True, [], unexpected, [])
    local = {*module._parameters, *module._buffers}
    converted |= {k: t for k, t in given.items() if k.removeprefix(prefix) in local}
    for name, child in module._modules.items():
        if child is not None:
            inner = f"{prefix}{name}."
            part = {k: v for k, v in given.items() if k.startswith(inner)}
            _convert(child, part, inner, state, converted, unexpected)


def _make_room(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give the tables the size of the checkpoint's."""
    given = ((n, t, state[n]) for n, t in tables(model).items() if n in state)
    set_tables(model, {name: own.new_empty(source.shape) for name, own, source in given})


def _check_entropy_model(
    prefix: str, module: nn.Module, state: Mapping[str, Tensor], path: Path
) -> None:
    """Refuse tables and quantiles that a coder cannot use.

    Raises:
        CheckpointError: naming the file and the tensors.
    """
    where = f"{path}: {prefix or 'the entropy model.'}".rstrip(".")
    found = {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
    try:
        if (rules := rules_of(module)) is not None:
            rules.check(module, found)
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {error}; take the file anew from where it came") from error


def _problems(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], any_size: Set[str]
) -> list[str]:
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
                for n in own.keys() & state.keys()
                if n not in any_size and state[n].shape != own[n].shape
            ),
        ),
        _listing(
            "of complex numbers",
            (n for n in strict & given if state[n].is_complex() and not own[n].is_complex()),
        ),
    ]
    return [problem for problem in problems if problem]


def _listing(what: str, names: Iterable[str]) -> str:
    names = sorted(names)
    if not names:
        return ""
    more = f", … {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    shown = ", ".join(printable(name[:160]) for name in names[:_LISTED])
    return f"{len(names)} tensors {what} ({shown}{more})"
