"""Repeats the final test of finished runs from their folders, and compares.

    python scripts/verify.py logs/digit_scenes/teacher/resnet18
    python scripts/verify.py RUN RUN …

Scores, payload sizes and the payloads' bytes must be equal to the last bit: nothing is written into
a run's folder. The test is repeated with as many threads and on the same kind of device; another
processor or another version of a library may round otherwise, and is named where results differ.

Exit code: 0 all equal, 1 a result differs or a test failed, 2 no run, no final test, or another
checkpoint or config than was tested, 130/143 stopped by a signal.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from ladon.children import Children
from ladon.cli import answer
from ladon.errors import LadonError, UsageError
from ladon.flags import add_safe
from ladon.launch import child_command, make_parser
from ladon.replay import Difference, FinishedTest, changed_around, compare, read_results
from ladon.report.tables import make_console

_LAST = 3


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser("verify", __doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder")
    parser.add_argument("--device", help="repeat it there (default: where it was)")
    add_safe(parser)
    return parser.parse_args(argv)


def verify(run: Path, args: argparse.Namespace, children: Children) -> int:
    """Repeat the test of one run, and say what came of it; return the exit code.

    Raises:
        LadonError: it cannot be repeated.
    """
    test = FinishedTest.read(run)
    test.check()
    now = _replayed(test, args, children)
    found = compare(test.results, now)
    if not found:
        print(f"{run}: {_in_words(test)}, as before", flush=True)
        return 0
    make_console().print(_table(run, found))
    around = changed_around(test.record, now.get("replay") or {})
    because = f"; what else has changed: {'; '.join(around)}" if around else ""
    print(f"{run}: {len(found)} values differ{because}", flush=True)
    return 1


def _replayed(test: FinishedTest, args: argparse.Namespace, children: Children) -> dict:
    """Return the results of the test that is made now.

    Raises:
        LadonError: it failed; its exit code is the test's.
    """
    flags = list(test.flags)
    flags += [] if args.device is None else ["--device", args.device]
    flags += ["--safe"] if args.safe else []
    last: list[str] = []

    def listen(line: str) -> None:
        last[:] = [*last, line][-_LAST:]

    with tempfile.TemporaryDirectory(prefix="ladon-verify-") as folder:
        command = [*child_command(test.record["task"]), *flags, "--run_log", f"{folder}/run/"]
        threads = {"OMP_NUM_THREADS": str(test.record["threads"])}
        code = children(command, threads, listen, cwd=test.folder)
        if code:
            kind = UsageError if code == UsageError.exit_code else LadonError
            raise kind(f"{test.run}: its test could not be repeated: {' / '.join(last)}")
        return read_results(Path(folder, "run", "metrics.json"))


def _in_words(test: FinishedTest) -> str:
    results = test.results
    student = results["models"].get("student") or next(iter(results["models"].values()))
    parts = [f"{results['key_metric']} {student['metrics'].get(results['key_metric'])}"]
    if "payload_bytes" in student:
        parts.append(f"{student['payload_bytes']['mean']:.1f} bytes of payload an image")
    return f"{', '.join(parts)} on {student['num_images']} images"


def _table(run: Path, found: Sequence[Difference]) -> Table:
    table = Table(title=str(run), title_justify="left")
    for name in ("model", "value"):
        table.add_column(name, overflow="fold")
    for name in ("before", "now", "difference"):
        table.add_column(name, justify="right", overflow="fold")
    for one in found:
        by = "–" if one.by is None else f"{one.by:+.3g}"
        table.add_row(one.role, one.name, str(one.before), str(one.now), by)
    return table


def _run(args: argparse.Namespace) -> int:
    worst = 0
    with Children() as children:
        for run in args.runs:
            try:
                worst = max(worst, verify(run, args, children))
            except LadonError as error:
                if children.received is None:
                    print(f"error: {error}", file=sys.stderr)
                worst = max(worst, error.exit_code)
            if children.received is not None:
                return 128 + children.received
    return worst


def main(argv: Sequence[str] | None = None) -> int:
    """Verify the runs; return the exit code."""
    args = parse_args(argv)
    return answer(lambda: _run(args))
