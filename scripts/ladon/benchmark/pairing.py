"""Two ways of doing the same, in turn: what disturbs the machine disturbs both.

`torch.utils.benchmark` is no help here: its `Timer` runs one way to its end, after two calls that
are not timed, and drops what the way returns. These ways alternate, a call may take half a minute,
and what both return is compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ladon.benchmark.results import Row


@dataclass(frozen=True)
class Pairs:
    """Seconds of each repeat, of both ways.

    Attributes:
        ours: of the toolkit's way.
        reference: of the other; the n-th belongs to the n-th of ours.
    """

    ours: list[float]
    reference: list[float]

    def rate(self, name: str, amount: float, reference_amount: float | None = None) -> Row:
        """Return images/s, and how many times faster ours is.

        Args:
            name: of the row.
            amount: images of one repeat.
            reference_amount: the same of the reference, if it is another one.
        """
        ours = [amount / seconds for seconds in self.ours]
        theirs = [(reference_amount or amount) / seconds for seconds in self.reference]
        return Row.of(name, "images/s", ours, theirs, more_is_better=True)

    def duration(self, name: str, unit: str = "ms") -> Row:
        """Return the duration in `ms` or `s`, and how many times faster ours is."""
        scale = {"ms": 1e3, "s": 1.0}[unit]
        ours, theirs = ([scale * s for s in way] for way in (self.ours, self.reference))
        return Row.of(name, unit, ours, theirs)


def clock() -> float:
    """Return seconds, once the GPU has done what was launched on it: that is some time later."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def alternate(
    ours: Callable[[], Any],
    reference: Callable[[], Any],
    repeats: int,
    *,
    check: Callable[[Any, Any], None] = lambda ours, reference: None,
    warm_up: bool = True,
) -> Pairs:
    """Time two ways in turn: ours first, reference first, ours first, …

    Args:
        ours: the toolkit's way.
        reference: the other way.
        repeats: of each.
        check: is given what both returned, after each pair, outside the timing; raises if they
            should have been equal.
        warm_up: run both once before, untimed (and checked).
    """

    def timed(function: Callable[[], Any]) -> tuple[float, Any]:
        start = clock()
        found = function()
        return clock() - start, found

    if warm_up:
        check(ours(), reference())
    pairs = Pairs([], [])
    for repeat in range(repeats):
        if repeat % 2:
            theirs, mine = timed(reference), timed(ours)
        else:
            mine, theirs = timed(ours), timed(reference)
        check(mine[1], theirs[1])
        pairs.ours.append(mine[0])
        pairs.reference.append(theirs[0])
    return pairs
