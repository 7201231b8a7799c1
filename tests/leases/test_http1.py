"""One connection and its exchanges, byte by byte: no socket, and the clock stands still."""

from __future__ import annotations

import asyncio
import itertools
import math
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.deadlines import Deadlines
from serve_app.leases.http1 import (
    BUFFER_BYTES_MAX,
    IDLE_S_MAX,
    Address,
    Connection,
    ConnectionBroken,
    ConnectionPool,
    Exchange,
    ExchangeTimeout,
)
from tests.leases.clock import Clock

A: Address = ("10.0.0.1", 1)
HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


class FakeTransport:
    """Keeps what is written; an aborted transport is lost at once."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.written: list[bytes] = []
        self.reading: list[str] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def abort(self) -> None:
        if not self.closed:
            self.closed = True
            self.connection.connection_lost(None)

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, name: str) -> FakeTransport:
        assert name == "socket"
        return self

    def setsockopt(self, level: int, option: int, value: int) -> None:
        """`tests/core/test_peer_watch.py` looks at real sockets."""

    def pause_reading(self) -> None:
        self.reading.append("paused")

    def resume_reading(self) -> None:
        self.reading.append("resumed")


class Line:
    """An open connection, and the side of the engine."""

    def __init__(self) -> None:
        self.connection = Connection(asyncio.get_running_loop())
        self.transport = FakeTransport(self.connection)
        self.connection.connection_made(cast(asyncio.BaseTransport, self.transport))
        self.completed = 0

    def begin(
        self,
        *,
        stream: bool = True,
        silent: bool = False,
        first_byte_s: float = 10.0,
        gap_s: float = 5.0,
        total_s: float = 100.0,
    ) -> Exchange:
        deadlines = Deadlines(
            asyncio.get_running_loop().time(),
            place_s=0.0,
            first_byte_s=first_byte_s,
            gap_s=gap_s,
            total_s=total_s,
        )
        return self.connection.begin(
            b"POST", deadlines, self._complete, stream=stream, silent=silent
        )

    def _complete(self) -> None:
        self.completed += 1

    def answer(self, *data: bytes) -> None:
        for piece in data:
            self.connection.data_received(piece)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def test_an_answer_is_read_as_it_comes() -> None:
    """Pieces that came together are read together; after the last byte every read is empty."""
    line = Line()
    exchange = line.begin()
    assert line.transport.written == [b"POST"]
    line.answer(CHUNKED, chunk(b"a"), chunk(b"b"))
    await exchange.head()
    assert (exchange.status, exchange.headers) == (200, [(b"transfer-encoding", b"chunked")])
    assert await exchange.read() == b"ab"
    line.answer(chunk(b"c"))
    assert await exchange.read() == b"c"
    assert (exchange.complete, line.completed) == (False, 0)
    line.answer(chunk(b"d"), chunk(b""))
    assert (exchange.complete, line.completed) == (True, 1)
    assert [await exchange.read() for _ in range(3)] == [b"d", b"", b""]


async def test_a_wait_ends_with_the_bytes() -> None:
    """The head and each piece of the body wake the call that waits for them."""
    line = Line()
    exchange = line.begin()
    head = asyncio.create_task(exchange.head())
    await asyncio.sleep(0)
    line.answer(HEAD)
    await head
    body = asyncio.create_task(exchange.read())
    await asyncio.sleep(0)
    line.answer(b"ok")
    assert await body == b"ok"


async def test_a_wait_ends_with_the_answer() -> None:
    """The last bytes on the connection may be none of the body."""
    line = Line()
    exchange = line.begin()
    line.answer(CHUNKED)
    body = asyncio.create_task(exchange.read())
    await asyncio.sleep(0)
    line.answer(chunk(b""))
    async with asyncio.timeout(5):
        assert await body == b""


async def test_a_wait_that_was_cancelled_meets_no_bytes() -> None:
    """Bytes that come later are kept, and are no error."""
    line = Line()
    exchange = line.begin()
    head = asyncio.create_task(exchange.head())
    await asyncio.sleep(0)
    head.cancel()
    line.answer(HEAD + b"okay")
    assert await exchange.read() == b"okay"


async def test_one_connection_carries_exchanges_one_after_another() -> None:
    """It is free with the last byte, although nobody has read the answer."""
    line = Line()
    assert not line.connection.reusable
    first = line.begin()
    assert not line.connection.reusable
    line.answer(HEAD + b"okay")
    assert line.connection.reusable
    second = line.begin()
    line.answer(HEAD + b"good")
    assert (await first.read(), await second.read()) == (b"okay", b"good")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n",
        HEAD + b"okay" + HEAD + b"more",
    ],
)
async def test_a_connection_that_must_end_is_not_reused(answer: bytes) -> None:
    """The engine closes it, or has sent more than one answer; the first answer is whole."""
    line = Line()
    exchange = line.begin()
    line.answer(answer)
    assert (exchange.complete, line.completed) == (True, 1)
    assert not line.connection.reusable


async def test_bytes_without_a_request_end_the_connection() -> None:
    """They belong to no answer."""
    line = Line()
    line.begin()
    line.answer(HEAD + b"okay")
    line.answer(b"HTTP/1.1 200 OK\r\n")
    assert line.transport.closed


@pytest.mark.parametrize(("sent", "begun"), [(b"", False), (HEAD, True), (HEAD + b"ok", True)])
async def test_a_lost_connection_fails_its_exchange(sent: bytes, begun: bool) -> None:
    """The error says whether an answer had begun; bytes that came before can be read."""
    line = Line()
    exchange = line.begin()
    if sent:
        line.answer(sent)
    line.connection.connection_lost(ConnectionResetError())
    if sent.endswith(b"ok"):
        assert await exchange.read() == b"ok"
    with pytest.raises(ConnectionBroken) as caught:
        await exchange.read()
    assert caught.value.begun is begun
    if not begun:
        with pytest.raises(ConnectionBroken):
            await exchange.head()
    with pytest.raises(ConnectionBroken):
        line.begin()
    assert line.completed == 0


async def test_nonsense_is_a_broken_connection() -> None:
    """The first error counts, and nothing else is sent over the connection."""
    line = Line()
    exchange = line.begin()
    line.answer(b"SSH-2.0\r\n")
    with pytest.raises(ConnectionBroken) as caught:
        await exchange.head()
    assert not caught.value.begun
    assert line.transport.closed
    assert not line.connection.reusable


async def test_an_interim_answer_is_no_answer() -> None:
    """Its headers are not those of the answer that follows."""
    line = Line()
    exchange = line.begin()
    line.answer(b"HTTP/1.1 103 Early\r\nlink: x\r\n\r\n")
    assert (exchange.status, exchange.complete) == (0, False)
    line.answer(HEAD + b"okay")
    assert (exchange.status, exchange.headers) == (200, [(b"content-length", b"4")])
    assert await exchange.read() == b"okay"


async def test_names_of_headers_are_lower_case() -> None:
    """So they are found however the engine writes them."""
    line = Line()
    exchange = line.begin()
    line.answer(b"HTTP/1.1 200 OK\r\nX-Engine-Load: A B\r\ncontent-length: 0\r\n\r\n")
    assert exchange.headers[0] == (b"x-engine-load", b"A B")


async def test_a_slow_client_pauses_the_engine() -> None:
    """From more than the bound on, until the client has read; what it has read does not count."""
    line = Line()
    exchange = line.begin()
    half = b"x" * (BUFFER_BYTES_MAX // 2)
    line.answer(CHUNKED)
    for _ in range(3):
        line.answer(chunk(half), chunk(half))
        assert line.transport.reading == []
        assert len(await exchange.read()) == BUFFER_BYTES_MAX
    line.answer(chunk(half), chunk(half))
    line.answer(chunk(b"y"))
    assert line.transport.reading == ["paused"]
    assert len(await exchange.read()) == BUFFER_BYTES_MAX + 1
    assert line.transport.reading == ["paused", "resumed"]
    line.answer(chunk(b"z"), chunk(b""))
    assert (await exchange.read(), line.transport.reading) == (b"z", ["paused", "resumed"])


async def test_a_slow_client_of_a_lost_engine_reads_what_had_come() -> None:
    """There is nothing to resume then."""
    line = Line()
    exchange = line.begin()
    line.answer(CHUNKED + chunk(b"x" * (BUFFER_BYTES_MAX + 1)))
    line.connection.connection_lost(None)
    assert len(await exchange.read()) == BUFFER_BYTES_MAX + 1
    with pytest.raises(ConnectionBroken):
        await exchange.read()


async def test_a_complete_answer_leaves_no_pause_behind() -> None:
    """The next exchange on the connection is read at once."""
    line = Line()
    exchange = line.begin()
    line.answer(CHUNKED + chunk(b"x" * (BUFFER_BYTES_MAX + 1)) + chunk(b""))
    assert line.transport.reading == ["paused", "resumed"]
    await exchange.read()
    assert line.transport.reading == ["paused", "resumed"]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_head_that_does_not_come(monkeypatch: pytest.MonkeyPatch, stream: bool) -> None:
    """A stream's head has its own limit; any other head has all the time of the call."""
    clock, line = Clock(monkeypatch), Line()
    exchange = line.begin(stream=stream)
    limit, seconds = ("first byte", 10.0) if stream else ("total", 100.0)
    await clock.advance(seconds - 0.1)
    assert not line.transport.closed
    await clock.advance(0.1)
    assert line.transport.closed
    with pytest.raises(ExchangeTimeout) as caught:
        await exchange.head()
    assert (caught.value.limit, caught.value.seconds) == (limit, seconds)


async def test_each_piece_has_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit counts from the last piece on, however often there was one."""
    clock, line = Clock(monkeypatch), Line()
    exchange = line.begin()
    line.answer(CHUNKED)
    for _ in range(3):
        await clock.advance(4.9)
        line.answer(chunk(b"a"))
    await exchange.read()
    await clock.advance(4.9)
    assert not line.transport.closed
    await clock.advance(0.1)
    with pytest.raises(ExchangeTimeout) as caught:
        await exchange.read()
    assert (caught.value.limit, caught.value.seconds) == ("gap", 5.0)


async def test_the_whole_answer_has_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A steady stream ends at the limit of the call, also just before the limit of a piece."""
    clock, line = Clock(monkeypatch), Line()
    exchange = line.begin(total_s=12.0)
    line.answer(CHUNKED)
    for _ in range(3):
        await clock.advance(3.0)
        line.answer(chunk(b"a"))
    await exchange.read()
    await clock.advance(2.9)
    assert not line.transport.closed
    await clock.advance(0.1)
    with pytest.raises(ExchangeTimeout) as caught:
        await exchange.read()
    assert (caught.value.limit, caught.value.seconds) == ("total", 12.0)


async def test_a_deadline_that_moves_closer_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the head the limit of a piece counts, although the limit of the head was later."""
    clock, line = Clock(monkeypatch), Line()
    line.begin(first_byte_s=50.0)
    line.answer(CHUNKED)
    await clock.advance(5.0)
    assert line.transport.closed


async def test_a_silent_answer_has_the_time_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its head and its end nothing needs to come."""
    clock, line = Clock(monkeypatch), Line()
    exchange = line.begin(silent=True)
    line.answer(CHUNKED)
    await clock.advance(10.0)
    line.answer(chunk(b"a"))
    assert await exchange.read() == b"a"
    await clock.advance(89.9)
    assert not line.transport.closed
    await clock.advance(0.1)
    with pytest.raises(ExchangeTimeout) as caught:
        await exchange.read()
    assert (caught.value.limit, caught.value.seconds) == ("total", 100.0)


async def test_an_engine_that_must_wait_for_its_client_is_not_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its time begins when the client has read; the time of the call goes on."""
    clock, line = Clock(monkeypatch), Line()
    exchange = line.begin()
    line.answer(CHUNKED, chunk(b"x" * (BUFFER_BYTES_MAX + 1)))
    for _ in range(4):
        await clock.advance(5.0)
    await exchange.read()
    await clock.advance(4.9)
    assert not line.transport.closed
    line.answer(chunk(b"x" * (BUFFER_BYTES_MAX + 1)))
    for _ in range(15):
        await clock.advance(5.0)
    assert not line.transport.closed
    await clock.advance(0.1)
    assert line.transport.closed


async def test_a_complete_answer_has_no_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its timer does not end the connection, which may serve others."""
    clock, line = Clock(monkeypatch), Line()
    exchange = line.begin()
    line.answer(HEAD + b"okay")
    exchange.abandon()
    await clock.advance(1000.0)
    assert not line.transport.closed
    assert await exchange.read() == b"okay"


async def test_an_abandoned_answer_ends_its_connection() -> None:
    """The engine takes the closed connection as a client that has left; no timer is left."""
    line = Line()
    exchange = line.begin()
    line.answer(HEAD)
    exchange.abandon()
    assert line.transport.closed
    assert exchange._timer is None


class Listener:
    """A pool of connections to lines that exist already."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pool = ConnectionPool(connect_s=3.0)
        self.lines: list[Line] = []
        self.pending = False
        self.error: Exception | None = None
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "create_connection", self._connect)

    async def _connect(
        self, factory: object, *address: object, ssl: object = None
    ) -> tuple[FakeTransport, Connection]:
        assert (address, ssl) == (A, None)
        if self.error is not None:
            raise self.error
        if self.pending:
            await asyncio.Event().wait()
        self.lines.append(Line())
        return self.lines[-1].transport, self.lines[-1].connection

    async def used(self) -> Line:
        """A connection that has carried an exchange."""
        connection = await self.pool.take(A)
        (line,) = [line for line in self.lines if line.connection is connection]
        line.begin()
        line.answer(HEAD + b"okay")
        return line

    async def take(self) -> Connection:
        return await self.pool.take(A)

    def give(self, line: Line) -> bool:
        return self.pool.give(A, line.connection)


async def test_the_newest_connection_is_used_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """So old ones can expire; without an idle one a new one is made."""
    listener = Listener(monkeypatch)
    first, second = await listener.used(), await listener.used()
    assert listener.give(first)
    assert listener.give(second)
    assert await listener.take() is second.connection
    assert await listener.take() is first.connection
    assert await listener.take() is listener.lines[2].connection
    assert len(listener.lines) == 3


async def test_a_connection_that_is_not_clean_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answer has not ended."""
    listener = Listener(monkeypatch)
    line = await listener.used()
    line.begin()
    assert not listener.give(line)
    assert line.transport.closed
    assert await listener.take() is not line.connection


async def test_an_old_connection_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is closed, and so is one that the engine is closing; an idle one before it may serve."""
    clock, listener = Clock(monkeypatch), Listener(monkeypatch)
    old, kept, closing = [await listener.used() for _ in range(3)]
    listener.give(old)
    await clock.advance(IDLE_S_MAX - 1)
    kept.connection.idle_since = asyncio.get_running_loop().time()
    listener.give(kept)
    listener.give(closing)
    closing.transport.closed = True
    await clock.advance(1)
    assert await listener.take() is kept.connection
    assert await listener.take() is listener.lines[-1].connection
    assert old.transport.closed


async def test_a_connection_that_is_lost_while_idle_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is kept of replicas that have gone; the other connections there stay."""
    listener = Listener(monkeypatch)
    first, second = await listener.used(), await listener.used()
    listener.give(first)
    listener.give(second)
    second.connection.connection_lost(None)
    assert await listener.take() is first.connection
    assert not listener.pool._idle
    listener.give(first)
    first.connection.connection_lost(None)
    assert not listener.pool._idle


async def test_a_connection_in_use_is_not_the_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its loss concerns the exchange alone."""
    listener = Listener(monkeypatch)
    line = await listener.used()
    listener.give(line)
    await listener.take()
    assert line.connection.on_lost is None
    assert not listener.pool._idle


@pytest.mark.parametrize(("until_s", "waited_s"), [(math.inf, 3.0), (2.0, 2.0)])
async def test_a_connection_that_does_not_come(
    monkeypatch: pytest.MonkeyPatch, until_s: float, waited_s: float
) -> None:
    """The wait has a limit of its own, and ends with the time of the call."""
    clock, listener = Clock(monkeypatch), Listener(monkeypatch)
    listener.pending = True
    until = asyncio.get_running_loop().time() + until_s
    taking = asyncio.create_task(listener.pool.take(A, until))
    await asyncio.sleep(0)
    await clock.advance(waited_s - 0.1)
    assert not taking.done()
    await clock.advance(0.1)
    with pytest.raises(ConnectionBroken) as caught:
        await taking
    assert not caught.value.begun


async def test_a_refused_connection_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """No answer has begun."""
    listener = Listener(monkeypatch)
    listener.error = ConnectionRefusedError()
    with pytest.raises(ConnectionBroken) as caught:
        await listener.take()
    assert not caught.value.begun


async def test_a_closed_pool_drops_its_idle_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection in use is left to its exchange."""
    listener = Listener(monkeypatch)
    idle, used = await listener.used(), await listener.used()
    listener.give(idle)
    listener.pool.close()
    assert (idle.transport.closed, used.transport.closed) == (True, False)
    assert await listener.take() is not idle.connection


@given(
    st.lists(st.text("ab\n", max_size=12).map(str.encode), min_size=1, max_size=6),
    st.lists(st.integers(0, 120), max_size=8),
    st.data(),
)
async def test_diverted_chunks_keep_their_order(
    texts: list[bytes], cuts: list[int], data: st.DataObject
) -> None:
    """However bytes arrive, and whether they are taken or left, the body is whole and in order."""
    events = [b"data: " + text + b"\n\n" for text in texts]
    stream = CHUNKED + b"".join(map(chunk, events)) + chunk(b"")
    places = sorted({0, *(cut % len(stream) for cut in cuts), len(stream)})
    line = Line()
    exchange = line.begin()
    out: list[bytes] = []

    def take(chunks: bytes) -> bool:
        if not data.draw(st.booleans()):
            return False
        out.append(take_apart(chunks))
        return True

    async def pass_on() -> None:
        await exchange.head()
        exchange.divert(take)
        while piece := await exchange.read():
            out.append(piece)
            for _ in range(data.draw(st.integers(0, 2))):
                await asyncio.sleep(0)

    owner = asyncio.create_task(pass_on())
    await asyncio.sleep(0)
    for start, end in itertools.pairwise(places):
        line.answer(stream[start:end])
        for _ in range(data.draw(st.integers(0, 3))):
            await asyncio.sleep(0)
    await owner
    assert b"".join(out) == b"".join(events)
    assert line.connection.reusable


def take_apart(chunks: bytes) -> bytes:
    """The body of whole chunks."""
    body = b""
    while chunks:
        size, _, rest = chunks.partition(b"\r\n")
        end = int(size, 16)
        assert rest[end : end + 2] == b"\r\n"
        body, chunks = body + rest[:end], rest[end + 2 :]
    return body


async def test_every_chunk_that_comes_alone_is_diverted() -> None:
    """The reader sees the first and the last chunk, and none between them."""
    line, taken = Line(), []
    exchange = line.begin()
    line.answer(CHUNKED, chunk(b"first\n\n"))
    assert await exchange.read() == b"first\n\n"
    exchange.divert(lambda chunks: taken.append(chunks) or True)  # type: ignore[func-returns-value]
    last = asyncio.create_task(exchange.read())
    await asyncio.sleep(0)
    line.answer(chunk(b"a\n\n"), chunk(b"b\n\n") + chunk(b"c\n\n"))
    assert taken == [chunk(b"a\n\n"), chunk(b"b\n\n") + chunk(b"c\n\n")]
    line.answer(chunk(b"last\n\n") + chunk(b""))
    assert await last == b"last\n\n"
    assert await exchange.read() == b""


async def test_diverted_chunks_move_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine whose chunks pass the reader by is not silent."""
    clock, line = Clock(monkeypatch), Line()
    exchange = line.begin(gap_s=5.0)
    line.answer(CHUNKED, chunk(b"first\n\n"))
    await exchange.read()
    exchange.divert(lambda chunks: True)
    last = asyncio.create_task(exchange.read())
    for _ in range(4):
        await clock.advance(4.0)
        line.answer(chunk(b"a\n\n"))
    assert not last.done()
    await clock.advance(5.1)
    with pytest.raises(ExchangeTimeout):
        await last
