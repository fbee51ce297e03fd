"""Replicas through Ray Serve: the same answers, and what a lost one had is answered by another."""

from __future__ import annotations

import http.client
import io
import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image
from serving import SCRIPT, Running, server
from split_models import pixels, write_models

import ladon
from ladon.edge.messages import HEADER_LENGTH
from ladon.edge.protocol import Request, Response, infer_path

pytest.importorskip("ray")

CLIENTS = 6


def ask(connection: http.client.HTTPConnection, data: bytes) -> Response:
    message = Request(payload=data, heads=("classification",)).to_message()
    connection.request("POST", infer_path(), message.body, message.headers)
    response = connection.getresponse()
    body = response.read()
    assert response.status == 200, body
    return Response.from_message(body, response.headers[HEADER_LENGTH])


@pytest.mark.slow
def test_a_replica_that_is_killed_loses_no_request(tmp_path):
    config = write_models(tmp_path)["ladon"]
    with ladon.load(config) as model:
        sent = [model.encode(pixels(40, 60, seed=n)) for n in range(CLIENTS)]
        expected = [model.answer(one, ("classification",)).classes for one in sent]
    killed, workers = threading.Event(), dict[str, int]()

    def stream(one: Running, number: int) -> int:
        connection = http.client.HTTPConnection(one.url, timeout=120)
        count, after = 0, 0
        while after < 20:
            answer = ask(connection, sent[number].to_bytes())
            labels = [found.label for found in answer.answers.classes]
            assert labels == [found.label for found in expected[number]]
            count, after = count + 1, after + killed.is_set()
        return count

    with (
        server(tmp_path / "s", "--replicas", 2, "--threads", 1, "--config", config) as one,
        ThreadPoolExecutor(CLIENTS) as pool,
    ):
        streams = [pool.submit(stream, one, number) for number in range(CLIENTS)]
        while len(workers) < 2:
            one.process.join(0.1)
            workers = {
                line["worker"]: int(line["worker"].rpartition("-")[2])
                for line in one.lines(message="request", status=200)
            }
        os.kill(next(iter(workers.values())), signal.SIGKILL)
        killed.set()
        count = sum(future.result(120) for future in streams)
        connection = http.client.HTTPConnection(one.url)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        assert f'ladon_requests_total{{route="infer",status="200"}} {float(count)}' in text
        assert "ladon_replica_retries_total 0.0" not in text
        file = io.BytesIO()
        Image.fromarray(pixels(40, 60, seed=0)).save(file, "PNG")
        headers = {"Content-Type": "application/octet-stream"}
        connection.request("POST", "/page/answer?model=ladon", file.getvalue(), headers)
        shown = json.loads(connection.getresponse().read())
        assert shown["payload_bytes"] == len(sent[0].to_bytes())
        connection.request("POST", "/page/answer?model=ladon", b"none", headers)
        assert connection.getresponse().status == 415
        os.kill(one.process.pid, signal.SIGTERM)
        one.process.join(60)
        assert one.process.exitcode == 0


def test_without_ray_it_says_what_to_install_and_local_needs_none(tmp_path):
    """Ray and what it needs cannot be imported in this child."""
    (tmp_path / "ray.py").write_text("raise ModuleNotFoundError('no ray', name='ray')")
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, SCRIPT, "--config", "x.yaml", "--port", "0"],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "ray is not installed: `pip install '.[serve]'`" in done.stderr
    assert "`--local` does without ray" in done.stderr

    code = (
        "import sys; sys.argv = ['serve']; import ladon.commands.serve as s\n"
        "from ladon.serve import server, service, recording, engine\n"
        "from ladon.serve.page import routes\n"
        "print([m for m in ('ray', 'torch') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(Path(SCRIPT).parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
