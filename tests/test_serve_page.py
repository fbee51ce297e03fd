"""The page's paths without a browser: what they tell, take, refuse and count."""

from __future__ import annotations

import asyncio
import io
import json
import re
from dataclasses import replace
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image
from serving import ENCODER, FakeModel, payload, site

from ladon.edge.fitting import Fitted, Fitting, Resize
from ladon.serve.engine import EngineSettings, LocalEngine
from ladon.serve.page.routes import MOST_BYTES, OPEN_PATHS, Page
from ladon.split.answers import Answers, Found, Mask

POST = {"method": "POST"}
FILE = {"Content-Type": "application/octet-stream"}
SMALL, LARGE = "model-beta0.32", "model-beta20.48"


class EdgeModel(FakeModel):
    """A `FakeModel` with an edge half: the number of a picture is the value of its first pixel."""

    heads = ("classification", "detection", "segmentation")
    fitting = Fitting(Resize((32, 32)))

    def fit(self, image: Image.Image) -> Fitted:
        return self.fitting(image)

    def encode_fitted(self, fitted: Fitted, *, on_stage):
        on_stage("analysis", 0.5)
        number = round(float(fitted.input[0, 0, 0]) * 255)
        return payload(number, self.encoder_id, image=fitted.image_size)

    def answer_batch(self, payloads, heads=None, *, on_stage=None):
        answers = super().answer_batch(payloads, heads, on_stage=on_stage)
        return [
            self.more(one, sent.image_size) for one, sent in zip(answers, payloads, strict=True)
        ]

    @staticmethod
    def more(answers: Answers, size: tuple[int, int]) -> Answers:
        found = (Found(1, "thing", 0.75, (2, 4, 10, 12)), Found(2, None, 0.25, (0, 0, 1, 1)))
        labels = np.zeros(size, np.uint8)
        labels[: size[0] // 2] = 3
        return replace(answers, objects=found, mask=Mask(labels, ("background", "a", "b", "c")))


def with_page(test, *models: FakeModel, started=True, pixels=1 << 20, **limits):
    """Run a test with a page in front of some models, by default two."""
    chosen = models or (EdgeModel(LARGE, b"encoder2"), EdgeModel(SMALL))
    shelf = {model.name: model for model in chosen}

    async def run():
        settings = EngineSettings(sources=tuple(shelf), max_image_pixels=pixels, max_pixels=1 << 16)
        engine = LocalEngine(settings, shelf.__getitem__)
        page = Page(limits.get("body_timeout", 10.0))
        made = site(engine, page.routes(), open_paths=OPEN_PATHS, **limits)
        try:
            async with asyncio.timeout(60):
                if started:
                    await made.service.start()
                await test(made, *chosen)
        finally:
            for model in chosen:
                model.may_answer.set()
            await engine.close()

    asyncio.run(run())


def picture(number: int = 7, size: tuple[int, int] = (40, 20), form: str = "PNG") -> bytes:
    """The file of a picture, all of whose pixels have a number."""
    file = io.BytesIO()
    Image.new("RGB", size, (number, 0, 0)).save(file, form)
    return file.getvalue()


async def sent(made, *body, model: str = SMALL, headers=FILE, **settings):
    path = f"/page/answer?model={quote(model)}"
    return await made.ask(path, *body, headers=headers, **POST, **settings)


def test_the_page_has_all_its_files_and_takes_nothing_from_elsewhere():
    async def test(made, *_):
        reply = await made.ask("/")
        assert (reply.status, reply.headers["content-type"]) == (200, "text/html; charset=utf-8")
        policy = reply.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "unsafe" not in policy
        html = reply.body.decode()
        assert not re.search(r"<script(?! type=\"module\" src=)|<style|\son\w+=|style=", html)
        named = set(re.findall(r'(?:href|src)="([^"]+)"', html))
        scripts = [(await made.ask(name)).body.decode() for name in named if name.endswith(".js")]
        named |= {f"/page/{n}" for text in scripts for n in re.findall(r'from "\./([^"]+)"', text)}
        assert named | {"/", "/page/index.html"} == set(OPEN_PATHS)
        for path in named:
            reply = await made.ask(path)
            assert reply.status == 200
            assert reply.headers["x-content-type-options"] == "nosniff"
            assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", reply.body.decode())

    with_page(test)


@pytest.mark.parametrize("path", ["/page/none", "/page/..", "/page/samples/none", "/page/"])
def test_what_is_not_there(path):
    async def test(made, *_):
        assert (await made.ask(path)).status == 404

    with_page(test)


def test_it_tells_what_can_be_chosen():
    async def test(made, *_):
        about = json.loads((await made.ask("/page/about")).body)
        assert [(one["name"], one["beta"]) for one in about["models"]] == [
            (SMALL, 0.32),
            (LARGE, 20.48),
        ]
        assert about["models"][0]["heads"] == ["classification", "detection", "segmentation"]
        assert about["most_bytes"] == MOST_BYTES
        assert len(about["samples"]) == 5
        for sample in about["samples"]:
            reply = await made.ask(f"/page/samples/{sample['name']}")
            assert reply.headers["content-type"].startswith("image/")
            Image.open(io.BytesIO(reply.body)).load()
            assert sample["alt"]

    with_page(test)


def test_a_picture_becomes_a_payload_and_is_answered_like_any_clients():
    async def test(made, _, model):
        reply = await sent(made, picture(7))
        result = json.loads(reply.body)
        (number,) = model.batches[-1]
        assert (reply.status, number, result["model"]) == (200, 7, SMALL)
        assert result["payload_bytes"] == 44
        assert result["picture_bytes"] == len(picture(7))
        assert result["in_words"] == {
            "classification": "class 7 50.0%",
            "detection": "thing",
            "segmentation": "background 50%, c 50%",
        }
        device, server, page = (result["seconds"][side] for side in ("device", "server", "page"))
        assert list(device) == ["queue", "reading", "fit", "analysis"]
        assert list(server) == ["queue", "body"]
        assert list(page) == ["drawing", "comparing"]
        assert result["sizes"]["image"] == [40, 20]
        assert result["sizes"]["input"] == [32, 32]

    with_page(test)


def test_answers_in_tables():
    async def test(made, *_):
        result = json.loads((await sent(made, picture())).body)
        assert result["answers"] == {
            "classification": [{"name": "class 7", "score": 0.5}],
            # by `color_of`: 0.381966 of the circle of hues a label
            "detection": [
                {"name": "thing", "score": 0.75, "box": [2, 4, 10, 12], "color": "#26ff65"}
            ],
            "segmentation": [
                {"name": "background", "share": 0.5, "color": None},
                {"name": "c", "share": 0.5, "color": "#ffe426"},
            ],
        }

    with_page(test)


def test_a_picture_of_another_kind_of_file_and_turned_by_exif():
    async def test(made, *_):
        image, file = Image.new("L", (40, 20), 9), io.BytesIO()
        exif = Image.Exif()
        exif[0x112] = 6
        image.save(file, "JPEG", exif=exif)
        result = json.loads((await sent(made, file.getvalue())).body)
        assert result["sizes"]["image"] == [20, 40]
        assert result["picture_size"][1] == 2 * result["picture_size"][0]

    with_page(test)


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        (b"", 415, "cannot read image of 0 bytes: it is not in an image format that Pillow knows"),
        (b"no picture", 415, "cannot read image of 10 bytes: it is not in an image format"),
        (picture(size=(400, 400))[:-400], 415, "cannot read image of .* bytes: "),
        (picture(size=(101, 100)), 413, "an image of 100x101 has more than the 10,000 pixels"),
    ],
    ids=["nothing", "text", "cut off", "pixels"],
)
def test_a_broken_picture(body, status, error):
    async def test(made, *_):
        reply = await sent(made, body)
        assert reply.status == status
        assert re.match(error, reply.error)
        assert "\n" not in reply.error
        assert (await sent(made, picture())).status == 200

    with_page(test, pixels=200_000 if len(body) > 400 else 10_000)


def test_what_is_not_taken():
    async def test(made, *_):
        reply = await sent(made, picture(), headers={"Content-Type": "image/png"})
        assert (reply.status, reply.error) == (
            415,
            "send the picture's file as application/octet-stream",
        )
        reply = await sent(made, picture(), model="other")
        assert (reply.status, reply.error) == (
            404,
            f"no model 'other' here: there are ladon, {LARGE}, {SMALL}",
        )
        headers = {**FILE, "Content-Length": str(MOST_BYTES + 1)}
        reply = await sent(made, None, headers=headers)
        assert (reply.status, reply.error) == (413, "a body of more than 16,777,216 bytes")

    with_page(test)


def test_an_input_that_is_too_large():
    class Wide(EdgeModel):
        fitting = Fitting(Resize((256, 257)))

    async def test(made, *_):
        reply = await sent(made, picture())
        assert (reply.status, reply.error) == (
            413,
            "an encoder's input of 256x257 has more than the 65,536 pixels that are taken here",
        )

    with_page(test, Wide(SMALL))


def test_with_a_token_the_page_itself_is_open():
    async def test(made, *_):
        for path in OPEN_PATHS:
            assert (await made.ask(path)).status == 200
        for path in ("/page/about", "/page/samples/china", "/page/none"):
            assert (await made.ask(path)).status == 401
        assert (await sent(made, picture())).status == 401
        headers = {**FILE, "Authorization": "Bearer token"}
        assert (await sent(made, picture(), headers=headers)).status == 200
        assert (await made.ask("/page/about", headers=headers)).status == 200

    with_page(test, token="token")


def test_before_the_models_are_loaded_and_while_it_stops():
    async def before(made, *_):
        for reply in (await made.ask("/page/about"), await sent(made, picture())):
            assert (reply.status, reply.headers["retry-after"]) == (503, "1")
        assert (await made.ask("/")).status == 200

    async def after(made, *_):
        await made.service.drain()
        reply = await sent(made, picture())
        assert (reply.status, reply.headers["connection"]) == (503, "close")

    with_page(before, started=False)
    with_page(after)


def test_the_queues_limit_is_the_pages_too():
    async def test(made, _, model):
        model.may_answer.clear()
        first = asyncio.create_task(sent(made, picture()))
        assert await asyncio.to_thread(model.is_asked.wait, 30)
        reply = await sent(made, picture())
        assert (reply.status, reply.error) == (503, "the queue is full: try again")
        model.may_answer.set()
        assert (await first).status == 200

    with_page(test, max_queue=1)


def test_pictures_at_once_are_bounded():
    async def test(made, *_):
        slow = [asyncio.create_task(sent(made, b"!", None)) for _ in range(8)]
        await asyncio.sleep(0)
        reply = await sent(made, picture())
        assert (reply.status, reply.error) == (503, "too many pictures at once: try again")
        for one in slow:
            one.cancel()
        await asyncio.wait(slow)
        assert (await sent(made, picture())).status == 200

    with_page(test)


def test_it_is_counted():
    async def test(made, *_):
        await sent(made, picture())
        text = (await made.ask("/metrics")).body.decode()
        for line in (
            'ladon_requests_total{route="picture",status="200"} 1.0',
            'ladon_stage_seconds_sum{stage="analysis"} 0.5',
            'ladon_stage_seconds_sum{stage="body"} 0.25',
            "ladon_payload_bytes_sum 44.0",
        ):
            assert line in text.splitlines()

    with_page(test)


def test_a_model_without_some_heads():
    async def test(made, *_):
        result = json.loads((await sent(made, picture(), model="one")).body)
        assert list(result["answers"]) == ["classification"]
        assert result["heads"] == ["classification"]

    class OneHead(EdgeModel):
        heads = ("classification",)
        more = staticmethod(lambda answers, size: answers)

    with_page(test, OneHead("one", ENCODER))
