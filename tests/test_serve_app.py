"""The web application without sockets: limits, tokens, deadlines, draining, what it tells."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging

import pytest
from serving import ENCODER, UNLUCKY, FakeModel, payload, site
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from ladon.edge.messages import HEADER_LENGTH
from ladon.edge.protocol import Request, Response, infer_path
from ladon.serve.app import build_app
from ladon.serve.bodies import Bodies
from ladon.serve.engine import EngineSettings, LocalEngine
from ladon.serve.recording import JsonFormatter
from ladon.serve.service import Limits, Service

INFER = infer_path()
POST = {"method": "POST"}


def with_site(test, model: FakeModel | None = None, *, started: bool = True, **limits):
    """Run a test with an application in front of a fake model."""
    model = model or FakeModel()

    async def run():
        engine = LocalEngine(EngineSettings(sources=("one",)), lambda _: model)
        made = site(engine, **limits)
        try:
            async with asyncio.timeout(30):
                if started:
                    await made.service.start()
                await test(made, model)
        finally:
            model.may_answer.set()
            await engine.close()

    asyncio.run(run())


async def asked(model: FakeModel) -> None:
    """Wait until a fake model has been asked."""
    assert await asyncio.to_thread(model.is_asked.wait, 30)


async def metric(made, name: str) -> float:
    text = (await made.ask("/metrics")).body.decode()
    return float(next(line for line in text.splitlines() if line.startswith(name)).split()[-1])


def test_an_answer():
    async def test(made, model):
        reply = await made.infer(payload(7), request_id="r7")
        answer = Response.from_message(reply.body, reply.headers[HEADER_LENGTH.lower()])
        assert (reply.status, answer.model, answer.request_id) == (200, "one", "r7")
        assert answer.answers.classes[0].label == 7
        assert answer.encoder_id == ENCODER.hex()
        assert set(answer.seconds) == {"queue", "body"}

    with_site(test)


def test_compression_is_undone_and_done_as_asked():
    async def test(made, model):
        message = Request(payload=payload(7).to_bytes()).to_message()
        headers = {**message.headers, "Content-Encoding": "gzip", "Accept-Encoding": "br, gzip"}
        reply = await made.ask(INFER, gzip.compress(message.body), headers=headers, **POST)
        assert (reply.status, reply.headers["content-encoding"]) == (200, "gzip")
        answer = Response.from_message(
            gzip.decompress(reply.body), reply.headers[HEADER_LENGTH.lower()]
        )
        assert answer.answers.classes[0].label == 7

        bomb = gzip.compress(bytes(1 << 21))
        reply = await made.ask(INFER, bomb, headers=headers, **POST)
        assert (reply.status, reply.error) == (413, "a body of more than 1,048,576 bytes")

    with_site(test)


def test_what_it_says_of_itself():
    async def test(made, model):
        assert (await made.ask("/v2")).status == 200
        for name in ("ladon", "one"):
            about = json.loads((await made.ask(f"/v2/models/{name}")).body)
            assert [one["name"] for one in about["outputs"]] == [
                "class_labels",
                "class_scores",
                "class_names",
                "answers",
            ]
            assert (await made.ask(f"/v2/models/{name}/ready")).status == 200
            config = json.loads((await made.ask(f"/v2/models/{name}/config")).body)
            assert config["encoders"] == {"one": ENCODER.hex()}
        for path in ("/v2/models/two", "/v2/models/two/ready", "/nowhere"):
            assert (await made.ask(path)).status == 404
        assert (await made.ask(INFER)).status == 405
        assert (await made.ask("/nowhere")).error == "Not Found"

    with_site(test)


def test_before_the_models_are_loaded_it_lives_and_is_not_ready():
    async def test(made, model):
        assert (await made.ask("/v2/health/live")).status == 200
        assert (await made.ask("/v2/health/ready")).status == 503
        reply = await made.infer(payload(1))
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")

    with_site(test, started=False)


def test_a_failed_engine_is_not_alive():
    async def test(made, model):
        await made.service.engine.close()
        assert (await made.ask("/v2/health/live")).status == 503
        assert (await made.ask("/v2/health/ready")).status == 503

    with_site(test)


@pytest.mark.parametrize("given", [None, "Bearer wrong", "token", "Basic token", "Bearer token "])
def test_a_wrong_token(given):
    async def test(made, model):
        headers = {} if given is None else {"Authorization": given}
        for path in (INFER, "/metrics", "/v2", "/nowhere"):
            reply = await made.ask(path, headers=headers)
            assert (reply.status, reply.headers["www-authenticate"]) == (401, "Bearer")
        assert (await made.ask("/v2/health/live")).status == 200
        assert (await made.ask("/open")).status == 404
        assert not model.batches

    with_site(test, token="token", open_paths=("/open",))


def test_the_right_token():
    async def test(made, model):
        reply = await made.infer(payload(1), headers={"Authorization": "Bearer token"})
        assert reply.status == 200

    with_site(test, token="token")


@pytest.mark.parametrize("headers", [{"Content-Length": "1001"}, {}], ids=["announced", "chunked"])
def test_an_oversized_body(headers):
    async def test(made, model):
        reply = await made.ask(INFER, *[bytes(100)] * 10, b"!", headers=headers, **POST)
        assert (reply.status, reply.headers["connection"]) == (413, "close")
        assert reply.error == "a body of more than 1,000 bytes"
        assert (await made.infer(payload(1))).status == 200

    with_site(test, max_body=1000)


def test_a_huge_body_is_not_even_read():
    async def test(made, model):
        reply = await made.ask(INFER, None, headers={"Content-Length": str(1 << 40)}, **POST)
        assert reply.status == 413

    with_site(test)


def test_a_large_body_that_is_allowed_is_read_to_its_end():
    parts = [bytes(17 << 20), b"end"]

    async def receive():
        body = parts.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(parts)}

    read = Bodies(1 << 25, 1 << 25, 30.0).read(receive, None)
    assert asyncio.run(read)[-4:] == b"\0end"


def test_a_body_that_does_not_come():
    async def test(made, model):
        reply = await made.ask(INFER, b"{", None, **POST)
        assert (reply.status, reply.headers["connection"]) == (408, "close")

    with_site(test, body_timeout=0.05)


def test_bodies_together_are_bounded():
    async def test(made, model):
        slow = [asyncio.create_task(made.ask(INFER, bytes(10), None, **POST)) for _ in range(64)]
        await asyncio.sleep(0)
        reply = await made.ask(INFER, b"!", None, **POST)
        assert (reply.status, reply.error) == (
            503,
            "too many bodies are being received: try again",
        )
        for one in slow:
            one.cancel()
        await asyncio.wait(slow)
        assert (await made.ask(INFER, b"{}", **POST)).status == 400

    with_site(test, max_body=10)


def test_a_full_queue():
    async def test(made, model):
        model.may_answer.clear()
        waiting = [asyncio.create_task(made.infer(payload(n))) for n in range(3)]
        await asked(model)
        assert await metric(made, "ladon_queue_length") == 3
        reply = await made.infer(payload(9))
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
        assert reply.error == "the queue is full: try again"
        model.may_answer.set()
        assert [reply.status for reply in await asyncio.gather(*waiting)] == [200] * 3
        assert await metric(made, "ladon_queue_length") == 0
        assert await metric(made, 'ladon_rejections_total{reason="queue full"}') == 1

    with_site(test, max_queue=3)


def test_a_deadline():
    async def test(made, model):
        model.may_answer.clear()
        first = asyncio.create_task(made.infer(payload(1)))
        await asked(model)
        second = await made.infer(payload(2))
        assert (second.status, (await first).status) == (504, 504)
        model.may_answer.set()
        made.service.limits = Limits()
        assert (await made.infer(payload(3))).status == 200
        assert [2] not in model.batches  # nobody waited for it any more

    with_site(test, timeout=0.1)


def test_a_client_that_leaves_is_not_worked_for():
    async def test(made, model):
        model.may_answer.clear()
        first, gone = asyncio.create_task(made.infer(payload(1))), asyncio.Event()
        await asked(model)
        second = asyncio.create_task(made.infer(payload(2), gone=gone))
        while await metric(made, "ladon_queue_length") < 2:
            await asyncio.sleep(0)
        gone.set()
        assert (await second).status == 0
        model.may_answer.set()
        assert (await first).status == 200
        assert (await made.infer(payload(3))).status == 200
        assert model.batches == [[1], [3]]
        assert await metric(made, 'ladon_requests_total{route="infer",status="499"}') == 1

    with_site(test)


def test_draining_answers_what_was_accepted_and_nothing_else():
    async def test(made, model):
        model.may_answer.clear()
        accepted = [asyncio.create_task(made.infer(payload(n))) for n in range(20)]
        await asked(model)
        drained = asyncio.create_task(made.service.drain())
        await asyncio.sleep(0)
        late = await made.infer(payload(30))
        assert (late.status, late.headers["connection"]) == (503, "close")
        assert (await made.ask("/v2/health/ready")).status == 503
        assert (await made.ask("/v2/health/live")).status == 200
        assert not drained.done()
        model.may_answer.set()
        await drained
        assert [one.done() and one.result().status for one in accepted] == [200] * 20

    with_site(test)


def test_nothing_to_drain():
    with_site(lambda made, model: made.service.drain())


def test_a_fault_of_ours_is_told_to_the_log_alone(caplog):
    async def test(made, model):
        reply = await made.infer(payload(UNLUCKY))
        assert (reply.status, reply.error) == (
            500,
            "internal error: the server's log says more",
        )
        assert (await made.infer(payload(1))).status == 200

    with_site(test)
    assert "ValueError: unlucky" in caplog.text


def test_a_request_is_a_line_of_json_and_a_batch_is_counted_once(caplog):
    caplog.set_level(logging.INFO, "ladon.serve.requests")
    lines = []

    async def test(made, model):
        await asyncio.gather(*(made.infer(payload(n), request_id=f"r{n}") for n in range(8)))
        await made.infer(b"none")
        lines.extend(json.loads(JsonFormatter().format(record)) for record in caplog.records)
        assert await metric(made, "ladon_batch_size_sum") == 8
        assert await metric(made, "ladon_batch_size_count") == len(model.batches)
        assert await metric(made, 'ladon_stage_seconds_count{stage="body"}') == len(model.batches)
        assert await metric(made, 'ladon_stage_seconds_count{stage="queue"}') == 8
        assert await metric(made, "ladon_payload_bytes_count") == 9
        assert await metric(made, 'ladon_models_loaded{worker="local"}') == 1

    with_site(test)
    requests = [line for line in lines if line["message"] == "request"]
    assert sorted(line["id"] for line in requests) == ["", *(f"r{n}" for n in range(8))]
    (refused,) = [line for line in requests if line["status"] != 200]
    assert refused["reason"] == "payload"
    assert refused["error"].startswith("payload: no payload")
    good = next(line for line in requests if line["id"] == "r1")
    assert good["model"] == "one"
    assert good["heads"] == ["classification"]
    assert good["payload_bytes"] == 44
    assert good["time"].endswith("Z")


def test_further_paths_come_behind_the_protocols():
    async def page(request):
        return PlainTextResponse("page")

    async def run():
        service = Service(LocalEngine(EngineSettings(sources=())), Limits(token="token"))
        made = site(service.engine)
        made.app = build_app(service, [Route("/", page, name="page")])
        assert (await made.ask("/")).status == 401
        reply = await made.ask("/", headers={"Authorization": "Bearer token"})
        assert reply.body == b"page"

    asyncio.run(run())


def test_1000_hostile_messages_are_refused_and_the_next_one_is_answered():
    async def test(made, model):
        import random

        chance = random.Random(1)
        message = Request(payload=payload(7).to_bytes(), heads=("classification",)).to_message()
        statuses = set()
        for _ in range(1000):
            body, at = bytearray(message.body), chance.randrange(len(message.body))
            body[at : at + chance.randrange(3)] = chance.randbytes(chance.randrange(4))
            if body == message.body:
                continue
            reply = await made.ask(INFER, bytes(body), headers=message.headers, **POST)
            if reply.status != 200:
                assert reply.error
            statuses.add(reply.status)
        assert statuses <= {200, 400, 404, 413, 422}
        assert 400 in statuses
        assert (await made.infer(payload(8))).status == 200
        assert await metric(made, "ladon_queue_length") == 0

    with_site(test)
