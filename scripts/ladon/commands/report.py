"""Tables and the rate-accuracy plot of finished runs, alone or beside the published results.

    python scripts/report.py logs/                         # every run below logs/
    python scripts/report.py logs/ilsvrc2012/ladon/splittable_resnet50-fp-beta*_from_resnet50
    python scripts/report.py old/logs/coco2017/*.txt       # logs alone, of the paper's code too
    python scripts/report.py --published                   # results of the paper's repository
    python scripts/report.py logs/ --against published     # differences, flags, BD-rate
    python scripts/report.py logs/mine --than logs/theirs  # BD-rate and BD-accuracy of two sweeps
    python scripts/report.py --published --readme README.md --images imgs     # `make tables`

Prints a table per task and writes report.md, report.csv, report.tex (plain `tabular`s),
rate_accuracy.png and rate_accuracy.svg; `--against` writes against_published.* instead.
Exit code: 0 reported, 1 with --strict if a result lies outside the tolerance, 2 nothing finished or
a broken file.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from ladon.errors import LadonError
from ladon.launch import make_parser
from ladon.report.bd import MIN_POINTS, deltas, pair_deltas
from ladon.report.compare import Tolerance, compare
from ladon.report.files import write_files, write_report
from ladon.report.plots import published_figure
from ladon.report.published import read_published
from ladon.report.readme import update_readme
from ladon.report.render import csv_text, show_table
from ladon.report.results import RunCollection
from ladon.report.runs import collect_runs
from ladon.report.series import DATA_SIZE, Series, split_series
from ladon.report.tables import (
    COMPARISON_COLUMNS,
    PUBLISHED_COLUMNS,
    bd_tables,
    comparison_tables,
    make_console,
    result_tables,
)

OUT = Path("logs/report")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser("report", __doc__)
    parser.add_argument(
        "runs", nargs="*", metavar="RUN", help="run folder, metrics.json, log, or a folder above"
    )
    parser.add_argument("--published", action="store_true", help="show the published results")
    parser.add_argument("--against", choices=["published"], help="compare the runs with these")
    parser.add_argument(
        "--tolerance",
        nargs=2,
        type=float,
        metavar=("POINTS", "PERCENT"),
        default=(Tolerance.points, Tolerance.percent),
        help="with --against: greatest difference in percentage points of the metric, and in "
        "percent of the data size (default: %(default)s)",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="with --against: exit code 1 if a result lies outside the tolerance",
    )
    parser.add_argument(
        "--than",
        nargs="+",
        metavar="RUN",
        help="BD-rate and BD-accuracy of the runs' sweeps over these; 'published' for those",
    )
    parser.add_argument("--out", type=Path, help=f"folder of the files (default: {OUT})")
    parser.add_argument("--name", help="of the tables' files (default: report)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also write the plot here")
    parser.add_argument("--readme", type=Path, help="with --published: put the tables into this")
    parser.add_argument("--images", type=Path, default=Path("imgs"), help="README's plots")
    args = parser.parse_args(argv)
    if args.published == bool(args.runs):
        parser.error("give runs, or --published (RUN… --against published compares the two)")
    if args.published and (args.against or args.than):
        parser.error("--against and --than compare runs: name some, without --published")
    if args.readme and not args.published:
        parser.error("--readme takes the published tables: add --published")
    if args.strict and not args.against:
        parser.error("--strict judges a comparison: add --against published")
    if min(args.tolerance) < 0:
        parser.error("--tolerance: neither number may be negative")
    return args


def main(argv: list[str] | None = None) -> int:
    """Return reports; return the exit code."""
    args = parse_args(argv)
    console, outside = make_console(), 0
    try:
        if args.published:
            files = show_published(console, args)
        else:
            runs = collect_runs(args.runs)
            if args.than:
                files = show_deltas(console, runs, args)
            elif args.against:
                files, outside = show_comparison(console, runs, args)
            else:
                files = show_runs(console, runs, args)
            if runs.unfinished:
                print(f"unfinished: {', '.join(str(path) for path in runs.unfinished)}")
        if files:
            print(f"written: {', '.join(str(path) for path in files)}")
    except LadonError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 1 if args.strict and outside else 0


def show_runs(console: Console, runs: RunCollection, args: argparse.Namespace) -> list[Path]:
    """Print and write a report of runs."""
    for table in result_tables(runs):
        show_table(console, table)
    return write_report(runs, args.out or OUT, args.name or "report", args.plot)


def show_published(console: Console, args: argparse.Namespace) -> list[Path]:
    """Print the published results; write them where asked to."""
    published = read_published()
    for table in result_tables(published, PUBLISHED_COLUMNS):
        show_table(console, table)
    files = []
    if args.out or args.name or args.plot:
        name = args.name or "published"
        files += write_report(published, args.out or OUT, name, args.plot)
    if args.readme:
        files += update_readme(args.readme, args.images, published)
    return files


def show_comparison(
    console: Console, runs: RunCollection, args: argparse.Namespace
) -> tuple[list[Path], int]:
    """Print and write runs beside the published results.

    Returns:
        The files, and how many results lie outside the tolerance.
    """
    published, tolerance = read_published(), Tolerance(*args.tolerance)
    comparisons = compare(runs.results, published.results, tolerance)
    tables = comparison_tables(comparisons, tolerance)
    theirs = {line.subject: line for line in sweeps(published)}
    pairs = [(line, theirs.get(line.subject)) for line in sweeps(runs)]
    tables += bd_tables(
        [
            deltas(test, anchor)
            for test, anchor in pairs
            if anchor and len(test.points) >= MIN_POINTS
        ]
    )
    for table in tables:
        show_table(console, table)
    matched = sum(c.scores is not None for c in comparisons)
    outside = sum(bool(c.outside) for c in comparisons)
    summary = f"{outside} of {matched} results outside the tolerance ({tolerance})"
    if rest := len(comparisons) - matched:
        summary += f"; {rest} without a published counterpart"
    print(summary)
    stem = (args.out or OUT) / (args.name or "against_published")
    files = write_files(
        {stem.with_name(f"{stem.name}.csv"): csv_text(COMPARISON_COLUMNS, comparisons)},
        tables,
        stem,
        published_figure(published, runs),
        [
            stem.with_name(f"{stem.name}.png"),
            stem.with_name(f"{stem.name}.svg"),
            *([args.plot] if args.plot else []),
        ],
        footer=summary,
    )
    return files, outside


def show_deltas(console: Console, runs: RunCollection, args: argparse.Namespace) -> list[Path]:
    """Print Bjøntegaard's deltas of the runs' sweeps over others; write them where asked to."""
    anchors = read_published() if args.than == ["published"] else collect_runs(args.than)
    tables = bd_tables(pair_deltas(sweeps(runs), sweeps(anchors)))
    for table in tables:
        show_table(console, table)
    if not (args.out or args.name):
        return []
    return write_files({}, tables, (args.out or OUT) / (args.name or "deltas"))


def sweeps(runs: RunCollection) -> list[Series]:
    """Return the sweeps over β in some runs, sizes in KB."""
    return [
        line
        for results in runs.by_dataset().values()
        for line in split_series(results, DATA_SIZE)[0]
    ]
