"""Which waiting call gets a freed place: the one that gains most there, and none waits for ever."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.leases.http1 import Address
from serve_app.leases.lease import Lease
from serve_app.leases.order import NO_CLAIM, Claim, FairOrder
from serve_app.leases.pool import RANKED_S, LeasePool
from serve_app.leases.ranking import GAIN_MAX_S, Ranking
from serve_app.leases.signature import LeaseSigner
from serve_app.offline.bench.virtual_loop import run_virtually
from tests.fakes import FakeGrant

PLACES: Sequence[Address] = [("10.0.0.1", port) for port in (1, 2, 3)]
A, B, C = PLACES


class Ray:
    """Has one place on each replica, and grants it to the first who asks."""

    def __init__(self) -> None:
        self._free = list(PLACES)

    async def __call__(self, session: str | None = None) -> FakeGrant:
        return await self.ranked(())

    async def ranked(self, ranking: tuple[str, ...]) -> FakeGrant:
        if not self._free:
            await asyncio.get_running_loop().create_future()
        return FakeGrant("id", self._free.pop(0), LeaseSigner("id", b"s" * 16))


def build() -> LeasePool:
    def forget(lease: Lease) -> None:
        """No replica is to be informed."""

    ray = Ray()
    return LeasePool(
        ray,
        forget,
        reuse_s=3600,
        age_max_s=3600,
        session_s=0,
        asks_by_session=False,
        ranked=ray.ranked,
    )


def ranking(read_s: Sequence[float]) -> Ranking:
    """A call that is read so fast on each of the replicas."""
    by_address = dict(zip(PLACES, read_s, strict=True))
    return Ranking(("a", "b", "c"), by_address, min(read_s), by_address, sum(read_s) / len(PLACES))


@dataclass(slots=True)
class Call:
    """A call, and when it got which place."""

    number: int
    prospects: Ranking | None
    since: float = 0.0
    placed_at: float = -1.0
    place: Address = A

    def gain_s(self, address: Address) -> float:
        return 0.0 if self.prospects is None else self.prospects.gain_s(address)


async def take_all(pool: LeasePool) -> list[Lease]:
    """All places that there are."""
    taken = [await pool.acquire() for _ in PLACES]
    return sorted(taken, key=lambda lease: lease.address)


def wait(
    pool: LeasePool, name: str, read_s: Sequence[float] | None, served: list[str], claim: Claim
) -> asyncio.Task[None]:
    async def call() -> None:
        prospects = None if read_s is None else ranking(read_s)
        await pool.acquire(ranking=prospects, claim=claim)
        served.append(name)

    return asyncio.get_running_loop().create_task(call())


def freed_at_b(
    calls: Sequence[tuple[str, Sequence[float] | None, float]],
    claims: Callable[[str], Claim] = lambda name: NO_CLAIM,
    *,
    fair: bool = False,
) -> str:
    """Which of the calls gets a place on B, if each has waited for so many seconds."""

    async def run() -> str:
        pool, served = build(), list[str]()
        if fair:
            pool.use_order(FairOrder(asyncio.get_running_loop().time, 100.0))
        held = await take_all(pool)
        tasks = []
        for (name, read_s, age_s), after in itertools.zip_longest(calls, calls[1:]):
            tasks.append(wait(pool, name, read_s, served, claims(name)))
            await asyncio.sleep(age_s - (after[2] if after else 0.0))
        pool.release(held[1], reusable=True)
        await asyncio.sleep(0.001)
        for task in tasks:
            task.cancel()
        return served[0]

    return run_virtually(run())


COLD, WARM_AT_A, WARM_AT_B = (2.0, 2.0, 2.0), (0.5, 2.0, 2.0), (2.0, 0.5, 2.0)


@pytest.mark.parametrize(
    ("calls", "first"),
    [
        ([("old", COLD, 1.0), ("warm", WARM_AT_B, 0.5)], "warm"),
        ([("old", COLD, 3.0), ("warm", WARM_AT_B, 0.5)], "old"),
        ([("elsewhere", WARM_AT_A, 0.6), ("cold", COLD, 0.5)], "cold"),
        ([("plain", None, 1.0), ("warm", WARM_AT_B, 0.5)], "warm"),
        ([("plain", None, 1.0), ("younger", None, 0.5)], "plain"),
    ],
)
def test_a_freed_place_goes_to_the_call_that_gains_most(
    calls: Sequence[tuple[str, Sequence[float] | None, float]], first: str
) -> None:
    """A second of age weighs as much as a second of reading that is saved."""
    assert freed_at_b(calls) == first


def test_a_gain_is_bounded() -> None:
    """However long a prompt is, it passes no call that came much earlier."""
    longest = ranking((600.0, 0.0, 600.0))
    assert (longest.gain_s(B), longest.gain_s(A)) == (GAIN_MAX_S, -GAIN_MAX_S)
    assert longest.gain_s(("10.0.0.9", 9)) == 0


def test_only_calls_of_the_tenant_whose_turn_it_is_are_looked_at() -> None:
    """A flood of calls that gain much does not pass another tenant's call."""
    flood = [(f"warm{n}", WARM_AT_B, 1.0) for n in range(20)]
    calls = [*flood, ("quiet", COLD, 0.5)]

    def claim(name: str) -> Claim:
        return Claim("quiet" if name == "quiet" else "flood", 1.0, 10)

    first = freed_at_b([*calls], claim, fair=True)
    assert first.startswith("warm")

    def charged(name: str) -> Claim:
        return Claim("quiet", 1.0, 1) if name == "quiet" else Claim("flood", 1.0, 10)

    assert freed_at_b([("quiet", COLD, 1.0), *flood], charged, fair=True) == "quiet"


def test_a_batch_call_does_not_pass_an_interactive_one() -> None:
    """Whatever it would gain."""

    def claim(name: str) -> Claim:
        return Claim("tenant", 1.0, 10, batch=name == "batch")

    calls = [("batch", WARM_AT_B, 1.0), ("person", COLD, 0.5)]
    assert freed_at_b(calls, claim, fair=True) == "person"


READ_S = st.lists(st.floats(0, 20), min_size=3, max_size=3)
CALLS = st.lists(
    st.tuples(st.floats(0, 2), st.one_of(st.none(), READ_S), st.floats(0.01, 2)),
    min_size=1,
    max_size=40,
)


@given(drawn=CALLS)
def test_no_call_starves(drawn: list[tuple[float, list[float] | None, float]]) -> None:
    """A call is passed only by calls that are younger by at most the difference of the gains, and
    so by a bounded number of calls. Without rankings the order is that of the arrivals."""
    calls = run_virtually(serve_all(drawn))
    assert all(call.placed_at >= 0 for call in calls)
    for older, younger in itertools.combinations(calls, 2):
        passed = younger.placed_at < older.placed_at
        # In its first moment a call may wait for its best replica.
        if not passed or younger.placed_at < older.since + RANKED_S + 1e-6:
            continue
        most_s = younger.gain_s(younger.place) - older.gain_s(younger.place)
        assert younger.since - older.since <= most_s + 1e-6 <= 2 * GAIN_MAX_S + 1e-6
    if not any(call.prospects for call in calls):
        assert sorted(calls, key=lambda call: call.placed_at) == calls


async def serve_all(
    drawn: Sequence[tuple[float, Sequence[float] | None, float]],
) -> list[Call]:
    """The calls come after their pauses, and hold their places for their times."""
    pool, loop = build(), asyncio.get_running_loop()
    held = await take_all(pool)
    calls: list[Call] = []

    async def run(call: Call, hold_s: float) -> None:
        lease = await pool.acquire(ranking=call.prospects)
        call.placed_at, call.place = loop.time(), lease.address
        await asyncio.sleep(hold_s)
        pool.release(lease, reusable=True)

    tasks = []
    for number, (pause_s, read_s, hold_s) in enumerate(drawn):
        await asyncio.sleep(pause_s)
        prospects = None if read_s is None else ranking(read_s)
        calls.append(Call(number, prospects, since=loop.time()))
        tasks.append(loop.create_task(run(calls[-1], hold_s)))
        if number == len(drawn) // 2:
            for lease in held:
                pool.release(lease, reusable=True)
    await asyncio.gather(*tasks)
    return calls


def test_a_call_that_takes_any_place_does_not_wait_before_an_idle_one() -> None:
    """A place that the first call does not want is kept for it only for a moment."""

    async def run() -> float:
        pool, served = build(), list[str]()
        held = await take_all(pool)
        loop = asyncio.get_running_loop()
        picky = [wait(pool, str(n), WARM_AT_A, served, NO_CLAIM) for n in range(8)]
        plain = wait(pool, "plain", None, served, NO_CLAIM)
        await asyncio.sleep(0.01)
        pool.release(held[1], reusable=True)
        for task in picky:
            task.cancel()
        await plain
        return loop.time()

    assert run_virtually(run()) <= 0.01 + RANKED_S
