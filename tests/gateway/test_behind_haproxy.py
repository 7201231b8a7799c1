"""A client's address on its whole way: HAProxy as Ray configures it, uvicorn, edge and guard."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.config.haproxy import PROXY_PROTOCOL_FROM
from serve_app.gateway.edge import Edge
from serve_app.gateway.protocol import EdgeProtocol
from tests.config.test_haproxy import OTHER_ADDRESS, Proxy, running
from tests.gateway.test_protocol import running as serving
from tests.gateway.with_access import build_guarded

DENIED = OTHER_ADDRESS
BALANCER = "127.0.0.4"


def with_health(app: ASGIApp) -> ASGIApp:
    """The app below Serve's own layer, which answers HAProxy's checks."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/-/healthz":
            await Response("success")(scope, receive, send)
        else:
            await app(scope, receive, send)

    return serve


@pytest.fixture
async def proxy(tmp_path: Path) -> AsyncIterator[Proxy]:
    """HAProxy before a Router that lets no client at `DENIED` in, nor one at 203.0.113.9."""
    # HAProxy is at 127.0.0.1, and so is a program on its machine.
    trusted = ["127.0.0.1/32", BALANCER]
    addresses = {"deny": [DENIED, "203.0.113.9"], "trusted_proxies": trusted}
    app = Edge(with_health(build_guarded({"addresses": addresses}).app))
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(serving(app, EdgeProtocol))
        environment = {PROXY_PROTOCOL_FROM: "127.0.0.5"}
        yield await stack.enter_async_context(
            running(tmp_path, backend_port=port, more=environment)
        )


@pytest.mark.parametrize(
    ("source", "begin", "headers", "status"),
    [
        ("127.0.0.3", b"", b"", 200),
        (DENIED, b"", b"", 403),
        # A denied client cannot name another address, nor an allowed client a denied one.
        (DENIED, b"", b"x-forwarded-for: 127.0.0.3\r\n", 403),
        (DENIED, b"", b"x-forwarded-for: 127.0.0.3\r\nconnection: x-forwarded-for\r\n", 403),
        (DENIED, b"", b"x-forwarded-for: 127.0.0.1\r\nx-forwarded-for: 127.0.0.1\r\n", 403),
        ("127.0.0.3", b"", b"x-forwarded-for: 203.0.113.9\r\n", 200),
        # A load balancer speaks for its clients, by header or by the PROXY protocol.
        (BALANCER, b"", b"x-forwarded-for: 203.0.113.9\r\n", 403),
        (BALANCER, b"", b"x-forwarded-for: 192.0.2.1\r\n", 200),
        (BALANCER, b"", b"x-forwarded-for: 192.0.2.1, 203.0.113.9\r\n", 403),
        ("127.0.0.5", b"PROXY TCP4 203.0.113.9 127.0.0.1 1 2\r\n", b"", 403),
        ("127.0.0.5", b"PROXY TCP4 192.0.2.1 127.0.0.1 1 2\r\n", b"", 200),
        ("127.0.0.5", b"PROXY TCP6 ::ffff:203.0.113.9 ::1 1 2\r\n", b"", 403),
    ],
)
async def test_the_address_that_counts(
    proxy: Proxy, source: str, begin: bytes, headers: bytes, status: int
) -> None:
    """It is that of the last hop which is not trusted, whatever a client writes."""
    head = (
        b"GET /v1/models HTTP/1.1\r\nhost: h\r\nconnection: close\r\nauthorization: Bearer user\r\n"
    )
    if b"connection" in headers:
        head = head.replace(b"connection: close\r\n", b"")
    connection = await proxy.connect(begin + head + headers + b"\r\n", source=source)
    assert (await connection.reader.readline()).startswith(b"HTTP/1.1 %d " % status)
    connection.writer.close()
