"""The counters in a real Redis."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from serve_app.config.redis import RedisConfig
from serve_app.limits.ledger import Ledger
from serve_app.limits.limit import CountersUnreachable, Limit, LimitAsk, Measure
from serve_app.limits.redis_counters import RedisCounters, connect
from serve_app.limits.windows import LimitWindow
from tests.limits.samples import charge_of, limit_of, places_of
from tests.redis_server import free_port, redis_url, run_redis

__all__ = ["redis_url"]

PATIENT_S = 10.0
"""A deadline that a busy machine keeps."""


@asynccontextmanager
async def counters_of(
    url: str,
    *,
    deadline_s: float = PATIENT_S,
    place_s: float = 60,
) -> AsyncIterator[RedisCounters]:
    redis = connect(RedisConfig(url=url), deadline_s)
    counters = RedisCounters(redis, deadline_s=deadline_s, marker_s=600, place_s=place_s)
    counters.start()
    try:
        yield counters
    finally:
        await counters.close()


async def used(counters: RedisCounters, limit: Limit) -> int:
    return (await counters.peek([limit])).standings[0].used


async def until_used(counters: RedisCounters, limit: Limit, amount: int) -> None:
    async with asyncio.timeout(PATIENT_S):
        while await used(counters, limit) != amount:
            await asyncio.sleep(0.01)


async def test_what_was_not_used_is_given_back(redis_url: str) -> None:
    """A reservation is replaced by the true use, once."""
    tokens, ask = limit_of(100), LimitAsk(limit_of(100), 60)
    async with counters_of(redis_url) as counters:
        verdict = await counters.reserve("c1", [ask])
        assert verdict.refused is None
        assert verdict.standings[0].used == 60
        assert 60_000 <= verdict.standings[0].reset_ms <= 65_000
        for _ in range(3):
            counters.settle("c1", [charge_of(ask, 25)])
        await until_used(counters, tokens, 25)
        counters.settle("c2", [charge_of(LimitAsk(tokens, 0), 0)])
        await until_used(counters, tokens, 25)


@pytest.mark.parametrize("window", [LimitWindow.MINUTE, LimitWindow.DAY, LimitWindow.MONTH])
async def test_a_full_window_refuses(redis_url: str, window: LimitWindow) -> None:
    """All or nothing: what another limit of the same call had room for is not taken."""
    tight, wide = limit_of(10, window), limit_of(1000, window, Measure.REQUESTS)
    async with counters_of(redis_url) as counters:
        assert (
            await counters.reserve("c1", [LimitAsk(wide, 1), LimitAsk(tight, 8)])
        ).refused is None
        verdict = await counters.reserve("c2", [LimitAsk(wide, 1), LimitAsk(tight, 3)])
        assert verdict.refused == 1
        assert verdict.retry_ms > 0
        assert [standing.used for standing in verdict.standings] == [1, 8]
        assert await used(counters, wide) == 1


async def test_lua_counts_like_the_ledger(redis_url: str) -> None:
    """The script and the ledger give the same verdicts for the same reservations."""
    ledger = Ledger()
    limits = [
        limit_of(100, LimitWindow.DAY),
        limit_of(60, LimitWindow.MONTH, Measure.MONEY),
        limit_of(4, LimitWindow.DAY, Measure.REQUESTS, "other"),
    ]
    async with counters_of(redis_url) as counters:
        for number in range(40):
            chosen = [limits[0], limits[1]] if number % 3 else [limits[2]]
            asks = [LimitAsk(limit, 1 + (number * 7 + at) % 9) for at, limit in enumerate(chosen)]
            theirs = await counters.reserve(f"c{number}", asks)
            ours = ledger.reserve(asks, int(time.time() * 1000))
            assert theirs.refused == ours.refused
            assert [s.used for s in theirs.standings] == [s.used for s in ours.standings]
            assert abs(theirs.retry_ms - ours.retry_ms) < 60_000


async def test_money_of_a_million_is_counted_to_the_nano(redis_url: str) -> None:
    """Lua's numbers are doubles, and would lose the last digits in scientific notation."""
    money = limit_of(10**15 + 10, LimitWindow.MONTH, Measure.MONEY)
    async with counters_of(redis_url) as counters:
        assert (await counters.reserve("c1", [LimitAsk(money, 10**15 + 3)])).refused is None
        assert (await counters.reserve("c2", [LimitAsk(money, 8)])).refused == 0
        assert (await counters.reserve("c3", [LimitAsk(money, 7)])).refused is None
        assert await used(counters, money) == 10**15 + 10


async def test_concurrent_routers_never_reserve_beyond_a_limit(redis_url: str) -> None:
    """Two Routers with forty callers at once get as many reservations as there is room for."""
    tokens, places = limit_of(1000), places_of(30)
    async with AsyncExitStack() as stack:
        routers = [await stack.enter_async_context(counters_of(redis_url)) for _ in range(2)]

        async def call(number: int) -> bool:
            router = routers[number % 2]
            asks = [LimitAsk(tokens, 30), LimitAsk(places, 1)]
            return (await router.reserve(f"c{number}", asks)).refused is None

        passed = await asyncio.gather(*(call(number) for number in range(80)))
        assert sum(passed) == 30
        assert await used(routers[0], tokens) == 900


async def test_a_place_is_free_after_its_call(redis_url: str) -> None:
    """Calls at a time count until they are settled."""
    places, ask = places_of(1), LimitAsk(places_of(1), 1)
    async with counters_of(redis_url) as counters:
        assert (await counters.reserve("c1", [ask])).refused is None
        verdict = await counters.reserve("c2", [ask])
        assert (verdict.refused, verdict.retry_ms) == (0, 1000)
        counters.settle("c1", [charge_of(ask, 0)])
        await until_used(counters, places, 0)
        assert (await counters.reserve("c3", [ask])).refused is None


async def test_the_next_call_of_a_client_finds_the_place_of_its_last_call(redis_url: str) -> None:
    """Although Redis has not been told yet that the last call has ended."""
    ask = LimitAsk(places_of(1), 1)
    async with counters_of(redis_url) as counters:
        for number in range(20):
            verdict = await counters.reserve(f"c{number}", [ask])
            assert verdict.refused is None
            counters.settle(f"c{number}", [charge_of(ask, 0)])


async def test_the_places_of_a_dead_router_expire(redis_url: str) -> None:
    """Its calls stay charged by their estimates; a Router that lives keeps its places."""
    places, tokens = places_of(2), limit_of(100)
    asks = [LimitAsk(places, 1), LimitAsk(tokens, 40)]
    async with counters_of(redis_url, place_s=1.5) as living:
        async with counters_of(redis_url, place_s=1.5) as dead:
            await dead.reserve("d1", asks)
        await living.reserve("l1", asks)
        await until_used(living, places, 1)
        for _ in range(5):
            await asyncio.sleep(0.4)
            assert await used(living, places) == 1
        assert await used(living, tokens) == 80


async def test_a_reservation_that_nobody_waited_for_is_given_back(redis_url: str) -> None:
    """Also where Redis runs the settlement before the reservation."""
    tokens = limit_of(100)
    async with counters_of(redis_url) as counters:
        counters.settle("late", [charge_of(LimitAsk(tokens, 60), 0)])
        await until_settled(counters)
        with pytest.raises(CountersUnreachable):
            await counters.reserve("late", [LimitAsk(tokens, 60)])
        assert await used(counters, tokens) == 0


async def until_settled(counters: RedisCounters) -> None:
    async with asyncio.timeout(PATIENT_S):
        while counters.unsettled:
            await asyncio.sleep(0.01)


async def test_a_slow_redis_fails_within_the_deadline(redis_url: str) -> None:
    """The call does not wait; what Redis reserves later is given back; the next call gets its own
    answer and not the late one."""
    tokens, ask = limit_of(100), LimitAsk(limit_of(100), 60)
    async with counters_of(redis_url, deadline_s=0.05) as hasty, counters_of(redis_url) as patient:
        async with closing_redis(redis_url) as redis:
            await redis.execute_command("CLIENT", "PAUSE", "400", "ALL")
        with pytest.raises(CountersUnreachable):
            await hasty.reserve("c1", [ask])
        hasty.settle("c1", [charge_of(ask, 0)])
        await until_settled(hasty)
        await until_used(patient, tokens, 0)
        assert (await patient.reserve("c2", [ask])).standings[0].used == 60


@asynccontextmanager
async def closing_redis(url: str) -> AsyncIterator[Redis]:
    redis = Redis.from_url(url)
    try:
        yield redis
    finally:
        await redis.aclose()


async def test_a_redis_that_dies_forgets_no_charge(tmp_path: Path) -> None:
    """With `appendfsync always`, a reservation survives kill -9, and the settlement that waited
    meanwhile is charged once."""
    tokens, ask = limit_of(100, LimitWindow.DAY), LimitAsk(limit_of(100, LimitWindow.DAY), 60)
    options = ("--save", "", "--appendonly", "yes", "--appendfsync", "always")
    port = free_port()
    async with AsyncExitStack() as stack:
        with run_redis(tmp_path, *options, port=port) as url:
            counters = await stack.enter_async_context(counters_of(url))
            assert (await counters.reserve("c1", [ask])).refused is None
            await crash(url)
        counters.settle("c1", [charge_of(ask, 35)])
        with pytest.raises(CountersUnreachable):
            await counters.reserve("c2", [ask])
        counters.settle("c2", [charge_of(ask, 0)])
        with run_redis(tmp_path, *options, port=port):
            await until_used_again(counters, tokens, 35)
            await until_settled(counters)
            assert await used(counters, tokens) == 35


async def crash(url: str) -> None:
    """End Redis at once, without a goodbye to its disk."""
    async with closing_redis(url) as redis:
        pid = (await redis.info("server"))["process_id"]
    os.kill(pid, signal.SIGKILL)


async def until_used_again(counters: RedisCounters, limit: Limit, amount: int) -> None:
    async with asyncio.timeout(PATIENT_S):
        while True:
            try:
                if await used(counters, limit) == amount:
                    return
            except CountersUnreachable:
                pass
            await asyncio.sleep(0.02)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("reserve"), st.integers(0, 2), st.integers(1, 30)),
        st.tuples(st.just("together"), st.integers(0, 2), st.integers(1, 30)),
        st.tuples(st.just("settle"), st.integers(0, 9), st.sampled_from([0, 0.5, 1])),
        st.tuples(st.just("crash"), st.integers(0, 2), st.just(0)),
    ),
    max_size=40,
)
EXAMPLES = itertools.count()


@pytest.fixture(scope="module")
def shared_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One Redis for all examples of a property."""
    directory = tmp_path_factory.mktemp("redis")
    with run_redis(directory, "--save", "", "--appendonly", "no") as url:
        yield url


@settings(max_examples=40, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(STEPS)
def test_no_interleaving_overspends(shared_url: str, steps: list[tuple[str, int, float]]) -> None:
    """Three Routers reserve, settle and crash in any order: what is reserved or used never exceeds
    a limit, and what is settled is never forgotten."""
    asyncio.run(play(shared_url, steps))


async def play(url: str, steps: list[tuple[str, int, float]]) -> None:
    name = f"tenant-{next(EXAMPLES)}"
    tokens, places = limit_of(100, LimitWindow.DAY, name=name), places_of(5, name)
    running: dict[str, tuple[RedisCounters, LimitAsk]] = {}
    charged: dict[str, float] = {}
    lost = 0
    async with AsyncExitStack() as stack:
        routers = [await stack.enter_async_context(counters_of(url)) for _ in range(3)]

        async def reserve(number: int, amount: int) -> None:
            call_id, ask = f"{name}-{next(EXAMPLES)}", LimitAsk(tokens, amount)
            verdict = await routers[number].reserve(call_id, [ask, LimitAsk(places, 1)])
            if verdict.refused is None:
                running[call_id] = (routers[number], ask)
                charged[call_id] = amount

        def settle(number: int, share: float) -> None:
            if running:
                call_id = list(running)[number % len(running)]
                router, ask = running.pop(call_id)
                charged[call_id] = int(ask.amount * share)
                charges = [charge_of(ask, int(charged[call_id])), charge_of(LimitAsk(places, 1), 0)]
                router.settle(call_id, charges)

        for what, number, amount in steps:
            if what == "reserve":
                await reserve(number, int(amount))
            elif what == "together":
                others = (reserve((number + n) % 3, int(amount)) for n in range(4))
                await asyncio.gather(*others)
            elif what == "settle":
                settle(number, amount)
            else:
                dead = [one for one, (router, _) in running.items() if router is routers[number]]
                lost += len(dead)
                for call_id in dead:
                    del running[call_id]
                routers[number] = await stack.enter_async_context(counters_of(url))
            assert len(running) + lost <= 5
            assert await used(routers[0], tokens) <= 100
        await until_used(routers[0], tokens, int(sum(charged.values())))
        await until_used(routers[0], places, len(running) + lost)


async def test_a_redis_that_lost_everything_is_charged_the_whole_use(redis_url: str) -> None:
    """A settlement without its reservation charges what the call has used."""
    tokens, ask = limit_of(100, LimitWindow.DAY), LimitAsk(limit_of(100, LimitWindow.DAY), 60)
    async with counters_of(redis_url) as counters, closing_redis(redis_url) as redis:
        await counters.reserve("c1", [ask])
        await redis.flushall()
        await redis.script_flush()
        counters.settle("c1", [charge_of(ask, 35)])
        await until_used(counters, tokens, 35)
