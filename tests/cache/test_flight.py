"""Identical calls that share one generation: who reads what, who pays, and when it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from serve_app.cache.flight import Flight
from serve_app.core.call import CacheResult, Endpoint, Record
from serve_app.core.chunks import Take
from serve_app.core.errors import UpstreamFailed
from serve_app.core.headers import Headers

USAGE = b'data: {"usage":{"prompt_tokens":7,"completion_tokens":3}}\n\n'


class Engine:
    """An engine whose chunks come when a test says so."""

    status = 200

    def __init__(self) -> None:
        self.headers: Headers = [(b"content-type", b"text/event-stream")]
        self.chunks: asyncio.Queue[bytes | Exception] = asyncio.Queue()
        self.begun = 0
        self.closed = 0

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[Engine]:
        self.begun += 1
        try:
            yield self
        finally:
            self.closed += 1

    async def read(self) -> bytes:
        chunk = await self.chunks.get()
        if isinstance(chunk, Exception):
            raise chunk
        return chunk

    def divert(self, take: Take) -> None:
        """No chunk comes from a connection."""

    def send(self, *chunks: bytes | Exception) -> None:
        for chunk in chunks:
            self.chunks.put_nowait(chunk)


def make_record(name: str) -> Record:
    return Record(name, Endpoint.CHAT, stream=True)


def take_off(engine: Engine, record: Record, keep_bytes_max: int = 1000) -> Flight:
    return Flight(engine.begin, record, keep_bytes_max=keep_bytes_max, ended=lambda flight: None)


async def test_a_late_reader_gets_every_chunk() -> None:
    """A call that joins late reads the answer from its beginning, in the same chunks."""
    engine, first, second = Engine(), make_record("1"), make_record("2")
    flight = take_off(engine, first)
    one = flight.join(first)
    engine.send(b"a", b"b")
    assert [await one.read(), await one.read()] == [b"a", b"b"]
    two = flight.join(second)
    await two.wait_for_head()
    engine.send(b"c", b"")
    assert [await two.read() for _ in range(4)] == [b"a", b"b", b"c", b""]
    assert [await one.read(), await one.read()] == [b"c", b""]
    await flight.leave(one)
    await flight.leave(two)
    assert (engine.begun, engine.closed) == (1, 1)


async def test_the_first_caller_s_end_ends_nothing_for_the_others() -> None:
    """The call that stays reads on, and pays; the call that left pays nothing."""
    engine, first, second = Engine(), make_record("1"), make_record("2")
    first.cache, second.cache = CacheResult.MISS, CacheResult.SHARED
    flight = take_off(engine, first)
    one, two = flight.join(first), flight.join(second)
    engine.send(b"a")
    await one.read()
    await flight.leave(one)
    assert not engine.closed
    engine.send(b"b", b"")
    assert [await two.read() for _ in range(3)] == [b"a", b"b", b""]
    await flight.leave(two)
    assert (first.cache, second.cache) == (CacheResult.SHARED, CacheResult.MISS)


async def test_the_last_call_to_leave_stops_the_engine() -> None:
    """Nobody waits for the answer any more, so no GPU works for it."""
    engine, first, second = Engine(), make_record("1"), make_record("2")
    flight = take_off(engine, first)
    one, two = flight.join(first), flight.join(second)
    engine.send(b"a")
    await two.read()
    await flight.leave(one)
    await flight.leave(two)
    assert engine.closed == 1
    assert not flight.joinable


async def test_the_settlement_of_a_stopped_answer_reaches_the_call_that_pays() -> None:
    """The engine reports its tokens to the first call's record; the last reader settles it."""
    engine, first, second = Engine(), make_record("1"), make_record("2")
    stopped = first.usage
    flight = take_off(engine, first)
    one, two = flight.join(first), flight.join(second)
    engine.send(b"a")
    await two.read()
    await flight.leave(one)
    told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    first.settling.append(told)
    await flight.leave(two)
    assert second.settling == [told]
    assert second.usage is stopped
    assert first.usage is not stopped


async def test_a_call_that_leaves_before_it_has_read_the_usage_still_pays() -> None:
    """The engine was ahead of the client: hanging up early does not make its tokens free."""
    engine, first = Engine(), make_record("1")
    flight = take_off(engine, first)
    one = flight.join(first)
    engine.send(b"a", USAGE, b"")
    await one.read()
    while not flight.complete:
        await asyncio.sleep(0)
    await flight.leave(one)
    assert (first.usage.prompt_tokens, first.usage.completion_tokens) == (7, 3)


async def test_every_reader_gets_the_error_behind_the_chunks() -> None:
    """What came before the fault is read first, as without a flight."""
    engine, first, second = Engine(), make_record("1"), make_record("2")
    flight = take_off(engine, first)
    one, two = flight.join(first), flight.join(second)
    engine.send(b"a", UpstreamFailed())
    for reader in (one, two):
        assert await reader.read() == b"a"
        with pytest.raises(UpstreamFailed):
            await reader.read()
    assert not flight.joinable
    await flight.leave(one)
    await flight.leave(two)


async def test_an_answer_that_is_too_long_is_held_back_by_its_slowest_reader() -> None:
    """A slow client cannot fill the Router's memory, and nobody can join in the middle."""
    engine, first, second = Engine(), make_record("1"), make_record("2")
    flight = take_off(engine, first, keep_bytes_max=10)
    fast, slow = flight.join(first), flight.join(second)
    chunks = [bytes([n]) * 6 for n in range(8)]
    engine.send(*chunks, b"")
    assert await fast.read() == chunks[0]
    assert await fast.read() == chunks[1]
    ahead = asyncio.ensure_future(fast.read())
    await asyncio.sleep(0)
    assert not ahead.done()
    assert engine.chunks.qsize() == 7
    assert not flight.joinable
    got = [await slow.read()]
    assert await ahead == chunks[2]
    got += [await slow.read() for _ in range(2)]
    await flight.leave(fast)
    got += [await slow.read() for _ in range(6)]
    assert got == [*chunks, b""]
    await flight.leave(slow)
