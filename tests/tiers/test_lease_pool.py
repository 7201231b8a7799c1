"""The pool of leases: reuse, age, hand-over to waiting calls, and nothing that leaks."""

from __future__ import annotations

import asyncio

import pytest

from serve_app.core.errors import TierUnavailable
from serve_app.tiers.lease_pool import Lease, LeasePool
from tests.fakes import FakeOpener


class RecordingPool(LeasePool):
    """A pool that lists the leases it has ended."""

    ended: list[Lease]


def build_pool(opener: FakeOpener, reuse_s: float = 0.05, age_max_s: float = 60.0) -> RecordingPool:
    ended: list[Lease] = []
    pool = RecordingPool(opener, ended.append, reuse_s=reuse_s, age_max_s=age_max_s)
    pool.ended = ended
    return pool


async def test_a_returned_place_serves_the_next_call() -> None:
    """A call that follows at once costs no request to Ray."""
    opener = FakeOpener()
    pool = build_pool(opener)
    first = await pool.acquire()
    pool.release(first, reusable=True)
    assert await pool.acquire() is first
    assert opener.granted == 1


async def test_an_idle_place_is_not_kept() -> None:
    """A place that no call takes within `reuse_s` is ended."""
    opener = FakeOpener()
    pool = build_pool(opener, reuse_s=0.02)
    lease = await pool.acquire()
    pool.release(lease, reusable=True)
    assert pool.ended == []
    async with asyncio.timeout(1):
        while pool.open_leases:
            await asyncio.sleep(0.005)
    assert pool.ended == [lease]


async def test_a_broken_exchange_ends_its_place() -> None:
    """What is not reusable is not passed on."""
    opener = FakeOpener()
    pool = build_pool(opener)
    lease = await pool.acquire()
    pool.release(lease, reusable=False)
    assert pool.open_leases == 0
    assert pool.ended == [lease]


async def test_an_old_place_is_not_passed_on() -> None:
    """After `age_max_s` Ray is asked again, so that new replicas get their share."""
    opener = FakeOpener()
    pool = build_pool(opener, age_max_s=0.0)
    lease = await pool.acquire()
    await asyncio.sleep(0.001)
    pool.release(lease, reusable=True)
    assert pool.open_leases == 0
    assert pool.ended == [lease]


async def test_reuse_can_be_switched_off() -> None:
    """With `reuse_s` 0 every call asks Ray."""
    opener = FakeOpener()
    pool = build_pool(opener, reuse_s=0)
    for _ in range(3):
        pool.release(await pool.acquire(), reusable=True)
    assert opener.granted == len(pool.ended) == 3
    assert pool.open_leases == 0


async def test_a_returned_place_goes_to_the_call_that_waits_longest() -> None:
    """A full tier serves waiting calls from what others give back."""
    opener = FakeOpener(permits=1)
    pool = build_pool(opener)
    lease = await pool.acquire()
    first = asyncio.create_task(pool.acquire())
    await asyncio.sleep(0)
    second = asyncio.create_task(pool.acquire())
    await asyncio.sleep(0)
    assert pool.waiting == 2
    pool.release(lease, reusable=True)
    assert await first is lease
    assert not second.done()
    pool.release(lease, reusable=True)
    assert await second is lease


async def test_what_a_lost_call_asked_for_serves_the_next_one() -> None:
    """A request to Ray is not withdrawn, so the next call needs none of its own."""
    opener = FakeOpener(permits=0)
    pool = build_pool(opener)
    lost = asyncio.create_task(pool.acquire())
    await asyncio.sleep(0.01)
    lost.cancel()
    await asyncio.gather(lost, return_exceptions=True)
    assert pool.waiting == 0
    next_call = asyncio.create_task(pool.acquire())
    await asyncio.sleep(0.01)
    opener.permits.release()
    assert (await next_call).lease_id == "lease-0"
    opener.permits.release()
    await asyncio.sleep(0.01)
    assert opener.granted == 1


async def test_a_place_that_nobody_waits_for_any_more_ends() -> None:
    """A call that gave up waiting leaves nothing behind, even with reuse switched off."""
    opener = FakeOpener(permits=0)
    pool = build_pool(opener, reuse_s=0)
    waiting = asyncio.create_task(pool.acquire())
    await asyncio.sleep(0.01)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    opener.permits.release()
    await asyncio.sleep(0.01)
    assert opener.granted == len(pool.ended) == 1
    assert (pool.open_leases, pool.waiting) == (0, 0)


async def test_a_place_granted_to_a_cancelled_call_is_kept() -> None:
    """The grant and the cancellation meet in one turn of the loop: the place is offered again."""
    opener = FakeOpener()
    pool = build_pool(opener)
    waiting = asyncio.create_task(pool.acquire())
    async with asyncio.timeout(1):
        while not opener.granted:
            await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await asyncio.sleep(0)
    assert (await pool.acquire()).lease_id == "lease-0"


async def test_rays_refusal_reaches_one_caller() -> None:
    """An error of Ray's fails the call that waits, not the pool."""
    opener = FakeOpener()
    opener.error = TierUnavailable(2)
    pool = build_pool(opener)
    with pytest.raises(TierUnavailable):
        await pool.acquire()
    opener.error = None
    assert (await pool.acquire()).lease_id == "lease-0"


async def test_idle_places_on_a_lost_replica_are_dropped() -> None:
    """After a connection failed, the other idle places on that address are not tried."""
    opener = FakeOpener()
    pool = build_pool(opener)
    first, second = await pool.acquire(), await pool.acquire()
    pool.release(first, reusable=True)
    pool.release(second, reusable=True)
    pool.drop_idle(opener.address)
    assert pool.open_leases == 0


async def test_a_closed_pool_ends_its_idle_places() -> None:
    """A Router that retires leaves no replica waiting."""
    pool = build_pool(FakeOpener())
    lease = await pool.acquire()
    pool.release(lease, reusable=True)
    pool.close()
    assert pool.ended == [lease]
    assert pool.open_leases == 0
