"""What a server's paths do: the Open Inference Protocol v2 in front of an engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive

from ladon import __version__
from ladon.edge.messages import COMPRESSIONS, HEADER_LENGTH, compress, decompress
from ladon.edge.protocol import ANY_MODEL, OUTPUTS, PAYLOAD, ProtocolError, Request
from ladon.edge.protocol import Response as Answer
from ladon.serve.bodies import Bodies, ClientGone
from ladon.serve.engine import Answered, Engine
from ladon.serve.models import ModelInfo
from ladon.serve.recording import Metrics, Record
from ladon.serve.refusals import Refusal, no_such_model, refusal_of

HEALTH = ("/v2/health/live", "/v2/health/ready")
_LEAST_COMPRESSED = 256
_BODIES_TOGETHER = 64  # of the largest size


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the application takes.

    Attributes:
        max_queue: payloads that are accepted and not answered yet; more get 503.
        timeout: seconds from a whole body to its answer; 504 after that.
        max_body: bytes; more get 413.
        body_timeout: seconds that a body may take; 408 after that.
        token: that a client must send as `Authorization: Bearer`; None: none is asked.
        open_paths: further paths that need no token.
    """

    max_queue: int = 64
    timeout: float = 30.0
    max_body: int = 1 << 20
    body_timeout: float = 10.0
    token: str | None = None
    open_paths: tuple[str, ...] = ()


class Service:
    """What the application's paths do.

    Attributes:
        engine: answers the payloads.
        infos: its models by name, empty until they are loaded.
        metrics: of this server.
        is_draining: whether no payloads are taken any more.

    Args:
        engine: answers the payloads.
        limits: what is taken.
    """

    def __init__(self, engine: Engine, limits: Limits) -> None:
        self.engine, self.limits, self.metrics = engine, limits, Metrics()
        self.infos: Mapping[str, ModelInfo] = {}
        self.is_draining = False
        self._num_running = 0
        self._is_idle = asyncio.Event()
        self._num_waiting = 0
        self._bodies = Bodies(
            limits.max_body, _BODIES_TOGETHER * limits.max_body, limits.body_timeout
        )
        self.metrics.queue.set_function(lambda: self._num_waiting)

    @property
    def is_ready(self) -> bool:
        """Whether payloads are taken."""
        return bool(self.infos) and self.engine.is_alive and not self.is_draining

    async def start(self) -> None:
        """Load the models."""
        self.infos = await self.engine.start()

    async def drain(self) -> None:
        """Take no more payloads; return when all requests have got their response."""
        self.is_draining = True
        if self._num_running:
            self._is_idle.clear()
            await self._is_idle.wait()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count a request that is running: stopping waits for it."""
        self._num_running += 1
        try:
            yield
        finally:
            self._num_running -= 1
            if not self._num_running:
                self._is_idle.set()

    async def live(self, request: HttpRequest) -> Response:
        """Say whether the server runs: it does, unless the engine has failed."""
        is_live = self.engine.is_alive or not self.infos
        return JSONResponse({"live": is_live}, 200 if is_live else 503)

    async def ready(self, request: HttpRequest) -> Response:
        """Say whether payloads are taken."""
        return JSONResponse({"ready": self.is_ready}, 200 if self.is_ready else 503)

    async def about(self, request: HttpRequest) -> Response:
        """Describe the server."""
        extensions = ["binary_tensor_data"]
        return JSONResponse({"name": "ladon", "version": __version__, "extensions": extensions})

    async def model(self, request: HttpRequest) -> Response:
        """Describe a model, in the protocol's words."""
        name, heads = self._model_of(request)
        return JSONResponse(
            {
                "name": name,
                "versions": [],
                "platform": "pytorch",
                "inputs": [{"name": PAYLOAD, "datatype": "BYTES", "shape": [1]}],
                "outputs": [
                    {"name": n, "datatype": out.datatype, "shape": list(out.shape)}
                    for n, out in OUTPUTS.items()
                    if out.head is None or out.head in heads
                ],
            }
        )

    async def model_ready(self, request: HttpRequest) -> Response:
        """Say whether payloads of a model are taken."""
        name, _ = self._model_of(request)
        ready = {"name": name, "ready": self.is_ready}
        return JSONResponse(ready, 200 if self.is_ready else 503)

    async def model_config(self, request: HttpRequest) -> Response:
        """Tell what the protocol's words do not say: heads, and encoders by model."""
        name, heads = self._model_of(request)
        those = [info for info in self.infos.values() if name in (ANY_MODEL, info.name)]
        encoders = {info.name: info.encoder_id.hex() for info in those}
        return JSONResponse(
            {
                "name": name,
                "platform": "pytorch",
                "max_batch_size": 0,  # of one request: the server batches
                "heads": list(heads),
                "encoders": encoders,
            }
        )

    async def show_metrics(self, request: HttpRequest) -> Response:
        """Return the metrics."""
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def infer(self, request: HttpRequest) -> Response:
        """Answer a payload."""
        name, record = request.path_params["name"], request.scope["record"]
        return await self.take(
            request, self._bodies, lambda body: self._answer(body, request.headers, name, record)
        )

    async def take(
        self,
        request: HttpRequest,
        bodies: Bodies,
        work: Callable[[bytes], Coroutine[Any, Any, Response]],
    ) -> Response:
        """Read a request's body, and answer it in its turn and in time.

        Args:
            request: what came.
            bodies: reads its body.
            work: gives the response.

        Raises:
            Refusal: it cannot be taken now, or takes too long.
            ClientGone: nobody waits for it any more.
        """
        if self.is_draining:
            raise Refusal(503, "draining", "the server is being stopped: try another, or later")
        if not self.is_ready:
            raise Refusal(503, "not ready", "the models are not loaded yet: try again")
        body = await bodies.read(request.receive, request.headers.get("content-length"))
        # from here on the network may be waited for
        if self._num_waiting >= self.limits.max_queue:
            raise Refusal(503, "queue full", "the queue is full: try again")
        self._num_waiting += 1
        try:
            return await self._in_time(work(body), request.receive)
        finally:
            self._num_waiting -= 1

    async def _in_time(self, work: Coroutine[Any, Any, Response], receive: Receive) -> Response:
        """Return what work returns; it is cancelled if time is over, or its client gone."""
        task, gone = asyncio.create_task(work), asyncio.create_task(_disconnected(receive))
        try:
            done, _ = await asyncio.wait(
                (task, gone), timeout=self.limits.timeout, return_when=asyncio.FIRST_COMPLETED
            )
            if task in done:
                return task.result()
            if gone in done:
                raise ClientGone
            raise Refusal(
                504, "deadline", f"not answered within {self.limits.timeout:g} s: try again"
            )
        finally:
            for one in (task, gone):
                one.cancel()
            with suppress(asyncio.CancelledError):
                await gone

    async def _answer(
        self, body: bytes, headers: Mapping[str, str], name: str, record: Record
    ) -> Response:
        try:
            asked = await asyncio.to_thread(self._read, body, headers)
            record.fields["id"] = asked.request_id
            answered = await self.answer(asked.payload, asked.heads, name, record)
            accepted = headers.get("accept-encoding", "")
            return await asyncio.to_thread(_written, answered, asked, accepted)
        except ProtocolError as error:
            raise refusal_of(error) from error

    async def answer(
        self, payload: bytes, heads: Sequence[str] | None, name: str, record: Record
    ) -> Answered:
        """Let the engine answer a payload; count it and write it down."""
        record.fields["payload_bytes"] = len(payload)
        self.metrics.payloads.observe(len(payload))
        answered = await self.engine.answer(payload, heads, name)
        self.metrics.answered(answered)
        record.answered(answered)
        return answered

    def _read(self, body: bytes, headers: Mapping[str, str]) -> Request:
        body = decompress(body, headers.get("content-encoding"), self.limits.max_body)
        return Request.from_message(body, headers.get(HEADER_LENGTH))

    def _model_of(self, request: HttpRequest) -> tuple[str, Sequence[str]]:
        """Return the name of the model that a path names, and its heads."""
        name = request.path_params["name"]
        if name == ANY_MODEL:
            heads = (head for info in self.infos.values() for head in info.heads)
            return name, tuple(dict.fromkeys(heads))
        if name not in self.infos:
            raise no_such_model(name, self.infos)
        return name, self.infos[name].heads

    def routes(self) -> list[BaseRoute]:
        """Return the application's paths; the names are those of the metrics' routes."""
        model = "/v2/models/{name}"
        return [
            Route(HEALTH[0], self.live, name="health"),
            Route(HEALTH[1], self.ready, name="health"),
            Route("/v2", self.about, name="about"),
            Route(model, self.model, name="model"),
            Route(f"{model}/ready", self.model_ready, name="model"),
            Route(f"{model}/config", self.model_config, name="model"),
            Route(f"{model}/infer", self.infer, methods=["POST"], name="infer"),
            Route("/metrics", self.show_metrics, name="metrics"),
        ]


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _written(answered: Answered, asked: Request, accepted: str) -> Response:
    """Return the response of answers, compressed if the client asked for it."""
    answer = Answer(
        model=answered.info.name,
        answers=answered.answers,
        request_id=asked.request_id,
        seconds=answered.seconds,
        batch_size=answered.batch_size,
        encoder_id=answered.info.encoder_id.hex(),
    )
    body, headers = answer.to_message(asked)
    encodings = [part.partition(";")[0].strip() for part in accepted.lower().split(",")]
    encoding = next((one for one in encodings if one in COMPRESSIONS), None)
    if encoding is not None and len(body) >= _LEAST_COMPRESSED:
        body = compress(body, encoding)
        headers = {**headers, "Content-Encoding": encoding}
    return Response(body, headers=headers)
