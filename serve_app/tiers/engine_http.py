"""The replica's HTTP side: its engine's own app, on a port that opens to lease holders only."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time

import httpx
import uvicorn

from serve_app.tiers.asgi import ASGIApp, Receive, Scope, Send
from serve_app.tiers.client import LEASE_HEADER, LEASE_PATH, LEASE_REFUSED_HEADER, LOAD_PATH
from serve_app.tiers.engine_stats import EngineStats
from serve_app.tiers.http1 import IDLE_S_MAX, Address
from serve_app.tiers.lease_table import LeaseTable
from serve_app.tiers.load import LOAD_HEADER, EngineLoad

logger = logging.getLogger("ray.serve")


class LeasedApp:
    """The engine's app behind a door that opens to live leases only."""

    def __init__(self, app: ASGIApp, leases: LeaseTable, stats: EngineStats | None = None) -> None:
        self._app = app
        self._leases = leases
        self._stats = stats

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        lease = self._leases.find(_lease_id(scope)) if scope["type"] == "http" else None
        if lease is None:
            await _answer(send, 403, [(LEASE_REFUSED_HEADER, b"1")])
            return
        if scope["path"] == LEASE_PATH:
            lease.end()
            await _answer(send, 200, [self._load_header()])
            return
        if scope["path"] == LOAD_PATH:
            await _answer(send, 200, [self._load_header()])
            return
        lease.begin_exchange()
        try:
            await self._app(scope, receive, send)
        finally:
            lease.end_exchange()

    def _load_header(self) -> tuple[bytes, bytes]:
        """The engine's own numbers, or else the calls that are here."""
        load = None if self._stats is None else self._stats.read()
        return LOAD_HEADER, (load or EngineLoad(self._leases.exchanges, 0, None)).render()


def _lease_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == LEASE_HEADER:
            return bytes(value).decode("latin-1")
    return ""


async def _answer(send: Send, status: int, headers: list[tuple[bytes, bytes]]) -> None:
    headers = [*headers, (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


async def warm_up(app: ASGIApp, model: str) -> None:
    """Answer one chat before Ray sends any: the first takes seconds for templates and tokenizers.

    A model that cannot chat answers with an error, which does no harm.
    """
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    body = {"model": model, "max_tokens": 1, "messages": [{"role": "user", "content": "Hello"}]}
    started = time.monotonic()
    async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
        response = await client.post("/v1/chat/completions", json=body, timeout=None)
    duration_s = time.monotonic() - started
    logger.info("warm-up answered with %d after %.1f s", response.status_code, duration_s)


class EngineHTTPServer:
    """The HTTP server of one engine app, on a free port of the node's own address."""

    def __init__(self, app: ASGIApp, host: str) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.bind((host, 0))
        self.address: Address = (host, self._socket.getsockname()[1])
        config = uvicorn.Config(
            app,
            loop="none",
            http="httptools",
            ws="none",
            lifespan="off",
            access_log=False,
            proxy_headers=False,
            log_config=None,
            log_level="warning",
            server_header=False,
            date_header=False,
            backlog=2048,
            # Longer than Routers keep idle connections, so that the server never closes one in the
            # moment in which a Router sends on it.
            timeout_keep_alive=int(4 * IDLE_S_MAX),
        )
        self._server = uvicorn.Server(config)
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]))

    async def wait_started(self) -> None:
        """Return when the port is open.

        Raises:
            RuntimeError: the server ended instead.
        """
        while not self._server.started:
            self.check()
            await asyncio.sleep(0.01)

    def check(self) -> None:
        """Raise RuntimeError if the server no longer runs."""
        if self._task.done():
            raise RuntimeError("the engine's HTTP server has stopped")

    async def close(self) -> None:
        """Close the port and every connection."""
        self._server.should_exit = self._server.force_exit = True
        with contextlib.suppress(Exception):
            await self._task
        self._socket.close()
