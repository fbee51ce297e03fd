"""One model for every rate against separate models for each, on digit scenes: rate and accuracy.

    python scripts/frontier.py --seeds 0 1 2 --tasks classification

Separate models and the one are trained at equal total cost (five at budget 1, the one at 5) and
each as long (all at 5). Each training's results go to resource/frontier/results.csv as it ends;
what is there is not trained again, and a training that was interrupted goes on.

Exit code: 0 done, 130/143 stopped by a signal, otherwise that of the training that failed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ladon.cli import answer
from ladon.errors import UsageError
from ladon.frontier.results import Results
from ladon.frontier.runs import (
    CONFIGS,
    DATA,
    NUM_TRAIN,
    NUM_VAL,
    STYLE,
    Trial,
    ablations,
    jobs,
    teacher_job,
    trials,
)
from ladon.frontier.summary import lines
from ladon.launch import make_parser
from ladon.process import usable_cores
from ladon.replacing import replacing
from ladon.sweeps.engines import LocalEngine
from ladon.sweeps.jobs import Job, by_everything
from ladon.sweeps.scheduler import Outcome, Scheduler, exit_code
from ladon.sweeps.watchers import Lines
from ladon.tasks import TASKS

RESULTS = Path("resource/frontier/results.csv")


class _Collecting(Lines):
    """Takes each training's results into the table as it ends.

    Args:
        work: the trainings by their runs, less the teacher's.
        ordered: all runs.
        results: the table.
    """

    def __init__(self, work: dict[Job, Trial], ordered: Sequence[Job], results: Results) -> None:
        super().__init__(ordered, _say, side_by_side=True)
        self._work, self._results = work, results

    def skipped(self, job: Job) -> None:
        """Take results that a run before had no time for."""
        super().skipped(job)
        self._take(job)

    def ended(self, outcome: Outcome) -> None:
        """Say how, and take the results."""
        super().ended(outcome)
        if outcome.status == "done":
            self._take(outcome.job)

    def _take(self, job: Job) -> None:
        if job in self._work:
            self._results.take(self._work[job], job)


def _say(line: str) -> None:
    print(line, flush=True)


def _draw_scenes() -> None:
    from ladon.data.digits import make_digit_scenes  # seconds of imports

    make_digit_scenes(DATA, num_train=NUM_TRAIN, num_val=NUM_VAL, style=STYLE)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    parser = make_parser("frontier", __doc__)
    add = parser.add_argument
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(default: 0 1 2)")
    add(
        "--tasks",
        nargs="+",
        choices=[task.short_name for task in TASKS.values()],
        default=["classification"],
    )
    add(
        "--ablations",
        action="store_true",
        help="train the one classifier with a part of it taken out, too, with the first seed",
    )
    add(
        "--summary",
        action="store_true",
        help="train nothing: print what the results say; write and draw it beside them",
    )
    add("--parallel", type=int, help="trainings side by side (default: one a core)")
    args = parser.parse_args(argv)
    return answer(lambda: _work(args))


def _write(results: Results, text: str) -> None:
    from ladon.frontier.figure import draw  # imports matplotlib
    from ladon.report.plots import save_figure

    table, plot = RESULTS.with_suffix(".md"), RESULTS.with_suffix(".png")
    with replacing(table) as temporary:
        temporary.write_text(f"{text}\n", encoding="utf-8")
    save_figure(draw(results.points), plot)
    _say(f"\nwritten: {table}, {plot}")


def _work(args: argparse.Namespace) -> int:
    """Train what has no results yet, or print what they say; return the exit code."""
    if not CONFIGS.is_dir():
        raise UsageError(f"{CONFIGS}: no such folder: run it in a checkout's root")
    results = Results(RESULTS)
    if args.summary:
        if not results.points:
            raise UsageError(f"{RESULTS}: there are no results yet: leave --summary out")
        text = "\n".join(lines(results.points))
        _say(text)
        _write(results, text)
        return 0
    asked = trials(args.tasks, args.seeds)
    asked += ablations(args.seeds[:1]) if args.ablations else []
    work = jobs(asked, results.trials)
    if not work:
        _say(f"all results are in {RESULTS}")
        return 0
    _draw_scenes()
    cores = usable_cores()
    ordered = [teacher_job(), *work.values()]
    by_job = {job: trial for trial, job in work.items()}
    with LocalEngine(args.parallel or cores, cores) as engine:
        watcher = _Collecting(by_job, ordered, results)
        outcomes = Scheduler(ordered, engine, watcher, by_everything).work()
        if engine.received is not None:
            return 128 + engine.received
    return exit_code(outcomes)
