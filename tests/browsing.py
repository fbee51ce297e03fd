"""Headless Chromium (Debian's) in front of a server's page; and the picture of it in `imgs/`:

configs=$(printf -- '--config %s ' configs/digit_scenes/ladon-runtime/*_detection.yaml)
python scripts/serve.py --local $configs &
python tests/browsing.py http://127.0.0.1:8000 imgs/page.png
"""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from PIL import Image

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_FLAGS = ["--disable-gpu", "--disable-dev-shm-usage"]
WAIT = 60_000  # milliseconds: of a first answer on a machine that does other things, too


@contextmanager
def chromium() -> Iterator[Any]:
    """Run the browser, without a window."""
    from playwright.sync_api import sync_playwright

    flags = _FLAGS + ["--no-sandbox"] * (os.geteuid() == 0)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(
    browser: Any, url: str, width: int = 1200, height: int = 900, **settings: Any
) -> Iterator[Any]:
    """Open the page in a window of its own."""
    with browser.new_context(viewport={"width": width, "height": height}, **settings) as context:
        context.set_default_timeout(WAIT)
        page = context.new_page()
        page.goto(url)
        yield page


def done(page: Any, words: str = "in a payload of") -> str:
    """Wait until it says that it has an answer; return what it says."""
    from playwright.sync_api import expect

    status = page.get_by_role("status")
    expect(status).to_contain_text(words, timeout=WAIT)
    expect(page.locator("#result")).not_to_have_attribute("aria-busy", "true", timeout=WAIT)
    return status.inner_text()


def screenshot(url: str, path: str) -> None:
    """Save how a digit scene looks on the page, after all models have seen it."""
    with chromium() as browser, opened(browser, url, 1280, 800) as page:
        page.get_by_role("button", name="Digits, 8").click()
        done(page)
        radios = page.get_by_role("radio")
        for number in [*range(1, radios.count()), min(1, radios.count() - 1)]:
            radios.nth(number).check()
            done(page)
        picture = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
    with_256_colors(picture).save(path, optimize=True)


def with_256_colors(picture: Image.Image) -> Image.Image:
    """Return a picture with a palette, a third of the bytes, in which rare colors stay, too."""
    width, height = picture.size
    rare = picture.quantize(64, Image.Quantize.MAXCOVERAGE).getpalette()
    stripes = Image.frombytes("RGB", (64, 1), bytes(rare[: 3 * 64])).resize((width, height // 4), 0)
    both = Image.new("RGB", (width, height + stripes.height))
    both.paste(picture)
    both.paste(stripes, (0, height))
    small = both.quantize(256, dither=Image.Dither.NONE)
    return small.crop((0, 0, width, height))


if __name__ == "__main__":
    screenshot(*sys.argv[1:])
