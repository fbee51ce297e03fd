"""`epoch_to_update`: the epoch before which the entropy model's tables are made, a stage's first.

The published recipe writes it as a number that equals the first stage's `num_epochs`. A layer that
changes a `num_epochs` alone would leave it behind, in the middle of a stage; here it moves along.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import Any

from ladon.config.core.interpolate import Resolver
from ladon.config.core.nodes import ConfigMap, SourceLocation
from ladon.config.core.paths import Found, NoSuchPathError, set_in
from ladon.errors import ConfigError

logger = logging.getLogger(__name__)

STAGE = re.compile(r"stage([1-9]\d*)")
_PATH = ("train", "epoch_to_update")


@dataclass(frozen=True)
class StageStarts:
    """The first epoch of every stage, as far as known, and `epoch_to_update` as written."""

    starts: dict[str, int]
    epoch: Any
    is_complete: bool


def read_stage_starts(root: ConfigMap) -> StageStarts:
    """Read the stages of a config that may still lack layers; what cannot be known is left out."""
    resolver = Resolver(root)
    train = _try(resolver, "train", raw=True)
    if not isinstance(train, ConfigMap):
        return StageStarts({}, None, False)
    epoch = _try(resolver, "train.epoch_to_update", raw=True)
    numbers = sorted(int(m[1]) for key in train if (m := STAGE.fullmatch(str(key))))
    if not numbers:
        return StageStarts({"stage1": 0}, epoch, True)
    starts, first = {}, 0
    for number in numbers:
        starts[f"stage{number}"] = first
        length = _try(resolver, f"train.stage{number}.num_epochs")
        if not is_count(length):
            return StageStarts(starts, epoch, number == numbers[-1])
        first += length
    return StageStarts(starts, epoch, True)


def is_count(value: Any) -> bool:
    """Whether a value is a whole number of at least one."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _try(resolver: Resolver, dotted: str, *, raw: bool = False) -> Any:
    try:
        found = resolver.locate(dotted)
        if raw:
            return resolver.deref(found).value if dotted == "train" else found.value
        return resolver.resolve(found.value, found.mark)
    except (ConfigError, NoSuchPathError):  # validation lists it; a base may rely on a later layer
        return None


def sets_epoch(layer: ConfigMap) -> bool:
    """Whether a layer says itself what `epoch_to_update` is."""
    train = layer.get("train")
    return isinstance(train, dict) and "epoch_to_update" in train


def follow_stages(root: ConfigMap, before: StageStarts) -> ConfigMap:
    """Move a numeric `epoch_to_update` along with the stage that it was the first epoch of."""
    if not isinstance(before.epoch, int) or isinstance(before.epoch, bool):
        return root
    after = read_stage_starts(root)
    for stage, first in before.starts.items():
        if first == before.epoch and after.starts.get(stage, first) != first:
            mark = _mark(root)
            logger.info("epoch_to_update follows %s: %d -> %d", stage, first, after.starts[stage])
            return set_in(root, _PATH, after.starts[stage], mark)
    return root


def fix_epoch(root: ConfigMap) -> ConfigMap:
    """Turn `epoch_to_update` into a number; warn if no stage begins there.

    A value that is neither a number nor a stage's name is left for validation to report.
    """
    plan = read_stage_starts(root)
    if plan.epoch is None:
        return root
    try:
        epoch = Resolver(root).resolve(plan.epoch)
    except ConfigError:
        return root
    if isinstance(epoch, str):
        epoch = plan.starts.get(epoch, epoch)
    if not isinstance(epoch, int) or isinstance(epoch, bool):
        return root
    if plan.is_complete and epoch not in plan.starts.values():
        starts = ", ".join(f"{stage}: {first}" for stage, first in plan.starts.items())
        logger.warning(
            "%s: epoch_to_update %d is not the first epoch of a stage (%s)",
            _mark(root),
            epoch,
            starts,
        )
    return set_in(root, _PATH, epoch, _mark(root))


def _mark(root: ConfigMap) -> SourceLocation:
    try:
        found: Found = Resolver(root).locate("train.epoch_to_update")
    except (ConfigError, NoSuchPathError):
        return SourceLocation("train.epoch_to_update")
    return found.mark or SourceLocation("train.epoch_to_update")
