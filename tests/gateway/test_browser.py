"""The pages for people: where they are, their headers, and who gets what."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from serve_app.gateway.browser import SECURITY, limit_stream
from serve_app.pages.assets import read_assets
from tests.fakes import FakeWatch
from tests.gateway.with_access import Guarded, build_guarded

PAGES = {"playground": True, "dashboard": True}
HTML = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
BYTES_MAX = 100_000


def build(pages: dict[str, bool] | None = None, **more: Any) -> Guarded:
    """A gateway with both pages, unless told otherwise; it asks for keys."""
    watch = more.pop("watch", FakeWatch([b'{"n":1}', b'{"n":2}']))
    shown = PAGES if pages is None else pages
    return build_guarded(files=read_assets(), watch=watch, pages=shown, **more)


@pytest.mark.parametrize("path", ["/playground", "/dashboard"])
async def test_a_page_is_open_and_strict(path: str) -> None:
    """It needs no key, and lets in no script, style, frame or address but its own."""
    gateway = build()
    response = await gateway.ask(None, "GET", path)
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert SECURITY.items() <= dict(response.headers).items()
    policy = response.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    tag = response.headers["etag"]
    again = await gateway.ask(None, "GET", path, headers={"if-none-match": tag})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["content-security-policy"] == policy


def test_the_pages_hold_no_inline_script_or_style_and_no_other_address() -> None:
    """The policy would stop them; the pages work without a network."""
    for name, file in read_assets().files.items():
        text = file.body.decode()
        assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=\"", text), name
        addresses = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"'`)]*", text))
        assert addresses <= {"http://www.w3.org/2000/svg"}, name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)


def test_the_pages_are_small() -> None:
    """All of their files together."""
    assert sum(len(file.body) for file in read_assets().files.values()) < BYTES_MAX


@pytest.mark.parametrize("path", ["/playground", "/dashboard"])
async def test_the_files_of_a_page_are_kept_for_ever(path: str) -> None:
    """Each file that the page names is there, under an address that changes with the files."""
    gateway = build()
    page = await gateway.ask(None, "GET", path)
    named = re.findall(r'(?:src|href)="(pages/[^"]+)"', page.text)
    assert len(named) >= 5
    for name in named:
        response = await gateway.ask(None, "GET", f"/{name}")
        assert response.status_code == 200, name
        assert response.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert response.headers["x-content-type-options"] == "nosniff"


async def test_a_file_of_another_release_is_not_kept() -> None:
    """While Routers are replaced, a page may meet a Router of the other release."""
    response = await build().ask(None, "GET", "/pages/0123456789abcdef/theme.css")
    assert (response.status_code, response.headers["cache-control"]) == (200, "no-store")


@pytest.mark.parametrize(
    "name", ["nothing.js", "playground.html", "..%2f..%2frouter.py", "%2e%2e/assets.py", "x/y.js"]
)
async def test_nothing_but_files_of_the_pages(name: str) -> None:
    """A name is looked up in a table, not on the disk."""
    response = await build().ask("admin", "GET", f"/pages/auto/{name}")
    assert response.status_code == 404


def test_every_import_of_a_script_is_there() -> None:
    """Scripts name each other relative to themselves."""
    files = read_assets().files
    for name, file in files.items():
        for imported in re.findall(r'from "\./([^"]+)"', file.body.decode()):
            assert imported in files, name


@pytest.mark.parametrize("path", ["/playground/", "/dashboard/"])
async def test_a_slash_at_the_end_leads_to_the_page(path: str) -> None:
    """The page's files are named relative to its address."""
    response = await build().ask(None, "GET", path)
    assert (response.status_code, response.headers["location"]) == (308, path[:-1])


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_browser_is_sent_to_the_playground(method: str) -> None:
    """From `/`, also without a key."""
    response = await build().ask(None, method, "/", headers=HTML)
    assert (response.status_code, response.headers["location"]) == (303, "/playground")
    assert response.headers["vary"] == "accept"


@pytest.mark.parametrize(
    ("method", "accept"),
    [("GET", "*/*"), ("GET", "application/json"), ("GET", ""), ("POST", HTML["accept"])],
)
async def test_an_api_client_is_sent_nowhere(method: str, accept: str) -> None:
    """It gets what every unknown path gets."""
    gateway = build()
    headers = {"accept": accept}
    assert (await gateway.ask(None, method, "/", headers=headers)).status_code == 401
    assert (await gateway.ask("user", method, "/", headers=headers)).status_code == 404


@pytest.mark.parametrize(
    ("pages", "there"),
    [
        ({}, ()),
        ({"playground": True}, ("/playground", "/playground/facts", "/")),
        ({"dashboard": True}, ("/dashboard", "/playground/facts", "/dashboard/events")),
    ],
)
async def test_a_page_that_is_off_does_not_exist(
    pages: dict[str, bool], there: tuple[str, ...]
) -> None:
    """Neither it nor its files nor its data; off is the default."""
    gateway = build(pages)
    paths = ("/playground", "/playground/facts", "/dashboard", "/dashboard/events", "/")
    for path in paths:
        response = await gateway.ask("admin", "GET", path, headers=HTML)
        # An admin here may use every model, for the facts.
        assert (response.status_code in (200, 303)) == (path in there), path
    styles = await gateway.ask("admin", "GET", "/pages/auto/theme.css")
    assert (styles.status_code == 200) == bool(pages)


async def test_below_a_mount_point() -> None:
    """The way to the playground has the prefix of the application."""
    gateway = build()
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "root_path": "/llm", "path": "/llm/"}
    await gateway.app({**scope, "headers": [(b"accept", b"text/html")]}, receive, send)
    assert dict(sent[0]["headers"])[b"location"] == b"/llm/playground"


async def test_the_facts_depend_on_the_reader() -> None:
    """Tiers and prices that the caller may use, and nothing about the others."""
    prices = {"tiers": {"fast": {"input": 1, "output": 2}, "strong": {"input": 10, "output": 20}}}
    gateway = build(prices=prices)
    gateway.pipeline.steps = gateway.pipeline.steps.__class__(
        access=gateway.pipeline.steps.access, prices=gateway.pipeline.runtime.prices
    )
    facts = (await gateway.ask("fast", "GET", "/playground/facts")).json()
    price = {"input": 1000, "cached_input": 1000, "output": 2000}
    assert facts["tiers"] == [{"name": "fast", "model_id": "m-fast", "price": price}]
    assert (facts["currency"], facts["overrides"], facts["dashboard"]) == ("EUR", False, False)
    assert facts["caller"] == {"tenant": "acme", "user": "ann"}
    assert facts["feedback"] is False
    everything = (await gateway.ask("operator", "GET", "/playground/facts")).json()
    assert [tier["name"] for tier in everything["tiers"]] == ["fast", "strong"]
    assert everything["dashboard"] is True


@pytest.mark.parametrize(
    ("role", "status"),
    [(None, 401), ("user", 403), ("all", 403), ("operator", 200), ("admin", 200)],
)
async def test_who_may_watch(role: str | None, status: int) -> None:
    """The numbers are of the traffic of all callers."""
    response = await build().ask(role, "GET", "/dashboard/events")
    assert response.status_code == status
    if status == 200:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"
        assert response.text == 'data: {"n":1}\n\ndata: {"n":2}\n\n'


async def test_too_many_watchers_are_told_so() -> None:
    """With a status, because no event has been sent."""
    response = await build(watch=FakeWatch([], full=True)).ask("admin", "GET", "/dashboard/events")
    assert (response.status_code, response.headers["retry-after"]) == (429, "30")


async def test_a_stream_of_numbers_ends() -> None:
    """So that a Router which is removed, or a key which is revoked, is not watched for long."""

    async def numbers() -> AsyncIterator[bytes]:
        yield b"1"
        await asyncio.Event().wait()

    assert [document async for document in limit_stream(numbers(), 0.05)] == [b"1"]
