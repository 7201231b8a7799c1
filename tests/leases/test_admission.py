"""Calls that cannot begin within their deadline are rejected, and only those."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext

import pytest

from serve_app.config.runtime import DeadlinesConfig, LeaseConfig
from serve_app.core.errors import WouldBeLate
from serve_app.leases.admission import Admission
from serve_app.leases.client import TierClient
from serve_app.leases.lease import Lease
from serve_app.leases.order import NO_CLAIM
from serve_app.leases.pool import LeasePool
from serve_app.offline.bench.virtual_loop import run_virtually
from tests.fakes import FakeOpener
from tests.leases.replica import running
from tests.leases.test_availability import request, until

PLACES = 4
HOLD_S = 1.0
PATIENT = DeadlinesConfig(lease_s=60)


def deadlines(first_token_s: float | None) -> DeadlinesConfig:
    return DeadlinesConfig(lease_s=60, first_token_s=first_token_s)


def build_pool() -> LeasePool:
    def forget(lease: Lease) -> None:
        """No replica is to be informed."""

    return LeasePool(
        FakeOpener(permits=PLACES),
        forget,
        reuse_s=3600,
        age_max_s=3600,
        session_s=0,
        asks_by_session=False,
    )


async def fill(pool: LeasePool, calls: int) -> None:
    """So many calls hold a place for a second each, one after another."""

    async def call() -> None:
        lease = await pool.acquire()
        await asyncio.sleep(HOLD_S)
        pool.release(lease, reusable=True)

    for _ in range(calls):
        asyncio.get_running_loop().create_task(call())
    await asyncio.sleep(2.5 * HOLD_S)


async def judge(calls: int, first_token_s: float | None) -> int | None:
    """The `Retry-After` of a call that arrives behind the waiting calls; None: it may wait."""
    pool = build_pool()
    await fill(pool, calls)
    try:
        Admission(pool).check(
            NO_CLAIM, deadlines(first_token_s).start(asyncio.get_running_loop().time())
        )
    except WouldBeLate as error:
        return error.retry_after_s
    return None


@pytest.mark.parametrize(
    ("calls", "first_token_s", "rejected"),
    [(52, 2.0, True), (52, 60.0, False), (52, None, False), (10, 2.0, False)],
)
def test_only_a_call_that_cannot_begin_in_time_is_rejected(
    calls: int, first_token_s: float | None, rejected: bool
) -> None:
    """Of 52 calls for 4 places, 40 still wait after 2.5 s: ten seconds of work."""
    retry_after_s = run_virtually(judge(calls, first_token_s))
    assert (retry_after_s is not None) is rejected
    if retry_after_s is not None:
        assert 8 <= retry_after_s <= 20


@pytest.mark.parametrize(
    ("first_token_s", "rejected"), [(1.9, False), (2.1, True), (None, False), (0.0, False)]
)
async def test_what_the_replicas_promise_decides(
    first_token_s: float | None, rejected: bool
) -> None:
    """A call is rejected if no replica could begin in time, and may wait only for what is left."""
    admission = Admission(build_pool())
    now = asyncio.get_running_loop().time()
    limits = deadlines(2.0).start(now)
    with pytest.raises(WouldBeLate) if rejected else nullcontext():
        admission.check(NO_CLAIM, limits, first_token_s)
    assert admission.place_at(limits, first_token_s) == now + 2.0 - (first_token_s or 0.0)


async def test_the_engines_queue_counts_once() -> None:
    """What the replicas promise replaces the forecast by this Router's own calls."""
    admission = Admission(build_pool())
    now = asyncio.get_running_loop().time()
    for call in range(30):
        admission.firsts.begin(call, now - 5.0)
    limits = deadlines(2.0).start(now)
    with pytest.raises(WouldBeLate):
        admission.check(NO_CLAIM, limits)
    admission.check(NO_CLAIM, limits, 1.5)
    assert admission.missed(NO_CLAIM, 1.5).retry_after_s == 2


async def test_a_waiting_call_leaves_when_it_cannot_begin_in_time_any_more() -> None:
    """It gets the error of a full tier, with its own code, long before `lease_s`."""
    async with running(0) as tier:
        client = TierClient("strong", tier, LeaseConfig())
        limits = deadlines(0.05).start(asyncio.get_running_loop().time())
        with pytest.raises(WouldBeLate) as error:
            async with client.exchange(request(), limits):
                raise AssertionError("no replica is there")
        assert error.value.code == "deadline_unreachable"
        assert client.waiting == 0
        client.close()


async def test_the_engines_part_of_the_wait_counts() -> None:
    """Calls that have a place but no first token keep later calls out."""
    async with running(1) as tier:
        client = TierClient("strong", tier, LeaseConfig())
        (replica,) = tier.replicas
        loop = asyncio.get_running_loop()

        async def ask(first_token_s: float | None) -> None:
            limits = deadlines(first_token_s).start(loop.time())
            async with client.exchange(request(), limits) as answer:
                while await answer.read():
                    pass

        for _ in range(10):
            await ask(None)
        replica.released.clear()
        calls = [asyncio.create_task(ask(None)) for _ in range(10)]
        await until(lambda: len(replica.asked) == 20)
        await asyncio.sleep(0.05)
        with pytest.raises(WouldBeLate):
            await ask(0.01)
        replica.released.set()
        await asyncio.gather(*calls)
        await ask(5.0)
        client.close()
