"""Stand-ins for wandb and mlflow: as much of them as is used, which remembers what it was told."""

from __future__ import annotations

import threading
from collections import defaultdict
from types import ModuleType, SimpleNamespace
from typing import Any


class TrackedRun:
    """A run at a tracker's: each time that it is started or gone on with."""

    def __init__(self, run_id: str, project: str, parameters: dict[str, Any]) -> None:
        self.id, self.project, self.parameters = run_id, project, parameters
        self.logged: list[tuple[dict[str, float], int | None]] = []
        self.finals: dict[str, float] = {}
        self.ended: str | None = None


class StandIn:
    """Both packages.

    Attributes:
        runs: by package, in the order in which they were started or gone on with.
        fails_at: 'log': no network is there any more when values come.
        hangs: whoever starts a run waits for it.
    """

    def __init__(self) -> None:
        self.runs: dict[str, list[TrackedRun]] = defaultdict(list)
        self.fails_at = ""
        self.hangs: threading.Event | None = None

    def modules(self) -> dict[str, ModuleType]:
        """The packages' modules by name."""
        wandb, mlflow = ModuleType("wandb"), ModuleType("mlflow")
        tracking, entities = ModuleType("mlflow.tracking"), ModuleType("mlflow.entities")
        wandb.init = self._init
        wandb.Settings = SimpleNamespace
        tracking.MlflowClient = lambda: _MlflowClient(self)
        entities.Param = lambda key, value: (key, value)
        entities.Metric = lambda *values: values
        return {m.__name__: m for m in (wandb, mlflow, tracking, entities)}

    def _init(self, **given: Any) -> _WandbRun:
        if self.hangs is not None:
            self.hangs.wait(30)
        run = TrackedRun(given["id"], given["project"], given["config"])
        self.runs["wandb"].append(run)
        return _WandbRun(self, run)

    def check(self) -> None:
        if self.fails_at == "log":
            raise ConnectionError("no network")


class _WandbRun:
    def __init__(self, owner: StandIn, run: TrackedRun) -> None:
        self._owner, self._run = owner, run
        self.summary = run.finals

    def log(self, values: dict[str, float], step: int) -> None:
        self._owner.check()
        self._run.logged.append((values, step))

    def finish(self, exit_code: int) -> None:
        self._run.ended = "stopped" if exit_code else "done"


class _MlflowClient:
    def __init__(self, owner: StandIn) -> None:
        self._owner = owner

    @property
    def _run(self) -> TrackedRun:
        return self._owner.runs["mlflow"][-1]

    def get_experiment_by_name(self, name: str) -> None:
        return None

    def create_experiment(self, name: str) -> str:
        return name

    def create_run(self, experiment: str, run_name: str) -> Any:
        runs = self._owner.runs["mlflow"]
        runs.append(TrackedRun(f"run{len(runs)}", experiment, {}))
        return SimpleNamespace(info=SimpleNamespace(run_id=self._run.id))

    def update_run(self, run_id: str, status: str) -> None:
        before = next(run for run in self._owner.runs["mlflow"] if run.id == run_id)
        self._owner.runs["mlflow"].append(TrackedRun(run_id, before.project, before.parameters))

    def log_batch(self, run_id: str, params: Any = (), metrics: Any = ()) -> None:
        self._run.parameters.update(params)
        if not metrics:
            return
        self._owner.check()
        values = {name: value for name, value, _, _ in metrics}
        if all(name.startswith("test/") for name in values):
            self._run.finals |= values
        else:
            self._run.logged.append((values, metrics[0][3]))

    def set_terminated(self, run_id: str, status: str) -> None:
        self._run.ended = {"FINISHED": "done", "KILLED": "stopped"}[status]
