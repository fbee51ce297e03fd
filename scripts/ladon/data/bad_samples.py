"""Samples that cannot be loaded, in a training that goes on without them.

In the place of such a sample stands another one, drawn from (seed, epoch, index): the number of
workers and an interruption change nothing. What was replaced is listed and counted. An evaluation
replaces nothing: the score of other images would be another score.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ladon.errors import DataError

logger = logging.getLogger(__name__)

MOST_IN_A_ROW = 10
"""So many in a row may be damaged files; if there are more, the data set is."""

# Different files of a data set that may be damaged: a number, or a share of it if that is more.
_MOST_FILES, _MOST_SHARE = 10, 0.01


class BadSample(NamedTuple):
    """A sample that could not be loaded.

    Attributes:
        name: of its file, or its number.
        reason: the error of loading it.
    """

    name: str
    reason: str


class Replacement(NamedTuple):
    """A sample that stands in the place of others.

    Attributes:
        sample: as its dataset gave it.
        bad: those that were tried before.
    """

    sample: tuple
    bad: tuple[BadSample, ...]


class NotedBatch(NamedTuple):
    """A batch with replacements.

    Attributes:
        batch: as the collate function made it.
        bad: what was replaced.
    """

    batch: Any
    bad: tuple[BadSample, ...]


class Noting:
    """A collate function that takes replacements, too, and notes what they stand for.

    Args:
        collate_fn: makes the batch.
    """

    def __init__(self, collate_fn: Callable[[Any], Any]) -> None:
        self._collate_fn = collate_fn

    def __call__(self, samples: Sequence[Any]) -> Any:
        """Make a batch, a `NotedBatch` if a sample was replaced."""
        bad = [note for s in samples if isinstance(s, Replacement) for note in s.bad]
        plain = [s.sample if isinstance(s, Replacement) else s for s in samples]
        batch = self._collate_fn(plain)
        return NotedBatch(batch, tuple(bad)) if bad else batch


class BadSamples:
    """What a training has replaced so far, over all of its epochs.

    Attributes:
        times: how often each sample was, by name.
        in_epoch: replacements in the epoch that is under way.
    """

    def __init__(self) -> None:
        self.times: dict[str, int] = {}
        self.in_epoch = 0

    def take(self, found: Iterable[BadSample], size: int) -> None:
        """Count samples, and list those that are new.

        Args:
            found: the samples.
            size: of the data set.

        Raises:
            DataError: there are too many different ones.
        """
        for name, reason in found:
            if name not in self.times:
                logger.warning("Skipped, another sample takes its place: %s", reason)
            self._count(name, 1)
            self.in_epoch += 1
            most = max(_MOST_FILES, int(_MOST_SHARE * size))
            if len(self.times) > most:
                raise DataError(
                    f"{len(self.times)} of {size} samples cannot be loaded, the last: {reason}; "
                    f"--on_bad_sample skip goes on with at most {most}: mend the data set, then "
                    "add --resume"
                )

    def _count(self, name: str, times: int) -> None:
        self.times[name] = self.times.get(name, 0) + times

    def state(self) -> dict[str, Any]:
        """Return all of it, in plain values."""
        return {"times": dict(self.times), "in_epoch": self.in_epoch}

    def load(self, state: Mapping[str, Any] | None) -> None:
        """Take over what `state` returned; None: nothing was replaced."""
        state = state or {}
        self.times, self.in_epoch = dict(state.get("times", {})), state.get("in_epoch", 0)

    def join(self, others: Iterable[Mapping[str, Any]]) -> None:
        """Take over other processes' states; what is new of theirs is listed by name alone."""
        for state in others:
            for name, times in state["times"].items():
                if name not in self.times:
                    logger.warning("Skipped, another sample takes its place: %s", name)
                self._count(name, times)
            self.in_epoch += state["in_epoch"]

    def summary(self) -> dict[str, Any]:
        """Return what `metrics.json` holds of it."""
        return {"samples": sum(self.times.values()), "files": sorted(self.times)}
