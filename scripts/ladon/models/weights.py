"""Finds the weights in what a checkpoint file holds, and gives them today's plain names."""

from __future__ import annotations

import logging
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ladon.errors import CheckpointError
from ladon.launch import in_words
from ladon.models.safe_pickle import printable

logger = logging.getLogger(__name__)

# 'model' is torchdistill's and torchvision's; the others are Lightning's, timm's and people's own
PLACES = ("model", "state_dict", "model_state_dict", "model_ema", "ema", "net", "state_dict_ema")
# what wrappers put before every name: DataParallel and averaged models, torch.compile, Lightning
PREFIXES = ("module.", "_orig_mod.", "model.")
_AVERAGED = "n_averaged"
_CHOOSE = in_words(
    "write the ones you mean with: python scripts/checkpoint.py convert FILE OUT --weights KEY"
)
_LISTED = 6

# CompressAI < 1.2.7 -> today's names inside an entropy bottleneck
_OLD_NAME = re.compile(r"(^|\.)entropy_bottleneck\._(matrix|bias|factor)(\d+)$")
_NEW_NAME = {"matrix": "matrices", "bias": "biases", "factor": "factors"}


def find_weights(
    content: Mapping[Any, Any], file: Path, key: str | None = None
) -> tuple[Mapping[str, Tensor], str | None]:
    """Return the tensors by name, and the key under which they were (None: the file itself).

    Args:
        content: what the file holds.
        file: its path, for errors.
        key: the key to look under, where a person has chosen.

    Raises:
        CheckpointError: if there are none, or several to choose from.
    """
    found = {k: s for k in PLACES if (s := _state(content.get(k))) is not None}
    if key is not None:
        state = _state(content.get(key))
        if state is None:
            others = [str(k) for k, v in content.items() if _state(v) is not None]
            raise CheckpointError(
                f"{file}: no tensors by name under '{key}'; there are some under: "
                f"{_listed(others) or 'no key'}"
            )
        return state, key
    if len(found) > 1:
        raise CheckpointError(
            f"{file}: holds several sets of weights ({', '.join(found)}); {_CHOOSE}"
        )
    if found:
        place, state = next(iter(found.items()))
        if place != "model":
            logger.info("%s: weights taken from '%s'", file, place)
        return state, place
    if (state := _tensors(content)) is not None:
        return state, None
    others = [str(k) for k, v in content.items() if _state(v) is not None]
    if others:
        raise CheckpointError(
            f"{file}: holds no model where one is looked for ({', '.join(PLACES)}); there are "
            f"tensors by name under {_listed(others)}: {_CHOOSE}"
        )
    held = _listed([str(k) for k in content])
    raise CheckpointError(f"{file}: holds no model: expected tensors by name, found: {held or '-'}")


def _listed(names: list[str]) -> str:
    more = f", … {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{', '.join(printable(name[:60]) for name in names[:_LISTED])}{more}"


def _tensors(value: Any) -> Mapping[str, Tensor] | None:
    if not isinstance(value, Mapping) or not value:
        return None
    is_state = all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())
    return value if is_state else None


def _state(value: Any) -> Mapping[str, Tensor] | None:
    """Tensors by name, perhaps one level further down (`{'ema': {'state_dict': ...}}`)."""
    if (state := _tensors(value)) is not None or not isinstance(value, Mapping):
        return state
    inner = [s for k in (*PLACES, "module") if (s := _tensors(value.get(k))) is not None]
    return inner[0] if len(inner) == 1 else None


def current_names(state: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
    """Rename tensors of older libraries and of wrappers to today's plain names.

    CompressAI 1.2.2's `entropy_bottleneck._matrix0` becomes `entropy_bottleneck.matrices.0`
    (likewise biases and factors). What a wrapper put before every name goes, an averaged model's
    counter too. The modules' versions (`_metadata`) come along.
    """
    metadata = dict(getattr(state, "_metadata", None) or {})
    renamed: OrderedDict[str, Tensor] = OrderedDict(state)
    names = [name for name in renamed if name != _AVERAGED]
    if len(names) < len(renamed) and names and all(n.startswith("module.") for n in names):
        del renamed[_AVERAGED]
    while prefix := next((p for p in PREFIXES if _is_before_all(p, renamed)), None):
        renamed = OrderedDict((n[len(prefix) :], t) for n, t in renamed.items())
        metadata = {_without(prefix, str(n)): v for n, v in metadata.items()}
    # torch.compile of a part leaves its prefix in the middle
    inside = OrderedDict((n.replace("._orig_mod.", "."), t) for n, t in renamed.items())
    if len(inside) == len(renamed):
        renamed = inside
        metadata = {f"{n}.".replace("._orig_mod.", ".")[:-1]: v for n, v in metadata.items()}
    renamed = OrderedDict(
        (_OLD_NAME.sub(lambda m: f"{m[1]}entropy_bottleneck.{_NEW_NAME[m[2]]}.{m[3]}", n), t)
        for n, t in renamed.items()
    )
    if metadata:
        renamed._metadata = OrderedDict(metadata)  # type: ignore[attr-defined]
    return renamed


def has_old_names(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict uses names of CompressAI < 1.2.7."""
    return any(_OLD_NAME.search(name) for name in state)


def _is_before_all(prefix: str, state: Mapping[str, Tensor]) -> bool:
    return bool(state) and all(n.startswith(prefix) and len(n) > len(prefix) for n in state)


def _without(prefix: str, module: str) -> str:
    return "" if module == prefix[:-1] else module.removeprefix(prefix)
