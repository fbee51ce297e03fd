"""A sweep over β of one config: one run of a task script per β, or all of them at once in this
process (`--fused`), where they share data and teacher. A model for every rate takes one run."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ladon.cli import build_parser, prepare_process
from ladon.config import load_config
from ladon.errors import UsageError
from ladon.paths import run_log_path
from ladon.sweeps.engines import Ended
from ladon.sweeps.jobs import Job
from ladon.sweeps.results import SweepResult
from ladon.sweeps.scheduler import Outcome
from ladon.tasks import TASKS, Task, find_task

PLACEHOLDER = "{beta}"
BETA_IN_NAME = re.compile(r"beta(\d+(?:\.\d+)?)")
"""β in a config's file name; its text is the group."""


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
            is set, or if that is a range the rates that its one model is tested at.
        betas: β as the user typed them; they name files.
        run_log: `--run_log` of the task script, with `{beta}`; None for its default.
        test_only: evaluate only.
        fused: all β at once, in this process.
        passed_on: further arguments of the task script; `{beta}` in them is β's text, too.
    """

    task: Task
    config: str
    betas: tuple[str, ...]
    run_log: str | None = None
    test_only: bool = False
    fused: bool = False
    passed_on: tuple[str, ...] = ()

    def check(self) -> None:
        """Find everything that is wrong before anything runs.

        Raises:
            UsageError: names every bad β, every missing config file and every missing `{beta}`.
        """
        problems = [f"β must be a number above 0, not '{b}'" for b in self.betas if not is_beta(b)]
        repeated = [b for b in dict.fromkeys(self.betas) if self.betas.count(b) > 1]
        problems += [f"β {beta} is given more than once" for beta in repeated]
        several = len(self.betas) > 1 and not self.is_of_one_model
        if several and self.run_log and PLACEHOLDER not in self.run_log:
            problems.append(f"--run_log '{self.run_log}' needs {PLACEHOLDER}: several β are given")
        for flag, what in (("--predictions", "file"), ("--analyse", "folder")):
            if several and self._shares(flag):
                problems.append(f"{flag} needs {PLACEHOLDER} in its {what}: several β are given")
        # a bad β has been named already; its file would only repeat the message
        configs = dict.fromkeys(self.config_of(b) for b in self.betas if is_beta(b))
        missing = [config for config in configs if not Path(config).is_file()]
        if missing:
            problems.append(f"no such config file: {', '.join(missing)}")
        elif self.sets_beta and not problems:
            problems += self._problems_of_one_config()
        if self.passed_on and not self.passed_on[0].startswith("-"):
            problems.append(f"'{self.passed_on[0]}' belongs to no flag")
        shares = self.test_only or self.task.can_share_teacher or self.is_of_one_model
        if self.fused and not shares:
            fused = ", ".join(task.short_name for task in TASKS.values() if task.can_share_teacher)
            problems.append(
                f"--fused trains {fused} only: the models of other tasks stand on a frozen "
                "body per β and have no teacher to share; leave it out, or add -test_only"
            )
        if problems:
            raise UsageError("; ".join(problems))

    def _shares(self, flag: str) -> bool:
        """Whether all β would write what a flag names into one place."""
        given = [
            argument
            for before, argument in zip(("", *self.passed_on), self.passed_on, strict=False)
            if (before == flag and not argument.startswith("-")) or argument.startswith(f"{flag}=")
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

    @cached_property
    def is_of_one_model(self) -> bool:
        """Whether one model has all β: its config's own is a range."""
        if PLACEHOLDER in self.config or not Path(self.config).is_file():
            return False
        return load_config(self.config).is_for_every_rate

    @property
    def sets_beta(self) -> bool:
        """Whether one config serves several β, by its key `beta`."""
        several = len(self.betas) > 1 and not self.is_of_one_model
        return several and PLACEHOLDER not in self.config

    def config_of(self, beta: str) -> str:
        """Return the config path of one β."""
        return self.config.replace(PLACEHOLDER, beta)

    def run_log_of(self, beta: str) -> str | None:
        """Return the `--run_log` of one β, None if the task script is to choose."""
        if self.run_log:
            return self.run_log.replace(PLACEHOLDER, beta)
        if not self.sets_beta:
            return None
        return run_log_with_beta(self.config, beta)

    def job(self, beta: str) -> Job:
        """Return the run of one β."""
        flags = tuple(argument.replace(PLACEHOLDER, beta) for argument in self.passed_on)
        if self.sets_beta:
            flags = ("--set", f"beta={beta}", *flags)
        return Job(
            "",
            self.task.name,
            Path(self.config_of(beta)),
            beta=beta,
            flags=flags,
            run_log=self.run_log_of(beta),
            test_only=self.test_only,
        )

    def jobs(self) -> list[Job]:
        """Return the runs of all β.

        Raises:
            UsageError: the sweep cannot start (`check`).
        """
        self.check()
        if self.is_of_one_model:
            rates = ("--rate", *self.betas)
            return [
                Job(
                    f"β {', '.join(self.betas)}",
                    self.task.name,
                    Path(self.config),
                    flags=(*rates, *self.passed_on),
                    run_log=self.run_log,
                    test_only=self.test_only,
                )
            ]
        return [self.job(beta) for beta in self.betas]


def is_beta(text: str) -> bool:
    """Whether a text is a number above zero."""
    try:
        value = float(text)
    except ValueError:
        return False
    return math.isfinite(value) and value > 0


def run_log_with_beta(config: str | Path, beta: str) -> str:
    """Return the `--run_log` of one β of a config that serves several."""
    default = run_log_path(config)
    name, count = BETA_IN_NAME.subn(f"beta{beta}", default.stem)
    return str(default.with_name(f"{name if count else f'{name}-beta{beta}'}.txt"))


def run_fused(sweep: Sweep, say: Callable[[str], None], *, resume: bool) -> SweepResult:
    """Run all β at once that are not finished; each one's time is that of all.

    Args:
        sweep: what to run.
        say: is given a line about what is skipped and what runs.
        resume: skip finished runs and let the others go on from their last checkpoint.

    Raises:
        UsageError: the sweep cannot start.
        LadonError: what concerns all β.
    """
    jobs = sweep.jobs()
    finished = [job for job in jobs if resume and job.has_result()]
    for job in finished:
        say(f"{job.title}: already finished, skipped")
    parser = build_parser(sweep.task)
    runs = {
        str(j.beta): parser.parse_args(j.arguments(resume=resume))
        for j in jobs
        if j not in finished
    }
    codes, start = {}, time.monotonic()
    if runs:
        say(f"β {', '.join(runs)} together: {sweep.config}")
        prepare_process(deterministic=next(iter(runs.values())).deterministic)
        from ladon import fused  # seconds of imports

        codes = fused.run_fused(sweep.task, runs)
    seconds = time.monotonic() - start
    outcomes = []
    for job in jobs:
        if job in finished:
            outcomes.append(Outcome(job, "skipped", "already finished"))
            continue
        ended = Ended(codes[str(job.beta)])
        status, detail = ended.judge(interrupted=ended.code > 128)
        outcomes.append(Outcome(job, status, detail, seconds, ended))
    signals = [code - 128 for code in codes.values() if code > 128]
    return SweepResult(outcomes, signals[0] if signals else None)
