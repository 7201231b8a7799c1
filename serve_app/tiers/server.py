"""TierServer: a Ray Serve LLM replica that serves its engine's own app to lease holders."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import ray
import uvicorn
from ray.serve.llm.deployment import LLMServer

from serve_app.tiers.client import LEASE_HEADER, LEASE_PATH, LEASE_REFUSED_HEADER
from serve_app.tiers.http1 import IDLE_S_MAX, Address
from serve_app.tiers.lease_table import LeaseTable

logger = logging.getLogger("ray.serve")

# The ASGI types, spelled out here because starlette is not imported outside the gateway.
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]


class LeasedApp:
    """The engine's app behind a door that opens to live leases only."""

    def __init__(self, app: ASGIApp, leases: LeaseTable) -> None:
        self._app = app
        self._leases = leases

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        lease = self._leases.find(_lease_id(scope)) if scope["type"] == "http" else None
        if lease is None:
            await _answer(send, 403, [(LEASE_REFUSED_HEADER, b"1")])
            return
        if scope["path"] == LEASE_PATH:
            lease.end()
            await _answer(send, 200, [])
            return
        lease.begin_exchange()
        try:
            await self._app(scope, receive, send)
        finally:
            lease.end_exchange()


def _lease_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == LEASE_HEADER:
            return bytes(value).decode("latin-1")
    return ""


async def _answer(send: Send, status: int, headers: list[tuple[bytes, bytes]]) -> None:
    headers = [*headers, (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


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
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await self._task
        self._socket.close()


class TierServer(LLMServer):
    """One replica of a tier: Ray counts and places it, Routers talk HTTP to its engine."""

    _http: EngineHTTPServer | None = None

    async def start(self) -> None:
        """Start the engine, then its HTTP server."""
        self._skip_download_of_local_model()
        await super().start()  # type: ignore[no-untyped-call]  # Ray's
        assert self.engine is not None, "LLMServer.start() makes it"
        self._leases = LeaseTable()
        app = LeasedApp(await self.engine.build_asgi_app(), self._leases)
        self._http = EngineHTTPServer(app, ray.util.get_node_ip_address())
        await self._http.wait_started()
        logger.info("engine app open to lease holders on port %d", self._http.address[1])

    def _skip_download_of_local_model(self) -> None:
        """Spare a process that imports vLLM only to find that there is nothing to download."""
        source = getattr(self._llm_config.model_loading_config, "model_source", None)
        callback = self._llm_config.get_or_create_callback()
        if isinstance(source, str) and callback is not None:
            callback.ctx.run_init_node = not Path(source).is_dir()

    async def lease(self, lease_id: str) -> AsyncIterator[Address]:
        """Yield the address of the engine app, then hold the place while it is used.

        The lease ends when its Router ends it over HTTP, or by itself when it has carried no
        exchange for a while. The caller does not cancel it: see `RayGrant`.
        """
        assert self._http is not None, "Ray calls no method before start() has returned"
        with self._leases.open(lease_id) as lease:
            yield self._http.address
            await lease.wait_ended()

    async def check_health(self) -> None:
        """Ask the engine, and look whether its HTTP server still runs.

        Raises:
            Exception: the replica must be replaced.
        """
        await super().check_health()
        if self._http is not None:
            self._http.check()

    async def __del__(self) -> None:
        if self._http is not None:
            await self._http.close()
        engine = getattr(self, "engine", None)
        client = getattr(engine, "_engine_client", None)
        if client is not None:
            # LLMServer itself leaves EngineCore and its workers to the death of this
            # process.
            client.shutdown()
        await super().__del__()
