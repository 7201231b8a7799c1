"""Where lines of batches may run: on replicas that are there, in what clients leave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.config.runtime import DeadlinesConfig, LeaseConfig
from serve_app.core.deadlines import Deadlines
from serve_app.core.errors import TierOverloaded
from serve_app.core.prefix import NO_KEYS
from serve_app.leases.client import TierClient, UpstreamRequest
from serve_app.leases.order import NO_CLAIM, Claim
from serve_app.leases.prefix_choice import Prefix
from serve_app.leases.spare_room import HELD_S, SpareRoom
from tests.leases.replica import Replica, Replicas, running

LINE = Claim("acme", 1.0, 10, batch=True, spare=True)
URGENT = Claim("acme", 1.0, 10, batch=False, spare=True)
numbers = st.integers(0, 100)


def room(calls: float = 16.0, *, starts: bool = False) -> SpareRoom:
    return SpareRoom(calls, lambda: starts)


@given(st.floats(1, 1000), st.integers(1, 50), st.integers(0, 50_000))
def test_lines_never_bring_a_tier_over_what_it_should_have(
    wanted: float, replicas: int, calls: int
) -> None:
    """One call more is still at most the target, so Ray's own policy adds no replica either."""
    place = room(wanted)
    if place.has_room(replicas=replicas, calls=calls, waiting=0, urgent=False):
        assert calls + 1 <= max(1, wanted * replicas)


@given(st.floats(0.1, 1000), st.integers(1, 50))
def test_an_idle_tier_has_room(wanted: float, replicas: int) -> None:
    """For one line at least, however few calls a replica should have."""
    assert room(wanted).has_room(replicas=replicas, calls=0, waiting=0, urgent=False)


@given(numbers, numbers, st.booleans())
def test_a_line_starts_no_replica(calls: int, waiting: int, urgent: bool) -> None:
    """A tier without replicas gets none for a line, urgent or not, but in a window for lines."""
    shown = {"replicas": 0, "calls": 0, "waiting": waiting, "urgent": urgent}
    assert not room().has_room(**shown)
    assert room(starts=True).has_room(**shown) == (waiting == 0)


@given(numbers, st.integers(1, 100))
def test_calls_that_wait_come_first(calls: int, waiting: int) -> None:
    """But an urgent line waits among them, like a client's call."""
    assert not room().has_room(replicas=1, calls=calls, waiting=waiting, urgent=False)
    assert room().has_room(replicas=1, calls=calls, waiting=waiting, urgent=True)


def test_a_line_waits_while_engines_read_for_clients() -> None:
    """Otherwise both prompts would be read in the same steps; an urgent line does not wait."""
    shown = {"replicas": 1, "calls": 1, "waiting": 0, "reading": 1}
    assert not room().has_room(**shown, urgent=False)
    assert room().has_room(**shown, urgent=True)


@asynccontextmanager
async def tier(replicas: Replicas, calls: float) -> AsyncIterator[TierClient]:
    client = TierClient(
        "fast", replicas, LeaseConfig(), board=replicas.board, room=SpareRoom(calls, bool)
    )
    client.start()
    try:
        yield client
    finally:
        client.close()


def start(place_s: float = 5.0) -> Deadlines:
    config = DeadlinesConfig(lease_s=place_s, first_byte_s=5, gap_s=5, total_s=20)
    return config.start(asyncio.get_running_loop().time())


async def ask(
    client: TierClient, claim: Claim, deadlines: Deadlines | None = None, tokens: int = 0
) -> None:
    prefix = Prefix(lambda: NO_KEYS, "fast", tokens)
    body = UpstreamRequest(
        "/v1/chat/completions", b"{}", "id-1", stream=not claim.spare, claim=claim, prefix=prefix
    )
    async with client.exchange(body, deadlines or start()) as answer:
        while await answer.read():
            pass


async def begun(replica: Replica, calls: int) -> None:
    async with asyncio.timeout(5):
        while len(replica.asked) < calls:
            await asyncio.sleep(0.005)


async def test_a_line_waits_in_its_router_while_clients_fill_a_tier() -> None:
    """Ray hears of it once there is room: it counts what waits at Ray as load."""
    async with running() as replicas, tier(replicas, calls=2) as client:
        [replica] = replicas.replicas
        replica.released.clear()
        call = asyncio.create_task(ask(client, NO_CLAIM))
        await begun(replica, 1)
        line = asyncio.create_task(ask(client, LINE))
        await asyncio.sleep(0.1)
        assert (replicas.granted, client.waiting, replica.leases.spare) == (1, 0, 0)
        urgent = asyncio.create_task(ask(client, URGENT))
        await begun(replica, 2)
        assert replica.leases.spare == 1
        replica.released.set()
        await asyncio.gather(call, urgent, line)
        assert len(replica.asked) == 3


async def test_a_line_waits_for_the_first_tokens_of_clients_but_not_for_long() -> None:
    """It starts once they have come, and otherwise after half a second."""
    async with running() as replicas, tier(replicas, calls=16) as client:
        [replica] = replicas.replicas
        replica.released.clear()
        call = asyncio.create_task(ask(client, NO_CLAIM))
        await begun(replica, 1)
        line = asyncio.create_task(ask(client, LINE))
        await asyncio.sleep(HELD_S / 2)
        assert len(replica.asked) == 1
        await begun(replica, 2)
        replica.released.set()
        await asyncio.gather(call, line)


async def test_lines_begin_one_after_another() -> None:
    """The next one once the engines can have read the prompt before; an urgent one at once."""
    async with running() as replicas, tier(replicas, calls=16) as client:
        [replica] = replicas.replicas
        replica.released.clear()
        first = asyncio.create_task(ask(client, LINE, tokens=5000))
        await begun(replica, 1)
        second = asyncio.create_task(ask(client, LINE))
        await asyncio.sleep(0.1)
        assert len(replica.asked) == 1
        urgent = asyncio.create_task(ask(client, URGENT))
        await begun(replica, 2)
        replica.released.set()
        await asyncio.gather(first, urgent, second)
        assert len(replica.asked) == 3


async def test_a_line_that_finds_no_room_in_time_is_tried_again_later() -> None:
    """It gets the error of a full tier, which costs the line none of its attempts."""
    replicas = Replicas()
    async with tier(replicas, calls=2) as client:
        with pytest.raises(TierOverloaded):
            await ask(client, LINE, start(place_s=0.1))
    assert replicas.granted == 0
