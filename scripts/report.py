"""Tables and the rate-accuracy plot of finished runs.

    python scripts/report.py logs/                    # every run below logs/
    python scripts/report.py logs/ilsvrc2012/ladon/splittable_resnet50-fp-beta*_from_resnet50

Prints one table per task and writes report.md, report.csv, report.tex (plain `tabular`s),
rate_accuracy.png and rate_accuracy.svg. Exit code: 0 reported, 2 nothing finished or a broken file.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ladon.errors import LadonError
from ladon.report.files import write_report
from ladon.report.runs import collect_runs
from ladon.report.tables import make_console, print_table


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="run folder, metrics.json, or a folder above runs"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("logs/report"), help="default: %(default)s"
    )
    parser.add_argument("--name", default="report", help="of the tables' files")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also write the plot here")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Reports; returns the exit code."""
    args = parse_args(argv)
    try:
        runs = collect_runs(args.runs)
        console = make_console()
        for results in runs.by_task().values():
            print_table(console, results)
        if runs.unfinished:
            print(f"unfinished: {', '.join(str(path) for path in runs.unfinished)}")
        files = write_report(runs, args.out, args.name, args.plot)
        print(f"written: {', '.join(str(path) for path in files)}")
    except LadonError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
