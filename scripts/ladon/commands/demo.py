"""All of Ladon on a small data set that is drawn here: no download, minutes on two cores.

    make demo            # or, from the checkout's root: python scripts/demo.py

Draws the digit scenes, trains a ResNet-18 as teacher, then for each β a student with its encoder,
a detector and a segmentation model on the student's body, and tests them all with real entropy
coding. Prints a table per task and plots accuracy against payload to imgs/demo_rate_accuracy.png;
the tables and plots are also in logs/digit_scenes/report/.

Ctrl-C is safe at any time. Run it again: finished jobs are skipped, interrupted ones go on.
`make clean` removes everything it made. Exit code: 0 done, 130/143 stopped by a signal, otherwise
that of the job that failed.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

from ladon.errors import LadonError, UsageError
from ladon.launch import make_parser
from ladon.process import usable_cores
from ladon.report.files import write_report
from ladon.report.runs import collect_runs
from ladon.report.tables import make_console, print_table
from ladon.sweeps.engines import LocalEngine
from ladon.sweeps.families import Family
from ladon.sweeps.jobs import Job, by_everything
from ladon.sweeps.scheduler import Scheduler, exit_code
from ladon.sweeps.watchers import DemoLines

CONFIGS, NETWORK = Path("configs/digit_scenes"), "resnet18"
SEED, MOST_SIDE_BY_SIDE = 0, 3
BETAS = ("0.32", "5.12", "20.48")
REPORT, PLOT = Path("logs/digit_scenes/report"), Path("imgs/demo_rate_accuracy.png")


def make_jobs(data_root: str) -> list[Job]:
    """Return the runs, each behind those it needs, long ones first.

    Args:
        data_root: the datasets' folder.
    """
    flags = ("--data_root", data_root, "--seed", str(SEED))
    return Family(CONFIGS, name=NETWORK, flags=flags).jobs()


def work(jobs: Sequence[Job], engine: LocalEngine, first: int = 2) -> int:
    """Run the jobs; return 0, or the exit code of the first that failed or was interrupted."""
    lines = DemoLines(jobs, say, first=first)
    return exit_code(Scheduler(jobs, engine, lines, by_everything, goes_on=False).work())


def draw_scenes(data_root: str) -> None:
    """Draw the digit scenes, unless they are there."""
    warnings.filterwarnings("ignore", category=FutureWarning)  # torch's, to torchvision
    from ladon.data.digits import make_digit_scenes  # seconds of imports

    make_digit_scenes(data_root)


def report(jobs: list[Job]) -> None:
    """Print the tables and write the report's files; the students' runs hold the teacher's."""
    runs = collect_runs([job.folder for job in jobs if job.needs])
    console = make_console()
    for results in runs.by_task().values():
        print_table(console, results)
    files = write_report(runs, REPORT, extra_plot=PLOT)
    say(f"written: {', '.join(str(path) for path in files)}")


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


def main(argv: list[str] | None = None) -> int:
    """Run the demo; return the exit code."""
    parser = make_parser("demo", __doc__)
    parser.add_argument(
        "--data_root", default="resource/data", help="where to draw the scenes (%(default)s)"
    )
    args = parser.parse_args(argv)
    start = time.monotonic()
    try:
        if not CONFIGS.is_dir():
            raise UsageError(f"{CONFIGS}: no such folder: run the demo in a checkout's root")
        jobs = make_jobs(args.data_root)
        label = f"[1/{len(jobs) + 1}] digit scenes in {args.data_root}"
        say(f"{label}: drawn if they are not there")
        draw_scenes(args.data_root)
        say(f"{label}: done in {time.monotonic() - start:.0f} s")
        cores = usable_cores()
        # on two cores, two runs of one thread each did 1.2 times (classification) to 1.5 times
        # (detection) the work of one run of two threads, and their start-ups overlap
        with LocalEngine(min(cores, MOST_SIDE_BY_SIDE), cores, whole=True) as engine:
            code = work(jobs, engine)
            if engine.received is not None:
                return 128 + engine.received
        if code:
            return code
        report(jobs)
    except LadonError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    say(f"demo done in {(time.monotonic() - start) / 60:.1f} minutes")
    return 0
