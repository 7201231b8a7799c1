"""The data plane against a real socket: keep-alive, deadlines, retries, disconnects."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager

import pytest

from serve_app.config.runtime import DeadlinesConfig, LeaseConfig
from serve_app.core.call import Usage
from serve_app.core.deadlines import Deadlines
from serve_app.core.errors import (
    DeadlineExceeded,
    TierOverloaded,
    TierUnavailable,
    UpstreamFailed,
)
from serve_app.core.trace import ExchangeTrace
from serve_app.leases.client import TierClient, UpstreamRequest
from serve_app.leases.http1 import BUFFER_BYTES_MAX
from serve_app.leases.lease import Lease
from serve_app.leases.load import EngineLoad
from serve_app.replica.own_certificate import OwnCertificate
from tests.fakes import FakeGrant, FakeOpener
from tests.leases.clock import Clock

Handler = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]

OK = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
REQUEST = UpstreamRequest("/v1/chat/completions", b'{"a":1}', "id-1", stream=True)
DEADLINES = DeadlinesConfig(lease_s=1, first_byte_s=1, gap_s=1, total_s=5)


def start(deadlines: DeadlinesConfig = DEADLINES) -> Deadlines:
    return deadlines.start(asyncio.get_running_loop().time())


TLS = False
"""Whether the engines of this file speak TLS."""


@pytest.fixture(params=["plain", "tls"], autouse=True)
def _transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test runs with both."""
    monkeypatch.setattr(request.module, "TLS", request.param == "tls")


class EngineStub:
    """An HTTP server that answers each request by a handler and counts its connections."""

    def __init__(self, *handlers: Handler) -> None:
        self._handlers = list(handlers)
        self.connections = 0
        self.requests: list[bytes] = []
        self.ended: list[bytes] = []
        self.lost = asyncio.Event()
        self.farewell = b""
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if head.startswith(b"POST /lease "):
                    self.ended.append(head)
                    writer.write(
                        b"HTTP/1.1 200 OK\r\n" + self.farewell + b"content-length: 0\r\n\r\n"
                    )
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
    own = OwnCertificate() if TLS else None
    context = own.context if own else None
    server = await asyncio.start_server(stub.serve, "127.0.0.1", 0, ssl=context)
    address = server.sockets[0].getsockname()[:2]
    opener = FakeOpener((*address, own.digest) if own else address)
    client = TierClient("fast", opener, LeaseConfig())
    try:
        yield client, opener
    finally:
        client.close()
        for ending in client._ending:
            ending.cancel()
        await asyncio.gather(*client._ending, return_exceptions=True)
        server.close()
        for writer in stub.writers:
            writer.transport.abort()
        for _ in range(10):  # Both sides learn that their connections are lost.
            await asyncio.sleep(0)


async def read_all(client: TierClient, deadlines: DeadlinesConfig = DEADLINES) -> bytes:
    async with client.exchange(REQUEST, start(deadlines)) as answer:
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
        async with client.exchange(draft, start()) as answer:
            assert answer.status == 200
        async with asyncio.timeout(5):
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
        async with client.exchange(REQUEST, start()) as answer:
            assert await answer.read()
        async with asyncio.timeout(5):
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


@pytest.mark.parametrize(
    "interim", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"]
)
@pytest.mark.parametrize("pause_s", [0.0, 0.02])
async def test_what_comes_before_the_answer_is_no_answer(interim: bytes, pause_s: float) -> None:
    """The answer follows under a head of its own, and meets the call that it belongs to."""

    async def hesitate(head: bytes, writer: asyncio.StreamWriter) -> None:
        for data in (interim, interim, OK):
            writer.write(data)
            await writer.drain()
            await asyncio.sleep(pause_s)

    stub = EngineStub(hesitate)
    async with running(stub) as (client, opener):
        for _ in range(2):
            async with client.exchange(REQUEST, start()) as answer:
                assert (answer.status, dict(answer.headers).keys()) == (
                    200,
                    {b"content-type", b"content-length"},
                )
                assert await answer.read() == b"ok"
        assert stub.connections == opener.granted == 1


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nx",
        b"HTTP/1.1 304 Not Modified\r\n\r\n",
        b"HTTP/1.1 307 Temporary Redirect\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ncontent-le",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n",
        b"garbage\r\n\r\n",
        b"",
    ],
)
async def test_an_engine_that_answers_nonsense_has_failed(
    head: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing of it passes for an answer, no lease outlives it, and nothing of ours crashes."""

    async def talk_nonsense(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        await writer.drain()
        writer.close()

    stub = EngineStub(talk_nonsense)
    async with running(stub) as (client, _):
        with pytest.raises((UpstreamFailed, TierUnavailable)):
            await read_all(client)
        async with asyncio.timeout(2):
            while len(stub.ended) < len(stub.requests):
                await asyncio.sleep(0.005)
    assert "Fatal error" not in caplog.text


async def test_what_comes_after_an_answer_meets_no_other_call() -> None:
    """A connection on which more comes than was announced is not used again, nor its lease."""

    async def say_too_much(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwrong")

    stub = EngineStub(say_too_much)
    async with running(stub) as (client, opener):
        assert [await read_all(client) for _ in range(3)] == [b"ok"] * 3
        assert opener.granted == 3


async def test_nobody_listens() -> None:
    """A tier whose replicas cannot be reached is unavailable, and every place is given back."""
    opener = FakeOpener(("127.0.0.1", 9))
    client = TierClient("fast", opener, LeaseConfig())
    with pytest.raises(TierUnavailable):
        await read_all(client)
    assert client.open_leases == 0


async def test_a_connection_that_does_not_come_is_not_waited_for_longer_than_the_answer() -> None:
    """A host that says nothing, as one behind a cut link, keeps no call beyond its deadline."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as silent, ExitStack() as others:
        for _ in range(4):  # Its queue is full, and the kernel answers nobody any more.
            other = others.enter_context(socket.socket())
            other.setblocking(False)
            other.connect_ex(silent.getsockname())
        client = TierClient("fast", FakeOpener(silent.getsockname()), LeaseConfig())
        async with asyncio.timeout(1.5):
            with pytest.raises(DeadlineExceeded):
                await read_all(client, DEADLINES.model_copy(update={"first_byte_s": 0.1}))
        assert client.load().ongoing == 0
        client.close()


async def test_no_place_in_time() -> None:
    """A full tier is an overload with Retry-After, and the wait leaves nothing behind."""
    opener = FakeOpener(permits=0)
    client = TierClient("fast", opener, LeaseConfig())
    with pytest.raises(TierOverloaded) as caught:
        await read_all(client, DEADLINES.model_copy(update={"lease_s": 0.02}))
    assert caught.value.retry_after_s
    assert (client.open_leases, client.waiting) == (0, 0)


async def test_a_slow_client_stops_the_engine_not_the_memory() -> None:
    """What the Router holds for a client that does not read is bounded, until the client reads."""
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
        client.exchange(REQUEST, start()) as answer,
    ):
        stopped_at = -1
        async with asyncio.timeout(10):
            # An engine that has not begun to send stands still too.
            while sent < BUFFER_BYTES_MAX or sent != stopped_at:
                stopped_at = sent
                await asyncio.sleep(0.2)
        assert stopped_at < 1024 * 65536
        assert BUFFER_BYTES_MAX < len(await answer.read()) < 4 * BUFFER_BYTES_MAX
        async with asyncio.timeout(10):
            while sent == stopped_at:
                await answer.read()


async def test_the_place_is_free_when_the_engine_has_done_its_part() -> None:
    """A client that reads slowly, or not at all, keeps neither a lease nor a connection."""
    stub = EngineStub(say_ok)
    async with running(stub) as (client, opener):
        async with client.exchange(REQUEST, start()) as slow:
            async with asyncio.timeout(5):
                while client.load().ongoing:
                    await asyncio.sleep(0.005)
            assert await read_all(client) == b"ok"
            assert stub.connections == opener.granted == 1
            assert await slow.read() == b"ok"
            assert await slow.read() == b""
        assert stub.ended == []


async def test_a_complete_answer_that_was_too_much_at_once_leaves_a_good_connection() -> None:
    """Reading was paused for the slow client; the next exchange is read again."""
    size = 2 * BUFFER_BYTES_MAX

    async def much(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size + b"x" * size)

    stub = EngineStub(much)
    async with running(stub) as (client, _):
        assert len(await read_all(client)) == size
        assert len(await read_all(client)) == size
        assert stub.connections == 1


async def test_an_engine_that_was_held_up_by_its_client_is_not_silent() -> None:
    """The gap counts from when the Router reads again, also where nothing more was on its way."""
    size = BUFFER_BYTES_MAX + 1
    reads = asyncio.Event()
    gap_s = 0.6

    async def flood(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED + b"%x\r\n" % size + b"x" * size + b"\r\n")
        await reads.wait()
        await asyncio.sleep(gap_s / 2)
        writer.write(b"1\r\ny\r\n0\r\n\r\n")

    deadlines = DEADLINES.model_copy(update={"gap_s": gap_s})
    async with (
        running(EngineStub(flood)) as (client, _),
        client.exchange(REQUEST, start(deadlines)) as answer,
    ):
        await asyncio.sleep(1.8 * gap_s)
        reads.set()
        body = b""
        while chunk := await answer.read():
            body += chunk
    assert len(body) == size + 1


async def test_deadlines_do_not_begin_anew_with_another_replica() -> None:
    """However many replicas are lost under a call, it ends when its time is up."""

    async def die_slowly(head: bytes, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.15)
        writer.transport.abort()
        raise ConnectionError

    async with running(EngineStub(die_slowly)) as (client, _):
        with pytest.raises(DeadlineExceeded) as caught:
            await read_all(client, DEADLINES.model_copy(update={"first_byte_s": 0.2}))
    assert (caught.value.limit, caught.value.seconds) == ("first byte", 0.2)


async def test_the_wait_for_a_place_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that got its place late has less time for its answer."""
    clock = Clock(monkeypatch)
    asked_of_engine = asyncio.Event()

    async def silent(head: bytes, writer: asyncio.StreamWriter) -> None:
        asked_of_engine.set()
        await asyncio.sleep(10)

    stub = EngineStub(silent)
    async with running(stub) as (client, opener):
        opener.permits = asyncio.Semaphore(0)
        asked = asyncio.create_task(
            read_all(client, DEADLINES.model_copy(update={"lease_s": 0.9, "first_byte_s": 1.0}))
        )
        await asyncio.sleep(0)
        await clock.advance(0.8)
        opener.permits.release()
        await asked_of_engine.wait()
        await clock.advance(0.19)
        assert not asked.done()
        await clock.advance(0.02)
        with pytest.raises(DeadlineExceeded) as caught:
            await asked
        assert caught.value.limit == "first byte"
        while not stub.ended or client._ending:
            await clock.advance(0.001)


@pytest.mark.parametrize(
    ("farewell", "usage"),
    [
        (b"x-lease-usage: 7 42\r\n", Usage(7, 42)),
        (b"x-lease-usage: all of it\r\n", Usage()),
        (b"", Usage()),
    ],
)
@pytest.mark.parametrize("begun", [True, False])
async def test_the_tokens_of_an_answer_that_was_cut_off_are_told(
    farewell: bytes, usage: Usage, begun: bool
) -> None:
    """The replica knows them, and says so when the lease ends; if it does not, none is known."""

    async def endless(head: bytes, writer: asyncio.StreamWriter) -> None:
        if begun:
            writer.write(CHUNKED + b"1\r\nx\r\n")
        await asyncio.sleep(10)

    stub = EngineStub(endless)
    stub.farewell = farewell
    request = UpstreamRequest(
        "/v1/chat/completions", b'{"a":1}', "id-1", stream=True, usage=Usage()
    )

    async def ask(client: TierClient) -> None:
        async with client.exchange(request, start()) as answer:
            await answer.read()
            await answer.read()

    async with running(stub) as (client, _):
        call = asyncio.create_task(ask(client))
        async with asyncio.timeout(5):
            while not stub.requests:
                await asyncio.sleep(0.005)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        assert call.cancelled()
        assert request.settling is not None
        async with asyncio.timeout(5):
            await request.settling
    assert request.usage == usage


async def test_a_complete_answer_is_not_asked_after() -> None:
    """Its usage was in it."""
    request = UpstreamRequest(
        "/v1/chat/completions", b'{"a":1}', "id-1", stream=True, usage=Usage()
    )
    async with running(EngineStub(say_ok)) as (client, _):
        async with client.exchange(request, start()) as answer:
            while await answer.read():
                pass
        assert request.settling is None


async def test_connections_that_the_engine_closes_are_forgotten() -> None:
    """Replicas come and go; the pool keeps nothing of those that went."""

    async def ok_and_close(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        await asyncio.sleep(0.02)
        writer.transport.abort()
        raise ConnectionError

    async with running(EngineStub(ok_and_close)) as (client, _):
        assert await read_all(client) == b"ok"
        assert client._connections._idle
        async with asyncio.timeout(5):
            while client._connections._idle:
                await asyncio.sleep(0.005)


async def take(client: TierClient, count: int) -> None:
    for _ in range(count):
        await client._leases.acquire()


@pytest.mark.parametrize(("ongoing", "ours"), [(3, 1.0), (9, 2.0)])
async def test_the_queue_of_the_engines_is_shared(
    monkeypatch: pytest.MonkeyPatch, ongoing: int, ours: float
) -> None:
    """A Router's part of it is its part of the calls, and the calls that wait here come on top."""
    clock, client = Clock(monkeypatch), TierClient("fast", opener := FakeOpener(), LeaseConfig())
    for call in range(10):
        client._first_tokens.begin(call, asyncio.get_running_loop().time())
    await clock.advance(0.1)
    now = asyncio.get_running_loop().time()
    for call in range(10):
        client._first_tokens.end(call, now)
    client._engines.note(opener.address, EngineLoad(running=4, queued=2, kv_used_ratio=0.5), now)
    await take(client, ongoing)
    opener.permits = asyncio.Semaphore(0)
    waiting = asyncio.create_task(take(client, 1))
    await asyncio.sleep(0)
    load = client.load()
    # Ten first tokens in two seconds: each call before this one takes 0.2 s.
    assert load.first_token_s == pytest.approx(0.2 * (1 + ours))
    assert (load.ongoing, load.waiting) == (ongoing, 1)
    assert (load.replicas, load.running, load.queued, load.kv_free_ratio) == (1, 4, 2, 0.5)
    waiting.cancel()


async def test_the_load_of_engines_that_report_nothing_is_unknown() -> None:
    """It is not zero."""
    load = TierClient("fast", FakeOpener(), LeaseConfig()).load()
    assert (load.replicas, load.running, load.queued, load.kv_free_ratio) == (None,) * 4
    assert load.first_token_s is None


async def test_new_settings_are_taken() -> None:
    """By the places and sessions that are there already."""
    client = TierClient("fast", FakeOpener(), LeaseConfig())
    client.configure(LeaseConfig(reuse_s=0.7, age_max_s=7, session_s=77), watches_load=True)
    leases = client._leases
    assert (leases.reuse_s, leases.age_max_s, leases.sessions.kept_s) == (0.7, 7, 77)
    assert client.watches_load


async def test_a_watched_tier_measures_whatever_the_config_says() -> None:
    """From now on until nobody watches any more; then as the config says."""
    client = TierClient("fast", FakeOpener(), LeaseConfig())
    client.watch(on=True)
    client.configure(LeaseConfig(), watches_load=False)
    assert client.watches_load
    client.watch(on=False)
    assert not client.watches_load
    client.configure(LeaseConfig(), watches_load=True)
    client.watch(on=True)
    client.watch(on=False)
    assert client.watches_load


async def test_a_closed_client_leaves_no_task_behind() -> None:
    """It looks for no replica that can be reached."""
    async with running(EngineStub(say_ok)) as (client, opener):
        client.configure(LeaseConfig(), watches_load=True)
        await read_all(client)
        opener.permits = asyncio.Semaphore(0)
        client._mark_down()
        await asyncio.sleep(0)
        probe = client._probe
        assert probe is not None
        client.close()
        _, pending = await asyncio.wait([probe], timeout=5)
        assert not pending


async def test_only_an_answer_is_waited_for() -> None:
    """Neither the call that a 4xx ends nor the call that its client leaves is pending."""

    async def refuse(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad\r\ncontent-length: 2\r\n\r\nno")

    async def begin(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED)

    async with running(EngineStub(refuse, begin)) as (client, _):
        client.configure(LeaseConfig(), watches_load=True)
        async with client.exchange(REQUEST, start()):
            assert client.load().first_token_s is None
        async with client.exchange(REQUEST, start()):
            assert client.load().first_token_s is not None
        assert client.load().first_token_s is None


async def test_an_answer_reports_the_load_of_its_engine() -> None:
    """And it shows that the tier can be reached."""

    async def report(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(OK.replace(b"content-type: text/plain", b"x-engine-load: 3 1 0.5"))

    async with running(EngineStub(report)) as (client, _):
        client.configure(LeaseConfig(), watches_load=True)
        client._unreachable = True
        async with client.exchange(REQUEST, start()):
            assert not client.down
            assert (client.load().running, client.load().queued) == (3, 1)
        client.configure(LeaseConfig(), watches_load=False)


@pytest.mark.parametrize(("status", "retry_after_s"), [(b"503 Full", 5), (b"500 Broken", None)])
async def test_when_to_try_an_engine_that_failed_again(
    status: bytes, retry_after_s: int | None
) -> None:
    """In a moment where its queue was full; a failure of another kind promises nothing."""

    async def fail(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 %b\r\ncontent-length: 0\r\n\r\n" % status)

    async with running(EngineStub(fail)) as (client, _):
        with pytest.raises((TierOverloaded, UpstreamFailed)) as caught:
            await read_all(client)
        assert caught.value.retry_after_s == retry_after_s


async def test_a_traced_request_tells_the_engine_and_notes_its_place() -> None:
    """A request that is not traced has no header."""
    stub = EngineStub(say_ok)
    traced = UpstreamRequest("/v1/chat/completions", b'{"a":1}', "id-2", stream=True)
    noted = traced.trace = ExchangeTrace("fast", "00f067aa0ba902b7", time.time())
    traced.traceparent = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    async with running(stub) as (client, _):
        for request in (REQUEST, traced):
            async with client.exchange(request, start()) as answer:
                while await answer.read():
                    pass
    plain, told = stub.requests
    assert b"traceparent" not in plain
    assert b"\r\ntraceparent: " + traced.traceparent + b"\r\n" in told
    assert noted.leased_at is not None
    assert noted.leased_at >= noted.asked_at
