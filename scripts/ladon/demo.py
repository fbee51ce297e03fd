"""Runs that stand on one another, as child processes side by side, each only if it is needed.

A finished run is skipped, an interrupted one goes on with `--resume`, and one whose config, seed or
foundation has changed starts anew. Imports nothing heavy: each run loads its libraries itself.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from ladon.children import Children, Say
from ladon.config import load_config
from ladon.engine.interrupt import STOPPING
from ladon.launch import child_command
from ladon.paths import run_folder, run_log_path
from ladon.tasks import find_task

SEED = 0
MOST_SIDE_BY_SIDE = 3
_LINES_KEPT = 15
_SHOWN = re.compile(r"Epoch:| \* Acc@1|mean IoU:|Payload | Average Precision .*IoU=0.50 .*= +all ")


@dataclass(frozen=True)
class Job:
    """One run of a task script.

    Args:
        title: what people call it.
        task: the task's short name.
        config: its YAML file.
        needs: jobs whose checkpoints it starts from.
    """

    title: str
    task: str
    config: Path
    needs: tuple[Job, ...] = ()

    @property
    def folder(self) -> Path:
        """Its run folder."""
        return run_folder(self.config)

    def checkpoint(self, data_root: str) -> Path:
        """Where its config puts the best model."""
        config = load_config(self.config, data_root=data_root)
        keys = ("models.student_model.dst_ckpt", "models.model.dst_ckpt")
        return Path(next(path for key in keys if (path := config.get(key)))).expanduser()

    def state(self, data_root: str) -> str:
        """'finished', 'begun' (can be resumed) or 'new', by what its folder holds.

        Only what was made with the same config and seed, and after the checkpoints of the jobs
        it needs, counts.
        """
        last = self.folder / "last.pt"
        try:
            config = (self.folder / "config.yaml").read_text(encoding="utf-8")
            seed = json.loads((self.folder / "run.json").read_text(encoding="utf-8"))["seed"]
            since = last.stat().st_mtime
            needed = [need.checkpoint(data_root).stat().st_mtime for need in self.needs]
        except (OSError, ValueError, KeyError, TypeError):
            return "new"
        fresh = load_config(self.config, data_root=data_root).dump(variables=False)
        if config != fresh or seed != SEED or max(needed, default=0.0) > since:
            return "new"
        has_checkpoint = self.checkpoint(data_root).is_file()
        if has_checkpoint and _mode(self.folder / "metrics.json") == "train":
            return "finished"
        # every epoch that is done has had its checkpoint written; without it nothing is left
        lost = (self.folder / "metrics.jsonl").exists() and not has_checkpoint
        return "new" if lost else "begun"

    def command(self, data_root: str, *, resume: bool) -> list[str]:
        """Its command line."""
        return [
            *child_command(find_task(self.task).name),
            "--config",
            str(self.config),
            "--data_root",
            data_root,
            "--seed",
            str(SEED),
            *(["--resume"] if resume else []),
        ]


def _mode(metrics: Path) -> str | None:
    try:
        return json.loads(metrics.read_text(encoding="utf-8"))["mode"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


class Scheduler:
    """Brings jobs to their end, several at a time, in their order as far as their needs allow.

    Args:
        jobs: what to run; a job stands behind those it needs.
        data_root: the datasets' folder.
        children: runs the commands.
        say: is given lines for the person who waits.
        cores: of this machine.
        first: number of the first job, in what is said.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        data_root: str,
        children: Children,
        say: Say,
        *,
        cores: int,
        first: int = 1,
    ) -> None:
        self._jobs, self._data_root, self._children = jobs, data_root, children
        self._cores, self._say, self._lock = cores, say, threading.Lock()
        total = first + len(jobs) - 1
        self._labels = {p: f"[{n}/{total}] {p.title}" for n, p in enumerate(jobs, start=first)}
        # on two cores, two runs of one thread each did 1.2 times (classification) to 1.5 times
        # (detection) the work of one run of two threads, and their start-ups overlap
        self._side_by_side = max(1, min(cores, MOST_SIDE_BY_SIDE))

    def work(self) -> int:
        """Run all jobs; if one fails, the others save their state and stop.

        Returns:
            0, or the exit code of the first job that failed or was interrupted.
        """
        waiting, done = list(self._jobs), set[Job]()
        running: dict[Future[int], Job] = {}
        code = 0
        with ThreadPoolExecutor(self._side_by_side) as pool:
            while True:
                free = self._side_by_side - len(running) if self._children.stopping is None else 0
                for job in [p for p in waiting if done.issuperset(p.needs)][:free]:
                    waiting.remove(job)
                    running[pool.submit(self._run_job, job)] = job
                if not running:
                    return code
                ended, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in ended:
                    job = running.pop(future)
                    try:
                        own = future.result()
                    except BaseException:
                        self._children.stop()
                        raise
                    if own == 0:
                        done.add(job)
                    else:
                        code = code or own
                        self._children.stop()

    def _run_job(self, job: Job) -> int:
        label, log = self._labels[job], run_log_path(job.config)
        state = job.state(self._data_root)
        if state == "finished":
            self._tell(f"{label}: already done ({job.folder})")
            return 0
        self._tell(f"{label}: {'going on' if state == 'begun' else 'started'} (log: {log})")
        threads = self._cores // self._side_by_side if job.needs else self._cores
        start, lines = time.monotonic(), list[str]()

        def show(line: str) -> None:
            lines[: max(0, len(lines) + 1 - _LINES_KEPT)] = []
            lines.append(line)
            if (shown := _progress(line)) is not None:
                self._tell(f"      {job.title} | {shown}")

        command = job.command(self._data_root, resume=state == "begun")
        # threads that spin while they wait take the core from whoever else works: with another
        # process on two cores, training was five times slower
        env = {"OMP_NUM_THREADS": str(max(1, threads)), "OMP_WAIT_POLICY": "passive"}
        code = self._children(command, env, show)
        seconds = time.monotonic() - start
        if code == 0:
            self._tell(f"{label}: done in {seconds:.0f} s")
        elif code in {c for s in STOPPING for c in (128 + s, -s)}:
            self._tell(f"{label}: stopped after {seconds:.0f} s; run the demo again to go on")
        else:
            said = "\n".join(f"  {line}" for line in lines)
            self._tell(f"{said}\n{label}: failed with exit code {code} (log: {log})")
        return code if code >= 0 else 128 - code

    def _tell(self, line: str) -> None:
        with self._lock:
            self._say(line)


def _progress(line: str) -> str | None:
    """Return the message of a log line of the engine's own, less its tabs; None for other lines."""
    fields = line.split("\t", 3)
    if len(fields) < 4 or fields[1] not in ("INFO", "WARNING", "ERROR"):
        return None
    if fields[1] == "INFO" and not _SHOWN.match(fields[3]):
        return None
    return fields[3].strip().expandtabs(2)
