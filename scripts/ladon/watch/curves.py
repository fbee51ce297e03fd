"""Curves in letters: Braille's have two dots across and four down, so that few of them do.

Of a library such as plotext a terminal would get axes, too; a curve of 24 letters has no room for
them, and what is wanted here, whether a loss still falls, shows without.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

_ACROSS, _DOWN = 2, 4
# Unicode's order of the dots, by row and column
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_BLANK = 0x2800


def curve(values: Sequence[float], width: int, height: int) -> list[str]:
    """Draw values against their number.

    Args:
        values: from left to right; what is not finite is left out, as a gap.
        width: in letters.
        height: in lines.

    Returns:
        The lines, the largest value in the first one.
    """
    finite = [value for value in values if math.isfinite(value)]
    columns, rows = width * _ACROSS, height * _DOWN
    cells = [[_BLANK] * width for _ in range(height)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    before: tuple[int, int] | None = None
    for number, value in enumerate(values):
        if not math.isfinite(value):
            before = None
            continue
        x = round(number * (columns - 1) / max(1, len(values) - 1))
        share = (value - low) / (high - low) if high > low else 0.5
        point = (x, round((1 - share) * (rows - 1)))
        for column, row in _line(before or point, point):
            cells[row // _DOWN][column // _ACROSS] |= _DOTS[row % _DOWN][column % _ACROSS]
        before = point
    return ["".join(map(chr, line)) for line in cells]


def _line(start: tuple[int, int], end: tuple[int, int]) -> list[tuple[int, int]]:
    """Return the dots of a straight line, both ends included."""
    steps = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1)
    return [
        (
            round(start[0] + (end[0] - start[0]) * step / steps),
            round(start[1] + (end[1] - start[1]) * step / steps),
        )
        for step in range(steps + 1)
    ]
