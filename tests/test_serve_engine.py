"""Which model answers a payload, with which others, and what is refused before."""

from __future__ import annotations

import asyncio
import pickle

import pytest
from serving import ENCODER, UNLUCKY, FakeModel, payload

from ladon.codec import Payload
from ladon.errors import CheckpointError, PayloadError
from ladon.serve.engine import EngineSettings, LocalEngine
from ladon.serve.refusals import Refusal

OTHER = b"encoder2"


def with_engine(test, *models: FakeModel, **settings):
    """Run a test with an engine of some models, by default one."""
    shelf = {model.name: model for model in models or (FakeModel(),)}

    async def run():
        engine = LocalEngine(EngineSettings(sources=tuple(shelf), **settings), shelf.__getitem__)
        try:
            async with asyncio.timeout(30):
                await engine.start()
                await test(engine, *shelf.values())
        finally:
            for model in shelf.values():
                model.may_answer.set()
            await engine.close()

    asyncio.run(run())


async def number_of(engine, sent: Payload | bytes, heads=None, model="ladon") -> int:
    data = sent if isinstance(sent, bytes) else sent.to_bytes()
    return (await engine.answer(data, heads, model)).answers.classes[0].label


async def refusal(engine, *args) -> Refusal:
    with pytest.raises(Refusal) as caught:
        await number_of(engine, *args)
    return caught.value


def test_each_gets_its_own_answer_from_a_batch():
    async def test(engine, model):
        sent = [engine.answer(payload(n).to_bytes(), None, "ladon") for n in range(12)]
        found = await asyncio.gather(*sent)
        assert [one.answers.classes[0].label for one in found] == list(range(12))
        assert sum(one.is_first for one in found) == len(model.batches)
        assert max(map(len, model.batches)) > 1
        assert all(one.seconds["body"] == 0.25 and one.seconds["queue"] >= 0 for one in found)

    with_engine(test, max_delay=0.2)


def test_sizes_and_heads_are_not_mixed():
    async def test(engine, model):
        await asyncio.gather(
            number_of(engine, payload(1)),
            number_of(engine, payload(2, side=64)),
            number_of(engine, payload(3)),
        )
        assert sorted(map(sorted, model.batches)) == [[1, 3], [2]]

    with_engine(test, max_delay=0.2)


def test_the_encoder_tells_the_model():
    async def test(engine, *_):
        for encoder, name in ((ENCODER, "one"), (OTHER, "two")):
            found = await engine.answer(payload(5, encoder).to_bytes(), None, "ladon")
            assert found.info.name == name
        assert await number_of(engine, payload(5, OTHER), None, "two") == 5
        foreign = await refusal(engine, payload(5, OTHER), None, "one")
        assert (foreign.status, foreign.reason) == (422, "foreign payload")
        assert ENCODER.hex() in str(foreign)

    with_engine(test, FakeModel("one"), FakeModel("two", OTHER))


def test_models_with_one_encoder_must_be_named():
    async def test(engine, *_):
        assert (await refusal(engine, payload(1))).status == 422
        assert "send this to one of one, two" in str(await refusal(engine, payload(1)))
        assert await number_of(engine, payload(7), None, "two") == 7

    with_engine(test, FakeModel("one"), FakeModel("two"))


def test_a_model_of_the_name_of_all_can_be_named():
    async def test(engine, first, _):
        assert await number_of(engine, payload(7)) == 7
        assert [7] in first.batches

    with_engine(test, FakeModel("ladon"), FakeModel("two"))


@pytest.mark.parametrize(
    ("args", "status", "said"),
    [
        ((payload(1), None, "three"), 404, "no model 'three' here: there are ladon, one"),
        ((payload(1), ["detection"]), 400, "one has no head detection: classification"),
        ((payload(1, b"stranger"),), 422, f"no model of it here .{ENCODER.hex()}"),
        ((payload(1).to_bytes()[:-1],), 400, "a payload of 43 bytes, not the 44"),
        ((b"GET / HTTP/1.1",), 400, "no payload"),
        ((payload(1, side=1024),), 413, "an encoder's input of 1024x1024 has more than the 10"),
        ((payload(1, image=(2000, 30)),), 413, "an image of 2000x30 has more than the 50,000"),
    ],
)
def test_what_is_refused(args, status, said):
    async def test(engine, model):
        found = await refusal(engine, *args)
        assert found.status == status
        assert said in str(found).replace("(", ".")
        assert not model.batches

    with_engine(test, max_pixels=100_000, max_image_pixels=50_000)


def test_one_that_cannot_be_answered_does_not_spoil_its_batch():
    async def test(engine, model):
        model.error = PayloadError("a string that ends too early")
        numbers = (1, UNLUCKY, 2)
        found = await asyncio.gather(
            *(number_of(engine, payload(n)) for n in numbers), return_exceptions=True
        )
        assert (found[0], found[2]) == (1, 2)
        assert isinstance(found[1], Refusal)
        assert (found[1].status, found[1].reason) == (400, "payload")
        assert model.batches == [[1, UNLUCKY, 2], [1], [UNLUCKY], [2]]

    with_engine(test, max_delay=0.2)


def test_a_fault_of_ours_is_no_refusal():
    async def test(engine, model):
        with pytest.raises(ValueError, match="unlucky"):
            await number_of(engine, payload(UNLUCKY))
        assert await number_of(engine, payload(1)) == 1

    with_engine(test)


def test_a_model_that_cannot_be_loaded_again_is_the_servers_fault():
    async def test(engine, first, second):
        first.encoder_id = b"changed!"
        with pytest.raises(CheckpointError, match="start it anew"):
            await number_of(engine, payload(1))
        assert await number_of(engine, payload(2, OTHER)) == 2

    with_engine(test, FakeModel("one"), FakeModel("two", OTHER), most_bytes=1500)


def test_a_refusal_comes_whole_out_of_another_process():
    sent = Refusal(503, "queue full", "try again")
    came = pickle.loads(pickle.dumps(sent))

    assert (came.status, came.reason, str(came)) == (503, "queue full", "try again")
    assert came.headers == {"Retry-After": "1"}
