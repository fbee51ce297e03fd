r"""Runs a task script for several β, one after the other, and tabulates what became of them.

    python scripts/sweep.py --task classification -test_only -student_only \
        --config 'configs/ilsvrc2012/ladon/splittable_resnet50-fp-beta{beta}_from_resnet50.yaml' \
        --betas 0.32 1.28 5.12 10.24 20.48

`{beta}` in --config, --run_log and what is passed on stands for β's text; of a --config without it
the key `beta` is set. Every flag not listed below goes to the task script (--device cpu,
--set key=value, --data_root DIR, -student_only, …). A failed
run does not stop the others. With --resume, finished runs are skipped and the others go on where
they stopped. With --fused, all β run at once in one process: each image is loaded once for all of
them, and in training (classification only) the teacher runs once per batch; results are those of
separate runs. Exit code: 0 all done, 1 some failed, 2 wrong usage, 130/143 stopped by a signal.
"""

from __future__ import annotations

import logging
import shlex
import sys

from ladon.cli import answer
from ladon.launch import in_words, make_parser
from ladon.report.tables import make_console
from ladon.sweep import PLACEHOLDER, Sweep, chosen_task, run_sweep, summary_table
from ladon.tasks import TASKS


def parse_args(argv: list[str] | None = None) -> Sweep:
    """Split the command line into the sweep's own flags and those of the task script.

    Raises:
        UsageError: there is no such task.
    """
    parser = make_parser("sweep", __doc__, allow_abbrev=False)
    names = [*(task.short_name for task in TASKS.values()), *TASKS]
    known = f"{', '.join(names)}, or one that the config's dependencies register"
    parser.add_argument("--task", required=True, metavar="TASK", help=known)
    parser.add_argument("--config", required=True, help="YAML path, with {beta} or a key beta")
    parser.add_argument(
        "--betas", required=True, nargs="+", metavar="BETA", help="in running order"
    )
    parser.add_argument("--run_log", help="log file path with {beta}")
    parser.add_argument("-test_only", "--test_only", action="store_true", help="evaluate only")
    parser.add_argument("--resume", "-resume", action="store_true", help="skip what is finished")
    parser.add_argument("--fused", action="store_true", help="all β at once, sharing data")
    args, passed_on = parser.parse_known_args(argv)
    return Sweep(
        task=chosen_task(args.task, args.config.replace(PLACEHOLDER, args.betas[0])),
        config=args.config,
        betas=tuple(args.betas),
        run_log=args.run_log,
        test_only=args.test_only,
        resume=args.resume,
        fused=args.fused,
        passed_on=tuple(passed_on),
    )


def main(argv: list[str] | None = None) -> int:
    """Run the sweep; return the exit code."""
    logging.basicConfig(format="%(levelname)s: %(message)s")
    return answer(lambda: _run(parse_args(argv)))


def _run(sweep: Sweep) -> int:
    result = run_sweep(sweep, announce=lambda line: print(f"== {line}", flush=True))
    make_console().print(summary_table(result))
    if result.finished_folders:
        folders = [str(folder) for folder in result.finished_folders]
        report = in_words("python scripts/report.py")
        print(f"results: {report} {shlex.join(folders)}", flush=True)
    if result.betas("failed"):
        print(f"error: failed: β {', '.join(result.betas('failed'))}", file=sys.stderr)
    return result.exit_code
