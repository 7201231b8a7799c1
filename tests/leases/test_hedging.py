"""A late call is sent to a second replica: one answer comes of it, and nothing stays behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve_app.config.hedging import HedgingConfig
from serve_app.config.runtime import DeadlinesConfig, LeaseConfig, RetriesConfig
from serve_app.core.call import Usage
from serve_app.core.errors import GatewayError
from serve_app.leases.client import TierClient, UpstreamRequest
from serve_app.leases.hedging import (
    SPARE,
    TIMES_MAX,
    FirstTokenTimes,
    HedgeFate,
    Hedging,
    race,
)
from serve_app.leases.retries import RetryBudget
from serve_app.replica.asgi import Receive, Send
from tests.fakes import FakeGrant
from tests.leases.replica import Replica, Replicas

DEADLINES = DeadlinesConfig(lease_s=60, first_byte_s=60, gap_s=60, total_s=60)
"""Longer than any test waits: no attempt ends by itself."""
SOON = HedgingConfig(wait_s_min=0.02, wait_s_max=0.02, samples_min=1)
NEVER = HedgingConfig(wait_s_min=60, wait_s_max=60, samples_min=1)
"""Measures, and hedges nothing."""
PATH = "/v1/chat/completions"


# ---- what is late, and what may be sent --------------------------------------------------------


def test_the_quantile_is_that_of_the_newest_times() -> None:
    """Old times are forgotten, in whatever order they came."""
    times = FirstTokenTimes()
    for n in range(TIMES_MAX):
        times.note(1000.0 - n)
    for n in range(TIMES_MAX):
        times.note(float(n))
    assert len(times) == TIMES_MAX
    assert times.quantile(0.5) == TIMES_MAX // 2
    assert times.quantile(0.999) == TIMES_MAX - 1


@given(st.lists(st.floats(0, 100), min_size=1, max_size=60), st.floats(0.5, 0.999))
def test_a_call_is_late_within_the_bounds(times: list[float], quantile: float) -> None:
    """However short or long the first tokens take."""
    config = HedgingConfig(quantile=quantile, wait_s_min=0.5, wait_s_max=3, samples_min=10)
    hedging = Hedging(config, RetryBudget())
    for seconds in times:
        hedging.note_first(seconds)
    late_s = hedging.late_after_s()
    assert (late_s is None) == (len(times) < 10)
    assert late_s is None or 0.5 <= late_s <= 3


def test_hedges_are_a_part_of_the_calls() -> None:
    """Those that were saved up, and then the share that the config names."""
    hedging = Hedging(HedgingConfig(ratio_max=0.05), RetryBudget())
    sent = 0
    for _ in range(1000):
        hedging.note_call()
        if hedging.affordable():
            hedging.spend()
            sent += 1
    assert sent <= SPARE + 1000 * 0.05


def test_hedges_take_retries() -> None:
    """A Router without retries sends no call twice, for whatever reason."""
    retries = RetryBudget(RetriesConfig(spare=2, ratio_max=0))
    hedging = Hedging(HedgingConfig(), retries)
    for _ in range(2):
        assert hedging.affordable()
        hedging.spend()
    assert not hedging.affordable()


# ---- the race ----------------------------------------------------------------------------------


class Runs:
    """Two runs of a race, whose results are a name and whether it answers."""

    def __init__(self) -> None:
        self.live = 0
        self.held: set[str] = set()

    async def run(self, name: str, turns: int, ending: str) -> tuple[str, bool]:
        """Hold something for some turns of the loop, and then answer, fail or raise."""
        self.live += 1
        self.held.add(name)
        try:
            for _ in range(turns):
                await asyncio.sleep(0)
            if ending == "raise":
                raise GatewayError
        except BaseException:
            self.held.discard(name)
            raise
        finally:
            self.live -= 1
        if ending == "fail":
            self.held.discard(name)
        return name, ending == "answer"

    def discard(self, result: tuple[str, bool]) -> None:
        self.held.discard(result[0])


endings = st.sampled_from(["answer", "fail", "raise"])


@given(
    st.integers(0, 8),
    endings,
    st.integers(0, 8),
    endings,
    st.booleans(),
    st.integers(0, 12) | st.none(),
)
def test_a_race_has_one_answer_and_leaves_nothing(
    first_turns: int,
    first: str,
    second_turns: int,
    second: str,
    late: bool,
    cancel_after: int | None,
) -> None:
    """In whatever order the runs end, and whenever the client leaves."""

    async def check() -> None:
        runs = Runs()
        won: list[str] = []

        def wins(result: tuple[str, bool]) -> bool:
            if result[1]:
                won.append(result[0])
            return result[1]

        racing = asyncio.ensure_future(
            race(
                lambda: runs.run("first", first_turns, first),
                lambda: runs.run("second", second_turns, second),
                0.0 if late else 60.0,
                wins=wins,
                discard=runs.discard,
            )
        )
        if cancel_after is not None:
            for _ in range(cancel_after):
                await asyncio.sleep(0)
            racing.cancel()
        results: list[tuple[str, bool]] = []
        with suppress(GatewayError, asyncio.CancelledError):
            results = await racing
        for _ in range(4):
            await asyncio.sleep(0)
        assert runs.live == 0
        answers = [name for name, answered in results if answered]
        assert len(won) <= 1
        assert set(answers) == runs.held
        assert answers == won or racing.cancelled()
        if not racing.cancelled() and "answer" not in (first, second):
            assert not answers

    asyncio.run(check())


# ---- a tier ------------------------------------------------------------------------------------


class Answers(Replica):
    """Sends a first token when it is allowed to, and then the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.cancelled = 0
        self.name = b""

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await receive()
        self.asked.append(scope["path"])
        headers = [(b"content-type", b"text/event-stream")]
        gone = asyncio.ensure_future(receive())
        released = asyncio.ensure_future(self.released.wait())
        try:
            if self.status == 200:
                await send({"type": "http.response.start", "status": 200, "headers": headers})
            await asyncio.wait([gone, released], return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                self.cancelled += 1
                return
            if self.breaks:
                raise ConnectionError
            if self.status != 200:
                await send({"type": "http.response.start", "status": self.status, "headers": []})
            await send({"type": "http.response.body", "body": self.name})
        finally:
            gone.cancel()
            released.cancel()


class HeldReplicas(Replicas):
    """Grants nothing while the test holds it."""

    def __init__(self) -> None:
        super().__init__()
        self.open = asyncio.Event()
        self.open.set()

    async def __call__(self, session: str | None = None) -> FakeGrant:
        await self.open.wait()
        return await super().__call__(session)


class Tier:
    """Two replicas; Ray grants a call its place on the first of them."""

    def __init__(self, replicas: HeldReplicas, slow: Answers, quick: Answers) -> None:
        self.replicas = replicas
        self.slow = slow
        self.quick = quick
        self.client = TierClient("fast", replicas, LeaseConfig(reuse_s=0))
        self.client.configure(LeaseConfig(reuse_s=0), hedging=NEVER)

    async def ask(self, usage: Usage | None = None, **more: Any) -> bytes:
        request = UpstreamRequest(PATH, b"{}", "id", **{"stream": True, "usage": usage, **more})
        deadlines = DEADLINES.start(asyncio.get_running_loop().time())
        body = b""
        try:
            async with self.client.exchange(request, deadlines) as answer:
                while chunk := await answer.read():
                    body += chunk
        finally:
            self.settling = request.settling
        return body

    async def settled(self) -> None:
        """Every place is free again at its replica."""
        async with asyncio.timeout(5):
            while (
                self.client._ending
                or self.client.open_leases
                or len(self.slow.leases)
                or len(self.quick.leases)
            ):
                await asyncio.sleep(0.005)


@pytest.fixture
async def tier() -> AsyncIterator[Tier]:
    async with running() as started:
        yield started


@asynccontextmanager
async def running() -> AsyncIterator[Tier]:
    """Both replicas have answered a call, so that the Router knows them and their times."""
    replicas = HeldReplicas()
    slow, quick = Answers(), Answers()
    slow.name, quick.name = b"slow", b"quick"
    for replica in (slow, quick):
        await replica.start()
        replicas.replicas.append(replica)
    tier = Tier(replicas, slow, quick)
    try:
        assert {await tier.ask(), await tier.ask()} == {b"slow", b"quick"}
        tier.client.configure(LeaseConfig(reuse_s=0), hedging=SOON)
        slow.asked.clear()
        quick.asked.clear()
        slow.released.clear()
        yield tier
    finally:
        tier.client.close()
        for replica in (slow, quick):
            await replica.stop()


async def test_the_second_replica_answers_for_a_late_first(tier: Tier) -> None:
    """The first is stopped, both places are free, and the call is charged for one answer."""
    usage = Usage()
    assert await tier.ask(usage) == b"quick"
    await tier.settled()
    assert (tier.slow.cancelled, len(tier.slow.asked), len(tier.quick.asked)) == (1, 1, 1)
    assert usage == Usage()
    assert tier.settling is None
    assert tier.client.take_hedges() == {HedgeFate.WON: 1}


async def test_the_first_replica_may_still_win(tier: Tier) -> None:
    """Then the second is stopped."""
    tier.quick.released.clear()
    asked = asyncio.ensure_future(tier.ask())
    async with asyncio.timeout(5):
        while not tier.quick.asked:
            await asyncio.sleep(0.005)
    tier.slow.released.set()
    assert await asked == b"slow"
    await tier.settled()
    assert (tier.slow.cancelled, tier.quick.cancelled) == (0, 1)
    assert tier.client.take_hedges() == {HedgeFate.LOST: 1}


async def test_a_client_that_leaves_stops_both(tier: Tier) -> None:
    """And the first of them is asked what the call has cost."""
    tier.quick.released.clear()
    asked = asyncio.ensure_future(tier.ask())
    async with asyncio.timeout(5):
        while not tier.quick.asked:
            await asyncio.sleep(0.005)
    asked.cancel()
    with suppress(asyncio.CancelledError):
        await asked
    assert tier.settling is not None
    await tier.settled()
    assert tier.settling.done()
    assert (tier.slow.cancelled, tier.quick.cancelled) == (1, 1)


async def test_two_failures_are_one_error(tier: Tier) -> None:
    """The client gets it once, and no third replica is asked."""
    tier.slow.status = tier.quick.status = 500
    tier.quick.released.clear()
    asked = asyncio.ensure_future(tier.ask())
    async with asyncio.timeout(5):
        while not tier.quick.asked:
            await asyncio.sleep(0.005)
    tier.slow.released.set()
    tier.quick.released.set()
    with pytest.raises(GatewayError):
        await asked
    await tier.settled()
    assert len(tier.slow.asked) == len(tier.quick.asked) == 1


async def test_a_hedge_that_fails_does_no_harm(tier: Tier) -> None:
    """The first replica answers when it is ready."""
    tier.quick.status = 500
    asked = asyncio.ensure_future(tier.ask())
    async with asyncio.timeout(5):
        while tier.client.open_leases != 1 or not tier.quick.asked:
            await asyncio.sleep(0.005)
    tier.slow.released.set()
    assert await asked == b"slow"
    await tier.settled()


async def test_a_first_that_breaks_leaves_the_hedge(tier: Tier) -> None:
    """Nothing has gone to the client, so the second answer is as good."""
    tier.slow.breaks = True
    tier.quick.released.clear()
    asked = asyncio.ensure_future(tier.ask())
    async with asyncio.timeout(5):
        while not tier.quick.asked:
            await asyncio.sleep(0.005)
    tier.slow.released.set()
    async with asyncio.timeout(5):
        while len(tier.slow.leases):
            await asyncio.sleep(0.005)
    tier.quick.released.set()
    assert await asked == b"quick"
    await tier.settled()


@pytest.mark.parametrize(
    "more",
    [{"stream": False}, {"session": "s"}, {"draft_tokens": 8}],
    ids=["in one piece", "of a session", "draft"],
)
async def test_calls_that_are_not_hedged(tier: Tier, more: dict[str, Any]) -> None:
    """Their beginning is not seen, or their conversation is in the cache of one replica."""
    asked = asyncio.ensure_future(tier.ask(**more))
    await asyncio.sleep(0.1)
    tier.slow.released.set()
    assert await asked == b"slow"
    assert tier.quick.asked == []


async def test_a_full_tier_gets_no_hedge(tier: Tier) -> None:
    """While a call waits for a place, the place is for that call."""
    grants = tier.replicas.replicas
    late = asyncio.ensure_future(tier.ask())
    async with asyncio.timeout(5):
        while not tier.slow.asked:
            await asyncio.sleep(0)
    tier.replicas.replicas = []
    waits = asyncio.ensure_future(tier.ask())
    async with asyncio.timeout(5):
        while not (fates := tier.client.take_hedges()):
            await asyncio.sleep(0.005)
    assert fates == {HedgeFate.NO_PLACE: 1}
    tier.slow.released.set()
    tier.replicas.replicas = grants
    assert await late == b"slow"
    await waits
    await tier.settled()


async def test_a_place_that_comes_too_late_is_given_back(tier: Tier) -> None:
    """The first replica has answered before Ray names a second."""
    asked = asyncio.ensure_future(tier.ask())
    async with asyncio.timeout(5):
        while not tier.slow.asked:
            await asyncio.sleep(0)
        tier.replicas.open.clear()
        while tier.client._leases._spare is None:
            await asyncio.sleep(0.005)
    tier.slow.released.set()
    assert await asked == b"slow"
    tier.replicas.open.set()
    async with asyncio.timeout(5):
        while tier.client._leases._spare is not None:
            await asyncio.sleep(0)
    await tier.settled()
    assert tier.quick.asked == []


async def test_a_call_that_leaves_as_its_place_comes_gives_it_back() -> None:
    """In the same turn of the loop."""
    async with running() as tier:
        pool = tier.client._leases
        lease = await pool.acquire()
        tier.replicas.open.clear()
        late = asyncio.ensure_future(pool.acquire_elsewhere(lease.address))
        while pool._spare is None:
            await asyncio.sleep(0)
        spare = pool._spare
        tier.replicas.open.set()
        while not spare.done():
            await asyncio.sleep(0)
            if len(tier.quick.leases) and pool._spare is None:
                break
        late.cancel()
        with suppress(asyncio.CancelledError):
            tier_lease = await late
            assert tier_lease is not None
            pool.release(tier_lease, reusable=False)
        pool.release(lease, reusable=False)
        await tier.settled()


async def test_no_hedge_goes_to_the_same_replica(tier: Tier) -> None:
    """Ray names it again and again: the call waits, and the places are given back."""
    asked = asyncio.ensure_future(tier.ask())
    async with asyncio.timeout(5):
        while not tier.slow.asked:
            await asyncio.sleep(0)
    tier.replicas.replicas = [tier.slow]
    async with asyncio.timeout(5):
        while not (fates := tier.client.take_hedges()):
            await asyncio.sleep(0.005)
    assert fates == {HedgeFate.NO_PLACE: 1}
    tier.slow.released.set()
    assert await asked == b"slow"
    assert len(tier.slow.asked) == 1
    tier.replicas.replicas = [tier.slow, tier.quick]
    await tier.settled()


async def test_hedging_can_be_switched_off_while_a_call_is_late(tier: Tier) -> None:
    """The call keeps its hedge, the next one has none."""
    asked = asyncio.ensure_future(tier.ask())
    async with asyncio.timeout(5):
        while not tier.slow.asked:
            await asyncio.sleep(0)
    tier.client.configure(LeaseConfig(reuse_s=0), hedging=None)
    assert await asked == b"quick"
    assert tier.client.take_hedges() == {}
    await tier.settled()


@settings(max_examples=8, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(st.sampled_from(["ok", "late", "fails", "leaves"]), min_size=1, max_size=6))
def test_no_mix_of_calls_leaves_a_place_taken(fates: list[str]) -> None:
    """Calls at a time that are late, fail or are left by their clients."""

    async def one(tier: Tier, fate: str) -> None:
        if fate == "fails":
            tier.quick.status = 500
        if fate == "ok":
            tier.slow.released.set()
        asked = asyncio.ensure_future(tier.ask())
        if fate == "leaves":
            await asyncio.sleep(0.01)
            asked.cancel()
        else:
            asyncio.get_running_loop().call_later(0.05, tier.slow.released.set)
        with suppress(GatewayError, asyncio.CancelledError):
            assert await asked in (b"slow", b"quick")

    async def check() -> None:
        async with running() as tier:
            await asyncio.gather(*(one(tier, fate) for fate in fates))
            await tier.settled()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            assert not [task for task in others if "_race" in repr(task) or "_try" in repr(task)]

    asyncio.run(check())
