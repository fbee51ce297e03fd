"""Types of command-line flags; loads nothing."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any


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


class _Safe(argparse.Action):
    """Sets the variable that everything which reads configs obeys, child processes too."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        os.environ["LADON_SAFE"] = "1"
        setattr(namespace, self.dest, True)


def add_safe(parser: argparse.ArgumentParser) -> None:
    """Add `--safe`, for every command that reads a config."""
    parser.add_argument(
        "--safe",
        action=_Safe,
        nargs=0,
        default=False,
        help="a stranger's config: it may only name parts of models, losses and data of known "
        "packages, and no code of its own (LADON_SAFE=1 does the same)",
    )


def add_rate(parser: argparse.ArgumentParser) -> argparse._MutuallyExclusiveGroup:
    """Add `--rate` and `--max-bytes`, for every command that encodes; return their group."""
    rates = parser.add_mutually_exclusive_group()
    rates.add_argument("--rate", type=above_zero, metavar="BETA", help="if it has several")
    rates.add_argument(
        "--max-bytes", type=whole_number(1), help="of each payload: the finest rate for it"
    )
    return rates
