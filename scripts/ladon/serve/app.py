"""The web application.

    GET  /v2/health/live, /v2/health/ready       whether it runs; whether it takes payloads
    GET  /v2, /v2/models/NAME[/ready | /config]  what there is
    POST /v2/models/NAME/infer                   a payload's answers (`ladon.edge.protocol`)
    GET  /metrics                                for Prometheus

Errors are `{"error": "…"}`. With a token, all but the health paths ask for it.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence
from functools import partial

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ladon.serve.bodies import ClientGone
from ladon.serve.recording import Record
from ladon.serve.refusals import Refusal
from ladon.serve.service import HEALTH, Service

log = logging.getLogger(__name__)
_GONE = 499  # nginx's status for a client that left; it is only logged


class Guard:
    """Stands around all paths: asks for the token, makes errors responses, writes requests down.

    Args:
        app: what is behind it.
        service: whose paths they are.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client = scope.get("client")
        record = Record(client[0] if client else "", scope["method"], scope["path"])
        scope["record"], statuses = record, list[int]()

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])
            await send(message)

        with self._service.running():
            try:
                response = await self._respond(scope, receive, sent, record)
                if response is not None and not statuses:
                    await response(scope, receive, sent)
            finally:
                status = statuses[0] if statuses else _GONE
                self._service.metrics.over(record, _route_of(scope), status)

    async def _respond(
        self, scope: Scope, receive: Receive, send: Send, record: Record
    ) -> Response | None:
        """Let the path answer; return the response of what went wrong."""
        try:
            self._check_token(scope)
            await self._app(scope, receive, send)
        except Refusal as refusal:
            record.reason, record.fields["error"] = refusal.reason, str(refusal)
            return JSONResponse({"error": str(refusal)}, refusal.status, refusal.headers)
        except ClientGone:
            record.reason = "client gone"
        except Exception:
            record.reason = "internal error"
            log.exception("a request could not be answered: %s", scope["path"][:200])
            return JSONResponse({"error": "internal error: the server's log says more"}, 500)
        return None

    def _check_token(self, scope: Scope) -> None:
        limits = self._service.limits
        if limits.token is None or scope["path"] in (*HEALTH, *limits.open_paths):
            return
        given = dict(scope["headers"]).get(b"authorization", b"")
        if not secrets.compare_digest(given, f"Bearer {limits.token}".encode()):
            raise Refusal(401, "token", "send the server's token as 'Authorization: Bearer TOKEN'")


def build_app(service: Service, routes: Sequence[BaseRoute] = ()) -> Starlette:
    """Return the application.

    Args:
        service: what the protocol's paths do.
        routes: further paths, as a page's; behind the protocol's own.
    """
    app = Starlette(
        routes=[*service.routes(), *routes],
        middleware=[Middleware(partial(Guard, service=service))],
        exception_handlers={HTTPException: _http_error},
    )
    app.state.service = service
    return app


async def _http_error(request: Request, error: Exception) -> Response:
    """Answer what has no path, or another method."""
    assert isinstance(error, HTTPException)
    request.scope["record"].reason = "path"
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


def _route_of(scope: Scope) -> str:
    route = scope.get("route")
    name = getattr(route, "name", None)
    return name if isinstance(name, str) and name else "other"
