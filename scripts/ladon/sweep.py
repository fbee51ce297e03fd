"""A sweep over β: one run of a task script per β, in order, each in a process of its own; or all
of them at once in this process (`--fused`), where they share data and teacher.

A failed run does not stop the others; a signal does, after the run under way has saved its state.
"""

from __future__ import annotations

import json
import logging
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from rich.table import Table

from ladon.children import Children
from ladon.cli import build_parser, prepare_process
from ladon.config import load_config
from ladon.errors import UsageError
from ladon.launch import child_command
from ladon.paths import run_folder, run_log_path
from ladon.tasks import TASKS, Task, find_task

logger = logging.getLogger(__name__)

PLACEHOLDER = "{beta}"
_BETA_IN_NAME = re.compile(r"beta\d+(\.\d+)?")

Runner = Callable[[list[str]], int]
"""Runs one command to its end and returns its exit code (-N: killed by signal N)."""


def chosen_task(name: str, config: str) -> Task:
    """Return a task by its name; one of a user's own after the config's modules are imported.

    Args:
        name: full or short.
        config: path of a config of the sweep.

    Raises:
        UsageError: there is no such task.
    """
    known = {n for task in TASKS.values() for n in (task.name, task.short_name)}
    if name not in known and Path(config).is_file():
        prepare_process()
        load_config(config).import_dependencies()
    return find_task(name)


@dataclass(frozen=True)
class Sweep:
    """A sweep: the runs that are asked for.

    Args:
        task: the task.
        config: path of a YAML file, with `{beta}` where β's text goes; without it, its key `beta`
            is set.
        betas: β as the user typed them; they name files.
        run_log: `--run_log` of the task script, with `{beta}`; None for its default.
        test_only: evaluate only.
        resume: skip finished runs and let the others go on from their last checkpoint.
        fused: all β at once, in this process.
        passed_on: further arguments of the task script; `{beta}` in them is β's text, too.
    """

    task: Task
    config: str
    betas: tuple[str, ...]
    run_log: str | None = None
    test_only: bool = False
    resume: bool = False
    fused: bool = False
    passed_on: tuple[str, ...] = ()

    def check(self) -> None:
        """Find everything that is wrong before anything runs.

        Raises:
            UsageError: names every bad β, every missing config file and every missing `{beta}`.
        """
        problems = [f"β must be a number above 0, not '{b}'" for b in self.betas if not _is_beta(b)]
        repeated = [b for b in dict.fromkeys(self.betas) if self.betas.count(b) > 1]
        problems += [f"β {beta} is given more than once" for beta in repeated]
        if len(self.betas) > 1 and self.run_log and PLACEHOLDER not in self.run_log:
            problems.append(f"--run_log '{self.run_log}' needs {PLACEHOLDER}: several β are given")
        if len(self.betas) > 1 and self._shares_predictions():
            problems.append(f"--predictions needs {PLACEHOLDER} in its file: several β are given")
        # a bad β has been named already; its file would only repeat the message
        configs = dict.fromkeys(self.config_of(b) for b in self.betas if _is_beta(b))
        missing = [config for config in configs if not Path(config).is_file()]
        if missing:
            problems.append(f"no such config file: {', '.join(missing)}")
        elif self.sets_beta and not problems:
            problems += self._problems_of_one_config()
        if self.passed_on and not self.passed_on[0].startswith("-"):
            problems.append(f"'{self.passed_on[0]}' belongs to no flag")
        if self.fused and not self.test_only and not self.task.can_share_teacher:
            fused = ", ".join(task.short_name for task in TASKS.values() if task.can_share_teacher)
            problems.append(
                f"--fused trains {fused} only: the models of other tasks stand on a frozen "
                "body per β and have no teacher to share; leave it out, or add -test_only"
            )
        if problems:
            raise UsageError("; ".join(problems))

    def _shares_predictions(self) -> bool:
        """Whether all β would write what they find into one file."""
        given = [
            argument
            for before, argument in zip(("", *self.passed_on), self.passed_on, strict=False)
            if before == "--predictions" or argument.startswith("--predictions=")
        ]
        return any(PLACEHOLDER not in argument for argument in given)

    def _problems_of_one_config(self) -> list[str]:
        """Why one file does not do for all β."""
        configs = [load_config(self.config, assignments=[f"beta={beta}"]) for beta in self.betas]
        if load_config(self.config).beta is None:
            return [
                f"--config '{self.config}' needs {PLACEHOLDER} in its name, or a key beta: several "
                "β are given"
            ]
        sections = ("models.student_model.dst_ckpt", "models.model.dst_ckpt")
        for key in sections:
            paths = [config.get(key) for config in configs if config.get(key) is not None]
            if len(set(paths)) < len(paths):
                return [
                    f"{configs[0].where(key)}: {key} is {paths[0]} whatever β is: put ${{beta}} "
                    "into it, so that each β has its own"
                ]
        return []

    @property
    def sets_beta(self) -> bool:
        """Whether one config serves several β, by its key `beta`."""
        return len(self.betas) > 1 and PLACEHOLDER not in self.config

    def config_of(self, beta: str) -> str:
        """Return the config path of one β."""
        return self.config.replace(PLACEHOLDER, beta)

    def run_log_of(self, beta: str) -> str | None:
        """Return the `--run_log` of one β, None if the task script is to choose."""
        if self.run_log:
            return self.run_log.replace(PLACEHOLDER, beta)
        if not self.sets_beta:
            return None
        default = run_log_path(self.config)
        name, count = _BETA_IN_NAME.subn(f"beta{beta}", default.stem)
        return str(default.with_name(f"{name if count else f'{name}-beta{beta}'}.txt"))

    def folder_of(self, beta: str) -> Path:
        """Return the run folder of one β."""
        return run_folder(self.config_of(beta), self.run_log_of(beta))

    def log_of(self, beta: str) -> Path:
        """Return the log file of one β."""
        return run_log_path(self.config_of(beta), self.run_log_of(beta))

    def flags(self, beta: str) -> list[str]:
        """Return the task script's flags for one β."""
        flags = ["--config", self.config_of(beta)]
        run_log = self.run_log_of(beta)
        if run_log:
            flags += ["--run_log", run_log]
        if self.test_only:
            flags.append("-test_only")
        elif self.resume:
            flags.append("--resume")
        if self.sets_beta:
            flags += ["--set", f"beta={beta}"]
        return [*flags, *(argument.replace(PLACEHOLDER, beta) for argument in self.passed_on)]

    def is_finished(self, beta: str) -> bool:
        """Tell whether β's run folder holds the result that this sweep would make.

        A training run ends with the same test, so it also counts for a test-only sweep.
        """
        path = self.folder_of(beta) / "metrics.json"
        if not path.is_file():
            return False
        try:
            mode = json.loads(path.read_text(encoding="utf-8"))["mode"]
        except (ValueError, KeyError, TypeError) as error:
            logger.warning("%s is unreadable (%r): β %s runs again", path, error, beta)
            return False
        return mode in ({"test", "train"} if self.test_only else {"train"})


def _is_beta(text: str) -> bool:
    try:
        value = float(text)
    except ValueError:
        return False
    return math.isfinite(value) and value > 0


@dataclass(frozen=True)
class Outcome:
    """The end of one β's run.

    Args:
        beta: as the user typed it.
        status: 'done', 'failed', 'skipped' (already finished), 'interrupted' or 'not run'.
        detail: why, for 'failed' and 'skipped'.
        seconds: wall time; None if nothing ran.
        log: the run's log file.
        folder: the run's folder.
    """

    beta: str
    status: str
    detail: str
    seconds: float | None
    log: Path
    folder: Path


@dataclass(frozen=True)
class SweepResult:
    """The outcomes in the order of β, and the signal that stopped the sweep, if one did."""

    outcomes: list[Outcome]
    signum: int | None = None

    def betas(self, *statuses: str) -> list[str]:
        """Return the β with one of these statuses."""
        return [outcome.beta for outcome in self.outcomes if outcome.status in statuses]

    @property
    def finished_folders(self) -> list[Path]:
        """Run folders that hold a result."""
        return [o.folder for o in self.outcomes if o.status in {"done", "skipped"}]

    @property
    def exit_code(self) -> int:
        """0 all done, 1 some failed, 128 + N stopped by signal N."""
        if self.signum is not None:
            return 128 + self.signum
        return 1 if self.betas("failed") else 0


def run_sweep(
    sweep: Sweep, announce: Callable[[str], None], run: Runner | None = None
) -> SweepResult:
    """Run every β in order.

    Args:
        sweep: what to run.
        announce: is given one line before each β.
        run: runs one command; None for child processes. A fused sweep starts none.

    Raises:
        UsageError: the sweep cannot start (`Sweep.check`).
        LadonError: what concerns all β of a fused sweep.
    """
    sweep.check()
    if sweep.fused:
        return _run_fused(sweep, announce)
    outcomes: list[Outcome] = []
    with Children() as children:
        for number, beta in enumerate(sweep.betas, start=1):
            position = f"[{number}/{len(sweep.betas)}] β {beta}"
            if children.received is not None:
                outcomes.append(_outcome(sweep, beta, "not run"))
            elif sweep.resume and sweep.is_finished(beta):
                announce(f"{position}: already finished, skipped")
                outcomes.append(_outcome(sweep, beta, "skipped", "already finished"))
            else:
                announce(f"{position}: {sweep.config_of(beta)}")
                start = time.monotonic()
                code = (run or children)([*child_command(sweep.task.name), *sweep.flags(beta)])
                judged = _judge(code, interrupted=children.received is not None)
                outcomes.append(_outcome(sweep, beta, *judged, time.monotonic() - start))
        return SweepResult(outcomes, children.received)


def _run_fused(sweep: Sweep, announce: Callable[[str], None]) -> SweepResult:
    """Run all β at once that are not finished; each one's time is that of all."""
    finished = [beta for beta in sweep.betas if sweep.resume and sweep.is_finished(beta)]
    for beta in finished:
        announce(f"β {beta}: already finished, skipped")
    parser = build_parser(sweep.task)
    runs = {b: parser.parse_args(sweep.flags(b)) for b in sweep.betas if b not in finished}
    codes, start = {}, time.monotonic()
    if runs:
        announce(f"β {', '.join(runs)} together: {sweep.config}")
        prepare_process()
        from ladon.fused import run_fused  # seconds of imports

        codes = run_fused(sweep.task, runs)
    seconds = time.monotonic() - start
    outcomes = [
        _outcome(sweep, beta, "skipped", "already finished")
        if beta in finished
        else _outcome(sweep, beta, *_judge(codes[beta], interrupted=codes[beta] > 128), seconds)
        for beta in sweep.betas
    ]
    signals = [code - 128 for code in codes.values() if code > 128]
    return SweepResult(outcomes, signals[0] if signals else None)


def _outcome(
    sweep: Sweep, beta: str, status: str, detail: str = "", seconds: float | None = None
) -> Outcome:
    log, folder = sweep.log_of(beta), sweep.folder_of(beta)
    return Outcome(beta, status, detail, seconds, log, folder)


def _judge(code: int, interrupted: bool) -> tuple[str, str]:
    """Status and detail of a run by its exit code."""
    if code == 0:
        return "done", ""
    if interrupted:
        return "interrupted", ""
    return "failed", f"killed by signal {-code}" if code < 0 else f"exit code {code}"


def summary_table(result: SweepResult) -> Table:
    """One row per β: status, wall time, log file."""
    table = Table(title="Sweep", title_justify="left")
    table.add_column("β", justify="right", no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column("run log", overflow="fold")
    for outcome in result.outcomes:
        status = f"{outcome.status} ({outcome.detail})" if outcome.detail else outcome.status
        spent = "–" if outcome.seconds is None else str(timedelta(seconds=round(outcome.seconds)))
        table.add_row(outcome.beta, status, spent, str(outcome.log))
    return table
