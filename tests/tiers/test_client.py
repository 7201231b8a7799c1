"""The data plane against a real socket: keep-alive, deadlines, retries, disconnects."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from serve_app.config.runtime import DeadlinesConfig, LeaseConfig
from serve_app.core.errors import (
    DeadlineExceeded,
    TierOverloaded,
    TierUnavailable,
    UpstreamFailed,
)
from serve_app.tiers.client import TierClient, UpstreamRequest
from serve_app.tiers.http1 import BUFFER_BYTES_MAX
from serve_app.tiers.lease_pool import Lease
from tests.fakes import FakeGrant, FakeOpener

Handler = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]

OK = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
REQUEST = UpstreamRequest("/v1/chat/completions", b'{"a":1}', "id-1", stream=True)
DEADLINES = DeadlinesConfig(lease_s=1, first_byte_s=1, gap_s=1, total_s=5)


class EngineStub:
    """An HTTP server that answers each request by a handler and counts its connections."""

    def __init__(self, *handlers: Handler) -> None:
        self._handlers = list(handlers)
        self.connections = 0
        self.requests: list[bytes] = []
        self.ended: list[bytes] = []
        self.lost = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if head.startswith(b"POST /lease "):
                    self.ended.append(head)
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                    continue
                self.requests.append(head + await reader.readexactly(7))
                handler = self._handlers.pop(0) if len(self._handlers) > 1 else self._handlers[0]
                await handler(head, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.lost.set()
        finally:
            writer.close()


@asynccontextmanager
async def running(stub: EngineStub) -> AsyncIterator[tuple[TierClient, FakeOpener]]:
    server = await asyncio.start_server(stub.serve, "127.0.0.1", 0)
    opener = FakeOpener(server.sockets[0].getsockname()[:2])
    client = TierClient("fast", opener, LeaseConfig())
    try:
        yield client, opener
    finally:
        client.close()
        server.close()


async def read_all(client: TierClient, deadlines: DeadlinesConfig = DEADLINES) -> bytes:
    async with client.exchange(REQUEST, deadlines) as answer:
        body = b""
        while chunk := await answer.read():
            body += chunk
        return body


async def say_ok(head: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(OK)


async def test_exchanges_share_a_connection_and_a_lease() -> None:
    """Calls that follow each other cost neither a connection nor a request to Ray."""
    stub = EngineStub(say_ok)
    async with running(stub) as (client, opener):
        assert [await read_all(client) for _ in range(3)] == [b"ok"] * 3
        assert stub.connections == opener.granted == 1
        assert b"x-lease-id: lease-0\r\n" in stub.requests[0]
        assert stub.requests[0].endswith(b'{"a":1}')


async def test_a_draft_is_asked_for_by_a_header_and_dropped_by_closing() -> None:
    """Its head comes before its body; whoever closes it there ends connection and lease."""

    async def hold(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED)

    stub = EngineStub(hold)
    draft = UpstreamRequest("/v1/chat/completions", b'{"a":1}', "id-1", stream=True, draft_tokens=8)
    async with running(stub) as (client, _):
        async with client.exchange(draft, DEADLINES) as answer:
            assert answer.status == 200
        async with asyncio.timeout(1):
            await stub.lost.wait()
            while not stub.ended:
                await asyncio.sleep(0.005)
        assert client.open_leases == 0
    assert b"\r\nx-draft-tokens: 8\r\n" in stub.requests[0]
    plain = REQUEST.render(Lease(FakeGrant("lease-0", ("127.0.0.1", 1)), 0.0))
    assert b"x-draft-tokens" not in plain


async def test_chunked_bodies_arrive_whole() -> None:
    """Chunks are joined, whatever their pieces on the wire."""

    async def in_pieces(head: bytes, writer: asyncio.StreamWriter) -> None:
        for piece in (CHUNKED[:10], CHUNKED[10:] + b"3\r\nab", b"c\r\n2", b"\r\nde\r\n0\r\n\r\n"):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.002)

    async with running(EngineStub(in_pieces)) as (client, _):
        assert await read_all(client) == b"abcde"
        assert await read_all(client) == b"abcde"


async def test_leaving_early_disconnects_the_engine_and_frees_the_lease() -> None:
    """A client that leaves ends the engine's work at once."""

    async def endless(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED)
        while True:
            writer.write(b"1\r\nx\r\n")
            await writer.drain()
            await asyncio.sleep(0.001)

    stub = EngineStub(endless)
    async with running(stub) as (client, _):
        async with client.exchange(REQUEST, DEADLINES) as answer:
            assert await answer.read()
        async with asyncio.timeout(1):
            await stub.lost.wait()
            while not stub.ended:
                await asyncio.sleep(0.005)
        assert b"x-lease-id: lease-0\r\n" in stub.ended[0]
        assert client.open_leases == 0


@pytest.mark.parametrize(
    ("first", "deadlines", "limit"),
    [
        (b"", {"first_byte_s": 0.05}, "first byte"),
        (CHUNKED + b"1\r\nx\r\n", {"gap_s": 0.05}, "gap"),
        (CHUNKED + b"1\r\nx\r\n", {"total_s": 0.05}, "total"),
    ],
)
async def test_each_deadline_has_its_name(
    first: bytes, deadlines: dict[str, float], limit: str
) -> None:
    """A silent engine is left when its deadline has passed, and the error says which."""

    async def silent(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        await asyncio.sleep(10)

    async with running(EngineStub(silent)) as (client, _):
        with pytest.raises(DeadlineExceeded) as caught:
            await read_all(client, DEADLINES.model_copy(update=deadlines))
        assert caught.value.limit == limit
        assert client.open_leases == 0


async def test_a_steady_stream_outlives_the_gap_deadline() -> None:
    """Only silence counts against the gap, not the length of the stream."""

    async def slow(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED)
        for _ in range(8):
            await asyncio.sleep(0.02)
            writer.write(b"1\r\nx\r\n")
        writer.write(b"0\r\n\r\n")

    async with running(EngineStub(slow)) as (client, _):
        assert await read_all(client, DEADLINES.model_copy(update={"gap_s": 0.1})) == b"x" * 8


async def test_a_replica_lost_before_its_answer_is_replaced_by_another() -> None:
    """Nothing had begun, so the call is sent again."""

    async def die(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()
        raise ConnectionError

    stub = EngineStub(die, say_ok)
    async with running(stub) as (client, opener):
        assert await read_all(client) == b"ok"
        assert opener.granted == 2


async def test_an_expired_lease_is_replaced() -> None:
    """A replica that no longer knows the lease has not begun the call."""

    async def refuse(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 403 X\r\nx-lease-refused: 1\r\ncontent-length: 0\r\n\r\n")

    stub = EngineStub(say_ok, refuse, say_ok)
    async with running(stub) as (client, opener):
        assert await read_all(client) == b"ok"
        assert await read_all(client) == b"ok"
        assert opener.granted == 2
        leases = [b"lease-0" in request for request in stub.requests]
        assert leases == [True, True, False]


async def test_a_stream_that_breaks_is_not_begun_again() -> None:
    """After the first byte a broken engine is an error, never a second answer."""

    async def half(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED + b"5\r\nhel")
        await writer.drain()
        writer.transport.close()
        raise ConnectionError

    stub = EngineStub(half)
    async with running(stub) as (client, _):
        with pytest.raises(UpstreamFailed):
            await read_all(client)
        assert len(stub.requests) == 1
        assert client.open_leases == 0


async def test_nobody_listens() -> None:
    """A tier whose replicas cannot be reached is unavailable, and every place is given back."""
    opener = FakeOpener(("127.0.0.1", 9))
    client = TierClient("fast", opener, LeaseConfig())
    with pytest.raises(TierUnavailable):
        await read_all(client)
    assert client.open_leases == 0


async def test_no_place_in_time() -> None:
    """A full tier is an overload with Retry-After, and the wait leaves nothing behind."""
    opener = FakeOpener(permits=0)
    client = TierClient("fast", opener, LeaseConfig())
    with pytest.raises(TierOverloaded) as caught:
        await read_all(client, DEADLINES.model_copy(update={"lease_s": 0.02}))
    assert caught.value.retry_after_s
    assert (client.open_leases, client.waiting) == (0, 0)


async def test_a_slow_client_stops_the_engine_not_the_memory() -> None:
    """What the Router holds for a client that does not read is bounded."""
    sent = 0

    async def flood(head: bytes, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(CHUNKED)
        piece = b"10000\r\n" + b"x" * 65536 + b"\r\n"
        for _ in range(1024):
            writer.write(piece)
            await writer.drain()
            sent += 65536

    async with (
        running(EngineStub(flood)) as (client, _),
        client.exchange(REQUEST, DEADLINES) as answer,
    ):
        previous = -1
        async with asyncio.timeout(5):
            while sent != previous:
                previous = sent
                await asyncio.sleep(0.1)
        assert sent < 1024 * 65536
        assert len(await answer.read()) < 4 * BUFFER_BYTES_MAX
