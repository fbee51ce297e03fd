"""A server whose answers a test writes down beforehand; loopback only."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

from ladon.edge.protocol import Request, Response
from ladon.split.answers import Answers, Found, Mask

ANSWERS = Answers(
    classes=(Found(3, "three", 0.75), Found(1, None, 0.25)),
    objects=(Found(2, "two", 0.9, (1.0, 2.0, 30.5, 40.0)),),
    mask=Mask(np.arange(12, dtype=np.uint8).reshape(3, 4), ("sky", "sea")),
)


def good() -> tuple[int, dict[str, str], bytes]:
    """An answer as a server sends it."""
    response = Response(model="a", answers=ANSWERS, seconds={"body": 0.25}, batch_size=2)
    message = response.to_message(Request(payload=b""))
    return 200, message.headers, message.body


def refusal(status: int, text: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, named, json.dumps({"error": text}).encode()


@dataclass
class Scripted:
    """What a server says to one request after another; the last one to all further ones.

    Attributes:
        answers: status, headers and body of each; None: the connection is cut instead.
        requests: path, headers and body of those that came.
        url: of the server.
    """

    answers: Sequence[tuple[int, dict[str, str], bytes] | None]
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    url: str = ""


@contextmanager
def serving(answers: Sequence[tuple[int, dict[str, str], bytes] | None]) -> Iterator[Scripted]:
    """Run such a server while it is open."""
    script = Scripted(answers)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 20

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            number = min(len(script.requests), len(script.answers) - 1)
            script.requests.append((self.path, dict(self.headers), body))
            answer = script.answers[number]
            if answer is None:
                self.close_connection = True
                return
            status, headers, content = answer
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Stay quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    script.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield script
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def refused_url() -> str:
    """A URL at which nobody listens."""
    with serving([None]) as script:
        return script.url
