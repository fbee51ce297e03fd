"""Shows what a model finds in pictures: each becomes a payload, and that is answered.

    python scripts/predict.py --config CONFIG IMAGE… --save out/
    python scripts/predict.py --config CONFIG FOLDER --save-payloads sent/
    python scripts/predict.py --config CONFIG sent/*.ladon

CONFIG may be a checkpoint, too, that a training of this library wrote.

Exit code: 0 done, 1 some file could not be used (others go on) or written, 2 wrong usage or model.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ladon.choices import HEADS, PRECISIONS
from ladon.cli import answer, prepare_process
from ladon.errors import LadonError, UsageError
from ladon.flags import add_rate, add_safe
from ladon.launch import make_parser

if TYPE_CHECKING:
    from rich.table import Table

    from ladon.split.prediction import Prediction


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser("predict", __doc__)
    add_safe(parser)
    add = parser.add_argument
    add("sources", nargs="+", metavar="IMAGE", help="pictures, .ladon payloads, folders of them")
    add("--config", required=True, help="YAML file of the experiment, or a checkpoint")
    add("--save", metavar="FOLDER", help="write pictures and predictions.jsonl")
    add("--save-payloads", metavar="FOLDER", help="write each payload as a .ladon file")
    add("--json", action="store_true", help="print a JSON line an image instead of the table")
    add("--heads", nargs="+", choices=HEADS, help="answers that are wanted (default: all)")
    add(
        "--threshold",
        type=_share,
        default=0.5,
        help="objects of a smaller score are not shown (default: 0.5)",
    )
    add_rate(parser)
    add("--device", default="cpu", help="cpu, cuda or cuda:N (default: cpu)")
    add("--precision", choices=PRECISIONS, default="float32", help="of all behind the payload")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="set one config value")
    return parser.parse_args(argv)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def run(args: argparse.Namespace) -> int:
    """Work through the files; return the exit code."""
    from rich.console import Console

    from ladon.split.loading import load
    from ladon.split.prediction import Saver, find_files, predictions

    files = find_files(args.sources)
    saver = Saver(_folder(args.save), _folder(args.save_payloads), args.threshold)
    heads: tuple[str, ...] = ()
    rows: list[list[str]] = []
    failed = 0
    with load(
        args.config, device=args.device, precision=args.precision, assignments=args.set
    ) as model:
        if unknown := set(args.heads or ()) - set(model.heads):
            raise UsageError(f"--heads {' '.join(sorted(unknown))}: {model.name} has none such")
        how = {"rate": args.rate, "max_bytes": args.max_bytes}
        for one in predictions(model, files, args.heads, **how):
            if isinstance(one, LadonError):
                failed += 1
                print(f"error: {one}", file=sys.stderr)
                continue
            saver.save(one)
            if args.json:
                print(json.dumps(one.to_plain()), flush=True)
            else:
                heads = tuple(one.answers)
                rows.append(_row(one, args.threshold))
    saver.close()
    if rows:
        Console().print(_table(heads, rows))
    return LadonError.exit_code if failed else 0


def _folder(path: str | None) -> Path | None:
    return None if path is None else Path(path).expanduser()


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table with a row an image."""
    from rich.table import Table
    from rich.text import Text

    titles = {"classification": "what", "detection": "where", "segmentation": "which pixels"}
    table = Table()
    for column in ("image", "width x height", "bytes", *(titles[head] for head in heads)):
        right = column in ("width x height", "bytes")
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # a name in brackets is no markup
    return table


def _row(one: Prediction, threshold: float) -> list[str]:
    from ladon.split.words import in_words

    height, width = one.payload.image_size
    answers = (in_words(one.answers, head, threshold) for head in one.answers)
    return [one.source.name, f"{width}x{height}", f"{one.num_bytes:,}", *answers]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""

    def work() -> int:
        args = parse_args(argv)
        prepare_process()
        return run(args)

    return answer(work)
