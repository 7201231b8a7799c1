"""What a Router learns from the state streams of its replicas, and what a bad replica can do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from serve_app.core.prefix import PrefixChange
from serve_app.leases import state_stream
from serve_app.leases.board import ReplicaBoard, Seat
from serve_app.leases.http1 import Address
from serve_app.leases.load import EngineLoads
from serve_app.leases.prefix_cost import ReplicaLoad
from serve_app.leases.replica_states import ReplicaStates
from serve_app.leases.state_frames import render_hello, render_keys, render_load
from serve_app.leases.state_stream import StateStreams
from tests.leases.replica import Replica, Stats

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
TOKEN = "0" * 32


class Table:
    """A prefix table that a test changes."""

    def __init__(self) -> None:
        self.keys: dict[int, int] = {}
        self.changes: list[PrefixChange] | None = []

    def set(self, key: int, tokens: int) -> None:
        """The table has changed."""
        self.keys[key] = tokens
        assert self.changes is not None
        self.changes.append(PrefixChange(key, tokens))

    def drain(self) -> list[PrefixChange] | None:
        changes, self.changes = self.changes, []
        return changes

    def snapshot(self) -> list[PrefixChange]:
        return [PrefixChange(*item) for item in self.keys.items()]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def reading(**seats: Seat) -> AsyncIterator[tuple[ReplicaStates, ReplicaBoard]]:
    """What a Router knows of these replicas."""
    board = ReplicaBoard()
    board.publish(seats)
    state = ReplicaStates(EngineLoads())
    streams = StateStreams(board, state)
    streams.start()
    try:
        yield state, board
    finally:
        streams.close()
        await asyncio.sleep(0)
        assert not state.loads


@asynccontextmanager
async def replica(*, tls: bool = False, table: Table | None = None) -> AsyncIterator[Replica]:
    started = Replica(tls=tls, table=table)
    await started.start()
    try:
        yield started
    finally:
        await started.stop()


@asynccontextmanager
async def sending(*pieces: bytes) -> AsyncIterator[tuple[Address, list[bytes]]]:
    """A server that answers whatever it is asked with these bytes, and then is silent."""
    asked: list[bytes] = []
    writers: list[asyncio.StreamWriter] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            asked.append(await reader.readuntil(b"\r\n\r\n"))
            for piece in pieces:
                writer.write(piece)
            await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[:2], asked
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def keys_of(state: ReplicaStates, name: str) -> dict[int, int]:
    found = state.index._replicas.get(name)
    return {} if found is None else dict(found.known)


@pytest.mark.parametrize("tls", [False, True])
async def test_a_replica_tells_its_load(tls: bool) -> None:
    """At once, and again when the load changes; over TLS to the certificate of the seat."""
    async with replica(tls=tls) as one, reading(a=one.seat) as (state, _):
        await until(lambda: state.loads)
        assert state.loads["a"].running == 0
        one.stats.record(Stats(2, 1, 0.5), None)
        await until(lambda: state.loads["a"].running == 2)
        assert state.name_at(one.address) == "a"


async def test_the_keys_follow_the_table() -> None:
    """A snapshot, then changes; a table that changed too much gives a new snapshot."""
    table = Table()
    table.set(1, 10)
    async with replica(table=table) as one, reading(a=one.seat) as (state, _):
        await until(lambda: keys_of(state, "a") == {1: 10})
        table.set(2, 20)
        await until(lambda: keys_of(state, "a") == {1: 10, 2: 20})
        table.keys, table.changes = {3: 30}, None
        await until(lambda: keys_of(state, "a") == {3: 30})


async def test_two_routers_read_the_same() -> None:
    """One that comes later does not disturb the other."""
    table = Table()
    async with replica(table=table) as one, reading(a=one.seat) as (first, _):
        await until(lambda: first.loads)
        table.set(1, 10)
        async with reading(b=one.seat) as (second, _):
            await until(lambda: keys_of(second, "b") == {1: 10})
            table.set(2, 20)
            await until(lambda: keys_of(second, "b") == {1: 10, 2: 20})
        await until(lambda: keys_of(first, "a") == {1: 10, 2: 20})


async def test_a_replica_that_restarts_is_read_again() -> None:
    """Its old keys are forgotten as soon as the connection breaks."""
    table, later = Table(), Table()
    table.set(1, 10)
    later.set(2, 20)
    async with reading() as (state, board):
        async with replica(table=table) as one:
            board.publish({"a": one.seat})
            await until(lambda: keys_of(state, "a") == {1: 10})
        await until(lambda: not state.loads)
        assert keys_of(state, "a") == {}
        async with replica(table=later) as two:
            board.publish({"b": two.seat})
            await until(lambda: keys_of(state, "b") == {2: 20})
            assert list(state.loads) == ["b"]


async def test_a_reader_needs_the_token() -> None:
    """Without it nothing is told."""
    async with replica() as one:
        wrong = Seat(one.address, TOKEN)
        async with reading(a=wrong) as (state, _):
            await asyncio.sleep(0.3)
            assert not state.loads


async def test_another_certificate_is_not_believed() -> None:
    """Nor is it sent the token."""
    async with replica(tls=True) as one:
        host, port, *_ = one.address
        async with reading(a=Seat((host, port, b"x" * 32), one.feed.token)) as (state, _):
            await asyncio.sleep(0.3)
            assert not state.loads


GOOD = HEAD + chunk(render_hello(1)) + chunk(render_keys(0, [PrefixChange(5, 50)], whole=True))
LOADED = GOOD + chunk(render_load(ReplicaLoad(running=7)))


@pytest.mark.parametrize(
    "answer",
    [
        LOADED + chunk(b"\xff" * 64),
        LOADED + chunk(render_hello(2)),
        LOADED + chunk(render_keys(9, [PrefixChange(6, 60)], whole=False)),
        LOADED + b"zzz\r\n",
        LOADED + b"0\r\n\r\n",
    ],
)
async def test_a_stream_that_breaks_the_rules_is_lost(answer: bytes) -> None:
    """What came before counts no longer, and the Router asks again, at longer and longer times."""
    async with sending(answer) as (address, asked), reading(a=Seat(address, TOKEN)) as (state, _):
        await until(lambda: len(asked) >= 2)
        assert keys_of(state, "a") == {}
        await asyncio.sleep(0.5)
        assert len(asked) <= 6


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 403 No\r\ncontent-length: 0\r\n\r\n",
        b"\x00" * 100,
        HEAD + chunk(render_load(ReplicaLoad(running=7))),
        HEAD + chunk(render_keys(0, [PrefixChange(5, 50)], whole=True)),
    ],
)
async def test_a_stream_begins_with_its_greeting(answer: bytes) -> None:
    """Whatever comes instead is not believed."""
    async with sending(answer) as (address, asked), reading(a=Seat(address, TOKEN)) as (state, _):
        await until(lambda: len(asked) >= 2)
        assert (dict(state.loads), keys_of(state, "a")) == ({}, {})


async def test_a_silent_stream_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Although its connection stays open."""
    monkeypatch.setattr(state_stream, "SILENT_S_MAX", 0.2)
    async with sending(LOADED) as (address, asked), reading(a=Seat(address, TOKEN)) as (state, _):
        await until(lambda: state.loads)
        await until(lambda: not state.loads)
        await until(lambda: len(asked) >= 2)


async def test_a_flood_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """More bytes than any replica has to say end the stream."""
    monkeypatch.setattr(state_stream, "BURST_BYTES", 4096)
    monkeypatch.setattr(state_stream, "BYTES_PER_S_MAX", 1024)
    flood = chunk(render_load(ReplicaLoad(running=7))) * 400
    async with sending(GOOD + flood) as (address, asked), reading(a=Seat(address, TOKEN)):
        await until(lambda: len(asked) >= 2)


async def test_a_reader_that_does_not_keep_up_gets_a_snapshot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is held for it is bounded."""
    from serve_app.replica import state_feed

    monkeypatch.setattr(state_feed, "HELD_BYTES_MAX", 100)
    table = Table()
    reader = state_feed.StateReader(1)
    assert reader.lacks_snapshot
    reader.take(lambda: b"whole")
    for _ in range(20):
        reader.offer_changes(b"x" * 30)
    assert reader.lacks_snapshot
    assert reader.take(lambda: render_keys(1, table.snapshot(), whole=True)) == render_keys(
        1, [], whole=True
    )
