"""The page's paths.

    GET  /                         the page; it gets /page/NAME of `files`
    GET  /page/about               models, samples and limits
    GET  /page/samples/NAME        a picture to begin with
    POST /page/answer?model=NAME   the body, a picture's file, is encoded here and answered

A server with a token asks for it on the latter three; the page itself has a field for it. Nothing
is taken from other places, and the browser is told to see to that.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from ladon import __version__
from ladon.codec.container import Payload
from ladon.codec.rates import Rates
from ladon.errors import DataError
from ladon.serve.bodies import Bodies
from ladon.serve.recording import Record
from ladon.serve.refusals import Refusal, no_such_model
from ladon.serve.service import Service
from ladon.split.answers import Answers

MOST_BYTES = 1 << 24
"""Of a picture's file."""

_MOST_PICTURES = 8
"""That are being received or answered: each may be a body and, decoded, a hundred megabytes."""
_MEDIA_TYPE = "application/octet-stream"
"""Of a picture, whatever it is. No form of another site can send it, nor a script of one."""
_FILES = Path(__file__).parent / "files"
_MEDIA_TYPES = {
    "index.html": "text/html",
    "page.css": "text/css",
    "page.js": "text/javascript",
    "results.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
OPEN_PATHS = ("/", *(f"/page/{name}" for name in _MEDIA_TYPES))
"""Paths that need no token."""
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}

_T = TypeVar("_T")


class Page:
    """The page in front of a service.

    Args:
        body_timeout: seconds that a picture may take to come.
    """

    def __init__(self, body_timeout: float) -> None:
        self._bodies = Bodies(MOST_BYTES, _MOST_PICTURES * MOST_BYTES, body_timeout)
        self._num_pictures = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="page")
        self._files = {name: (_FILES / name).read_bytes() for name in _MEDIA_TYPES}

    def routes(self) -> list[BaseRoute]:
        """Return the paths, as `ladon.serve.app.build_app` takes them."""
        return [
            Route("/", self.file, name="page"),
            Route("/page/about", self.about, name="page"),
            Route("/page/samples/{name}", self.sample, name="page"),
            Route("/page/answer", self.answer, methods=["POST"], name="picture"),
            Route("/page/{name}", self.file, name="page"),
        ]

    async def file(self, request: Request) -> Response:
        """Return one of the page's files."""
        name = request.path_params.get("name", "index.html")
        if name not in self._files:
            raise Refusal(404, "path", "Not Found")
        return Response(self._files[name], headers=_HEADERS, media_type=_MEDIA_TYPES[name])

    async def about(self, request: Request) -> Response:
        """Tell what can be chosen."""
        service: Service = request.app.state.service
        if not service.infos:
            raise Refusal(503, "not ready", "the models are not loaded yet: try again")
        samples, beta_in = await self._in_thread(_prepared)
        betas = {info.name: beta_in(info.name) for info in service.infos.values()}
        return JSONResponse(
            {
                "version": __version__,
                "models": [
                    {
                        "name": name,
                        "beta": beta,
                        "heads": list(service.infos[name].heads),
                        "rates": _betas(service.infos[name].rates),
                    }
                    for name, beta in sorted(betas.items(), key=lambda one: one[1] or 0.0)
                ],
                "samples": [
                    {"name": name, "title": one.title, "alt": one.alt}
                    for name, one in samples.items()
                ],
                "most_bytes": MOST_BYTES,
            },
            headers=_HEADERS,
        )

    async def sample(self, request: Request) -> Response:
        """Return a picture to begin with."""
        samples, _ = await self._in_thread(_prepared)
        one = samples.get(request.path_params["name"])
        if one is None:
            raise Refusal(404, "path", "no such sample")
        return Response(one.data, headers=_HEADERS, media_type=one.media_type)

    async def answer(self, request: Request) -> Response:
        """Encode a picture, answer its payload, and show what came of it."""
        service: Service = request.app.state.service
        record: Record = request.scope["record"]
        name = request.query_params.get("model", "")
        if request.headers.get("content-type") != _MEDIA_TYPE:
            raise Refusal(415, "picture", f"send the picture's file as {_MEDIA_TYPE}")
        if service.infos and name not in service.infos:
            raise no_such_model(name, service.infos)
        rate = _rate(request.query_params.get("rate"))
        if self._num_pictures >= _MOST_PICTURES:
            raise Refusal(503, "queue full", "too many pictures at once: try again")
        self._num_pictures += 1
        try:
            return await service.take(
                request, self._bodies, lambda body: self._answer(service, body, name, rate, record)
            )
        finally:
            self._num_pictures -= 1

    async def _answer(
        self, service: Service, body: bytes, name: str, rate: float | None, record: Record
    ) -> Response:
        start = time.perf_counter()
        encoded = await service.engine.encode(body, name, rate)
        service.metrics.encoded(encoded)
        # from here on as any client's
        answered = await service.answer(encoded.payload, None, name, record)
        try:
            result = await self._in_thread(lambda: _result(body, encoded.payload, answered.answers))
        except DataError as error:
            raise Refusal(415, "picture", str(error)) from error
        stages = {
            "device": encoded.seconds,
            "server": answered.seconds,
            "page": result.pop("seconds"),
        }
        return JSONResponse(
            {
                **result,
                "model": answered.info.name,
                "heads": list(answered.info.heads),
                "payload_bytes": len(encoded.payload),
                "picture_bytes": len(body),
                "batch_size": answered.batch_size,
                "seconds": stages,
                "total": time.perf_counter() - start,
            },
            headers=_HEADERS,
        )

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _betas(rates: Rates | None) -> list[float] | None:
    """Return β of each level, the finest first."""
    return None if rates is None else [rates.beta(level) for level in range(rates.levels)]


def _rate(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        raise Refusal(400, "rate", f"rate={text[:40]}: no number") from None


def _prepared() -> tuple[Any, Any]:
    """Return the samples, and what reads β; import what results need: whoever opens the page waits.

    It is not imported before: torch is among it, which this process may not need at all.
    """
    import ladon.serve.page.results  # noqa: F401
    from ladon.report.results import beta_in
    from ladon.serve.page.samples import samples

    return samples(), beta_in


def _result(body: bytes, payload: bytes, answers: Answers) -> dict[str, Any]:
    from ladon.serve.page.results import result_of

    return result_of(body, Payload.from_bytes(payload), answers)
