"""Clients that send large bodies slowly, many at a time: a Router's memory has a bound."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import orjson
import pytest
from starlette.types import Message

from serve_app.config.runtime import RuntimeConfig
from tests.fakes import FakeAnswer
from tests.gateway.conftest import Gateway

PART = 64 * 1024
HELD_MAX = 1024 * 1024
CHAT = "/v1/chat/completions"


class SlowClient:
    """Has sent a part of its body, and sends no more."""

    def __init__(self, path: str, size: int) -> None:
        headers = [(b"content-type", b"application/json")]
        self._scope: dict[str, Any] = {
            "type": "http",
            "method": "POST",
            "path": path,
            "root_path": "",
            "query_string": b"",
            "headers": headers,
            "client": ("127.0.0.1", 1),
        }
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()
        self._inbox.put_nowait({"type": "http.request", "body": bytes(size), "more_body": True})
        self.status: int | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]

    def leave(self) -> None:
        self._inbox.put_nowait({"type": "http.disconnect"})

    async def call(self, gateway: Gateway) -> None:
        await gateway.app(self._scope, self._inbox.get, self.send)


@pytest.fixture
def limited(gateway: Gateway) -> Gateway:
    """A Router that holds so many bytes of bodies."""
    limits = {"held_body_bytes_max": HELD_MAX, "body_bytes_max": HELD_MAX}
    gateway.pipeline.runtime = RuntimeConfig.model_validate({"limits": limits})
    return gateway


@pytest.mark.parametrize("path", [CHAT, "/v1/route"])
async def test_slow_bodies_fill_no_memory(limited: Gateway, path: str) -> None:
    """Those beyond the limit are told at once, and calls with small bodies go on."""
    clients = [SlowClient(path, PART) for _ in range(20)]
    calls = [asyncio.ensure_future(client.call(limited)) for client in clients]
    async with asyncio.timeout(5):
        while sum(client.status == 429 for client in clients) < 20 - HELD_MAX // PART:
            await asyncio.sleep(0.005)
    assert (await limited.chat()).status_code == 200
    large: httpx.Response = await limited.chat(user="u" * PART)
    assert large.json()["error"]["code"] == "too_many_calls"
    assert "retry-after" in large.headers
    for client in clients:
        client.leave()
    await asyncio.gather(*calls)
    limited.fast.answer = limited.strong.answer = FakeAnswer([b"{}"])
    assert (await limited.chat(user="u" * PART)).status_code == 200


async def test_a_body_counts_until_its_call_has_ended(limited: Gateway) -> None:
    """The Router needs it to ask another replica or tier."""
    limited.fast.answer = limited.strong.answer = FakeAnswer([], hang=True)
    body = orjson.dumps({"messages": [{"role": "user", "content": "a" * (HELD_MAX - 1000)}]})
    held = asyncio.ensure_future(
        limited.client.post(CHAT, content=body, headers={"content-type": "application/json"})
    )
    while not (limited.fast.requests or limited.strong.requests):
        await asyncio.sleep(0)
    assert (await limited.chat(user="u" * PART)).status_code == 429
    held.cancel()
    await asyncio.gather(held, return_exceptions=True)
    limited.fast.answer = limited.strong.answer = FakeAnswer([b"{}"])
    assert (await limited.chat(user="u" * PART)).status_code == 200
