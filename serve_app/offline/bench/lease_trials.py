"""What `serve-app bench leases` times: each trial returns the seconds of one operation.

The trials use public methods only and no Ray. They count this process's CPU time, which other work
on the machine hardly changes. Where HTTP is needed, one small server in this
process stands for all replicas: Linux answers on every address of 127.0.0.0/8.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from time import process_time
from typing import cast

import httptools

from serve_app.config.runtime import DeadlinesConfig, LeaseConfig
from serve_app.core.deadlines import Deadlines
from serve_app.leases.client import TierClient, UpstreamRequest
from serve_app.leases.http1 import Address, Connection, ConnectionPool
from serve_app.leases.lease import Lease
from serve_app.leases.load import LOAD_HEADER
from serve_app.leases.pool import LeasePool
from serve_app.leases.sessions import SessionMap
from serve_app.leases.signature import LeaseSigner, new_secret

OPERATIONS = 2_000
EXCHANGES = 300
LOADS = 200
QUEUED = 100
HOUR_S = 3600.0

_DEADLINES = DeadlinesConfig(lease_s=30, first_byte_s=30, gap_s=30, total_s=60)
_LEASES = LeaseConfig(reuse_s=0.9, age_max_s=30)
_REQUEST = UpstreamRequest("/v1/chat/completions", b'{"a":1}', "id", stream=True)


def build_addresses(replicas: int, port: int) -> list[Address]:
    """An address for each replica."""
    return [(f"127.0.{n // 250}.{n % 250 + 1}", port) for n in range(replicas)]


@dataclass(frozen=True, slots=True)
class LocalGrant:
    """A place on one of the replicas."""

    lease_id: str
    address: Address
    signer: LeaseSigner

    def sign(self, path: bytes, draft_tokens: bytes, body_bytes: int) -> bytes:
        """The lease header of one request."""
        return self.signer.sign(path, draft_tokens, body_bytes)


class LocalOpener:
    """Grants places on one replica after another, as Ray does; after `grants` of them none."""

    def __init__(self, replicas: int, port: int = 1, grants: int | None = None) -> None:
        self._addresses = build_addresses(replicas, port)
        self._grants = grants
        self._granted = 0

    async def __call__(self, session: str | None = None) -> LocalGrant:
        if self._granted == self._grants:
            await asyncio.Event().wait()
        address = self._addresses[self._granted % len(self._addresses)]
        self._granted += 1
        lease_id = f"lease-{self._granted}"
        return LocalGrant(lease_id, address, LeaseSigner(lease_id, new_secret()))


def _build_pool(opener: LocalOpener) -> LeasePool:
    def forget(lease: Lease) -> None:
        """Do nothing, because there is no replica to inform."""

    return LeasePool(
        opener,
        forget,
        reuse_s=HOUR_S,
        age_max_s=HOUR_S,
        session_s=HOUR_S,
        asks_by_session=False,
    )


async def _fill(pool: LeasePool, replicas: int) -> None:
    """One idle place on each replica, each known as that of the session of its number."""
    taken = [await pool.acquire(f"session-{n}") for n in range(replicas)]
    for lease in taken:
        pool.release(lease, reusable=True)


async def take_idle(replicas: int) -> float:
    """A place is taken and given back while there is an idle one on each replica."""
    pool = _build_pool(LocalOpener(replicas))
    await _fill(pool, replicas)
    begin = process_time()
    for _ in range(OPERATIONS):
        pool.release(await pool.acquire(), reusable=True)
    return (process_time() - begin) / OPERATIONS


async def take_idle_by_session(replicas: int) -> float:
    """The same for calls of sessions, each of which has its place on another replica."""
    pool = _build_pool(LocalOpener(replicas))
    await _fill(pool, replicas)
    begin = process_time()
    for number in range(OPERATIONS):
        pool.release(await pool.acquire(f"session-{number % replicas}"), reusable=True)
    return (process_time() - begin) / OPERATIONS


@asynccontextmanager
async def _queue(waiters: int) -> AsyncIterator[tuple[LeasePool, Lease, list[asyncio.Task[None]]]]:
    """A pool whose only place is taken, and so many calls that wait for it."""
    pool = _build_pool(LocalOpener(1, grants=1))
    lease = await pool.acquire()

    async def call() -> None:
        pool.release(await pool.acquire(), reusable=True)

    calls = [asyncio.create_task(call()) for _ in range(waiters)]
    await asyncio.sleep(0.01)
    assert pool.waiting == waiters
    try:
        yield pool, lease, calls
    finally:
        # What still asks for places would be asked for again at the end of the loop.
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


async def hand_over(waiters: int) -> float:
    """A place goes from call to call until none waits any more."""
    taken = 0.0
    for _ in range(_repeats(waiters)):
        async with _queue(waiters) as (pool, lease, calls):
            begin = process_time()
            pool.release(lease, reusable=True)
            await asyncio.gather(*calls)
            taken += process_time() - begin
    return taken / (waiters * _repeats(waiters))


async def give_up(waiters: int) -> float:
    """Calls that wait leave, the last one first, as clients do that lose patience."""
    taken = 0.0
    for _ in range(_repeats(waiters)):
        async with _queue(waiters) as (_, _, calls):
            begin = process_time()
            for call in reversed(calls):
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            taken += process_time() - begin
    return taken / (waiters * _repeats(waiters))


def _repeats(waiters: int) -> int:
    """Of a queue so short that one run says nothing."""
    return max(1, QUEUED // waiters)


class _Replicas(asyncio.Protocol):
    """Answer every request with a load; close the connection if the trial asks for it."""

    def __init__(self, *, closes: bool) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        last = b"connection: close\r\n" if closes else b""
        self._answer = b"HTTP/1.1 200 OK\r\n%b: 1 0 0.5\r\n%bcontent-length: 2\r\n\r\nok" % (
            LOAD_HEADER,
            last,
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not derive from asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        if not str(transport.get_extra_info("peername")[0]).startswith("127."):
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        if self._transport is not None:
            self._transport.write(self._answer)


@asynccontextmanager
async def _serving(*, closes: bool = False) -> AsyncIterator[int]:
    """The port of every replica; `closes` is whether a replica closes each connection."""
    loop = asyncio.get_running_loop()
    # Every address, because each replica has another one; callers from outside are cut off.
    server = await loop.create_server(lambda: _Replicas(closes=closes), "0.0.0.0", 0, backlog=4096)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()
        await asyncio.sleep(0.05)


@asynccontextmanager
async def _tier(replicas: int, *, watches_load: bool = False) -> AsyncIterator[TierClient]:
    """A tier that has just had a call on each of its replicas at the same time."""
    async with _serving() as port:
        client = TierClient("fast", LocalOpener(replicas, port), _LEASES)
        client.configure(_LEASES, watches_load=watches_load)
        try:
            async with AsyncExitStack() as calls:
                for _ in range(replicas):
                    answer = await calls.enter_async_context(client.exchange(_REQUEST, _start()))
                    while await answer.read():
                        pass
            yield client
        finally:
            client.close()


async def _exchange(client: TierClient) -> None:
    async with client.exchange(_REQUEST, _start()) as answer:
        while await answer.read():
            pass


async def read_load(replicas: int) -> float:
    """`TierClient.load()`, which each decision asks for, with news of every replica."""
    async with _tier(replicas, watches_load=True) as client:
        begin = process_time()
        for _ in range(LOADS):
            client.load()
        return (process_time() - begin) / LOADS


async def exchange(replicas: int) -> float:
    """A whole call under an idle lease, over a kept connection, server included."""
    async with _tier(replicas) as client:
        begin = process_time()
        for _ in range(EXCHANGES):
            await _exchange(client)
        return (process_time() - begin) / EXCHANGES


async def connect(replicas: int) -> float:
    """A connection is opened, used and closed while one to each replica is kept."""
    async with _serving() as port, _serving(closes=True) as closing_port:
        pool = ConnectionPool()
        kept = [pool.take(address) for address in build_addresses(replicas, port)]
        for address, connection in zip(
            build_addresses(replicas, port), await asyncio.gather(*kept), strict=True
        ):
            await _converse(connection)
            pool.give(address, connection)
        begin = process_time()
        for _ in range(EXCHANGES):
            connection = await pool.take(("127.0.0.1", closing_port))
            await _converse(connection)
            pool.give(("127.0.0.1", closing_port), connection)
        taken = process_time() - begin
        pool.close()
        return taken / EXCHANGES


async def _converse(connection: Connection) -> None:
    data = b"GET / HTTP/1.1\r\nhost: engine\r\n\r\n"
    exchange = connection.begin(data, _start(), stream=False)
    await exchange.head()
    while await exchange.read():
        pass


def _start() -> Deadlines:
    """The deadlines of a call that begins now."""
    return _DEADLINES.start(asyncio.get_running_loop().time())


async def find_session(sessions: int) -> float:
    """A session's replica is looked up and noted."""
    known, names = SessionMap(HOUR_S), [f"session-{n}" for n in range(sessions)]
    for name in names:
        known.note(name, ("127.0.0.1", 1), 0.0)
    begin = process_time()
    for number in range(OPERATIONS):
        name = names[number % sessions]
        known.find(name, 1.0)
        known.note(name, ("127.0.0.1", 1), 1.0)
    return (process_time() - begin) / OPERATIONS


TRIALS: Mapping[str, tuple[Callable[[int], Awaitable[float]], bool]] = {
    "a lease taken and given back, idle ones on n replicas": (take_idle, False),
    "the same by session": (take_idle_by_session, False),
    "a place passed on to the next of n waiting calls": (hand_over, True),
    "one of n waiting calls leaves": (give_up, True),
    "the tier's load read, n replicas": (read_load, False),
    "a call over a kept connection, n replicas": (exchange, False),
    "a call over a new connection, kept ones to n replicas": (connect, False),
    "a session looked up and noted, n sessions": (find_session, False),
}
"""By what the report calls them; true for those whose size is a queue."""
