"""A family's jobs: its configs, with what stands on what, as the checkpoints say that they name.

A config needs another one if it loads the checkpoint that the other one writes (`dst_ckpt`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ladon.cli import prepare_process
from ladon.config import Config, find_config_files, load_config
from ladon.errors import UsageError
from ladon.launch import checkout
from ladon.sweeps.betas import BETA_IN_NAME, is_beta, run_log_with_beta
from ladon.sweeps.jobs import STUDENT_KEYS, Job
from ladon.tasks import TASKS, Task


@dataclass(frozen=True)
class Family:
    """What is asked for: configs of a folder.

    Args:
        folder: where the configs are, at any depth; None for the shipped ones.
        name: of a subfolder (a data set), or of the network in `splittable_NAME` in files' names,
            NAME-vr for models for every rate; None for all.
        tasks: their names; none for all.
        betas: β as typed; none for those that the configs have.
        flags: of all task scripts.
        test_only: evaluate only; then nothing stands on anything.
    """

    folder: Path | None = None
    name: str | None = None
    tasks: tuple[Task, ...] = ()
    betas: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    test_only: bool = False

    def jobs(self) -> list[Job]:
        """Return its jobs, each behind those that it needs, long ones first.

        Raises:
            UsageError: there is no such family, or not all of it; two of its runs would write to
                one place; a checkpoint is missing that none of the tasks asked for makes.
            ConfigError: a config of it cannot be used.
        """
        bad = [beta for beta in self.betas if not is_beta(beta)]
        if bad:
            raise UsageError(f"β must be a number above 0, not '{bad[0]}'")
        folder = self.folder or shipped_configs()
        files = [_File.read(path, folder) for path in find_config_files([folder])]
        trained = [file for file in files if file.trains]
        chosen = [file for file in trained if self._is_named(file.path, folder)]
        if not chosen:
            what = f"of a family '{self.name}'" if self.name else "that trains a model"
            raise UsageError(f"{folder}: there is no config {what}{_known(trained)}")
        drafts = [draft for file in chosen for draft in self.drafts(file)]
        asked = [draft for draft in drafts if self.asks_for(draft)]
        self._check_betas(asked)
        others = [file for file in trained if file not in chosen]
        return _Graph(self, drafts, others).jobs(asked)

    def _is_named(self, path: Path, folder: Path) -> bool:
        if self.name is None:
            return True
        if self.name in (folder.name, *path.relative_to(folder).parts[:-1]):
            return True
        return _network(path) == self.name

    def asks_for(self, draft: Job) -> bool:
        """Whether a job's task is one of those asked for."""
        return not self.tasks or draft.task in {task.name for task in self.tasks}

    def drafts(self, file: _File) -> Iterator[Job]:
        """Yield a file's jobs, one for each β asked for, without what they need."""
        named = BETA_IN_NAME.search(file.path.stem)
        own = file.config.beta
        draft = Job("", file.task.name, file.path, flags=self.flags, test_only=self.test_only)
        if isinstance(file.config.get("beta"), dict):  # a model for every rate
            if not self.betas:
                yield draft
        elif own is None or named:
            beta = named[1] if named and own is not None else None
            wanted = not self.betas or beta is None or float(beta) in map(float, self.betas)
            if wanted:
                yield replace(draft, beta=beta)
        elif not self.betas:
            yield replace(draft, beta=f"{own:g}")
        else:
            for beta in self.betas:
                run_log = run_log_with_beta(file.path, beta)
                flags = ("--set", f"beta={beta}", *self.flags)
                yield replace(draft, beta=beta, flags=flags, run_log=run_log)

    def _check_betas(self, asked: Iterable[Job]) -> None:
        found = {float(draft.beta) for draft in asked if draft.beta is not None}
        missing = [beta for beta in self.betas if float(beta) not in found]
        if missing or not asked:
            what = f"β {', '.join(missing)}" if missing else "these tasks"
            raise UsageError(f"family '{self.name or self.folder}' has no config for {what}")


def shipped_configs() -> Path:
    """Return the folder of the shipped configs.

    Raises:
        UsageError: this is no checkout.
    """
    root = checkout()
    for folder in (Path("configs"), *([root / "configs"] if root else [])):
        if folder.is_dir():
            return folder
    raise UsageError("there is no folder configs here: name the family's folder by --configs")


@dataclass(frozen=True, eq=False)
class _File:
    """A config file and what it says of itself."""

    path: Path
    folder: Path
    config: Config

    @classmethod
    def read(cls, path: Path, folder: Path) -> _File:
        return cls(path, folder, load_config(path))

    @property
    def trains(self) -> bool:
        return "train" in self.config and self.checkpoint is not None

    @property
    def checkpoint(self) -> str | None:
        found = (self.config.get(f"{key}.dst_ckpt") for key in STUDENT_KEYS)
        return next((_normal(path) for path in found if path), None)

    @property
    def task(self) -> Task:
        """The task, by the data's folder in its path, else by the kind of its model."""
        parts = {self.folder.name, *self.path.relative_to(self.folder).parts}
        for task in TASKS.values():
            if parts.intersection(task.data_folders):
                return task
        prepare_process()
        from ladon.config.validate.registries import model_kind  # seconds of imports

        self.config.import_dependencies()
        keys = (self.config.get(f"{key}.key") for key in STUDENT_KEYS)
        kind = model_kind(next(filter(None, keys), ""))
        return next(task for task in TASKS.values() if task.model_kind == kind)


@dataclass
class _Graph:
    """What stands on what.

    Args:
        family: what is asked for.
        drafts: its jobs, without what they need.
        others: files of other families, one of which may make what this one needs.
    """

    family: Family
    drafts: Sequence[Job]
    others: Sequence[_File]
    _made: dict[Job, Job] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._writers: dict[str, Job] = {}
        for draft in self.drafts:
            self._writers.setdefault(_normal(draft.checkpoint), draft)

    def jobs(self, asked: Iterable[Job]) -> list[Job]:
        """Return the jobs asked for and those they need, in order."""
        for draft in asked:
            self._make(draft, ())
        found = list(self._made.values())
        self._check_places(found)
        order = list(TASKS)
        found.sort(
            key=lambda job: (_depth(job), order.index(job.task), float(job.beta or 0), job.config)
        )
        return _named(found)

    def _make(self, draft: Job, chain: tuple[Job, ...]) -> Job:
        if draft in chain:
            files = " -> ".join(str(job.config) for job in (*chain, draft))
            raise UsageError(f"checkpoints are loaded in a circle: {files}")
        if draft not in self._made:
            needs = tuple(self._make(n, (*chain, draft)) for n in self._needs(draft))
            self._made[draft] = replace(draft, needs=needs)
        return self._made[draft]

    def _needs(self, draft: Job) -> Iterator[Job]:
        """Yield the drafts whose checkpoints a job loads; those of other tasks must be there."""
        if self.family.test_only:
            return
        loaded = {_normal(text) for text in _texts(draft.loaded.section("models"))}
        elsewhere = [file for file in self.others if file.checkpoint in loaded]
        for other in (other for file in elsewhere for other in self.family.drafts(file)):
            self._writers.setdefault(_normal(other.checkpoint), other)
        for path in sorted(loaded.intersection(self._writers)):
            writer = self._writers[path]
            if writer == draft:
                continue
            if self.family.asks_for(writer):
                yield writer
            elif not Path(path).is_file():
                raise UsageError(
                    f"{draft.config}: needs {path}, which does not exist: {writer.config} makes "
                    f"it: add {TASKS[writer.task].short_name} to --tasks"
                )

    @staticmethod
    def _check_places(jobs: Iterable[Job]) -> None:
        """Refuse two jobs with one folder or one checkpoint."""
        taken: dict[str, Job] = {}
        for job in jobs:
            for place in {_normal(job.folder), _normal(job.checkpoint)}:
                other = taken.setdefault(place, job)
                if other is not job:
                    raise UsageError(
                        f"{other.config} and {job.config} would both write to {place}: give each "
                        "its own (dst_ckpt; a file name, or a folder below one called configs)"
                    )


def _named(jobs: Sequence[Job]) -> list[Job]:
    """Give jobs the names that people call them by."""
    needed = {need.config for job in jobs for need in job.needs}
    roles: dict[Path, str] = {}
    for job in jobs:
        role = TASKS[job.task].short_name
        if STUDENT_KEYS[0] in job.loaded:
            role = "student"
        elif job.beta is None and job.config in needed:
            role = "teacher"
        roles[job.config] = role
    titles = [(roles[job.config], job.beta) for job in jobs]
    named: dict[tuple[Path, str | None], Job] = {}
    for job, title in zip(jobs, titles, strict=True):
        role = title[0] if titles.count(title) == 1 else f"{title[0]} ({job.config.stem})"
        needs = tuple(named[need.config, need.beta] for need in job.needs)
        named[job.config, job.beta] = replace(job, role=role, needs=needs)
    return list(named.values())


def _known(files: Iterable[_File]) -> str:
    names = dict.fromkeys(filter(None, (_network(file.path) for file in files)))
    return f" (its networks are {', '.join(names)})" if names else ""


def _network(path: Path) -> str | None:
    """Return NAME of `…splittable_NAME-fp…` or, of one for every rate, `…splittable_NAME-vr…`."""
    found = re.search(r"splittable_([A-Za-z0-9_]+(?:-vr(?![A-Za-z0-9]))?)", path.stem)
    return found[1] if found else None


def _depth(job: Job) -> int:
    return max((1 + _depth(need) for need in job.needs), default=0)


def _normal(path: str | Path) -> str:
    return os.path.normpath(Path(path).expanduser())


def _texts(value: Any, key: Any = None) -> Iterator[str]:
    """Yield all texts in a config's section but where its own checkpoint goes."""
    if isinstance(value, str) and key != "dst_ckpt":
        yield value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _texts(item, name)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
