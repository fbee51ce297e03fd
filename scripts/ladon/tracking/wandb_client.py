"""Weights & Biases, by the package wandb (`--wandb`).

Where to and as whom is wandb's own: `wandb login`, WANDB_ENTITY, WANDB_MODE=offline and so on.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, ClassVar

import wandb

from ladon.tracking.clients import PATIENCE, Tracker


class WandbTracker(Tracker):
    """Logs a run to wandb, and nothing that it is not given: no environment, code or output."""

    name: ClassVar[str] = "wandb"
    _client: Any = None

    def start(self) -> None:
        """Start the run, or go on with it."""
        run_id = self.known_id or uuid.uuid4().hex[:8]
        self._client = wandb.init(
            project=self.run.project,
            id=run_id,
            name=self.run.folder.name,
            dir=str(self.run.folder),
            config=dict(self.run.parameters),
            allow_val_change=True,  # a resumed run may have another number of workers
            resume="allow",
            reinit="create_new",  # several runs of this process are several there
            settings=wandb.Settings(
                console="off",
                disable_git=True,
                disable_code=True,
                finish_timeout=PATIENCE,
                init_timeout=PATIENCE,
                silent=True,
                x_disable_meta=True,
            ),
        )
        self.keep_id(run_id)

    def log(self, values: Mapping[str, float], step: int | None) -> None:
        """Give values to wandb."""
        if step is None:
            self._client.summary.update(dict(values))
        else:
            self._client.log({**values, "epoch": step}, step=step)

    def finish(self, *, is_done: bool) -> None:
        """End the run there."""
        self._client.finish(exit_code=0 if is_done else 1)
