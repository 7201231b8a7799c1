"""uvicorn with our protocol, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
import pytest
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serve_app.gateway.edge import Edge
from serve_app.gateway.protocol import EdgeProtocol

WITH_TRAILER = (
    b"POST / HTTP/1.1\r\nhost: h\r\nx-route-tier: strong\r\ntransfer-encoding: chunked\r\n"
    b"connection: close\r\n\r\n2\r\n{}\r\n0\r\nx-route-tier: fast\r\nx-added: 1\r\n\r\n"
)


async def show_headers(scope: Scope, receive: Receive, send: Send) -> None:
    while (await receive()).get("more_body"):
        pass
    body = repr(scope["headers"]).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def breaks_off(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"begun", "more_body": True})
    raise ValueError


@pytest.fixture(params=[HttpToolsProtocol, EdgeProtocol], ids=["uvicorn", "ours"])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[tuple[str, int]]:
    """The protocol's name and the port of a server that shows its headers."""
    async with running(show_headers, request.param) as port:
        yield request.param.__name__, port


@asynccontextmanager
async def running(app: ASGIApp, protocol: type[asyncio.Protocol]) -> AsyncIterator[int]:
    config = uvicorn.Config(
        app, port=0, http=protocol, lifespan="off", log_config=None, access_log=False
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.005)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await task


async def ask(port: int, *parts: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for part in parts:
        writer.write(part)
        await writer.drain()
        await asyncio.sleep(0.02)
    try:
        async with asyncio.timeout(5):
            return await reader.read()
    finally:
        writer.close()


@pytest.mark.parametrize("split", [len(WITH_TRAILER), 100])
async def test_a_trailer_is_no_header(server: tuple[str, int], split: int) -> None:
    """It neither overrides nor adds one, in whatever pieces the request arrives."""
    protocol, port = server
    answer = await ask(port, WITH_TRAILER[:split], WITH_TRAILER[split:])
    assert b"b'x-route-tier', b'strong'" in answer
    if protocol == "EdgeProtocol":
        assert b"fast" not in answer
        assert b"x-added" not in answer
    elif split == len(WITH_TRAILER):
        assert b"fast" in answer  # What it is for; uvicorn may mend it one day.


async def test_what_is_not_http_is_refused_in_json(server: tuple[str, int]) -> None:
    """In the form of OpenAI's errors, as everything else."""
    protocol, port = server
    answer = await ask(port, b"GARBAGE\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    if protocol == "EdgeProtocol":
        assert orjson.loads(body)["error"]["code"] == "bad_request"
        assert b"application/json" in head


async def test_a_begun_answer_that_fails_gets_no_second_head() -> None:
    """The connection breaks, so that the client does not take what it has for the whole."""
    async with running(Edge(breaks_off), EdgeProtocol) as port:
        answer = await ask(port, b"GET / HTTP/1.1\r\nhost: h\r\n\r\n")
    assert answer.count(b"HTTP/1.1") == 1
    assert answer.endswith(b"begun\r\n")


@pytest.mark.parametrize("upgrade", [b"h2c", b"websocket", b"foo"])
async def test_no_request_hides_in_the_body_of_an_upgrade(
    server: tuple[str, int], upgrade: bytes
) -> None:
    """uvicorn takes the body for the next request; a proxy would give its answer to somebody."""
    protocol, port = server
    head = (
        b"POST / HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: %b\r\n"
        b"content-length: %d\r\n\r\n"
    )
    hidden = b"GET / HTTP/1.1\r\nhost: hidden\r\nconnection: close\r\n\r\n"
    if protocol == "HttpToolsProtocol" and upgrade == b"websocket":
        pytest.skip("uvicorn hands the connection to another protocol")
    answer = await ask(port, head % (upgrade, len(hidden)), hidden)
    if protocol == "EdgeProtocol":
        assert answer.count(b"HTTP/1.1 ") == 1
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"hidden" not in answer
    else:
        assert b"hidden" in answer  # What it is for.


@pytest.mark.parametrize(
    "endless", [b"x-a: b\r\n" * 100_000, b"x-a: " + b"b" * 1_000_000], ids=["many", "long"]
)
async def test_a_head_has_an_end(endless: bytes) -> None:
    """A client that goes on and on loses its connection, so that a Router holds little for it."""
    async with running(show_headers, EdgeProtocol) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionError):
                writer.write(b"GET / HTTP/1.1\r\nhost: h\r\n" + endless)
                await writer.drain()
                await reader.read()
        writer.close()


async def show_client(scope: Scope, receive: Receive, send: Send) -> None:
    body = repr(scope["client"][0]).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.mark.parametrize("protocol", [HttpToolsProtocol, EdgeProtocol])
async def test_the_peer_is_not_whom_a_header_names(protocol: type[asyncio.Protocol]) -> None:
    """uvicorn believes every program on its machine; the config says who speaks for a client."""
    async with running(show_client, protocol) as port:
        answer = await ask(
            port,
            b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\nx-forwarded-for: 192.0.2.1\r\n\r\n",
        )
    believed = protocol is HttpToolsProtocol
    assert answer.endswith(b"'192.0.2.1'" if believed else b"'127.0.0.1'")
