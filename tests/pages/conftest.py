"""A real headless browser, where Debian's chromium and Playwright's Python client are there."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import AsyncIterator
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium")
MISSING = (
    "Debian's package chromium is missing"
    if CHROMIUM is None
    else "the Python package playwright is missing"
    if importlib.util.find_spec("playwright") is None
    else None
)


@pytest.fixture
async def browser() -> AsyncIterator[Any]:
    """The browser of one test."""
    if MISSING is not None:
        pytest.skip(f"{MISSING}: the pages are not looked at in a browser")
    from playwright.async_api import async_playwright

    # Chromium's sandbox refuses root, who runs the tests in containers.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    async with async_playwright() as client:
        running = await client.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield running
        await running.close()


@pytest.fixture
async def tab(browser: Any) -> AsyncIterator[Any]:
    """A tab whose page has caused no error when the test ends."""
    page = await browser.new_page(viewport={"width": 1280, "height": 860})
    page.set_default_timeout(20_000)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda line: errors.append(line.text) if blames_us(line) else None)
    yield page
    assert not errors


def blames_us(line: Any) -> bool:
    """Whether the console shows a fault of the page; the browser itself notes each status >= 400."""
    return line.type == "error" and not line.text.startswith("Failed to load resource")
