"""Sending payloads to a server, by the standard library alone; `ladon.edge.protocol` says what.

client = Client("http://127.0.0.1:8000")
answers = client.answer(payload).answers
"""

from __future__ import annotations

import http.client
import logging
import random
import ssl
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from ladon.codec.container import MOST_IMAGE_PIXELS, Payload
from ladon.edge.messages import HEADER_LENGTH, Message
from ladon.edge.protocol import ProtocolError, Request, Response, error_message, infer_path
from ladon.errors import LadonError, UsageError, in_one_line

logger = logging.getLogger(__name__)

MOST_RESPONSE_BYTES = MOST_IMAGE_PIXELS + (1 << 24)
"""The largest image's mask, and the other heads' answers."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 10.0
# a server that is full, restarts or drains, or a proxy before one
_LATER = (429, 502, 503, 504)


class ServerError(LadonError):
    """A server that cannot be reached, or that refuses."""


class RefusedError(ServerError):
    """A request that the server refuses, as it would the next time.

    Attributes:
        status: of HTTP.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _NotNowError(Exception):
    """An attempt that failed and may be made anew.

    Attributes:
        after: seconds that the server asks to wait, if it does.
    """

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.after = after


class Client:
    """A connection to a server, kept open; one thread at a time.

    What fails on the way is tried again after a pause that doubles each time, up to 10 s and of
    random length (M. Brooker, "Exponential backoff and jitter", AWS Architecture Blog, 2015), or as
    long as the server asks for. A payload may be sent twice: it is answered alike.

    Args:
        url: http:// or https://, with a path where the server is behind a proxy.
        token: what the server wants to be shown, if it does.
        retries: further attempts after the first.
        timeout: seconds that connecting and each wait for bytes may take.
        ca: PEM file of the authority that signed the server's certificate; None: the system's.
        sleep: waits so many seconds.

    Raises:
        UsageError: the URL is none, or the file of the authority cannot be read.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        retries: int = 5,
        timeout: float = 30.0,
        ca: Path | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url = url.rstrip("/")
        self._connection = _connection(url, timeout, ca)
        self._path = urlsplit(self.url).path
        self._token, self._retries, self._sleep = token, retries, sleep

    def answer(self, payload: Payload | bytes, heads: Sequence[str] | None = None) -> Response:
        """Send a payload; return what the server answers.

        Args:
            payload: of one image.
            heads: those that are asked; None: all.

        Raises:
            RefusedError: the server refuses it: another model's, a wrong token.
            ServerError: the server could not be reached, or was full, at every attempt; or what it
                sends is no answer.
        """
        data = payload if isinstance(payload, bytes) else payload.to_bytes()
        request = Request(payload=data, heads=None if heads is None else tuple(heads))
        message, path = request.to_message(), self._path + infer_path()
        for attempt in range(self._retries + 1):
            try:
                return self._attempt(path, message)
            except _NotNowError as error:
                self.close()
                if attempt == self._retries:
                    raise ServerError(f"{self.url} {error}, {attempt + 1} times") from error
                longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**attempt)
                share = random.uniform(0.5, 1)  # nosec B311 # so that clients spread
                pause = max(min(error.after, _LONGEST_PAUSE), longest * share)
                logger.warning("%s %s; again in %.1f s", self.url, error, pause)
                self._sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    def _attempt(self, path: str, message: Message) -> Response:
        headers = dict(message.headers)
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        try:
            self._connection.request("POST", path, message.body, headers)
            response = self._connection.getresponse()
            body = response.read(MOST_RESPONSE_BYTES + 1)
        except ssl.SSLCertVerificationError as error:
            raise ServerError(f"{self.url}: {error.verify_message}: name its --ca") from error
        except (OSError, http.client.HTTPException) as error:
            raise _NotNowError(f"cannot be reached ({in_one_line(error)})") from error
        if len(body) > MOST_RESPONSE_BYTES:
            self.close()
            raise ServerError(f"{self.url}: an answer of more than {MOST_RESPONSE_BYTES:,} bytes")
        if response.status == 200:
            try:
                return Response.from_message(body, response.getheader(HEADER_LENGTH))
            except ProtocolError as error:
                raise ServerError(f"{self.url}: no answer of a Ladon server: {error}") from error
        said = error_message(body) or response.reason
        if response.status in _LATER:
            raise _NotNowError(f"says ({response.status}): {said}", _seconds(response))
        raise RefusedError(response.status, f"{self.url} refuses ({response.status}): {said}")

    def close(self) -> None:
        """Close the connection; the next request opens another one."""
        self._connection.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _connection(url: str, timeout: float, ca: Path | None) -> http.client.HTTPConnection:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(f"{url}: no URL: {error}") from error
    if parts.scheme not in ("http", "https") or not host:
        raise UsageError(f"{url}: no URL of a server, such as http://127.0.0.1:8000")
    if parts.scheme == "http":
        return http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        context = ssl.create_default_context(cafile=None if ca is None else str(ca))
    except OSError as error:  # SSLError is one
        raise UsageError(f"{ca}: no certificates in PEM: {error}") from error
    return http.client.HTTPSConnection(host, port, timeout=timeout, context=context)


def _seconds(response: http.client.HTTPResponse) -> float:
    """Return the seconds that a server asks to wait; 0 if it says none, or a date."""
    text = response.getheader("Retry-After") or ""
    return float(text) if text.isascii() and text.isdigit() else 0.0
