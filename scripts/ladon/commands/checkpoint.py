"""Looks into a checkpoint, or writes it anew in the current format; executes nothing from it.

    python scripts/checkpoint.py inspect FILE [--json] [--weights KEY]
    python scripts/checkpoint.py convert FILE OUT [--with_optimizer] [--weights KEY]

What is converted is read by torch.load(OUT) with its defaults: tensors by name under `model`, and
plain values: best_value, args, beta, task, num_classes and classes, where the file tells them.

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
from ladon.launch import make_parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser("checkpoint", __doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    inspect = commands.add_parser("inspect", help="say what a checkpoint holds")
    inspect.add_argument("file")
    inspect.add_argument("--json", action="store_true", help="as one JSON object")
    convert = commands.add_parser("convert", help="write it in the current format")
    convert.add_argument("file")
    convert.add_argument("out")
    convert.add_argument(
        "--with_optimizer", action="store_true", help="optimizer and scheduler, too"
    )
    for command in (inspect, convert):
        command.add_argument(
            "--weights", metavar="KEY", help="key of the weights, where a file holds several"
        )
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Run a command."""
    from ladon.models.checkpoint import plain, read_checkpoint, save_atomically
    from ladon.models.describe import describe, description

    if args.command == "inspect":
        found = describe(args.file, args.weights)
        print(json.dumps(dataclasses.asdict(found)) if args.json else "\n".join(found.lines()))
        return
    if Path(args.out).exists():
        raise UsageError(f"{args.out} is there already: name a new file")
    checkpoint = read_checkpoint(args.file, "the command line", args.weights)
    found = description(checkpoint)
    content = {
        "model": checkpoint.model,
        "optimizer": checkpoint.optimizer if args.with_optimizer else None,
        "best_value": checkpoint.best_value,
        "lr_scheduler": checkpoint.lr_scheduler if args.with_optimizer else None,
        "args": None if checkpoint.args is None else plain(checkpoint.args),
        "beta": found.beta,
        "task": found.task,
        "num_classes": found.num_classes,
        "classes": found.classes,
    }
    save_atomically(content, args.out)
    print(f"{args.out}: {len(checkpoint.model)} tensors")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return the exit code."""
    args = parse_args(argv)
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        run(args)
    except LadonError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0
