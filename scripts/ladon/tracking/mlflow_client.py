"""MLflow, by the package mlflow or mlflow-skinny (`--mlflow`).

Where to is MLflow's own: MLFLOW_TRACKING_URI, a server or `file:FOLDER`, and what else it reads.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from typing import Any, ClassVar

from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient

from ladon.tracking.clients import Tracker

_AT_ONCE = 100  # parameters in a request, at most
_LONGEST = 500  # letters of a parameter; older servers take no more
_NOT_IN_NAMES = re.compile(r"[^\w\-. :/]")


class MlflowTracker(Tracker):
    """Logs a run to MLflow, by its client alone: nothing is set for other code of the process."""

    name: ClassVar[str] = "mlflow"
    _client: Any = None
    _id = ""

    def start(self) -> None:
        """Start the run, or go on with it."""
        if os.environ.get("MLFLOW_TRACKING_URI", "").startswith(("file:", "/", ".")):
            # who names a folder means it; MLflow asks once more since its version 3.15
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        self._client = MlflowClient()
        known = self._known()
        self._id = self._create() if known is None else known
        self.keep_id(self._id)

    def _known(self) -> str | None:
        """Go on with the run that the folder knows, if the server has it."""
        if self.known_id is None:
            return None
        try:
            self._client.update_run(self.known_id, status="RUNNING")
        except Exception:  # another server's, or removed there
            return None
        return self.known_id

    def _create(self) -> str:
        project = self.run.project
        found = self._client.get_experiment_by_name(project)
        experiment = found.experiment_id if found else self._client.create_experiment(project)
        run_id = self._client.create_run(experiment, run_name=self.run.folder.name).info.run_id
        given = [
            Param(_NOT_IN_NAMES.sub("_", name), str(value)[:_LONGEST])
            for name, value in self.run.parameters.items()
        ]
        for start in range(0, len(given), _AT_ONCE):
            self._client.log_batch(run_id, params=given[start : start + _AT_ONCE])
        return run_id

    def log(self, values: Mapping[str, float], step: int | None) -> None:
        """Give values to MLflow."""
        now = int(time.time() * 1000)
        names = {_NOT_IN_NAMES.sub("_", name): value for name, value in values.items()}
        given = [Metric(name, value, now, step or 0) for name, value in names.items()]
        self._client.log_batch(self._id, metrics=given)

    def finish(self, *, is_done: bool) -> None:
        """End the run there."""
        self._client.set_terminated(self._id, "FINISHED" if is_done else "KILLED")
