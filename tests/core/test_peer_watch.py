"""Connections whose other machine is gone: both ends ask their kernel to look."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvloop

from serve_app.core.peer_watch import PROBE_S, SILENT_S_MAX, UNREAD_S_MAX, watch_peer
from serve_app.leases.http1 import ConnectionPool
from serve_app.replica.asgi import Receive, Scope, Send
from serve_app.replica.engine_http import EngineHTTPServer

HOST = "127.0.0.1"
LOOPS = pytest.mark.parametrize("run", [asyncio.run, uvloop.run])


def is_watched(sock: Any, silent_s_max: int) -> bool:
    """Whether the kernel breaks this connection when its peer has been gone for so long."""
    return (
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        and sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == PROBE_S
        and sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 1000 * silent_s_max
    )


@LOOPS
def test_a_router_watches_its_replicas(run: Callable[[Awaitable[None]], None]) -> None:
    """Every connection of the pool is watched, on either event loop."""

    async def connect() -> None:
        loop = asyncio.get_running_loop()
        async with await loop.create_server(asyncio.Protocol, HOST, 0) as server:
            address = (HOST, server.sockets[0].getsockname()[1])
            connection = await ConnectionPool().take(address)
            assert connection._transport is not None
            assert is_watched(connection._transport.get_extra_info("socket"), SILENT_S_MAX)
            connection.close()

    run(connect())


def test_accepted_connections_inherit_the_watch() -> None:
    """A server asks once, on its listening socket."""
    with socket.create_server((HOST, 0)) as server:
        watch_peer(server, UNREAD_S_MAX)
        with socket.create_connection(server.getsockname()), server.accept()[0] as accepted:
            assert is_watched(accepted, UNREAD_S_MAX)


async def test_a_replica_watches_its_routers() -> None:
    """The door's port is watched."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        """Asked for nothing here."""

    server = EngineHTTPServer(app, HOST)
    await server.wait_started()
    assert is_watched(server._socket, UNREAD_S_MAX)
    await server.close()
