"""A server that is told to stop: while it loads, while a request does not end, twice."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import threading

import pytest
from serving import FakeModel

from ladon.errors import CheckpointError, Interrupted
from ladon.serve.engine import EngineSettings, LocalEngine
from ladon.serve.server import Address, serve
from ladon.serve.service import Limits


def run(load, said=lambda line: None) -> None:
    """Serve in this thread until a signal comes."""
    engine = LocalEngine(EngineSettings(sources=("one",)), load)
    serve(engine, Limits(), Address(port=0), said)


def stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_one_signal_ends_it():
    run(lambda _: FakeModel(), lambda line: stop())


def test_a_second_signal_gives_up_what_is_running():
    slow: list[socket.socket] = []

    def in_another_thread(line: str) -> None:
        address = line.rpartition("/")[2]
        host, port = address.split(":")
        one = socket.create_connection((host, int(port)))
        slow.append(one)
        head = "POST /v2/models/ladon/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n"
        one.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
        assert one.recv(99).startswith(b"HTTP/1.1 100")  # its body is waited for now
        stop()
        status = 200
        while status == 200:  # until the signal has come to the loop
            probe = http.client.HTTPConnection(address, timeout=30)
            probe.request("GET", "/v2/health/ready")
            status = probe.getresponse().status
            probe.close()
        stop()

    with pytest.raises(Interrupted, match="requests were given up") as caught:
        run(
            lambda _: FakeModel(),
            lambda line: threading.Thread(target=in_another_thread, args=(line,)).start(),
        )
    assert caught.value.exit_code == 143
    slow[0].close()


def test_a_signal_while_models_are_loaded():
    may_load = threading.Event()

    def load(_: str) -> FakeModel:
        stop()
        assert may_load.wait(30)
        return FakeModel()

    run(load, lambda line: pytest.fail("it was told to stop"))
    may_load.set()


def test_models_that_cannot_be_loaded():
    def load(_: str) -> FakeModel:
        raise CheckpointError("one.pt: damaged")

    with pytest.raises(CheckpointError, match=r"one\.pt: damaged"):
        run(load)
