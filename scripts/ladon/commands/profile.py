"""What the parts of a split model cost: parameters, multiply-adds, bytes on disk, time.

    ladon profile configs/digit_scenes/ladon-runtime/….yaml
    ladon profile CONFIG --size 416 416 --threads 1 --json

Of a model for one task or of a three-headed one: encoder, entropy model, decoder, body and each
head; and of the unsplit teacher, where the config has one. The times are those of the two halves as
they are used, on a picture of --size, in turn on this machine; multiply-adds are counted
(torch.utils.flop_counter, two operations each). --json prints the same for programs.
Exit code: 0 done, 1 failed, 2 wrong usage or input.
"""

# no script of this name lies in scripts/: it would take the place of the standard library's module

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from ladon.cli import answer, prepare_process
from ladon.flags import add_safe, whole_number
from ladon.launch import make_parser

if TYPE_CHECKING:
    from ladon.measure.model_profile import Part
    from ladon.report.render import Table


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser("profile", __doc__)
    add_safe(parser)
    add = parser.add_argument
    add("config", help="YAML file of the experiment, or a checkpoint that names it")
    add("--size", nargs=2, type=whole_number(1), metavar=("H", "W"), help="of the picture")
    add("--threads", type=whole_number(1), help="torch's threads (default: what torch takes)")
    add("--repeats", type=whole_number(1), default=10, help="timed repeats (default: 10)")
    add("--set", dest="assignments", action="append", default=[], metavar="KEY=VALUE")
    add("--data_root", help="where the datasets are; they need not be there")
    add("--json", action="store_true", help="print JSON instead of a table")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Print a profile; return the exit code."""
    args = parse_args(argv)
    prepare_process()
    return answer(lambda: profile(args))


def profile(args: argparse.Namespace) -> int:
    """Profile the model that the command line names."""
    import torch

    from ladon.measure.profiling import profile_model
    from ladon.report.render import show_table
    from ladon.report.tables import make_console

    if args.threads:
        torch.set_num_threads(args.threads)
    size = None if args.size is None else (args.size[0], args.size[1])
    found = profile_model(
        args.config,
        size,
        args.repeats,
        assignments=args.assignments,
        data_root=args.data_root,
    )
    if args.json:
        print(json.dumps(found.to_plain(), indent=2))
        return 0
    show_table(make_console(), _table(found.parts, found.title))
    return 0


def _table(parts: list[Part], title: str) -> Table:
    from ladon.report.render import MISSING, Column, Table, number

    def ms(part: Part) -> str:
        return MISSING if part.seconds is None else number(1000 * part.seconds.median, 2)

    def interval(part: Part) -> str:
        if part.seconds is None:
            return MISSING
        return f"{1000 * part.seconds.low:.2f}–{1000 * part.seconds.high:.2f}"

    def column(name: str, text: Any, left: bool = False) -> Column:
        return Column(name, text, None, text, left=left)

    columns = [
        column("part", lambda p: p.name, left=True),
        column("side", lambda p: p.side, left=True),
        column("parameters", lambda p: f"{p.parameters:,}"),
        column("multiply-adds [M]", lambda p: number(p.macs / 1e6, 1)),
        column("on disk [kB]", lambda p: number(p.num_bytes / 1000, 1)),
        column("median [ms]", ms),
        column("95 % of it", interval),
    ]
    return Table(title, None, columns, parts, "kB of 1000 bytes; tables of the coder included")
