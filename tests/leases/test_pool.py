"""The pool of leases: reuse, age, hand-over to waiting calls, and nothing that leaks."""

from __future__ import annotations

import asyncio

import pytest

from serve_app.core.errors import TierOverloaded, TierUnavailable
from serve_app.leases.http1 import Address
from serve_app.leases.lease import Lease, Opener
from serve_app.leases.pool import (
    ASKS_MAX,
    CALLS_MIN,
    KNOWN_S,
    OVERDUE,
    PARKED_S,
    RENEWALS_MAX,
    LeasePool,
)
from tests.fakes import FakeGrant, FakeOpener
from tests.leases.clock import Clock


class RecordingPool(LeasePool):
    """A pool that lists the leases it has ended."""

    ended: list[Lease]


def build_pool(
    opener: Opener, reuse_s: float = 0.05, age_max_s: float = 60.0, session_s: float = 0.0
) -> RecordingPool:
    ended: list[Lease] = []
    pool = RecordingPool(
        opener,
        ended.append,
        reuse_s=reuse_s,
        age_max_s=age_max_s,
        session_s=session_s,
        asks_by_session=False,
    )
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


async def test_a_place_serves_a_few_calls_however_long_they_take() -> None:
    """Then it is too old, and Ray is asked again, so that new replicas get their share."""
    opener = FakeOpener()
    pool = build_pool(opener, age_max_s=0.0)
    for _ in range(CALLS_MIN):
        lease = await pool.acquire()
        await asyncio.sleep(0.002)
        pool.release(lease, reusable=True)
    assert opener.granted == 1
    assert pool.open_leases == 0
    assert pool.ended == [lease]


async def test_a_young_place_serves_more_calls() -> None:
    """Within `age_max_s` short calls follow each other without Ray."""
    opener = FakeOpener()
    pool = build_pool(opener, age_max_s=60.0)
    for _ in range(3 * CALLS_MIN):
        pool.release(await pool.acquire(), reusable=True)
    assert opener.granted == 1


async def use(pool: LeasePool, times: int = CALLS_MIN) -> Lease:
    """One place, after so many calls that followed each other."""
    for _ in range(times):
        lease = await pool.acquire()
        pool.release(lease, reusable=True)
    return lease


async def begin_to_renew(
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[Clock, FakeOpener, RecordingPool, Lease]:
    """A place that is idle and too old, and a Ray that has not granted its successor."""
    clock, opener = Clock(monkeypatch), FakeOpener(permits=1)
    pool = build_pool(opener, reuse_s=0.9, age_max_s=2.0)
    await use(pool)
    old = await pool.acquire()
    await clock.advance(3.0)
    pool.release(old, reusable=True)
    return clock, opener, pool, old


async def test_an_old_place_serves_on_until_its_successor_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No call waits for Ray's answer, and the old place ends when it is idle then."""
    clock, opener, pool, old = await begin_to_renew(monkeypatch)
    assert await use(pool, 3) is old
    opener.permits.release()
    await clock.advance(0)
    assert pool.ended == [old]
    successor = await pool.acquire()
    assert (opener.granted, successor.lease_id, pool.open_leases) == (2, "lease-1", 1)


async def test_a_place_with_a_successor_ends_with_its_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """The call that uses it when the successor comes is the last."""
    clock, opener, pool, old = await begin_to_renew(monkeypatch)
    assert await pool.acquire() is old
    opener.permits.release()
    await clock.advance(0)
    assert (pool.ended, pool.open_leases) == ([], 2)
    pool.release(old, reusable=True)
    assert (pool.ended, pool.open_leases) == ([old], 1)


async def test_without_a_successor_an_old_place_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tier that is full has none to give, and the others get their share of it."""
    clock, _, pool, old = await begin_to_renew(monkeypatch)
    lease = await pool.acquire()
    await clock.advance(OVERDUE * 2.0 - 3.0 + 0.1)
    pool.release(lease, reusable=True)
    assert (pool.ended, pool.open_leases) == ([old], 0)


async def test_a_successor_that_is_refused_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The old place goes on, and asks again after its next call."""
    clock, opener, pool, old = await begin_to_renew(monkeypatch)
    opener.error = TierOverloaded(retry_after_s=1)
    opener.permits.release()
    await clock.advance(0)
    opener.error = None
    assert await use(pool, 1) is old
    opener.permits.release()
    await clock.advance(0)
    assert pool.ended == [old]
    assert (await pool.acquire()).lease_id == "lease-1"


async def test_places_granted_together_ask_by_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each gets its successor, but Ray is not asked for all at a time."""
    clock = Clock(monkeypatch)
    opener = FakeOpener(permits=8)
    pool = build_pool(opener, reuse_s=0.9, age_max_s=2.0)
    leases = [await pool.acquire() for _ in range(8)]
    for _ in range(CALLS_MIN - 1):
        for lease in leases:
            pool.release(lease, reusable=True)
        leases = [await pool.acquire() for _ in range(8)]
    await clock.advance(2.5)
    for lease in leases:
        pool.release(lease, reusable=True)
    await clock.advance(0)
    assert len(opener.sessions) == 8 + RENEWALS_MAX
    for _ in range(4):
        for _ in range(8):
            opener.permits.release()
        await clock.advance(0)
        for lease in [await pool.acquire() for _ in range(8)]:
            pool.release(lease, reusable=True)
    await clock.advance(0)
    assert opener.granted == 16
    assert sorted(each.lease_id for each in pool.ended) == [f"lease-{n}" for n in range(8)]


async def test_an_old_place_makes_way_for_waiting_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their own requests to Ray come first."""
    clock = Clock(monkeypatch)
    opener = FakeOpener(permits=1)
    pool = build_pool(opener, reuse_s=0.9, age_max_s=2.0)
    old = await use(pool, 3)
    lease = await pool.acquire()
    waiting = asyncio.create_task(pool.acquire())
    await clock.advance(3.0)
    pool.release(lease, reusable=True)
    assert pool.ended == [old]
    opener.permits.release()
    assert (await waiting).lease_id == "lease-1"
    assert len(opener.sessions) == 2


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
    assert pool.oldest_wait_s > 0
    pool.release(lease, reusable=True)
    assert await first is lease
    assert not second.done()
    pool.release(lease, reusable=True)
    assert await second is lease
    assert pool.oldest_wait_s == 0


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


async def test_a_place_passes_by_thousands_of_cancelled_calls() -> None:
    """A place that comes back in the turn of the loop that cancels thousands of waiting calls goes
    to the first call that still waits."""
    pool = build_pool(FakeOpener(permits=1))
    lease = await pool.acquire()
    lost = [asyncio.create_task(pool.acquire()) for _ in range(2000)]
    waiting = asyncio.create_task(pool.acquire())
    await asyncio.sleep(0.01)
    for task in lost:
        task.cancel()
    pool.release(lease, reusable=True)
    assert await waiting is lease
    await asyncio.gather(*lost, return_exceptions=True)
    assert pool.waiting == 0


async def test_rays_refusal_reaches_one_caller() -> None:
    """An error of Ray's fails the call that waits, not the pool."""
    opener = FakeOpener()
    opener.error = TierUnavailable(2)
    pool = build_pool(opener)
    with pytest.raises(TierUnavailable):
        await pool.acquire()
    opener.error = None
    assert (await pool.acquire()).lease_id == "lease-0"


class QueueingOpener(FakeOpener):
    """Lets so many requests wait, and refuses further ones, as Ray's handle does."""

    def __init__(self, queued_max: int) -> None:
        super().__init__(permits=0)
        self._room = queued_max

    async def __call__(self, session: str | None = None) -> FakeGrant:
        if not self._room:
            raise TierOverloaded(retry_after_s=5)
        self._room -= 1
        return await super().__call__(session)


async def waiting_calls(pool: LeasePool, count: int) -> list[asyncio.Task[Lease]]:
    calls = [asyncio.create_task(pool.acquire()) for _ in range(count)]
    await asyncio.sleep(0.01)
    return calls


async def test_an_overload_refuses_the_call_that_came_last() -> None:
    """The one whose request Ray refused; who has waited longest goes on waiting."""
    opener = QueueingOpener(queued_max=2)
    pool = build_pool(opener)
    first, second, third = await waiting_calls(pool, 3)
    assert third.done()
    with pytest.raises(TierOverloaded):
        await third
    assert not first.done()
    assert not second.done()
    opener.permits.release()
    assert (await first).lease_id == "lease-0"
    opener.permits.release()
    assert (await second).lease_id == "lease-1"
    assert pool.waiting == 0


async def test_a_late_refusal_meets_the_call_that_would_go_empty() -> None:
    """A place given back has served the first call, whose request now stands for nobody."""
    opener = FakeOpener(permits=1)
    pool = build_pool(opener)
    lease = await pool.acquire()
    first, second = await waiting_calls(pool, 2)
    pool.release(lease, reusable=True)
    assert await first is lease
    opener.error = TierOverloaded(5)
    opener.permits.release()
    await asyncio.sleep(0.01)
    assert not second.done()
    opener.permits.release()
    with pytest.raises(TierOverloaded):
        await second
    assert pool.waiting == 0


async def test_a_request_to_ray_stands_for_each_call_that_waits() -> None:
    """Whatever is granted, given back or refused, and whoever leaves: no call is forgotten."""
    opener = FakeOpener(permits=1)
    pool = build_pool(opener)
    lease = await pool.acquire()
    first, second, third = await waiting_calls(pool, 3)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    pool.release(lease, reusable=True)
    assert await first is lease
    (fourth,) = await waiting_calls(pool, 1)
    for call in (third, fourth):
        opener.permits.release()
        await call
    assert opener.granted == 3
    assert pool.waiting == 0
    opener.permits.release()
    await asyncio.sleep(0.01)
    assert not pool._waiting.orphans


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


async def test_a_place_is_idle_since_its_last_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each place ends `reuse_s` after its own last call, whenever Ray granted the place."""
    clock = Clock(monkeypatch)
    pool = build_pool(FakeOpener(), reuse_s=10.0)
    first, second = await pool.acquire(), await pool.acquire()
    pool.release(first, reusable=True)
    await clock.advance(8)
    pool.release(second, reusable=True)
    await clock.advance(2)
    assert pool.ended == [first]
    await clock.advance(7.9)
    assert pool.ended == [first]
    await clock.advance(0.1)
    assert pool.ended == [first, second]
    third = await pool.acquire()
    pool.release(third, reusable=True)
    await clock.advance(10)
    assert pool.ended == [first, second, third]


async def test_the_newest_idle_place_is_used_first() -> None:
    """Older places then end by themselves; replicas of earlier calls make no difference."""
    opener = FakeOpener(("10.0.0.1", 1))
    pool = build_pool(opener, session_s=60.0)
    first = await pool.acquire()
    opener.address = ("10.0.0.2", 1)
    second = await pool.acquire()
    pool.release(second, reusable=True)
    pool.release(first, reusable=True)
    assert await pool.acquire() is first


async def test_without_reuse_no_call_waits_for_the_place_of_another() -> None:
    """A place that has served its call ends, and the next call gets its own place from Ray."""
    opener = FakeOpener(permits=1)
    pool = build_pool(opener, reuse_s=0.0)
    lease = await pool.acquire()
    (waiting,) = await waiting_calls(pool, 1)
    pool.release(lease, reusable=True)
    assert pool.ended == [lease]
    opener.permits.release()
    assert await waiting is not lease


async def test_a_replica_that_cannot_be_reached_is_not_told_of_the_end() -> None:
    """Its idle places are forgotten, and a place there that comes back is not reused."""
    opener = FakeOpener()
    pool = build_pool(opener)
    idle, used = await pool.acquire(), await pool.acquire()
    pool.release(idle, reusable=True)
    pool.lose(opener.address)
    assert (pool.open_leases, pool.ended) == (1, [])
    pool.release(used, reusable=True)
    assert (pool.open_leases, pool.ended) == (0, [used])


async def test_a_closed_pool_keeps_no_place() -> None:
    """A call that ends after the Router has retired leaves no idle place behind."""
    pool = build_pool(FakeOpener())
    lease = await pool.acquire()
    pool.close()
    pool.release(lease, reusable=True)
    assert (pool.open_leases, pool.ended) == (0, [lease])


async def test_a_cancelled_call_is_cancelled_although_ray_has_refused() -> None:
    """The refusal and the cancellation meet in one turn of the loop."""
    opener = FakeOpener(permits=0)
    pool = build_pool(opener)
    (waiting,) = await waiting_calls(pool, 1)
    opener.error = TierOverloaded(5)
    opener.permits.release()
    async with asyncio.timeout(1):
        while pool.waiting:
            await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_patience_that_ends_with_a_cancellation_is_no_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The timer fires in the turn of the loop in which the call is cancelled."""
    clock, loop = Clock(monkeypatch), asyncio.get_running_loop()
    pool = build_pool(FakeOpener(permits=0))
    waiting = asyncio.create_task(pool.acquire(patience_s=1.0))
    await asyncio.sleep(0)
    loop.call_soon(waiting.cancel)
    await clock.advance(1)
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert clock.errors == []


@pytest.mark.parametrize("serving", [False, True])
async def test_a_replica_that_dies_while_it_is_asked(serving: bool) -> None:
    """Ray is asked again while the pool uses another replica, but not without end."""
    opener = FakeOpener()
    pool = build_pool(opener)
    if serving:
        await pool.acquire()
    opener.sessions.clear()
    opener.error = TierUnavailable(2)
    with pytest.raises(TierUnavailable):
        await pool.acquire()
    assert len(opener.sessions) == (ASKS_MAX if serving else 1)


class ChoosyOpener(FakeOpener):
    """Grants places on replicas in a given order, the last one for ever."""

    def __init__(self, *addresses: Address) -> None:
        super().__init__()
        self.addresses = list(addresses)

    async def __call__(self, session: str | None = None) -> FakeGrant:
        self.address = self.addresses.pop(0) if len(self.addresses) > 1 else self.addresses[0]
        return await super().__call__(session)


async def use_once(pool: LeasePool, count: int) -> None:
    """Places that end with their calls, so that Ray is asked for the next one."""
    for _ in range(count):
        pool.release(await pool.acquire(), reusable=False)


BAD: Address = ("10.0.0.1", 1)
GOOD: Address = ("10.0.0.2", 1)


async def test_a_place_on_a_replica_that_has_just_failed_is_parked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is held for a moment, so that Ray names another replica, and then ended unused."""
    clock = Clock(monkeypatch)
    opener = ChoosyOpener(BAD, GOOD, BAD, BAD, GOOD)
    pool = build_pool(opener)
    await use_once(pool, 2)
    pool.avoid(BAD)
    pool.ended.clear()
    assert (await pool.acquire()).address == GOOD
    assert opener.granted == 5
    await clock.advance(PARKED_S - 0.01)
    assert pool.ended == []
    await clock.advance(0.01)
    assert [(lease.address, lease.calls) for lease in pool.ended] == [(BAD, 0)] * 2


async def test_a_replica_that_has_just_failed_serves_where_ray_names_no_other() -> None:
    """A penalty refuses no call: Ray is asked a few times, and the last place is used."""
    opener = ChoosyOpener(BAD, GOOD, BAD)
    pool = build_pool(opener)
    await use_once(pool, 2)
    pool.avoid(BAD)
    assert (await pool.acquire()).address == BAD
    assert opener.granted == 2 + ASKS_MAX


@pytest.mark.parametrize(("age_s", "asks"), [(KNOWN_S, ASKS_MAX), (KNOWN_S + 1, 1)])
async def test_a_replica_is_known_for_a_while(
    monkeypatch: pytest.MonkeyPatch, age_s: float, asks: int
) -> None:
    """A replica that has granted no place for long may be gone, and is not waited for."""
    clock = Clock(monkeypatch)
    opener = ChoosyOpener(BAD, GOOD, BAD)
    pool = build_pool(opener)
    await use_once(pool, 2)
    await clock.advance(age_s)
    pool.avoid(BAD)
    await pool.acquire()
    assert opener.granted == 2 + asks


async def test_where_all_replicas_have_just_failed_none_is_better() -> None:
    """Ray's first choice is used."""
    opener = ChoosyOpener(BAD, GOOD, BAD)
    pool = build_pool(opener)
    await use_once(pool, 2)
    pool.avoid(BAD)
    pool.avoid(GOOD)
    await pool.acquire()
    assert opener.granted == 3


class ScriptedOpener:
    """Answers each request when the test says so."""

    def __init__(self) -> None:
        self.asked: list[asyncio.Future[FakeGrant]] = []

    async def __call__(self, session: str | None = None) -> FakeGrant:
        self.asked.append(asyncio.get_running_loop().create_future())
        return await self.asked[-1]


async def test_a_refusal_and_a_grant_in_one_turn_of_the_loop() -> None:
    """The refused call no longer waits when the place for the other call comes."""
    opener = ScriptedOpener()
    pool = build_pool(opener)
    refused, served = await waiting_calls(pool, 2)
    opener.asked[0].set_exception(TierOverloaded(5))
    opener.asked[1].set_result(FakeGrant("lease", GOOD))
    assert (await served).address == GOOD
    with pytest.raises(TierOverloaded):
        await refused


async def test_without_reuse_a_late_place_ends_at_once() -> None:
    """No later call finds it idle."""
    opener = ScriptedOpener()
    pool = build_pool(opener, reuse_s=0.0)
    (lost,) = await waiting_calls(pool, 1)
    lost.cancel()
    await asyncio.gather(lost, return_exceptions=True)
    opener.asked[0].set_result(FakeGrant("lease", GOOD))
    while not pool.ended:
        assert pool.open_leases == 0
        await asyncio.sleep(0)


@pytest.mark.parametrize("cancelled_first", [True, False])
async def test_a_refusal_of_a_call_that_has_gone_is_no_error(cancelled_first: bool) -> None:
    """Whichever of the two comes first in one turn of the loop."""
    opener = ScriptedOpener()
    pool = build_pool(opener)
    (lost,) = await waiting_calls(pool, 1)
    (opening,) = pool._opening
    if cancelled_first:
        lost.cancel()
    opener.asked[0].set_exception(TierOverloaded(5))
    lost.cancel()
    with pytest.raises(asyncio.CancelledError):
        await lost
    await opening
    assert pool.waiting == 0


async def test_patience_ends_where_the_router_has_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """The call waits for exactly as long as it may."""
    clock = Clock(monkeypatch)
    pool = build_pool(FakeOpener(permits=0))
    call = asyncio.create_task(pool.acquire(patience_s=5.0))
    await asyncio.sleep(0)
    await clock.advance(4.9)
    assert not call.done()
    await clock.advance(0.1)
    with pytest.raises(TierUnavailable) as caught:
        await call
    assert caught.value.retry_after_s == 1
    assert pool.waiting == 0


async def test_patience_begins_when_there_is_no_place_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A place that is held shows that the tier is there, and so does a place of a moment ago."""
    clock = Clock(monkeypatch)
    opener = FakeOpener(permits=1)
    pool = build_pool(opener)
    lease = await pool.acquire()
    call = asyncio.create_task(pool.acquire(patience_s=5.0))
    other = asyncio.create_task(pool.acquire())
    await asyncio.sleep(0)
    await clock.advance(5)
    pool.release(lease, reusable=False)
    other.cancel()
    await clock.advance(4.9)
    assert not call.done()
    await clock.advance(0.1)
    with pytest.raises(TierUnavailable):
        await call


async def test_a_place_of_a_moment_ago_renews_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray granted it to a call that has ended since."""
    clock = Clock(monkeypatch)
    opener = ScriptedOpener()
    pool = build_pool(opener)
    first = asyncio.create_task(pool.acquire())
    await asyncio.sleep(0)
    call = asyncio.create_task(pool.acquire(patience_s=5.0))
    await asyncio.sleep(0)
    await clock.advance(3)
    opener.asked[0].set_result(FakeGrant("lease", GOOD))
    pool.release(await first, reusable=False)
    await clock.advance(4.9)
    assert not call.done()
    await clock.advance(0.1)
    with pytest.raises(TierUnavailable):
        await call
