"""Places small labels beside the points of a plot so that they cover as little as possible.

Plain geometry in points (1/72 inch); knows nothing of matplotlib.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

Point = tuple[float, float]

# (direction of x, direction of y), the most readable first
DIRECTIONS = ((0, 1), (0, -1), (-1, 1), (1, -1), (1, 0), (-1, 0), (1, 1), (-1, -1))
DISTANCES = (1.0, 2.2)
MARKER = 4.0  # half the width of a marker
GAP = 6.0  # from a point to the label's nearest edge
LABEL_COST, MARKER_COST, OUTSIDE_COST, LINE_COST, STEP_COST = 100.0, 50.0, 100.0, 2.0, 0.1


@dataclass(frozen=True)
class Box:
    """A rectangle by its edges."""

    left: float
    bottom: float
    right: float
    top: float

    @classmethod
    def around(cls, center: Point, width: float, height: float) -> Box:
        """Return the box of this size around a point."""
        x, y = center
        return cls(x - width / 2, y - height / 2, x + width / 2, y + height / 2)

    def meets(self, other: Box) -> bool:
        """Tell whether the two share any area."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.bottom < other.top
            and other.bottom < self.top
        )

    def holds(self, other: Box) -> bool:
        """Tell whether the other one lies within."""
        return (
            self.left <= other.left
            and self.bottom <= other.bottom
            and self.right >= other.right
            and self.top >= other.top
        )


def text_size(text: str, font_size: float) -> tuple[float, float]:
    """Width and height of a line of digits and letters, roughly."""
    return 0.62 * font_size * len(text), 1.15 * font_size


def place_labels(
    points: Sequence[Point],
    sizes: Sequence[tuple[float, float]],
    lines: Sequence[Sequence[Point]],
    frame: Box,
    taken: Sequence[Box] = (),
) -> list[Point]:
    """Chooses, label by label, the place beside its point that covers least.

    Args:
        points: where the markers are; label i belongs to point i.
        sizes: width and height of each label.
        lines: the drawn lines, by their corners.
        frame: labels stay within.
        taken: boxes of other text.

    Returns:
        The center of each label.
    """
    markers = [Box.around(point, 2 * MARKER, 2 * MARKER) for point in points]
    ink = [Box.around(point, 1.0, 1.0) for line in lines for point in _walk(line)]
    placed: list[Box] = list(taken)
    centers: list[Point] = []
    for point, size in zip(points, sizes, strict=True):
        costs = []
        for step, center in enumerate(_candidates(point, size)):
            box = Box.around(center, *size)
            cost = STEP_COST * step + (0.0 if frame.holds(box) else OUTSIDE_COST)
            cost += LABEL_COST * sum(box.meets(other) for other in placed)
            cost += MARKER_COST * sum(box.meets(other) for other in markers)
            cost += LINE_COST * sum(box.meets(other) for other in ink)
            costs.append((cost, center))
        _, best = min(costs)
        centers.append(best)
        placed.append(Box.around(best, *size))
    return centers


def _candidates(point: Point, size: tuple[float, float]) -> list[Point]:
    (x, y), (width, height) = point, size
    return [
        (
            x + horizontal * (width / 2 + GAP * distance),
            y + vertical * (height / 2 + GAP * distance),
        )
        for distance in DISTANCES
        for horizontal, vertical in DIRECTIONS
    ]


def _walk(line: Sequence[Point]) -> list[Point]:
    """Points along a line, a few to the length of a letter."""
    steps: list[Point] = []
    for (x0, y0), (x1, y1) in pairwise(line):
        count = max(1, round(max(abs(x1 - x0), abs(y1 - y0)) / 3))
        steps += [(x0 + (x1 - x0) * i / count, y0 + (y1 - y0) * i / count) for i in range(count)]
    return steps


def keep_apart(wanted: Sequence[float], gap: float) -> list[float]:
    """Move ascending places up as far as keeps neighbours a gap apart, but none above 1.

    Args:
        wanted: places in [0, 1], ascending.
        gap: least distance of neighbours.
    """
    places: list[float] = []
    for place in wanted:
        places.append(max(place, places[-1] + gap) if places else place)
    top = 1.0
    for index in reversed(range(len(places))):
        places[index] = min(places[index], top)
        top = places[index] - gap
    return places
