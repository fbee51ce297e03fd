"""Jobs on a Ray cluster that is there already; nothing is started, so nothing listens here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Self

from ladon.children import Say
from ladon.errors import UsageError, in_one_line
from ladon.sweeps.engines import Ended, Engine, NodeLost
from ladon.sweeps.nodes import Resources, by_value, library

AUTO = "auto"
"""The cluster that this machine belongs to."""


class RayEngine(Engine):
    """A Ray task for each job, on whichever node has what it needs.

    Run folders, checkpoints, configs and this environment must be at the same paths on all nodes.

    Args:
        address: of the cluster, HOST:PORT or `AUTO`.
        resources: what each job needs.
        slots: jobs side by side; None for as many as the cluster takes.
    """

    def __init__(self, address: str, resources: Resources, slots: int | None = None) -> None:
        super().__init__()
        self.slots = slots
        self._address, self._resources = address, resources
        self._ray: Any = None
        self._running: set[Any] = set()

    def __enter__(self) -> Self:
        """Join the cluster.

        Raises:
            UsageError: Ray is not installed, or there is no cluster.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        self._ray = library("ray", "ray")
        by_value(library("ray.cloudpickle", "ray"))
        try:
            self._ray.init(self._address, log_to_driver=False, logging_level="error")
        except Exception as error:  # Ray raises its own, Python's and gRPC's
            raise UsageError(
                f"--engine ray: there is no Ray cluster at '{self._address}' ({in_one_line(error)}"
                "): give --address HOST:PORT, start one with ray start --head, or use --engine "
                "local --jobs N"
            ) from error
        return super().__enter__()  # after Ray, which catches signals as well

    def __exit__(self, *exc_info: object) -> None:
        super().__exit__(*exc_info)
        self._ray.shutdown()

    def run(
        self,
        command: Sequence[str],
        say: Say | None = None,
        *,
        alone: bool = False,
    ) -> Ended:
        """Run a command on a node; its lines come with its end.

        Raises:
            NodeLost: the node is gone, or its process that ran the command.
        """
        errand, errors = self._resources.errand(command, command), self._ray.exceptions
        task = self._ray.remote(type(errand).run).options(
            num_cpus=self._resources.cpus,
            num_gpus=self._resources.gpus,
            max_retries=0,  # without --resume
            scheduling_strategy="SPREAD",
        )
        reference = task.remote(errand)
        self._running.add(reference)
        try:
            if self.stopping is not None:  # it came while the task was being submitted
                self._ray.cancel(reference)
            code, said = self._ray.get(reference)
        except errors.TaskCancelledError:
            return Ended(128 + (self.stopping or 0))
        except errors.RayTaskError as error:
            return Ended(1, (in_one_line(error.cause or error),))
        except errors.RayError as error:
            raise NodeLost(f"its node is lost ({type(error).__name__})") from error
        finally:
            self._running.discard(reference)
        return Ended(code, said)

    def _send(self, signum: int) -> None:
        for reference in list(self._running):
            self._ray.cancel(reference)
