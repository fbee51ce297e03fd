"""The rates of a bottleneck that has several: levels, evenly spaced in log β.

Needs no PyTorch: a device has none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ladon.codec.container import MOST_RATES
from ladon.errors import DataError, UsageError

if TYPE_CHECKING:
    from torch import Tensor


def check_asked(rates: Rates | None, name: str, rate: float | None, max_bytes: int | None) -> None:
    """Refuse what is asked of an encoder and cannot be.

    Args:
        rates: that it has; None: one.
        name: of its model.
        rate: β that is asked for, or None.
        max_bytes: budget that is asked for, or None.

    Raises:
        UsageError: both are asked for, or either of an encoder that has one rate.
    """
    if rate is None and max_bytes is None:
        return
    if rates is None:
        raise UsageError(f"{name} has one rate: no other can be asked for, nor a budget")
    if rate is not None and max_bytes is not None:
        raise UsageError("a rate and max_bytes: name one of them")


class BudgetError(DataError):
    """An image that takes more bytes than it may have, at any rate."""


@dataclass(frozen=True)
class Rates:
    """Levels of rate: β = low (high / low)^(level / (levels - 1)), the weight of a bit.

    Level 0 has the most bytes. The default's ten levels for each doubling of β have the five
    published ones among them.

    Attributes:
        low: β of level 0.
        high: β of the last level.
        levels: their number, 2 to 255 (a byte in a payload's header names one).

    Raises:
        ValueError: they are no such range.
    """

    low: float = 0.32
    high: float = 20.48
    levels: int = 61

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high < math.inf:
            raise ValueError(f"β from {self.low} to {self.high}: 0 < low < high is needed")
        if not 2 <= self.levels <= MOST_RATES:
            raise ValueError(f"{self.levels} levels of rate, not 2 to {MOST_RATES}")

    @property
    def middle(self) -> int:
        """The level in the middle, of whose rate a model is unless it is told another one."""
        return (self.levels - 1) // 2

    def beta(self, level: int) -> float:
        """Return β of a level."""
        return self.low * (self.high / self.low) ** (level / (self.levels - 1))

    def betas(self, levels: Tensor) -> Tensor:
        """Return β [N] float32 of levels [N]."""
        return self.low * (self.high / self.low) ** (levels / (self.levels - 1))

    def positions(self, levels: Tensor) -> Tensor:
        """Return where levels [N] are between low and high, float32 from -1 to 1, in log β."""
        return levels * (2 / (self.levels - 1)) - 1

    def level(self, beta: float) -> int:
        """Return the level that is nearest to β in log β.

        Raises:
            UsageError: β is out of the range.
        """
        step = math.log(self.high / self.low) / (self.levels - 1)
        at = math.log(beta / self.low) / step if beta > 0 else -math.inf
        if not -0.5 <= at <= self.levels - 0.5:
            raise UsageError(
                f"a rate of β {beta:g}: this model has β from {self.low:g} to {self.high:g}"
            )
        return min(max(round(at), 0), self.levels - 1)

    def check(self, levels: Sequence[int]) -> None:
        """Refuse levels that there are none of.

        Raises:
            UsageError: naming the first one.
        """
        for level in levels:
            if not 0 <= level < self.levels:
                raise UsageError(f"rate level {level}: this model has 0 to {self.levels - 1}")

    def finest(self, encode: Callable[[int], bytes], most_bytes: int) -> tuple[int, bytes]:
        """Return the finest level whose string has at most so many bytes, and that string.

        Strings get shorter with the level, so that half of the levels are left out at each try:
        six strings of 61 levels. They are coded, not estimated: a coder takes less time for it than
        a sum over symbols does, and no budget is exceeded by an estimate's error.

        Args:
            encode: makes the string of a level.
            most_bytes: of it.

        Raises:
            BudgetError: the coarsest level's has more.
        """
        fine, coarse, found = 0, self.levels - 1, b""
        while fine <= coarse:
            level = (fine + coarse) // 2
            string = encode(level)
            if len(string) <= most_bytes:
                coarse, found, chosen = level - 1, string, level
            else:
                fine, least = level + 1, len(string)
        if not found:
            raise BudgetError(
                f"the image takes {least:,} bytes at the coarsest rate, β {self.high:g}, and the "
                f"budget leaves {max(0, most_bytes):,}: allow more"
            )
        return chosen, found
