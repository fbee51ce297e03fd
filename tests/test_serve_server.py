"""A server in its own process, asked through sockets: by Triton's clients, and by worse ones."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from PIL import Image
from serving import Running, check, damaged, payload, server
from split_models import pixels, write_models

import ladon
from ladon.edge.messages import HEADER_LENGTH
from ladon.edge.protocol import Request, Response, infer_path, tensors_to_answers
from ladon.split.answers import Answers

HEADS = ("classification", "detection", "segmentation")


class Pair(NamedTuple):
    """A payload, and what the model answers in this process."""

    data: bytes
    answers: Answers


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def pairs(configs):
    """Payloads of images of two sizes."""
    with ladon.load(configs["ladon"]) as model:
        images = [pixels(40 + 20 * (n % 2), 60, seed=n) for n in range(6)]
        sent = [model.encode(image) for image in images]
        return [Pair(one.to_bytes(), model.answer(one)) for one in sent]


@pytest.fixture(scope="module")
def running(configs, tmp_path_factory):
    flags = ("--local", "--config", configs["ladon"], "--max-delay-ms", 5)
    with server(tmp_path_factory.mktemp("server"), *flags) as one:
        yield one


def tensor(data: bytes) -> triton.InferInput:
    made = triton.InferInput("payload", [1], "BYTES")
    made.set_data_from_numpy(np.array([data], object))
    return made


def answers_in(result: triton.InferResult) -> Answers:
    names = [output["name"] for output in result.get_response()["outputs"]]
    return tensors_to_answers({name: result.as_numpy(name) for name in names})


def ask(running: Running, data: bytes, connection: http.client.HTTPConnection | None = None):
    """Send a payload over HTTP; return status, headers and body."""
    message = Request(payload=data).to_message()
    made = connection or http.client.HTTPConnection(running.url, timeout=60)
    made.request("POST", infer_path(), message.body, message.headers)
    response = made.getresponse()
    found = response.status, response.headers, response.read()
    if connection is None:
        made.close()
    return found


def metrics(running: Running) -> dict[str, float]:
    connection = http.client.HTTPConnection(running.url, timeout=60)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    lines = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in lines}


def test_tritons_client_alone_gets_what_the_model_answers(running, pairs):
    client = triton.InferenceServerClient(running.url)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("ladon")
    assert client.get_server_metadata()["name"] == "ladon"
    assert len(client.get_model_metadata("ladon")["outputs"]) == 10
    assert client.get_model_config("ladon")["heads"] == list(HEADS)
    for number, pair in enumerate(pairs):
        result = client.infer("ladon", [tensor(pair.data)], request_id=f"r{number}")
        found = answers_in(result)
        check(found, pair.answers)
        assert found.objects == pair.answers.objects  # alone, to the last bit
        assert result.get_response()["id"] == f"r{number}"
        plain = json.loads(result.as_numpy("answers").item())
        assert plain["segmentation"]["size"] == list(pair.answers.mask.labels.shape)


@pytest.mark.parametrize("way", ["gzip", "deflate"])
def test_tritons_compression(running, pairs, way):
    client = triton.InferenceServerClient(running.url)
    result = client.infer(
        "ladon",
        [tensor(pairs[0].data)],
        request_compression_algorithm=way,
        response_compression_algorithm=way,
    )
    check(answers_in(result), pairs[0].answers)


def test_tritons_client_asks_some_heads_by_parameter_or_by_output(running, pairs):
    client = triton.InferenceServerClient(running.url)
    by_parameter = client.infer(
        "ladon", [tensor(pairs[0].data)], parameters={"heads": "segmentation"}
    )
    by_output = client.infer(
        "ladon",
        [tensor(pairs[0].data)],
        outputs=[triton.InferRequestedOutput("mask", binary_data=False)],
    )
    for result in (by_parameter, by_output):
        np.testing.assert_array_equal(result.as_numpy("mask"), pairs[0].answers.mask.labels)
        assert result.as_numpy("boxes") is None


def test_tritons_errors_say_what_is_wrong(running, pairs):
    client = triton.InferenceServerClient(running.url)
    for data, said in (
        (pairs[0].data[:-1], "send it anew, whole and alone"),
        (payload(1).to_bytes(), "use the model that the sender has"),
    ):
        with pytest.raises(triton.InferenceServerException, match=said):
            client.infer("ladon", [tensor(data)])
    with pytest.raises(triton.InferenceServerException, match="no model 'two' here"):
        client.infer("two", [tensor(pairs[0].data)])


def test_tritons_asynchronous_client_gets_its_answers_from_batches(running, pairs):
    async def run():
        async with triton_aio.InferenceServerClient(running.url) as client:
            assert await client.is_server_ready()
            asked = [pairs[n % len(pairs)] for n in range(24)]
            results = await asyncio.gather(
                *(
                    client.infer("ladon", [tensor(pair.data)], request_id=str(n))
                    for n, pair in enumerate(asked)
                )
            )
            for n, (pair, result) in enumerate(zip(asked, results, strict=True)):
                check(answers_in(result), pair.answers)
                assert result.get_response()["id"] == str(n)
            return [result.get_response()["parameters"]["batch_size"] for result in results]

    assert max(asyncio.run(run())) > 1


def test_eight_clients_at_once_get_each_their_own(running, pairs):
    before = metrics(running)

    def stream(number: int) -> int:
        connection = http.client.HTTPConnection(running.url, timeout=60)
        for round_ in range(4):
            pair = pairs[(number + round_) % len(pairs)]
            status, headers, body = ask(running, pair.data, connection)
            assert status == 200, body
            check(Response.from_message(body, headers[HEADER_LENGTH]).answers, pair.answers)
        connection.close()
        return 4

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(stream, range(8))) == 32
    after = metrics(running)
    answered = after["ladon_batch_size_sum"] - before["ladon_batch_size_sum"]
    batches = after["ladon_batch_size_count"] - before["ladon_batch_size_count"]
    assert answered == 32
    assert batches < 32


def test_hostile_payloads_do_no_harm(running, pairs):
    """120 payloads: damaged, or with a checksum that fits whatever is in them."""
    chance, connection = random.Random(2), http.client.HTTPConnection(running.url, timeout=60)
    ask(running, pairs[0].data, connection)
    before, statuses = metrics(running)["process_resident_memory_bytes"], set()
    for number in range(120):
        data = damaged(chance.choice(pairs).data, chance, mended=number % 2 == 1)
        status, _, body = ask(running, data, connection)
        assert status in (200, 400, 413, 422), body
        statuses.add(status)
    assert 400 in statuses
    assert metrics(running)["process_resident_memory_bytes"] < before + (64 << 20)
    status, headers, body = ask(running, pairs[0].data, connection)
    check(Response.from_message(body, headers[HEADER_LENGTH]).answers, pairs[0].answers)


def test_a_picture_for_the_page_is_what_a_device_would_send(running, pairs):
    file = io.BytesIO()
    Image.fromarray(pixels(40, 60, seed=0)).save(file, "PNG")
    connection = http.client.HTTPConnection(running.url, timeout=60)
    headers = {"Content-Type": "application/octet-stream"}
    connection.request("POST", "/page/answer?model=ladon", file.getvalue(), headers)
    result = json.loads(connection.getresponse().read())
    connection.close()
    assert result["payload_bytes"] == len(pairs[0].data)
    found = [one["score"] for one in result["answers"]["classification"]]
    expected = [one.score for one in pairs[0].answers.classes]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    stages = ["queue", "reading", "fit", "analysis", "coding"]
    assert list(result["seconds"]["device"]) == stages
    stages = ["queue", "decoding", "synthesis", "body", *HEADS]
    assert list(result["seconds"]["server"]) == stages


def raw(running: Running, data: bytes) -> socket.socket:
    host, port = running.url.split(":")
    made = socket.create_connection((host, int(port)), timeout=60)
    made.sendall(data)
    return made


def test_clients_that_leave_in_the_middle_do_no_harm(running, pairs):
    message = Request(payload=pairs[0].data).to_message()
    head = f"POST {infer_path()} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(message.body)}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in message.headers.items()) + "\r\n"
    for data in (b"PO", head.encode(), head.encode() + message.body[:99]):
        raw(running, data).close()
    for _ in range(8):  # in the middle of its answer
        raw(running, head.encode() + message.body).close()
    assert ask(running, pairs[0].data)[0] == 200
    assert metrics(running)["ladon_queue_length"] == 0


def test_an_oversized_body_learns_why(running):
    status, headers, body = ask(running, bytes(3 << 20))
    assert status == 413
    assert headers["Connection"] == "close"
    assert json.loads(body)["error"] == "a body of more than 1,048,576 bytes"


@pytest.mark.parametrize(
    "data", [b"\0" * 100, b"GET / HTTP\r\n\r\n", b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000]
)
def test_what_is_no_request_is_answered_and_the_connection_ended(running, data):
    with raw(running, data) as one:
        said = b"".join(iter(lambda: one.recv(4096), b""))
    assert b" 400 " in said.splitlines()[0]


@pytest.fixture
def certificate(tmp_path):
    """A certificate of this machine's loopback, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    files = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1"
    name = ["-subj", "/CN=x", "-addext", "subjectAltName=IP:127.0.0.1"]
    made = ["-out", str(files[0]), "-keyout", str(files[1])]
    subprocess.run([*command.split(), *name, *made], check=True, capture_output=True)
    return files


def test_two_models_where_one_has_room_behind_tls_and_a_token(
    configs, pairs, tmp_path, certificate
):
    """The classifier and the three heads of one body are two models with one encoder."""
    flags = ["--local", "--memory", 0.25, "--tls-cert", certificate[0], "--tls-key", certificate[1]]
    for head in ("classification", "ladon"):
        flags += ["--config", configs[head]]
    with server(tmp_path / "s", *flags, env={"LADON_TOKEN": "abc"}) as one:
        secure = ssl.create_default_context(cafile=certificate[0])
        connection = http.client.HTTPSConnection(one.url, timeout=60, context=secure)
        assert ask(one, pairs[0].data, connection)[0] == 401
        client = triton.InferenceServerClient(
            one.url,
            ssl=True,
            ssl_context_factory=lambda: ssl.create_default_context(cafile=certificate[0]),
        )
        for name in ("classification", "ladon"):
            result = client.infer(
                name,
                [tensor(pairs[0].data)],
                parameters={"heads": "classification"},
                headers={"Authorization": "Bearer abc"},
            )
            labels = [found.label for found in pairs[0].answers.classes]
            assert result.as_numpy("class_labels").tolist() == labels
        said = [line["message"] for line in one.lines(logger="ladon.serve.models")]
        assert [" ".join(line.replace(":", "").split()[:2]) for line in said] == [
            "loaded classification",
            "unloaded classification",
            "loaded ladon",
            "unloaded ladon",
            "loaded classification",
            "unloaded classification",
            "loaded ladon",
        ]


def test_sigterm_under_load_answers_what_was_accepted(configs, pairs, tmp_path):
    """Each 200 that the server has written down has come to a client, whole; it exits with 0."""
    enough = threading.Semaphore(0)

    def stream(one: Running, number: int) -> list[str]:
        answered, pair = [], pairs[number % len(pairs)]
        connection = http.client.HTTPConnection(one.url, timeout=60)
        for round_ in range(10_000):
            name = f"{number}-{round_}"
            message = Request(payload=pair.data, request_id=name).to_message()
            try:
                connection.request("POST", infer_path(), message.body, message.headers)
                response = connection.getresponse()
                body = response.read()
            except (http.client.RemoteDisconnected, ConnectionError):
                return answered  # it has stopped listening
            if response.status == 503:
                return answered
            assert response.status == 200
            answer = Response.from_message(body, response.headers[HEADER_LENGTH])
            check(answer.answers, pair.answers)
            answered.append(answer.request_id)
            enough.release()
        raise AssertionError("the server has not stopped")

    with (
        server(tmp_path / "s", "--local", "--config", configs["ladon"]) as one,
        ThreadPoolExecutor(8) as pool,
    ):
        streams = [pool.submit(stream, one, number) for number in range(8)]
        for _ in range(24):
            assert enough.acquire(timeout=60)
        os.kill(one.process.pid, signal.SIGTERM)
        answered = [name for stream in streams for name in stream.result(60)]
        one.process.join(60)
        assert one.process.exitcode == 0
        written = [line["id"] for line in one.lines(message="request", status=200)]
    assert sorted(written) == sorted(answered)
    assert len(answered) >= 24


def test_a_server_that_is_killed_and_a_body_that_does_not_come(configs, pairs, tmp_path):
    """Clients learn of both at once, and do not wait for ever."""
    enough = threading.Semaphore(0)

    def stream(one: Running) -> str:
        connection = http.client.HTTPConnection(one.url, timeout=60)
        try:
            while True:
                assert ask(one, pairs[0].data, connection)[0] == 200
                enough.release()
        except (http.client.HTTPException, ConnectionError) as error:
            return type(error).__name__

    flags = ("--local", "--config", configs["ladon"], "--body-timeout", 0.2)
    with server(tmp_path / "s", *flags) as one, ThreadPoolExecutor(4) as pool:
        head = f"POST {infer_path()} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{{".encode()
        with raw(one, head) as slow:
            said = b"".join(iter(lambda: slow.recv(4096), b""))
        assert said.startswith(b"HTTP/1.1 408 ")
        streams = [pool.submit(stream, one) for _ in range(4)]
        for _ in range(8):
            assert enough.acquire(timeout=60)
        one.process.kill()
        seen = {future.result(60) for future in streams}
    assert seen <= {"RemoteDisconnected", "ConnectionResetError", "ConnectionRefusedError"}
