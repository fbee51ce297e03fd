"""Confusion as a picture: which share of each class is taken for which."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

_MOST_NAMED, _MOST_NUMBERED = 60, 25  # classes whose names, and whose cells' numbers, can be read
_LONGEST = 18  # letters of a name
_LEAST = 0.05  # percent: what is written of a cell would be 0


def confusion_figure(counts: np.ndarray, names: Sequence[str], counted: str) -> Figure:
    """Draw a confusion matrix; each row adds up to 100 %.

    Args:
        counts: [label, answer] int64.
        names: of the labels.
        counted: what is counted: 'images' or 'pixels'.
    """
    number = len(counts)
    totals = counts.sum(axis=1, keepdims=True)
    shares = 100.0 * counts / np.maximum(totals, 1)
    shares[totals[:, 0] == 0] = np.nan  # a class that is not in the data
    side = min(16.0, 3.0 + 0.32 * min(number, _MOST_NAMED))
    figure = Figure(figsize=(side + 1.6, side), layout="constrained")
    axes = figure.add_subplot()
    # the mistakes are what is looked for: small shares get most of the colours
    colors = colormaps["viridis"].with_extremes(bad="0.85")
    image = axes.imshow(shares, cmap=colors, norm=PowerNorm(0.5, 0.0, 100.0))
    figure.colorbar(image, ax=axes, label=f"share of the class's {counted} [%]", shrink=0.8)
    axes.set_xlabel("answer")
    axes.set_ylabel("label")
    axes.set_title(f"Confusion of {number} classes, {int(counts.sum()):,} {counted}")
    if number <= _MOST_NAMED:
        shown = [n if len(n) <= _LONGEST else f"{n[: _LONGEST - 1]}…" for n in names]
        is_short = max(map(len, shown), default=0) <= 3
        axes.set_xticks(range(number), shown, rotation=0 if is_short else 90, fontsize=8)
        axes.set_yticks(range(number), shown, fontsize=8)
    if number <= _MOST_NUMBERED:
        for row, column in np.ndindex(shares.shape):
            share = shares[row, column]
            if np.isfinite(share) and share >= _LEAST:
                text = f"{share:.0f}" if share >= 0.95 else f"{share:.1f}".lstrip("0")
                color = "black" if share > 45 else "white"
                axes.text(column, row, text, ha="center", va="center", fontsize=7, color=color)
    return figure
