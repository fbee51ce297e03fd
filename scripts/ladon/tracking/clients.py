"""Tracking by a client that somebody else wrote: in a thread, where it can neither stop nor slow
down a training.

What the client raises is said once, and nothing is told to it any more; one that hangs is left
behind at the end.
"""

from __future__ import annotations

import contextvars
import json
import logging
import queue
import threading
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ladon.errors import LadonError, in_one_line
from ladon.replacing import write_json
from ladon.tracking.journal import Sink, stage_curves

logger = logging.getLogger(__name__)

PATIENCE = 60.0
"""Seconds that the end of a run waits for its clients."""


@dataclass(frozen=True)
class Tracked:
    """What a client is told first.

    Attributes:
        folder: the run's.
        project: or experiment, whatever the client calls it.
        parameters: of the run, by dotted name.
    """

    folder: Path
    project: str
    parameters: Mapping[str, Any]


class Tracker(Sink):
    """A client of an experiment tracker.

    Attributes:
        name: of its flag and package.

    Args:
        run: what it is told first.
    """

    name: ClassVar[str]

    def __init__(self, run: Tracked) -> None:
        self.run = run
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._has_failed = self._has_results = False
        # of several runs in this process, what it says belongs into this one's log
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run, args=(self._work,), name=f"ladon-{self.name}", daemon=True
        )
        self._thread.start()
        self._queue.put(self.start)

    @abstractmethod
    def start(self) -> None:
        """Start the client's run, or go on with the one of `known_id`."""

    @abstractmethod
    def log(self, values: Mapping[str, float], step: int | None) -> None:
        """Give the client values by name.

        Args:
            values: the values.
            step: the epoch; None for the final test's.
        """

    @abstractmethod
    def finish(self, *, is_done: bool) -> None:
        """End the client's run.

        Args:
            is_done: whether it came to its end; else it failed or may be resumed.
        """

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Log an epoch's numbers by stage."""
        values = stage_curves(record)
        self._queue.put(lambda: self.log(values, record["epoch"]))

    def results(self, content: Mapping[str, Any]) -> None:
        """Log what the final test found."""
        values = {
            f"test/{role}/{name}": float(value)
            for role, found in content["models"].items()
            for name, value in _found(found).items()
            if isinstance(value, int | float)
        }
        self._has_results = True
        self._queue.put(lambda: self.log(values, None))

    def close(self) -> None:
        """End the client's run; wait for it, but not for ever."""
        self._queue.put(lambda: self.finish(is_done=self._has_results))
        self._queue.put(None)
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            logger.warning(
                "--%s: the client has not taken everything in %.0f s: what is left is lost",
                self.name,
                PATIENCE,
            )

    def _work(self) -> None:
        for work in iter(self._queue.get, None):
            if self._has_failed:
                continue
            try:
                work()
            except (Exception, SystemExit) as error:
                self._has_failed = True
                logger.warning(
                    "--%s: %s; the run goes on without it", self.name, in_one_line(error)[:500]
                )

    @property
    def _file(self) -> Path:
        return id_file(self.run.folder, self.name)

    @property
    def known_id(self) -> str | None:
        """The client's own name of the run, kept in its folder: a resumed run goes on with it."""
        try:
            found = json.loads(self._file.read_text(encoding="utf-8"))["run"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return found if isinstance(found, str) else None

    def keep_id(self, run_id: str) -> None:
        """Keep the client's own name of the run."""
        try:
            write_json(self._file, {"project": self.run.project, "run": run_id})
        except LadonError as error:
            logger.warning("--%s: %s; a resumed run will start a new one there", self.name, error)


def id_file(folder: Path, name: str) -> Path:
    """Return where a run's folder keeps a client's own name of the run."""
    return folder / f"{name}.json"


def _found(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers of a model in `metrics.json` that are worth a place in a table."""
    found = dict(model.get("metrics") or {})
    found["images_per_s"] = model.get("images_per_s")
    for name in ("payload_bytes", "data_size_kb"):
        found[name] = (model.get(name) or {}).get("mean")
    return found
