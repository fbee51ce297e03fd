"""The page in headless Chromium, in front of a server in its own process."""

from __future__ import annotations

import base64
import io
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from serving import Running, server
from split_models import pixels, write_config, write_models
from students import splittable, splittable_section

import ladon
from ladon.models import build_model, update_bottleneck, write_checkpoint

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from browsing import CHROMIUM, WAIT, chromium, done, opened  # noqa: E402

expect = sync_api.expect
expect.set_options(timeout=WAIT)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian's package: chromium)"),
]
SMALL, LARGE = "three-beta0.32", "one-beta20.48"
_DROP = """([text, name, zeros]) => {
    const content = zeros ? zeros : [...atob(text)].map((c) => c.charCodeAt(0));
    const bytes = new Uint8Array(content);
    const data = new DataTransfer();
    if (name) data.items.add(new File([bytes], name)); else data.items.add("words", "text/plain");
    return data;
}"""


@pytest.fixture(scope="module")
def configs(tmp_path_factory) -> dict[str, Path]:
    """Three heads, and a classifier with another encoder."""
    folder = tmp_path_factory.mktemp("models")
    three = write_models(folder)["ladon"].rename(folder / f"{SMALL}.yaml")
    classifier = splittable(2, classes=10)
    update_bottleneck(classifier)
    write_checkpoint(folder / "one.pt", classifier, best_value=1.0)
    section = {**splittable_section(2, classes=10), "dst_ckpt": str(folder / "one.pt")}
    return {SMALL: three, LARGE: write_config(folder / f"{LARGE}.yaml", section)}


@pytest.fixture(scope="module")
def running(configs, tmp_path_factory) -> Iterator[Running]:
    flags = [word for path in configs.values() for word in ("--config", path)]
    with server(tmp_path_factory.mktemp("server"), "--local", *flags) as one:
        yield one


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as one:
        yield one


@contextmanager
def watched(browser: Any, url: str, *faults: str, **settings: Any) -> Iterator[Any]:
    """Open the page; in the end, see that it asked no other host and had no errors.

    Args:
        browser: where.
        url: of the server.
        faults: what the browser itself writes of responses that a test is about.
        settings: of its window.
    """
    asked, errors = [], []
    with opened(browser, "about:blank", **settings) as page:
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: errors.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"http://{url}")
        yield page
    own = (f"http://{url}/", f"blob:http://{url}/", "data:image/jpeg;base64,")
    assert [one for one in asked if not one.startswith(own)] == []
    assert [one for one in errors if not any(fault in one for fault in faults)] == []


def drop(page: Any, name: str | None, content: bytes = b"", zeros: int = 0) -> None:
    """Drop a file of some content, or so many zeros; without a name it is no file."""
    data = page.evaluate_handle(_DROP, [base64.b64encode(content).decode(), name, zeros])
    page.dispatch_event("#drop", "drop", {"dataTransfer": data})


def png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels()).save(file, "PNG")
    return file.getvalue()


def rows(page: Any, label: str) -> list[list[str]]:
    """The texts of a table's rows."""
    table = page.get_by_role("table", name=label)
    return [one.locator("th, td").all_inner_texts() for one in table.locator("tbody tr").all()]


@pytest.fixture(scope="module")
def any_rate(tmp_path_factory) -> Iterator[Running]:
    """A server of one classifier for every rate."""
    folder = tmp_path_factory.mktemp("rates")
    kwargs = {"num_bottleneck_channels": 3, "num_target_channels": 64, "levels": 31}
    bottleneck = {"key": "VariableRateBottleneck", "kwargs": kwargs}
    section = splittable_section(bottleneck=bottleneck, classes=10)
    classifier = build_model(section, "classification", "models.model").eval()
    update_bottleneck(classifier)
    write_checkpoint(folder / "any.pt", classifier, best_value=1.0)
    config = write_config(folder / "any.yaml", {**section, "dst_ckpt": str(folder / "any.pt")})
    with server(folder, "--local", "--config", config) as one:
        yield one


def test_the_rate_is_a_slider_of_a_model_for_every_rate(any_rate, browser):
    with watched(browser, any_rate.url) as page:
        slider = page.get_by_role("slider", name="Rate")
        expect(slider).to_be_visible()
        assert slider.get_attribute("aria-valuetext") == "β 2.56"
        drop(page, "one.png", png())
        done(page)
        middle = rows(page, "Bytes on the way")
        slider.press("Home")
        expect(page.get_by_text("β 0.320").first).to_be_visible()
        done(page)
        slider.press("End")
        done(page)
        expect(slider).to_have_attribute("aria-valuetext", "β 20.5")
        coarse = rows(page, "Bytes on the way")
    assert middle != coarse


def test_before_anything(running, browser):
    with watched(browser, running.url) as page:
        expect(page.get_by_text("Nothing yet: drop a picture")).to_be_visible()
        expect(page.locator("#answers")).to_be_hidden()
        expect(page.get_by_text("Your browser sends the whole picture")).to_be_visible()
        radios = page.get_by_role("radio")
        expect(radios).to_have_count(2)
        assert [one.get_attribute("value") for one in radios.all()] == [SMALL, LARGE]
        expect(page.get_by_role("radio", name="β 0.32")).to_be_checked()
        expect(page.get_by_label("choose a file")).to_be_visible()
        expect(page.get_by_role("slider")).to_be_hidden()


def test_a_picture_that_is_quicker_than_the_page_is_answered_too(running, browser):
    held = []
    with opened(browser, "about:blank") as page:
        page.route("**/page/about", lambda route: held.append(route))
        page.goto(f"http://{running.url}")
        drop(page, "beach.png", png())
        expect(page.get_by_role("radio")).to_have_count(0)
        held[0].continue_()
        assert done(page).startswith("beach.png, in a payload of ")


def test_a_picture_is_dropped_and_answered_as_by_the_model(running, browser, configs):
    with ladon.load(configs[SMALL]) as model:
        payload = model.encode(pixels())
        answers = model.answer(payload)
    num_bytes = len(payload.to_bytes())
    with watched(browser, running.url) as page:
        drop(page, "beach.png", png())
        said = done(page)
        best = answers.classes[0]
        start = f"beach.png, in a payload of {num_bytes} bytes. Classification: {best.name} "
        assert said.startswith(start)
        alt = page.locator("#picture").get_attribute("alt")
        assert alt == f"A picture, with its answers drawn. {said}"
        found = rows(page, "Classes")
        assert found == [[one.name, f"{100 * one.score:.1f} %"] for one in answers.classes]
        areas = {row[0]: row[1] for row in rows(page, "Areas of the mask")}
        assert set(areas) == {one["class"] for one in answers.mask.to_plain()["classes"]}
        sure = [one for one in answers.objects if one.score >= 0.5]
        if sure:
            assert len(rows(page, "Objects")) == len(sure)
        else:
            expect(
                page.get_by_text("No objects: none has a score of 50 % or more.")
            ).to_be_visible()
        weights = rows(page, "Bytes of the payload")
        assert ["payload, β 0.32", str(num_bytes), "1.00"] in weights
        assert ["the file", f"{len(png()):,}"] == weights[-1][:2]
        assert [row[0] for row in weights].count("JPEG, quality 75") == 1 + (
            payload.scaled_size[0] < 77
        )
        stages = [row[0] for row in rows(page, "Milliseconds by stage") if len(row) > 1]
        assert stages == [
            *("waiting for its turn", "reading the file", "fitting it to the encoder's input"),
            *("encoder", "entropy coding"),
            *("waiting for its turn", "entropy decoding", "decoder", "shared body"),
            *("classification head", "detection head", "segmentation head"),
            *("drawing the answers", "making JPEG and PNG files"),
            *("sending the picture, receiving the answers", "between the stages", "the whole"),
        ]
        natural = page.evaluate("[picture.naturalWidth, picture.naturalHeight]")
        assert natural[0] * 77 == natural[1] * 120


def test_another_beta_is_another_payload_of_the_same_picture(running, browser):
    with watched(browser, running.url) as page:
        page.get_by_label("choose a file").set_input_files(
            {"name": "beach.png", "mimeType": "image/png", "buffer": png()}
        )
        first = done(page)
        page.get_by_role("radio", name="β 20.48").check()
        expect(page.get_by_role("status")).not_to_contain_text("Detection")
        second = done(page)
        assert first.split(" Class")[0] != second.split(" Class")[0]
        payloads = [row[0] for row in rows(page, "Bytes of the payload") if "payload" in row[0]]
        assert payloads == ["payload, β 0.32", "payload, β 20.48"]
        missing = page.get_by_text("This model does not answer that.")
        expect(missing).to_have_count(2)


def test_a_broken_picture_is_named_and_nothing_else_is_lost(running, browser):
    with watched(browser, running.url, "status of 415") as page:
        drop(page, "beach.png", png())
        done(page)
        alert = page.get_by_role("alert")
        drop(page, "notes.txt", b"no picture")
        expect(alert).to_have_text(
            "notes.txt: cannot read image of 10 bytes: it is not in an image format that Pillow "
            "knows; replace or remove it"
        )
        expect(page.get_by_role("button", name="Try again")).to_be_hidden()
        expect(page.locator("#caption")).to_contain_text("beach.png, 120 × 77 pixels")
        drop(page, None)
        expect(alert).to_contain_text("That is no file")
        drop(page, "large.png", zeros=(16 << 20) + 1)
        expect(alert).to_have_text("large.png: has 16.0 MiB, and 16 MiB are taken.")
        page.get_by_role("radio", name="β 20.48").check()
        expect(alert).to_be_empty()
        expect(page.get_by_role("status")).not_to_contain_text("Detection")
        assert done(page).startswith("beach.png, in a payload of")


def test_by_keyboard_alone(running, browser):
    with watched(browser, running.url) as page:
        expect(page.get_by_role("button", name="Digits, 3")).to_be_enabled()
        for expected in ("file", "Digits, 3"):
            page.keyboard.press("Tab")
            focused = page.evaluate("document.activeElement.id || document.activeElement.innerText")
            assert focused == expected
        ring = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert ring == "solid"
        page.keyboard.press("Enter")
        assert done(page).startswith("Digits, 3, in a payload of")
        assert page.evaluate("document.activeElement.innerText") == "Digits, 3"
        alt = page.locator("#picture").get_attribute("alt")
        assert alt.startswith("a large handwritten 3 with")
        for _ in range(4):  # the other samples
            page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.value") == SMALL
        page.keyboard.press("ArrowDown")
        expect(page.get_by_role("status")).not_to_contain_text("Detection")
        done(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_narrow_screen_all_of_it_can_be_read(running, browser, scheme):
    """Nothing is beside the screen; text has the contrast of WCAG's level AA, 4.5 to 1."""
    settings = {"width": 360, "height": 740, "color_scheme": scheme}
    with watched(browser, running.url, **settings) as page:
        page.get_by_role("button", name="Temple").click()
        done(page)
        page.evaluate("trouble.textContent = 'something'")
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        too_faint = page.evaluate(_CONTRASTS)
        assert too_faint == []


_CONTRASTS = """() => {
    const light = (color) => {
        const [r, g, b] = color.match(/[\\d.]+/g).slice(0, 3).map((part) => {
            const share = part / 255;
            return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (element) => {
        for (let one = element; one; one = one.parentElement) {
            const color = getComputedStyle(one).backgroundColor;
            if (!/, 0\\)$/.test(color)) return color;
        }
    };
    const faint = [];
    for (const element of document.querySelectorAll("body *")) {
        const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
        if (!own || !element.checkVisibility() || element.disabled) continue;
        const [a, b] = [getComputedStyle(element).color, behind(element)].map(light);
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (ratio < 4.5) faint.push(`${element.textContent.trim().slice(0, 30)}: ${ratio}`);
    }
    return faint;
}"""


def test_a_token_and_a_server_that_goes_and_comes_back(configs, browser, tmp_path):
    flags = ["--local", "--config", configs[LARGE]]
    env = {"LADON_TOKEN": "secret"}
    faults = ("status of 401", "ERR_CONNECTION_REFUSED")
    with server(tmp_path / "1", *flags, env=env) as one, watched(browser, one.url, *faults) as page:
        alert, field = page.get_by_role("alert"), page.get_by_label("Token of this server")
        expect(alert).to_have_text("This server asks for a token.")
        expect(field).to_be_focused()
        for typed in ("wrong", "secret"):
            page.keyboard.type(typed)
            page.keyboard.press("Enter")
            if typed == "wrong":
                expect(alert).to_have_text("This token is not the server's.")
        page.get_by_role("button", name="Flower").click()
        done(page)
        expect(alert).to_be_empty()
        expect(field).to_be_hidden()

        one.process.kill()
        one.process.join()
        drop(page, "beach.png", png())
        again = page.get_by_role("button", name="Try again")
        expect(again).to_be_visible()
        expect(alert).to_have_text(
            "The server does not answer. It may have been stopped. Your picture is kept here."
        )
        expect(page.locator("#caption")).to_contain_text("Flower")
        again.click()
        expect(alert).to_contain_text("The server does not answer")
        flags += ["--port", one.url.split(":")[1]]
        with server(tmp_path / "2", *flags, env=env) as another:
            again.click()
            assert done(page).startswith("beach.png, in a payload of")
            expect(again).to_be_hidden()
            os.kill(another.process.pid, signal.SIGTERM)
            another.process.join(60)
            assert another.process.exitcode == 0
            (line,) = another.lines(message="request", path="/page/answer")
            assert (line["status"], line["heads"]) == (200, ["classification"])
