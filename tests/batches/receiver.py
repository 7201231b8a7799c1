"""A receiver of webhooks on the loopback interface, which checks signatures by OpenAI's client."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from ssl import SSLContext
from typing import Any

import openai
from aiohttp import web

SECRET = "whsec_" + "c2VjcmV0IG9mIHRoZSB0ZXN0cywgMzIgYnl0ZXMgbG9uZyE="
VARIABLE = "TEST_WEBHOOK_SECRET"
LOOPBACK = ["127.0.0.0/8"]
GIVES_UP_S = 30.0


@dataclass(frozen=True)
class Delivery:
    """One request."""

    headers: Mapping[str, str]
    body: str

    @property
    def event_id(self) -> str:
        return self.headers["webhook-id"]

    def unwrap(self, secret: str = SECRET) -> Any:
        """The event, if its signature is right."""
        client = openai.OpenAI(api_key="unused", webhook_secret=secret)
        return client.webhooks.unwrap(self.body, dict(self.headers))


@dataclass
class Receiver:
    """Answers by a script of statuses, then with 200."""

    port: int = 0
    script: list[int] = field(default_factory=list)
    answer_headers: dict[str, str] = field(default_factory=dict)
    requests: list[Delivery] = field(default_factory=list)
    silent: bool = False
    """Takes requests and answers none."""
    taken: Callable[[], object] = lambda: None
    """Called with each request, before it is answered."""
    held: asyncio.Event = field(default_factory=asyncio.Event)

    def hook(self, **keys: Any) -> dict[str, Any]:
        """The config of this receiver."""
        return {
            "name": "main",
            "url": f"http://127.0.0.1:{self.port}/events",
            "secret": {"variable": VARIABLE},
            "private_networks": LOOPBACK,
            **keys,
        }

    async def take(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(Delivery(dict(request.headers), await request.text()))
        self.taken()
        if self.silent:
            await self.held.wait()
        status = self.script.pop(0) if self.script else 200
        return web.Response(status=status, headers=self.answer_headers, text="Thank you")

    @property
    def kinds(self) -> list[str]:
        return [one.unwrap().type for one in self.requests]

    async def has(self, count: int) -> None:
        """Wait for so many requests."""
        await until(lambda: len(self.requests) >= count)


async def until(true: Callable[[], bool]) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(GIVES_UP_S):
        while not true():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def open_receiver(tls: SSLContext | None = None) -> AsyncIterator[Receiver]:
    """A receiver on a port of its own."""
    receiver = Receiver()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", receiver.take)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    [receiver.port] = [port for _, port in runner.addresses]
    try:
        yield receiver
    finally:
        receiver.held.set()
        await runner.cleanup()


@contextmanager
def running_receiver() -> Iterator[Receiver]:
    """A receiver beside a test that has no event loop."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    manager = open_receiver()
    try:
        yield asyncio.run_coroutine_threadsafe(manager.__aenter__(), loop).result()
    finally:
        asyncio.run_coroutine_threadsafe(manager.__aexit__(None, None, None), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
