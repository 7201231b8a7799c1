"""Calls of one conversation, and the replica that has its beginning in its cache."""

from __future__ import annotations

import asyncio

import pytest

from serve_app.config.runtime import DeadlinesConfig, LeaseConfig
from serve_app.core.deadlines import Deadlines
from serve_app.leases.client import TierClient, UpstreamRequest
from serve_app.leases.http1 import Address
from serve_app.leases.lease import Lease, Opener
from serve_app.leases.pool import LeasePool
from serve_app.leases.sessions import SessionMap
from tests.fakes import FakeGrant, FakeOpener
from tests.leases.replica import running

A: Address = ("10.0.0.1", 1)
B: Address = ("10.0.0.2", 1)
DEADLINES = DeadlinesConfig(lease_s=5, first_byte_s=5, gap_s=5, total_s=5)


def start(deadlines: DeadlinesConfig = DEADLINES) -> Deadlines:
    return deadlines.start(asyncio.get_running_loop().time())


def test_a_session_is_remembered_for_a_while() -> None:
    """The newest place counts, until it is old."""
    sessions = SessionMap(kept_s=10)
    assert sessions.find("s", 0) is None
    sessions.note("s", A, 0)
    sessions.note("s", B, 5)
    assert sessions.find("s", 15) == B
    assert sessions.find("s", 15.1) is None


def test_the_memory_is_bounded() -> None:
    """The session that was silent longest goes first, and old ones go by themselves."""
    sessions = SessionMap(kept_s=10, sessions_max=3)
    for number, session in enumerate("abca"):
        sessions.note(session, A, number)
    sessions.note("d", A, 4)
    assert len(sessions) == 3
    assert sessions.find("b", 4) is None
    assert sessions.find("a", 4) == A
    sessions.note("e", A, 100)
    sessions.note("e", A, 100)
    sessions.note("e", A, 100)
    assert len(sessions) == 1


def test_another_session_ends_no_memory_that_still_counts() -> None:
    """A session is dropped only when its last call would not be found any more."""
    sessions = SessionMap(kept_s=0.5)
    sessions.note("s", A, 0)
    sessions.note("t", B, 0.5)
    assert sessions.find("s", 0.5) == A
    sessions.note("t", B, 0.6)
    assert len(sessions) == 1


def test_no_memory_if_none_is_wanted() -> None:
    """With `session_s` 0 nothing is kept."""
    sessions = SessionMap(kept_s=0)
    sessions.note("s", A, 0)
    assert sessions.find("s", 0) is None
    assert len(sessions) == 0


def build_pool(opener: Opener, *, asks_by_session: bool = False) -> LeasePool:
    return LeasePool(
        opener,
        lambda lease: None,
        reuse_s=10,
        age_max_s=60,
        session_s=60,
        asks_by_session=asks_by_session,
    )


async def take(pool: LeasePool, opener: FakeOpener, *addresses: Address) -> list[Lease]:
    """Places in use, one on each of these replicas."""
    leases = []
    for address in addresses:
        opener.address = address
        leases.append(await pool.acquire())
    return leases


@pytest.mark.parametrize("asks_by_session", [False, True])
async def test_a_session_returns_to_its_replica(asks_by_session: bool) -> None:
    """Whichever places are idle, and although the newest one is taken first otherwise."""
    opener = FakeOpener(A)
    pool = build_pool(opener, asks_by_session=asks_by_session)
    first = await pool.acquire("s")
    (second,) = await take(pool, opener, B)
    pool.release(first, reusable=True)
    pool.release(second, reusable=True)
    assert (await pool.acquire("s")) is first
    assert len(opener.sessions) == 2


async def test_without_an_idle_place_there_any_other_serves() -> None:
    """Waiting for the cache would cost more than it saves; the session moves along."""
    opener = FakeOpener(A)
    pool = build_pool(opener)
    first = await pool.acquire("s")
    (second,) = await take(pool, opener, B)
    pool.release(second, reusable=True)
    assert (await pool.acquire("s")) is second
    pool.release(first, reusable=True)
    pool.release(second, reusable=True)
    assert (await pool.acquire("s")) is second
    assert opener.sessions == [None, None]


async def test_where_ray_knows_the_sessions_it_is_asked() -> None:
    """An idle place on another replica does not tempt; a call without a session takes it."""
    opener = FakeOpener(A)
    pool = build_pool(opener, asks_by_session=True)
    (other,) = await take(pool, opener, B)
    pool.release(other, reusable=True)
    opener.address = A
    mine = await pool.acquire("s")
    assert mine.address == A
    assert opener.sessions == [None, "s"]
    assert await pool.acquire() is other


class GatedOpener:
    """Grants the places of each session when its gate opens."""

    def __init__(self, *sessions: str) -> None:
        self.gates: dict[str | None, asyncio.Event] = {name: asyncio.Event() for name in sessions}

    async def __call__(self, session: str | None = None) -> FakeGrant:
        await self.gates[session].wait()
        return FakeGrant(f"lease-{session}", A)


async def test_a_place_that_was_asked_for_a_session_is_its() -> None:
    """Even where another call waits longer."""
    opener = GatedOpener("r", "s")
    pool = build_pool(opener, asks_by_session=True)
    longer, shorter = (asyncio.create_task(pool.acquire(session)) for session in ("r", "s"))
    await asyncio.sleep(0.01)
    opener.gates["s"].set()
    assert (await shorter).lease_id == "lease-s"
    assert not longer.done()
    opener.gates["r"].set()
    assert (await longer).lease_id == "lease-r"


async def test_a_conversation_stays_on_one_replica() -> None:
    """Over real leases: turns of one session among other calls all meet the same engine."""
    async with running(2) as tier:
        client = TierClient("fast", tier, LeaseConfig(reuse_s=0.9, age_max_s=30, session_s=60))

        async def ask(session: str | None) -> None:
            request = UpstreamRequest(
                "/v1/chat/completions", b"{}", "id", stream=True, session=session
            )
            async with client.exchange(request, start()) as answer:
                while await answer.read():
                    pass

        for replica in tier.replicas:
            replica.released.clear()
        calls = [asyncio.create_task(ask(None)) for _ in range(4)]
        async with asyncio.timeout(5):
            while not all(len(replica.asked) == 2 for replica in tier.replicas):
                await asyncio.sleep(0.005)
        for replica in tier.replicas:
            replica.released.set()
        await asyncio.gather(*calls)
        before = [len(replica.asked) for replica in tier.replicas]
        for _ in range(6):
            await ask("conversation")
            await ask(None)
            await ask(None)
        # One turn opened the session, five came back to it.
        session = client._leases.sessions.find("conversation", asyncio.get_running_loop().time())
        at = [replica.address for replica in tier.replicas].index(session)  # type: ignore[arg-type]
        assert len(tier.replicas[at].asked) - before[at] >= 6
        client.close()
