"""Tests and times everything on a CUDA GPU, in one go: `make gpu`, or with any Python

    python scripts/gpu.py                     # about 6 minutes on a data-centre GPU
    python scripts/gpu.py --out DIR --only tests
    python scripts/gpu.py --minutes 10

Writes gpu.json and gpu.txt into a folder (default: resource/benchmarks/gpu-MACHINE), again after
each step: a run that is killed leaves what was done. The steps' own files and output lie beside
them, under steps.
Exit code: 0 all green, 1 something failed or did not fit into the time, 2 wrong usage or no GPU.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ladon.benchmark.suite import STEPS, plan, run_plan
from ladon.benchmark.suite_report import Report
from ladon.cli import answer, prepare_process
from ladon.launch import make_parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser("gpu", __doc__)
    add = parser.add_argument
    add("--out", type=Path, metavar="DIR", help="(default: resource/benchmarks/gpu-MACHINE)")
    add("--only", nargs="+", choices=STEPS, default=STEPS, help="some of the steps")
    add("--minutes", type=float, default=6.0, help="what all of it may take (default: 6)")
    args = parser.parse_args(argv)
    if not args.minutes > 0:
        parser.error("--minutes must be above 0")
    return args


def main(argv: list[str] | None = None) -> int:
    """Run the suite; return the exit code."""
    args = parse_args(argv)
    prepare_process()
    try:
        import torch
    except ImportError as error:
        print(f"error: torch cannot be imported: {error}", file=sys.stderr)
        return 2
    if not torch.cuda.is_available():
        print("error: this machine has no CUDA device that torch can use", file=sys.stderr)
        return 2
    return answer(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    import torch

    from ladon.benchmark.machine import describe_machine, machine_slug
    from ladon.benchmark.parts import root
    from ladon.engine.origin import program
    from ladon.errors import UsageError

    if not (root() / "tests").is_dir():
        raise UsageError("the tests are part of a checkout: run this in its root")
    machine, made_by = describe_machine(torch.device("cuda", 0)), program()
    folder = args.out or root() / "resource" / "benchmarks" / f"gpu-{machine_slug(machine)}"
    folder, steps = folder.resolve(), folder.resolve() / "steps"
    try:
        steps.mkdir(parents=True, exist_ok=True)
        for old in steps.iterdir():  # a step that is killed must not find an earlier run's result
            old.unlink()
    except OSError as error:
        raise UsageError(f"--out {folder}: cannot be written ({error.strerror})") from error
    versions = {name: made_by[name] for name in ("ladon", "git", "python")} | made_by["packages"]
    report = Report(machine, versions)
    wanted = plan(steps, args.only)
    run_plan(wanted, report, folder, 60 * args.minutes, lambda line: print(line, flush=True))
    print(f"{'all green' if report.is_green else 'red'}: {folder / 'gpu.txt'}")
    return 0 if report.is_green else 1
