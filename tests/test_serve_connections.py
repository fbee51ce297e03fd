"""Connections whose clients dawdle: with headers, between two requests, while reading."""

from __future__ import annotations

import asyncio

import pytest
import uvicorn
from uvicorn.server import ServerState

from ladon.serve import connections
from ladon.serve.connections import Connection

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class App:
    """Answers with as many bytes as it is told; waits for bodies."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.is_over = asyncio.Event()

    async def __call__(self, scope, receive, send):
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for left in range(self.size, 0, -65536):
            part = bytes(min(left, 65536))
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        self.is_over.set()


@pytest.fixture
def with_client(monkeypatch):
    """Runs a test with an app and a client's reader and writer; waits are short."""
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.1)
    monkeypatch.setattr(connections, "READING_SECONDS", 0.1)

    def run(test, size: int = 3):
        async def work():
            app = App(size)
            config = uvicorn.Config(
                app, http=Connection, ws="none", lifespan="off", log_config=None
            )
            config.load()
            state, loop = ServerState(), asyncio.get_running_loop()
            server = await loop.create_server(
                lambda: Connection(config=config, server_state=state, app_state={}), "127.0.0.1"
            )
            async with server, asyncio.timeout(30):
                address = server.sockets[0].getsockname()
                reader, writer = await asyncio.open_connection(*address)
                await test(reader, writer, app)
                writer.close()

        asyncio.run(work())

    return run


async def is_ended(reader: asyncio.StreamReader) -> bool:
    try:
        return await reader.read() == b""
    except ConnectionError:
        return True


@pytest.mark.parametrize("sent", [b"", b"GET / HT", GET[:-2]])
def test_headers_that_do_not_come(with_client, sent):
    async def test(reader, writer, app):
        writer.write(sent)
        assert await is_ended(reader)

    with_client(test)


def test_headers_that_come_byte_by_byte(with_client):
    async def test(reader, writer, app):
        ended = asyncio.create_task(is_ended(reader))
        while not ended.done():
            writer.write(b"x")
            await asyncio.wait([ended], timeout=0.01)
        assert ended.result()

    with_client(test)


def test_a_second_request_whose_headers_do_not_come(with_client):
    async def test(reader, writer, app):
        writer.write(GET)
        await reader.readuntil(b"0\r\n\r\n")
        writer.write(GET[:9])
        assert await is_ended(reader)

    with_client(test)


def test_a_connection_may_be_idle_and_bodies_are_the_applications_matter(with_client):
    async def test(reader, writer, app):
        writer.write(GET)
        await reader.readuntil(b"0\r\n\r\n")
        await asyncio.sleep(0.2)  # longer than headers may take
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n1")
        await asyncio.sleep(0.2)
        writer.write(b"2")
        assert (await reader.readuntil(b"0\r\n\r\n")).startswith(b"HTTP/1.1 200")

    with_client(test)


def test_a_client_that_does_not_read(with_client):
    async def test(reader, writer, app):
        writer.transport.pause_reading()
        writer.write(GET)
        await app.is_over.wait()  # its writing would not end otherwise
        writer.transport.resume_reading()
        try:
            came = len(await reader.read())
        except ConnectionError:
            came = 0
        assert came < app.size

    with_client(test, size=64 << 20)
