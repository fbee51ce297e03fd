"""Looks into a checkpoint, or writes it anew in the current format; executes nothing from it.

    python scripts/checkpoint.py inspect FILE [--json]
    python scripts/checkpoint.py convert FILE OUT

Exit code: 0 done, 1 the output cannot be written, 2 the file cannot be used.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from ladon.errors import LadonError, UsageError


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    inspect = commands.add_parser("inspect", help="say what a checkpoint holds")
    inspect.add_argument("file")
    inspect.add_argument("--json", action="store_true", help="as one JSON object")
    convert = commands.add_parser("convert", help="write it in the current format")
    convert.add_argument("file")
    convert.add_argument("out")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Runs a command."""
    from ladon.models.checkpoint import read_checkpoint, save_atomically
    from ladon.models.describe import describe, plain_args

    if args.command == "inspect":
        found = describe(args.file)
        print(json.dumps(dataclasses.asdict(found)) if args.json else "\n".join(found.lines()))
        return
    if Path(args.out).exists():
        raise UsageError(f"{args.out} is there already: name a new file")
    checkpoint = read_checkpoint(args.file, "the command line")
    content = {
        "model": checkpoint.model,
        "optimizer": checkpoint.optimizer,
        "best_value": checkpoint.best_value,
        "lr_scheduler": checkpoint.lr_scheduler,
        "args": plain_args(checkpoint.args),
    }
    save_atomically(content, args.out)
    print(f"{args.out}: {len(checkpoint.model)} tensors")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the script; returns the exit code."""
    args = parse_args(argv)
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        run(args)
    except LadonError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
