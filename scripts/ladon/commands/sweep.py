r"""Runs a task script for several β, or everything of a family, and tabulates what became of it.

    python scripts/sweep.py --task classification -test_only -student_only \
        --config 'configs/ilsvrc2012/ladon/splittable_resnet50-fp-beta{beta}_from_resnet50.yaml' \
        --betas 0.32 1.28 5.12 10.24 20.48

    python scripts/sweep.py --family resnet50 --tasks all --dry_run     # what would run, on what
    python scripts/sweep.py --family digit_scenes --jobs 2 --resume
    python scripts/sweep.py --family resnet50 --engine ray --gpus_per_job 1

`{beta}` in --config, --run_log and what is passed on stands for β's text; of a --config without it
the key `beta` is set. A --family is a network or a data set of the shipped configs, or of those in
--configs DIR; each run waits for those whose checkpoints it loads. Every flag not listed below goes
to the task scripts (--device cpu, --set key=value, --data_root DIR, -student_only, …). A failed
run does not stop the others, but what stands on it is not run. With --resume, finished runs are
skipped and the others go on where they stopped. With --fused, all β run at once in one process:
each image is loaded once for all of them, and in training (classification only) the teacher runs
once per batch; results are those of separate runs. Of a model for every rate there is one run,
which tests all β in one pass.

Where they run: --engine local in child processes, --jobs N at a time; --engine ray on a Ray cluster
that is running (a run whose node is lost goes on elsewhere from its last checkpoint); --engine
slurm submits them all and leaves (--slurm partition=gpu time=2880 …). A cluster's nodes must see
this folder, the data and this Python at the same paths. Exit code: 0 all done, 1 some failed, 2
wrong usage, 130/143 stopped by a signal.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from ladon.cli import answer
from ladon.errors import UsageError
from ladon.flags import add_safe, whole_number
from ladon.launch import in_words, make_parser
from ladon.process import usable_cores
from ladon.report.tables import make_console
from ladon.sweeps.betas import PLACEHOLDER, Sweep, chosen_task, run_fused
from ladon.sweeps.engines import Engine, LocalEngine
from ladon.sweeps.families import Family
from ladon.sweeps.jobs import Job, always_new, by_results
from ladon.sweeps.nodes import Resources
from ladon.sweeps.on_ray import AUTO, RayEngine
from ladon.sweeps.results import SweepResult, plan_table, summary_table
from ladon.sweeps.scheduler import Scheduler
from ladon.sweeps.slurm import submit
from ladon.sweeps.watchers import Lines, LiveTable
from ladon.tasks import TASKS, find_task

ALL = "all"


@dataclass(frozen=True)
class Request:
    """What the command line asks for.

    Args:
        wanted: β of one config, or a family.
        args: its other flags.
    """

    wanted: Sweep | Family
    args: argparse.Namespace


def parse_args(argv: list[str] | None = None) -> Request:
    """Split the command line into the sweep's own flags and those of the task script.

    Raises:
        UsageError: there is no such task, or flags that do not go together.
    """
    args, passed_on = _parser().parse_known_args(argv)
    is_family = args.family is not None or args.configs is not None
    if args.safe:
        passed_on.append("--safe")  # where they run elsewhere
    if not is_family and args.dry_run:
        passed_on.append("--dry_run")  # each run's own
    _check(args, is_family)
    if is_family:
        names = [name for name in args.tasks if name != ALL]
        return Request(
            Family(
                folder=None if args.configs is None else Path(args.configs),
                name=args.family,
                tasks=() if ALL in args.tasks else tuple(find_task(name) for name in names),
                betas=tuple(args.betas),
                flags=tuple(passed_on),
                test_only=args.test_only,
            ),
            args,
        )
    sweep = Sweep(
        task=chosen_task(args.task, args.config.replace(PLACEHOLDER, args.betas[0])),
        config=args.config,
        betas=tuple(args.betas),
        run_log=args.run_log,
        test_only=args.test_only,
        fused=args.fused,
        passed_on=tuple(passed_on),
    )
    return Request(sweep, args)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("sweep", __doc__, allow_abbrev=False)
    add_safe(parser)
    add = parser.add_argument
    names = [*(task.short_name for task in TASKS.values()), *TASKS]
    known = f"{', '.join(names)}, or one that the config's dependencies register"
    add("--task", metavar="TASK", help=known)
    add("--config", help="YAML path, with {beta} or a key beta")
    add("--betas", default=[], nargs="+", metavar="BETA", help="in running order")
    add("--family", metavar="NAME", help="a network or data set: all of its runs, in order")
    add("--configs", metavar="DIR", help="where the family's configs are (default: shipped ones)")
    add("--tasks", default=[ALL], nargs="+", metavar="TASK", help="of the family (default: all)")
    add("--run_log", help="log file path with {beta}")
    add("-test_only", "--test_only", action="store_true", help="evaluate only")
    add("--resume", "-resume", action="store_true", help="skip what is finished")
    add("--fused", action="store_true", help="all β at once, sharing data")
    add("--dry_run", action="store_true", help="of a family: show what would run, and stop")
    engine = parser.add_argument_group("where the runs run")
    add = engine.add_argument
    add("--engine", default="local", choices=("local", "ray", "slurm"), help="default: local")
    add(
        "--jobs",
        type=whole_number(1),
        metavar="N",
        help="runs side by side (default: 1 here, all that fit on a cluster)",
    )
    add("--address", metavar="HOST:PORT", help="of the Ray cluster (default: this machine's)")
    add("--gpus_per_job", type=whole_number(0), metavar="N", help="on a cluster (default: 0)")
    add("--cpus_per_job", type=whole_number(1), metavar="N", help="on a cluster (default: 1)")
    add("--slurm", nargs="+", metavar="KEY=VALUE", help="options of sbatch, without their dashes")
    return parser


def _check(args: argparse.Namespace, is_family: bool) -> None:
    """Refuse flags that do not go together.

    Raises:
        UsageError: names them.
    """
    given = {name for name, value in vars(args).items() if value not in (None, False, [])}
    given -= {"tasks"} if args.tasks == [ALL] else set()
    mixed = [name for name in ("task", "config", "run_log", "fused") if name in given]
    problems = []
    if is_family and mixed:
        problems.append(f"--family and --configs do not go with --{mixed[0]}")
    elif not is_family:
        missing = [f"--{name}" for name in ("task", "config", "betas") if name not in given]
        if missing:
            problems.append(f"missing {', '.join(missing)}; or name a --family")
        if "tasks" in given:
            problems.append("--tasks is of a --family; of one config it is --task")
    elsewhere = {
        "address": ("ray",),
        "gpus_per_job": ("ray", "slurm"),
        "cpus_per_job": ("ray", "slurm"),
        "slurm": ("slurm",),
    }
    for name, engines in elsewhere.items():
        if name in given and args.engine not in engines:
            problems.append(f"--{name} is of --engine {' and '.join(engines)}")
    if args.fused and (args.engine != "local" or args.jobs):
        problems.append("--fused runs all β in this process: leave out --engine and --jobs")
    if problems:
        raise UsageError("; ".join(problems))


def main(argv: list[str] | None = None) -> int:
    """Run the sweep; return the exit code."""
    logging.basicConfig(format="%(levelname)s: %(message)s")
    return answer(lambda: _run(parse_args(argv)))


def _run(request: Request) -> int:
    args, wanted = request.args, request.wanted
    state_of = by_results if args.resume else always_new
    # one model's rates are tested in one pass in any case
    if isinstance(wanted, Sweep) and wanted.fused and not wanted.is_of_one_model:
        return _conclude(run_fused(wanted, _say, resume=args.resume))
    jobs = wanted.jobs()
    if isinstance(wanted, Family) and args.dry_run:
        make_console().print(plan_table(jobs, [state_of(job) for job in jobs]))
        return 0
    resources = Resources(gpus=args.gpus_per_job or 0, cpus=args.cpus_per_job or 1)
    if args.engine == "slurm":
        ids = submit(jobs, resources, state_of, _options(args.slurm), side_by_side=args.jobs)
        return _say_submitted(jobs, ids)
    engine: Engine = RayEngine(args.address or AUTO, resources, args.jobs)
    if args.engine == "local":
        slots = args.jobs or 1
        engine = LocalEngine(slots, usable_cores() if slots > 1 else None)
    return _conclude(run_jobs(jobs, engine, resume=args.resume))


def run_jobs(jobs: list[Job], engine: Engine, *, resume: bool) -> SweepResult:
    """Run jobs to their end and show how far they are.

    Args:
        jobs: each behind those it needs.
        engine: runs them.
        resume: skip finished ones and let the others go on from their last checkpoint.
    """
    console, side_by_side = make_console(), engine.slots != 1
    watcher: Lines | LiveTable = Lines(jobs, _say, side_by_side=side_by_side)
    if side_by_side and console.is_terminal:
        watcher = LiveTable(jobs, console)
    state_of = by_results if resume else always_new
    with engine, watcher if isinstance(watcher, LiveTable) else nullcontext():
        outcomes = Scheduler(jobs, engine, watcher, state_of).work()
    return SweepResult.of(jobs, outcomes, engine.received)


def _conclude(result: SweepResult) -> int:
    """Print what became of the runs; return the exit code."""
    make_console().print(summary_table(result))
    if result.finished_folders:
        folders = [str(folder) for folder in result.finished_folders]
        report = in_words("python scripts/report.py")
        print(f"results: {report} {shlex.join(folders)}", flush=True)
    if result.failures:
        print(f"error: {result.failures}", file=sys.stderr)
    return result.exit_code


def _options(pairs: list[str] | None) -> dict[str, str]:
    """Read sbatch's options.

    Raises:
        UsageError: one is not KEY=VALUE.
    """
    options = dict(pair.lstrip("-").partition("=")[::2] for pair in pairs or [])
    bad = [pair for pair in pairs or [] if not all(pair.lstrip("-").partition("="))]
    if bad:
        raise UsageError(f"--slurm: '{bad[0]}' is not KEY=VALUE, such as partition=gpu")
    return options


def _say_submitted(jobs: list[Job], ids: dict[Job, str]) -> int:
    for job in jobs:
        if job in ids:
            before = ", ".join(ids[need] for need in job.needs if need in ids)
            _say(f"{job.title}: job {ids[job]}{f' after {before}' if before else ''}: {job.log}")
        else:
            _say(f"{job.title}: already finished, skipped")
    _say("squeue shows how far they are; the same command with --resume submits what is missing")
    return 0


def _say(line: str) -> None:
    print(line if line.startswith(" ") else f"== {line}", flush=True)
