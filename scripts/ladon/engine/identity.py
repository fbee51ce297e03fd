"""Identity of a training: the part of a config that its weights depend on.

`last.pt` keeps it, so that `--resume` goes on with the same training or says what differs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from ladon.config import Config
from ladon.engine.plan import LOADERS, Plan

# What may change half-way: where results go, what is printed, how often is saved, how fast data
# comes, how it computes.
_FREE = re.compile(
    r"train\.(precision|compile|checkpoint_every|checkpoint_steps|on_bad_sample)"
    r"|train(\.stage\d+)?\.log_freq"
    r"|train(\.stage\d+)?\.val_data_loader\.kwargs\..*"
    r"|train(\.stage\d+)?\.train_data_loader\.kwargs\."
    r"(num_workers|pin_memory|prefetch_factor|persistent_workers|timeout)"
    r"|models\.\w+\.(dst_ckpt|experiment)"
)
_LENGTH = re.compile(r".*\b(num_epochs|batch_size|drop_last|scheduler|grad_accum_step)\b.*")
_SHOWN_KEYS, _SHOWN_CHARACTERS = 3, 60
_NULL, _MAPPING = "tag:yaml.org,2002:null", "tag:yaml.org,2002:map"


def fingerprint(
    config: Config, plan: Plan, seed: int, *, adjust_lr: bool = False
) -> dict[str, str]:
    """Return what a training depends on, as text by dotted key.

    The place of the data may change, its definition may not: paths under `data_root` are kept
    relative to it.

    Args:
        config: the resolved config.
        plan: its stages.
        seed: of the run.
        adjust_lr: whether learning rates are multiplied by the number of processes.
    """
    ids = [
        config.get(f"{stage.key}.{loader}.dataset_id")
        for stage in plan.stages
        for loader in LOADERS
    ]
    datasets = [f"datasets.{name}" for name in dict.fromkeys(ids) if name is not None]
    found = {"--seed": str(seed)} | ({"--adjust_lr": "true"} if adjust_lr else {})
    for key in ("beta", "metric", "train", "models", *datasets):
        if key in config and config.get(key) is not None:
            found |= _leaves(yaml.compose(config.dump(key), Loader=yaml.SafeLoader), key)
    root = str(config.get("data_root") or "").rstrip("/")
    return {k: _relative(v, root) for k, v in found.items() if not _FREE.fullmatch(k)}


def _relative(text: str, root: str) -> str:
    if root and (text == root or text.startswith(f"{root}/")):
        return "${data_root}" + text[len(root) :]
    return text


def _leaves(node: yaml.Node, key: str) -> Iterator[tuple[str, str]]:
    """Yield the values of a YAML node by dotted key; what is empty counts as not there."""
    if isinstance(node, yaml.ScalarNode):
        if node.tag != _NULL:
            yield key, node.value if not node.tag.startswith("!") else f"{node.tag} {node.value}"
        return
    if node.tag.startswith("!"):
        yield key, node.tag
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            yield from _leaves(value, f"{key}.{name.value}")
    elif all(isinstance(item, yaml.ScalarNode) for item in node.value):
        if node.value:
            yield key, f"[{', '.join(item.value for item in node.value)}]"
    else:
        for number, item in enumerate(node.value):
            yield from _leaves(item, f"{key}.{number}")


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the keys whose values differ; numbers are compared as numbers."""
    keys = dict.fromkeys([*now, *before])
    return [key for key in keys if not _same(before.get(key), now.get(key))]


def _same(one: Any, other: Any) -> bool:
    if one == other:
        return True
    try:
        return math.isclose(float(one), float(other), rel_tol=0.0, abs_tol=0.0)
    except (TypeError, ValueError):
        return False


def in_words(keys: list[str], before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Say of some keys what they are and were, and what cannot change for a reason of its own."""
    parts = [
        f"{key} is {_shown(now.get(key))} here and was {_shown(before.get(key))}"
        for key in keys[:_SHOWN_KEYS]
    ]
    if len(keys) > _SHOWN_KEYS:
        parts.append(f"and {len(keys) - _SHOWN_KEYS} more")
    reason = ""
    if any(_LENGTH.fullmatch(key) for key in keys):
        reason = " (a schedule cannot be given another length half-way)"
    return "; ".join(parts) + reason


def _shown(value: Any) -> str:
    if value is None:
        return "not set"
    text = str(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"
