"""An engine in several processes, on this machine or on those of a cluster, through Ray Serve.

The web application stays in the process that was started, with its limits and its draining; each
replica is a `LocalEngine` that Ray Serve starts, watches and replaces. What a lost replica had not
answered is sent to another.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before ray: it would report to its makers

import ray
from ray import serve
from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import RayServeException, ReplicaUnavailableError

from ladon.errors import LadonError, UsageError, in_one_line
from ladon.launch import PACKAGE
from ladon.serve.engine import Answered, Encoded, EngineSettings, LocalEngine
from ladon.serve.models import ModelInfo
from ladon.serve.refusals import Refusal

log = logging.getLogger(__name__)
_TRIES = 5
_ONGOING_BATCHES = 4
"""As many batches a replica is given at once: one is worked on, others fill."""


class Replica:
    """One process's engine, as Ray Serve starts it. Errors that people read come as values."""

    async def __init__(self, settings: EngineSettings) -> None:  # type: ignore[misc]
        self._engine = LocalEngine(settings)
        self._models: Mapping[str, ModelInfo] | LadonError
        try:
            self._models = await self._engine.start()
        except LadonError as error:  # Ray Serve would try for ever, and say it in a page
            self._models = error

    async def models(self) -> Mapping[str, ModelInfo] | LadonError:
        """Return the models by name."""
        return self._models

    async def answer(
        self, data: bytes, heads: Sequence[str] | None, model: str
    ) -> Answered | LadonError:
        """Answer a payload."""
        if isinstance(self._models, LadonError):
            return self._models
        try:
            answered = await self._engine.answer(data, heads, model)
        except LadonError as error:
            return error
        return replace(answered, worker=f"{socket.gethostname()}-{os.getpid()}")

    async def encode(
        self, image: bytes, model: str, rate: float | None = None
    ) -> Encoded | LadonError:
        """Encode a picture."""
        if isinstance(self._models, LadonError):
            return self._models
        try:
            return await self._engine.encode(image, model, rate)
        except LadonError as error:
            return error

    async def check_health(self) -> None:
        """Raise if nothing is answered any more: Ray Serve starts another one then."""
        if not isinstance(self._models, LadonError) and not self._engine.is_alive:
            raise RuntimeError("the engine has failed")


class ReplicatedEngine:
    """An engine of several replicas.

    Args:
        settings: how each works.
        replicas: how many there are.
        address: of a cluster, as `ray.init` takes it; None: one is started here.
    """

    def __init__(self, settings: EngineSettings, replicas: int, address: str | None) -> None:
        self._settings, self._replicas, self._address = settings, replicas, address
        self._name = f"ladon-{socket.gethostname()}-{os.getpid()}"
        self._handle: Any = None

    @property
    def is_alive(self) -> bool:
        """Whether replicas were started; Ray Serve keeps them alive."""
        return self._handle is not None

    async def start(self) -> Mapping[str, ModelInfo]:
        """Start the replicas; return their models by name."""
        handle = await asyncio.to_thread(self._deploy)
        models = await handle.models.remote()
        if isinstance(models, LadonError):
            raise models
        self._handle = handle
        return models

    async def answer(self, data: bytes, heads: Sequence[str] | None, model: str) -> Answered:
        """Answer a payload; where its replica is lost, by another."""
        answered, tries = await self._ask("answer", data, heads, model)
        return replace(answered, tries=tries)

    async def encode(self, image: bytes, model: str, rate: float | None = None) -> Encoded:
        """Encode a picture; where its replica is lost, by another."""
        return (await self._ask("encode", image, model, rate))[0]

    async def _ask(self, method: str, *args: Any) -> tuple[Any, int]:
        """Return what a replica's method gives, and how many were asked."""
        for number in range(1, _TRIES + 1):
            response = getattr(self._handle, method).remote(*args)
            try:
                given = await response
            except asyncio.CancelledError:
                response.cancel()
                raise
            except (RayActorError, ReplicaUnavailableError) as error:
                log.warning("a replica was lost, try %d: %s", number, in_one_line(error)[:200])
                continue
            if isinstance(given, LadonError):
                raise given
            return given, number
        raise Refusal(503, "replicas lost", f"{_TRIES} replicas were lost: try again")

    async def close(self) -> None:
        """Take the replicas away, and Ray if it was started here."""
        self._handle = None
        await asyncio.to_thread(self._undeploy)

    def _deploy(self) -> Any:
        """Start Ray, or join a cluster, and deploy the replicas; return their handle."""
        settings, threads = self._settings, self._settings.threads or 1
        own: dict[str, Any] = {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
        # where the package is imported from: replicas need not have it installed
        path = os.pathsep.join(filter(None, (str(PACKAGE.parent), os.environ.get("PYTHONPATH"))))
        for name in ("ray", "ray.serve"):  # not JSON, and of its own works
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            ray.init(
                address=self._address or "local",
                namespace="ladon",
                log_to_driver=False,
                configure_logging=False,
                runtime_env={"env_vars": {"PYTHONPATH": path}},
                **({} if self._address else {**own, "num_cpus": self._replicas * threads}),
            )
        except (RayError, ConnectionError, RuntimeError, ValueError) as error:
            where = f"--address {self._address}" if self._address else "Ray cannot be started here"
            raise UsageError(f"{where}: {in_one_line(error)[:300]}") from error
        deployment = serve.deployment(
            name="replica",
            num_replicas=self._replicas,
            max_ongoing_requests=_ONGOING_BATCHES * settings.max_batch,
            ray_actor_options={"num_cpus": threads, "num_gpus": int(settings.device != "cpu")},
            health_check_period_s=2,
            graceful_shutdown_timeout_s=5,
        )(Replica)
        try:
            serve.start(proxy_location="Disabled")
            return serve.run(deployment.bind(settings), name=self._name, route_prefix=None)
        except (RayError, RayServeException, RuntimeError) as error:
            raise LadonError(f"the replicas cannot be started: {in_one_line(error)}") from error

    def _undeploy(self) -> None:
        if not ray.is_initialized():
            return
        try:
            serve.delete(self._name)
            if self._address is None:
                serve.shutdown()
        except (RayError, RayServeException, RuntimeError) as error:
            log.warning("the replicas are left to Ray: %s", in_one_line(error)[:200])
        ray.shutdown()
