"""Two ways of doing the same, in turn: what disturbs the machine disturbs both."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ladon.benchmark.results import Measurement, Spread


@dataclass(frozen=True)
class Pairs:
    """Seconds of each repeat, of both ways.

    Attributes:
        ours: of the toolkit's way.
        reference: of the other; the n-th belongs to the n-th of ours.
    """

    ours: list[float]
    reference: list[float]

    def rate(self, name: str, amount: float, unit: str) -> Measurement:
        """As a rate, and how many times faster ours is.

        Args:
            name: of the measurement.
            amount: what one repeat did, in the unit's numerator.
            unit: like images/s.
        """
        return Measurement(
            name,
            unit,
            Spread.of(amount / seconds for seconds in self.ours),
            Spread.of(amount / seconds for seconds in self.reference),
            self._speedup(),
        )

    def duration(self, name: str, unit: str = "ms", per_second: float = 1e3) -> Measurement:
        """As a duration, and how many times faster ours is.

        Args:
            name: of the measurement.
            unit: of the durations.
            per_second: how many units a second has.
        """
        return Measurement(
            name,
            unit,
            Spread.of(per_second * seconds for seconds in self.ours),
            Spread.of(per_second * seconds for seconds in self.reference),
            self._speedup(),
        )

    def _speedup(self) -> Spread:
        """Repeat by repeat: neighbours in time saw the same machine."""
        pairs = zip(self.ours, self.reference, strict=True)
        return Spread.of(theirs / ours for ours, theirs in pairs)


def against(unit: str, name: str, ours: list[float], reference: list[float]) -> Measurement:
    """What ours takes and what the reference takes, and how many times less ours is."""
    pairs = zip(ours, reference, strict=True)
    ratio = Spread.of(theirs / own for own, theirs in pairs)
    return Measurement(name, unit, Spread.of(ours), Spread.of(reference), ratio)


def alternate(
    ours: Callable[[], Any],
    reference: Callable[[], Any],
    repeats: int,
    *,
    check: Callable[[Any, Any], None] | None = None,
    warm_up: bool = True,
    clock: Callable[[], float] = time.perf_counter,
) -> Pairs:
    """Times two ways in turn: ours first, reference first, ours first, …

    Args:
        ours: the toolkit's way; what it returns goes to ``check``.
        reference: the other way.
        repeats: of each.
        check: is given what both returned, after each pair, outside the timing; raises if they
            should have been equal.
        warm_up: run both once before, untimed (and checked).
        clock: returns seconds; of a GPU's work, that of ``machine.clock_of``.

    Returns:
        The seconds of all repeats.
    """

    def timed(function: Callable[[], Any]) -> tuple[float, Any]:
        start = clock()
        found = function()
        return clock() - start, found

    def checked(first: Any, second: Any) -> None:
        if check is not None:
            check(first, second)

    if warm_up:
        checked(ours(), reference())
    pairs = Pairs([], [])
    for repeat in range(repeats):
        if repeat % 2:
            theirs, mine = timed(reference), timed(ours)
        else:
            mine, theirs = timed(ours), timed(reference)
        checked(mine[1], theirs[1])
        pairs.ours.append(mine[0])
        pairs.reference.append(theirs[0])
    return pairs
