"""Types of command-line flags; loads nothing."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def whole_number(low: int, high: int | None = None) -> Callable[[str], int]:
    """Return an argparse type: whole numbers from `low` to `high`."""

    def convert(text: str) -> int:
        value = int(text)
        if value < low or (high is not None and value > high):
            bounds = f"{low} or more" if high is None else f"between {low} and {high}"
            raise argparse.ArgumentTypeError(f"must be {bounds}, not {value}")
        return value

    convert.__name__ = "int"  # argparse says "invalid int value"
    return convert


def above_zero(text: str) -> float:
    """Convert a finite number above 0, for argparse."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text}")
    return value


above_zero.__name__ = "float"  # argparse says "invalid float value"
