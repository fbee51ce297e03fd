"""Benchmark against the published way: codec, evaluation, validation, training, start-up, memory.

    python scripts/benchmark.py                              # everything, about 15 minutes
    python scripts/benchmark.py --only codec training        # parts; others in the file stay
    python scripts/benchmark.py --only evaluation --tasks image_classification
    python scripts/benchmark.py --quick --out /tmp/x.json    # tiny sizes: does it run?

Both ways run side by side in one process, in turn; the table shows medians and ranges, and the
JSON file (resource/benchmarks/, one per machine) holds the same. It is written after each part, and
when a part is interrupted with what it had measured.
Exit code: 0 all parts done, 1 some failed, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from pathlib import Path

from ladon.benchmark.parts import PARTS, Bench, root, run_parts
from ladon.benchmark.results import PartResult
from ladon.cli import answer, prepare_process
from ladon.launch import make_parser
from ladon.tasks import TASKS


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser("benchmark", __doc__)
    add = parser.add_argument
    add("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to run")
    tasks = list(TASKS)
    add("--tasks", nargs="+", choices=tasks, default=tasks, help="of the part evaluation")
    add("--quick", action="store_true", help="smallest sizes; such numbers mean nothing")
    add("--repeats", type=int, default=3, help="timed repeats of each way (default: 3)")
    add("--device", default="cpu", help="cpu, cuda or cuda:N (default: cpu)")
    add("--threads", type=int, help="torch's threads (default: what torch takes)")
    add("--out", type=Path, metavar="FILE.json", help="(default: resource/benchmarks/MACHINE.json)")
    args = parser.parse_args(argv)
    if args.repeats < 1 or (args.threads is not None and args.threads < 1):
        parser.error("--repeats and --threads must be 1 or more")
    return args


def main(argv: list[str] | None = None) -> int:
    """Run the parts; return the exit code."""
    args = parse_args(argv)
    prepare_process()  # as the task scripts do; what the reference gains by it, it may keep
    logging.basicConfig(format="%(message)s")
    logging.getLogger("ladon.benchmark").setLevel(logging.INFO)  # not the runs that are timed
    return answer(lambda: benchmark(args))


def benchmark(args: argparse.Namespace) -> int:
    """Run the parts that were asked for, print their tables, and say where the file is."""
    folder = root() / "resource" / "benchmarks"
    import torch

    from ladon.benchmark.machine import describe_machine, machine_slug
    from ladon.benchmark.results import open_results
    from ladon.benchmark.table import part_table
    from ladon.engine.distributed import choose_device
    from ladon.report.render import show_table
    from ladon.report.tables import make_console

    if args.threads:
        torch.set_num_threads(args.threads)
    device = choose_device(args.device)
    if device.type == "cuda":  # the clock waits for this one
        torch.cuda.set_device(device)
    machine = describe_machine(device)
    out = args.out or folder / f"{machine_slug(machine)}.json"
    results, console = open_results(out, machine, quick=args.quick), make_console()
    with tempfile.TemporaryDirectory(prefix="ladon-benchmark-") as scratch:

        def bench(name: str) -> Bench:
            own = Path(scratch) / name
            own.mkdir()
            return Bench(own, str(device), args.repeats, args.quick, args.tasks)

        def show(name: str, found: PartResult) -> None:
            show_table(console, part_table(name, found))

        failed = run_parts(args.only, bench, results, out, show)
    print(f"written: {out}")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0
