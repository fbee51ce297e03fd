"""The application behind a socket, until the process is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from starlette.routing import BaseRoute

from ladon.errors import Interrupted, UsageError, why_not_written
from ladon.serve.app import build_app
from ladon.serve.connections import Connection
from ladon.serve.engine import Engine
from ladon.serve.service import Limits, Service

log = logging.getLogger(__name__)
_MOST_CONNECTIONS = 1000
_KEEP_ALIVE = 60  # seconds; a client that sends an image now and then keeps its connection
_MOST_HEADER_BYTES = 1 << 14


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where a server listens.

    Attributes:
        host: name or address; loopback unless somebody wants more.
        port: 0: one that is free.
        certificate, key: PEM files for TLS; None: plain HTTP.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    certificate: Path | None = None
    key: Path | None = None

    def bound(self) -> socket.socket:
        """Return a socket that is bound to it.

        Raises:
            UsageError: it cannot be.
        """
        try:
            family, kind, _, _, address = socket.getaddrinfo(
                self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            found = socket.socket(family, kind)
        except OSError as error:
            raise UsageError(f"--host {self.host}: {error.strerror or error}") from error
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
        except OSError as error:
            found.close()
            raise UsageError(
                f"--host {self.host} --port {self.port}: {error.strerror}; --port 0 takes a free "
                "one"
            ) from error
        return found

    def url(self, bound: socket.socket) -> str:
        """Return the URL of a socket that is bound to it."""
        host, port = bound.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        return f"http{'' if self.certificate is None else 's'}://{shown}:{port}"


class _Server(uvicorn.Server):
    """uvicorn's, which leaves signals to others."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do nothing."""
        yield


def serve(
    engine: Engine,
    limits: Limits,
    address: Address,
    say: Callable[[str], None],
    routes: Sequence[BaseRoute] = (),
) -> None:
    """Answer requests until SIGTERM or SIGINT; those that are running get their response.

    Args:
        engine: answers payloads.
        limits: what is taken.
        address: where to listen.
        say: is told the URL, once payloads are taken.
        routes: further paths, as `ladon.serve.app.build_app` takes them.

    Raises:
        Interrupted: a second signal came; requests were given up.
        LadonError: the models cannot be loaded, or the address cannot be used.
    """
    with contextlib.closing(address.bound()) as bound:
        asyncio.run(_Running(engine, limits, address, bound, routes).run(say))


class _Running:
    """A server that runs."""

    def __init__(
        self,
        engine: Engine,
        limits: Limits,
        address: Address,
        bound: socket.socket,
        routes: Sequence[BaseRoute],
    ) -> None:
        self._engine, self._url = engine, address.url(bound)
        self._bound, self._service = bound, Service(engine, limits)
        app = build_app(self._service, routes)
        self._server = _Server(_configured(app, address))
        self._signals: list[int] = []
        self._told = asyncio.Event()

    async def run(self, say: Callable[[str], None]) -> None:
        self._listen_to_signals()
        serving = asyncio.create_task(self._server.serve(sockets=[self._bound]))
        told = asyncio.create_task(self._told.wait())
        try:
            starting = asyncio.create_task(self._service.start())
            if await _first(starting, told, serving) is starting:
                starting.result()  # raises what was wrong
                self._listen_to_signals()  # ray has put its own in their place
                say(f"serving {self._url}")
                await _first(told, serving)
            else:
                starting.cancel()
            await self._stop(serving)
        finally:
            told.cancel()
            self._server.should_exit = self._server.force_exit = True
            await asyncio.wait((serving,))
            await self._engine.close()
        serving.result()

    async def _stop(self, serving: asyncio.Task) -> None:
        """Let requests that are running get their response."""
        log.info("stopping: no more payloads are taken")
        draining = asyncio.create_task(self._service.drain())
        self._told.clear()
        again = asyncio.create_task(self._told.wait())
        try:
            await _first(draining, again, serving)
            self._server.should_exit = True
            await _first(serving, again)
        finally:
            draining.cancel()
            again.cancel()
        if len(self._signals) > 1:
            raise Interrupted(self._signals[-1], "stopped at once: requests were given up")

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._receive, signum)

    def _receive(self, signum: int) -> None:
        self._signals.append(signum)
        self._told.set()


def _configured(app: Any, address: Address) -> uvicorn.Config:
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_keep_alive=_KEEP_ALIVE,
        h11_max_incomplete_event_size=_MOST_HEADER_BYTES,
        ssl_certfile=address.certificate,
        ssl_keyfile=address.key,
    )
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    try:
        config.load()
    except ssl.SSLError as error:
        raise UsageError(
            f"--tls-cert {address.certificate}: no certificate in PEM that fits its key ({error})"
        ) from error
    except OSError as error:
        raise UsageError(
            f"--tls-cert {address.certificate}, --tls-key {address.key}: {why_not_written(error)}"
        ) from error
    return config


async def _first(*tasks: asyncio.Task) -> asyncio.Task:
    """Wait until one of some tasks has ended; return it, the first listed of several."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    return next(task for task in tasks if task in done)
