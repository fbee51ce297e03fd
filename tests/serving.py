"""Servers for tests: an application without sockets, a model that answers at once, a process."""

from __future__ import annotations

import asyncio
import json
import os
import random
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import warm
from starlette.routing import BaseRoute
from torch import nn

from ladon.codec import BottleneckKind, Fit, Payload
from ladon.codec.container import crc32c
from ladon.edge.protocol import Request, infer_path
from ladon.serve.app import build_app
from ladon.serve.engine import Engine
from ladon.serve.service import Limits, Service
from ladon.split.answers import Answers, Found

SCRIPT = Path(__file__).parents[1] / "scripts" / "serve.py"
ENCODER = b"encoder1"
UNLUCKY = 666
"""The number that no `FakeModel` answers."""


def payload(
    number: int = 0, encoder: bytes = ENCODER, side: int = 32, image: tuple[int, int] | None = None
) -> Payload:
    """A payload of a number, which a `FakeModel` answers with that number."""
    size = (side, side)
    return Payload(
        strings=(number.to_bytes(4, "little"),),
        shape=(side // 4, side // 4),
        encoder_id=encoder,
        kind=BottleneckKind.FACTORIZED,
        image_size=image or size,
        scaled_size=size,
        input_size=size,
        fit=Fit.RESIZED if image else Fit.NONE,
    )


class FakeModel:
    """A `SplitModel` that answers a payload with its number, and notes what it was given.

    Attributes:
        batches: numbers that were answered together.
        may_answer: cleared, it keeps all who ask waiting.
        is_asked: set once somebody has asked.
    """

    heads = ("classification",)
    num_bytes = 0

    def __init__(self, name: str = "one", encoder_id: bytes = ENCODER, size: int = 256) -> None:
        self.name, self.encoder_id = name, encoder_id
        self.rates = None
        self.network = nn.Linear(size, 1, bias=False)
        self.batches: list[list[int]] = []
        self.may_answer, self.is_asked = threading.Event(), threading.Event()
        self.may_answer.set()
        self.is_closed = False

    def encode(self, image: np.ndarray) -> Payload:
        return payload(0, self.encoder_id)

    def answer(self, payload: Payload) -> Answers:
        return Answers()

    def answer_batch(self, payloads, heads=None, *, on_stage=None) -> list[Answers]:
        self.is_asked.set()
        assert self.may_answer.wait(30)
        numbers = [int.from_bytes(one.strings[0], "little") for one in payloads]
        self.batches.append(numbers)
        if UNLUCKY in numbers:
            raise self.error
        on_stage("body", 0.25)
        return [Answers(classes=(Found(number, None, 0.5),)) for number in numbers]

    error: Exception = ValueError("unlucky")

    def close(self) -> None:
        self.is_closed = True


def check(found: Answers, expected: Answers) -> None:
    """Compare answers; a batch's arithmetic is not one image's to the last bit."""
    assert list(found) == list(expected)
    assert [one.label for one in found.classes] == [one.label for one in expected.classes]
    assert [one.name for one in found.classes] == [one.name for one in expected.classes]
    np.testing.assert_allclose(scores(found.classes), scores(expected.classes), atol=1e-4)
    assert len(found.objects) == len(expected.objects)
    np.testing.assert_allclose(scores(found.objects), scores(expected.objects), atol=1e-3)
    assert (found.mask.labels == expected.mask.labels).mean() > 0.999
    assert found.mask.names == expected.mask.names


def scores(found) -> list[float]:
    return [one.score for one in found]


def damaged(data: bytes, chance: random.Random, mended: bool) -> bytes:
    """Return a payload that was damaged on the way; or, mended, one that somebody made like that.

    A mended one is as long as it was, and its checksum fits: what is in it decides.
    """
    found = bytearray(data)
    for _ in range(chance.randrange(1, 4)):
        at, size = chance.randrange(len(found)), chance.randrange(1, 4)
        left = len(found[at : at + size])
        found[at : at + size] = chance.randbytes(left if mended else chance.randrange(4))
    if mended:
        found[-4:] = crc32c(bytes(found[:-4])).to_bytes(4, "little")
    return bytes(found)


class Reply(NamedTuple):
    """A response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> str:
        return json.loads(self.body)["error"]


@dataclass
class Site:
    """An application, asked without sockets."""

    app: Any
    service: Service

    async def ask(
        self,
        path: str,
        *parts: bytes | None,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        gone: asyncio.Event | None = None,
    ) -> Reply:
        """Send a request.

        Args:
            path: its path, and a query behind '?'.
            parts: of its body; after None nothing comes any more.
            method: GET or POST.
            headers: beside those of the body.
            gone: set when its client leaves.
        """
        left, sent = list(parts or (b"",)), []
        path, _, query = path.partition("?")

        async def receive() -> dict:
            if not left or left[0] is None:
                await (gone or asyncio.Event()).wait()
                return {"type": "http.disconnect"}
            part = left.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(left)}

        async def send(message: dict) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": query.encode(),
            "client": ("127.0.0.1", 1),
            "headers": [(k.lower().encode(), v.encode()) for k, v in (headers or {}).items()],
        }
        await self.app(scope, receive, send)
        if not sent:
            return Reply(0, {}, b"")
        start, *bodies = sent
        named = {k.decode(): v.decode() for k, v in start["headers"]}
        return Reply(start["status"], named, b"".join(one["body"] for one in bodies))

    async def infer(self, sent: Payload | bytes, *, model: str = "ladon", **settings: Any) -> Reply:
        """Send a payload."""
        data = sent if isinstance(sent, bytes) else sent.to_bytes()
        named = {k: settings.pop(k) for k in ("heads", "request_id") if k in settings}
        message = Request(payload=data, **named).to_message()
        headers = {**message.headers, **settings.pop("headers", {})}
        return await self.ask(
            infer_path(model), message.body, method="POST", headers=headers, **settings
        )


def site(engine: Engine, routes: Sequence[BaseRoute] = (), **limits: Any) -> Site:
    """An application in front of an engine, which is not started."""
    service = Service(engine, Limits(**limits))
    return Site(build_app(service, routes), service)


@dataclass
class Running:
    """A server in a process of its own.

    Attributes:
        url: host and port.
        process: its process.
        log: its file of log lines.
    """

    url: str
    process: Any
    log: Path

    def lines(self, **wanted: Any) -> list[dict]:
        """The lines of its log that say something."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [one for one in lines if wanted.items() <= one.items()]


@contextmanager
def server(folder: Path, *flags: Any, env: Mapping[str, str] | None = None) -> Iterator[Running]:
    """Run a server in a process of its own; flags are the command's."""
    folder.mkdir(exist_ok=True)
    said, log = folder / "said", folder / "log"
    command = [SCRIPT, "--port", 0, *flags]
    process = warm.start(command, out=said, err=log, env={**os.environ, **(env or {})})
    try:
        while not said.exists() or not said.read_text().endswith("\n"):
            process.join(0.02)
            if process.exitcode is not None:
                raise AssertionError(f"no server: {log.read_text()}")
        yield Running(said.read_text().split()[1].rpartition("/")[2], process, log)
    finally:
        process.kill()
        process.join()
