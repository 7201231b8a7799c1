"""A real headless browser, where Debian's chromium and Playwright's Python client are there."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import tarfile
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

CHROMIUM = shutil.which("chromium")
MISSING = (
    "Debian's package chromium is missing"
    if CHROMIUM is None
    else "the Python package playwright is missing"
    if importlib.util.find_spec("playwright") is None
    else None
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without a browser one skipped test stands for all of them, so the summary has one line."""
    seen = [item for item in items if "browser" in getattr(item, "fixturenames", ())]
    if MISSING is None or not seen:
        return
    seen[0].add_marker(pytest.mark.skip(reason=f"{MISSING}: no page is looked at in a browser"))
    config.hook.pytest_deselected(items=seen[1:])
    items[:] = [item for item in items if item not in seen[1:]]


AXE = "axe-core@4.12.1"
AXE_SHA256 = "66a8aaa95a8b044a7fd74a5435873bf04ff65a1ca75567c921b7509742085a14"
"""Of `axe.min.js`, which npm brings: its licence (MPL 2.0) is not this project's."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Any]:
    """The browser of one module's tests; each tab of it starts with nothing kept."""
    from playwright.async_api import async_playwright

    # Chromium's sandbox refuses root, who runs the tests in containers.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    async with async_playwright() as client:
        running = await client.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield running
        await running.close()


@pytest_asyncio.fixture(loop_scope="module")
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
    """Whether the console shows a fault of the page; the browser notes each status >= 400."""
    return line.type == "error" and not line.text.startswith("Failed to load resource")


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The source of axe-core, from npm's registry."""
    if shutil.which("npm") is None:
        pytest.skip("npm is missing: axe-core does not check the pages")
    directory = tmp_path_factory.mktemp("axe")
    command = ["npm", "pack", "--silent", AXE, "--pack-destination", str(directory)]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=120, cwd=directory)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        pytest.skip("npm's registry cannot be reached: axe-core does not check the pages")
    [archive] = directory.glob("*.tgz")
    with tarfile.open(archive) as packed:
        member = packed.extractfile("package/axe.min.js")
        assert member is not None
        source = member.read()
    assert hashlib.sha256(source).hexdigest() == AXE_SHA256
    return source.decode()
