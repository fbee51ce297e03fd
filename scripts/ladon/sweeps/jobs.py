"""A run that is to be made: its command line, what it stands on, and how far it is already."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from ladon.cli import build_parser
from ladon.config import Config, load_config
from ladon.launch import child_command
from ladon.paths import run_folder, run_log_path
from ladon.tasks import find_task

logger = logging.getLogger(__name__)

STUDENT_KEYS = ("models.student_model", "models.model")
"""Where a config has the model that learns, the first that is there."""

State = Literal["new", "begun", "finished"]
"""How far a run is; one that has begun goes on with `--resume`."""

StateOf = Callable[["Job"], State]
"""Says how far a job is; asked when what it needs is done."""


@dataclass(frozen=True)
class Job:
    """One run of a task script.

    Args:
        role: what people call it, less its β; may be empty where there is one.
        task: the task's name, full or short.
        config: its YAML file.
        needs: jobs whose checkpoints it starts from.
        beta: its β as typed or as in the file's name.
        flags: of the task script, besides those that follow from the rest.
        run_log: the script's `--run_log`; None for its default.
        test_only: evaluate only.
    """

    role: str
    task: str
    config: Path
    needs: tuple[Job, ...] = ()
    beta: str | None = None
    flags: tuple[str, ...] = ()
    run_log: str | None = None
    test_only: bool = False

    @property
    def title(self) -> str:
        """What people call it."""
        return self.role if self.beta is None else f"{self.role} β {self.beta}".lstrip()

    @property
    def folder(self) -> Path:
        """Its run folder."""
        return run_folder(self.config, self.run_log)

    @property
    def log(self) -> Path:
        """Its log file."""
        return run_log_path(self.config, self.run_log)

    @cached_property
    def loaded(self) -> Config:
        """Its config under its flags.

        Raises:
            ConfigError: it cannot be used.
        """
        return self._load()

    def _load(self) -> Config:
        args = build_parser(find_task(self.task)).parse_args(self.arguments())
        return load_config(
            args.config,
            overrides=args.json,
            assignments=args.assignments,
            data_root=args.data_root,
        )

    @property
    def checkpoint(self) -> Path:
        """Where its config puts the best model."""
        paths = (self.loaded.get(f"{key}.dst_ckpt") for key in STUDENT_KEYS)
        return Path(next(path for path in paths if path)).expanduser()

    def arguments(self, *, resume: bool = False) -> list[str]:
        """Return the task script's flags."""
        flags = ["--config", str(self.config)]
        if self.run_log:
            flags += ["--run_log", self.run_log]
        if self.test_only:
            flags.append("-test_only")
        elif resume:
            flags.append("--resume")
        return [*flags, *self.flags]

    def command(self, *, resume: bool = False) -> list[str]:
        """Return its command line."""
        return [*child_command(find_task(self.task).name), *self.arguments(resume=resume)]

    def unchanged(self) -> bool:
        """Whether its folder is of the same config and seed as it would be run with now."""
        args = build_parser(find_task(self.task)).parse_args(self.arguments())
        try:
            config = (self.folder / "config.yaml").read_text(encoding="utf-8")
            seed = json.loads((self.folder / "run.json").read_text(encoding="utf-8"))["seed"]
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return seed == args.seed and config == self._load().dump(variables=False)

    def mode_done(self) -> str | None:
        """Return what its folder has the results of: 'train', 'test', or None."""
        path = self.folder / "metrics.json"
        try:
            return json.loads(path.read_text(encoding="utf-8"))["mode"]
        except OSError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            logger.warning("%s is unreadable (%r): %s runs again", path, error, self.title)
            return None

    def has_result(self) -> bool:
        """Whether its folder holds the result that it would make.

        A training run ends with the same test, so it also counts for a test.
        """
        return self.mode_done() in ({"test", "train"} if self.test_only else {"train"})


def always_new(job: Job) -> State:
    """Take every run to be new: what is there is made again."""
    return "new"


def by_results(job: Job) -> State:
    """Tell by results alone, as `--resume` of a sweep does.

    A run whose config has changed since is the task script's to refuse, naming the keys.

    Returns:
        'finished' with a result, 'begun' otherwise (the script sees whether there is anything to go
        on from), 'new' if a checkpoint that it starts from was written since.
    """
    finished = job.has_result()
    since = _written(job.folder / ("metrics.json" if finished else "last.pt"))
    if job.needs and since is not None and _foundation(job) > since:
        return "new"
    return "finished" if finished else "begun"


def by_everything(job: Job) -> State:
    """Tell by all that a run's folder holds, as the demo does.

    Only what was made with the same config and seed, and after the checkpoints of the jobs it
    needs, counts.
    """
    since = _written(job.folder / "last.pt")
    if since is None or not job.unchanged() or _foundation(job) > since:
        return "new"
    has_checkpoint = job.checkpoint.is_file()
    if has_checkpoint and job.has_result():
        return "finished"
    # every epoch that is done has had its checkpoint written; without it nothing is left
    lost = (job.folder / "metrics.jsonl").exists() and not has_checkpoint
    return "new" if lost else "begun"


def _written(path: Path) -> float | None:
    """When a file was written, in seconds; None if there is none."""
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _foundation(job: Job) -> float:
    """When the last of the checkpoints that a job starts from was written, in seconds.

    One that is missing counts as still to be written.
    """
    written = [_written(need.checkpoint) for need in job.needs]
    return max((float("inf") if when is None else when for when in written), default=0.0)
