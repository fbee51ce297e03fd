"""What a series of measurements comes down to: median, its 95 % interval, percentiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

PERCENTILES = (5, 25, 75, 90, 95, 99)
_RESAMPLES = 2000
_LEVEL = 95  # percent of the interval


@dataclass(frozen=True)
class Summary:
    """A series of measurements.

    Attributes:
        n: how many.
        median: of them.
        low, high: 95 % confidence interval of the median, by the percentile bootstrap (B. Efron,
            "Bootstrap Methods: Another Look at the Jackknife", 1979).
        percentiles: by their number, those of `PERCENTILES`.
    """

    n: int
    median: float
    low: float
    high: float
    percentiles: dict[int, float]

    @classmethod
    def of(cls, values: Sequence[float] | np.ndarray) -> Summary:
        """Sum up some values, one at least; the same values give the same interval."""
        array = np.asarray(values, dtype=np.float64)
        drawn = np.random.default_rng(0).integers(0, len(array), (_RESAMPLES, len(array)))
        medians = np.median(array[drawn], axis=1)
        beside = (100 - _LEVEL) / 2
        low, high = np.percentile(medians, [beside, 100 - beside])
        shown = zip(PERCENTILES, np.percentile(array, PERCENTILES), strict=True)
        return cls(
            len(array),
            float(np.median(array)),
            float(low),
            float(high),
            {number: float(value) for number, value in shown},
        )

    def to_plain(self) -> dict[str, Any]:
        """Return it in JSON's types."""
        return asdict(self)
