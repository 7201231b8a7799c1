"""An owner hands slices to Routers: what is spent never exceeds a limit, whatever happens."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from serve_app.limits.journal import SqliteJournal
from serve_app.limits.limit import CountersUnreachable, Limit, LimitAsk, Measure
from serve_app.limits.owner import PLACE_MS, ROOM_SLICES, SLICES
from serve_app.limits.sliced_counters import SlicedCounters
from serve_app.limits.windows import MINUTE_MS, LimitWindow
from tests.limits.fakes import NOW, FakeClock, FakeJournal, FakePort, Fault
from tests.limits.samples import charge_of, limit_of, places_of

TOKENS = limit_of(100)
REQUESTS = limit_of(64, LimitWindow.MINUTE, Measure.REQUESTS)
DAILY = limit_of(150, LimitWindow.DAY)
PLACES = places_of(3)
LIMITS = (TOKENS, REQUESTS, DAILY, PLACES)
PATIENT_S = 10.0
TURNS = 9
"""A reservation that asks the owner takes fewer turns of the event loop."""
NO_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)
"""Each example takes milliseconds of an event loop, and shrinking would take minutes of them."""


def router_of(port: FakePort, clock: FakeClock, deadline_s: float = PATIENT_S) -> SlicedCounters:
    return SlicedCounters(port, "router", deadline_s=deadline_s, clock=clock.monotonic)


def asks_of(tokens: int) -> list[LimitAsk]:
    """What a call asks: of one kind of limit, or of all of them."""
    asks = [
        LimitAsk(TOKENS, tokens),
        LimitAsk(REQUESTS, 1),
        LimitAsk(DAILY, tokens),
        LimitAsk(PLACES, 1),
    ]
    return asks if tokens % 5 == 0 else [asks[0]] if tokens % 2 else [asks[2], asks[3]]


@dataclass
class Spent:
    """One call that has passed: what it holds of the limits, or has used when it has ended."""

    at: int
    asks: Sequence[LimitAsk]
    router: int
    call_id: str
    ended: bool = False
    used: int | None = None

    def amount(self, limit: Limit) -> int:
        ask = next((one for one in self.asks if one.limit is limit), None)
        if ask is None:
            return 0
        if limit.window is LimitWindow.NOW:
            return 0 if self.ended else 1
        counts_tokens = limit.measure is Measure.TOKENS
        return ask.amount if self.used is None or not counts_tokens else self.used


@dataclass
class World:
    """Several Routers, one owner, and everything that they have let through."""

    clock: FakeClock = field(default_factory=FakeClock)
    spent: list[Spent] = field(default_factory=list)
    calls: int = 0
    deadline_s: float = PATIENT_S

    def __post_init__(self) -> None:
        self.port = FakePort(FakeJournal(), self.clock)
        self.routers = [self.router() for _ in range(3)]

    def router(self) -> SlicedCounters:
        return router_of(self.port, self.clock, self.deadline_s)

    async def reserve(self, number: int, tokens: int) -> None:
        self.calls += 1
        call_id, asks = f"c{self.calls}", asks_of(tokens)
        try:
            verdict = await self.routers[number].reserve(call_id, asks)
        except CountersUnreachable:
            self.routers[number].settle(call_id, [charge_of(ask, 0) for ask in asks])
            return
        if verdict.refused is None:
            self.spent.append(Spent(self.clock.ms, asks, number, call_id))
            self.check()

    def settle(self, number: int, used: int) -> None:
        running = [call for call in self.spent if not call.ended]
        if running:
            call = running[number % len(running)]
            used = min(used, call.asks[0].amount)
            call.ended, call.used = True, used
            charges = [
                charge_of(ask, used if ask.limit.measure is Measure.TOKENS else 1)
                for ask in call.asks
            ]
            self.routers[call.router].settle(call.call_id, charges)

    def crash(self, number: int) -> None:
        """The calls of a dead Router stay charged, and their places taken until they expire."""
        self.spent = [call for call in self.spent if call.router != number or call.ended] + [
            Spent(call.at, call.asks, -1, call.call_id)
            for call in self.spent
            if call.router == number and not call.ended
        ]
        for call in self.spent:
            call.ended = call.ended or call.router == -1
        self.routers[number] = self.router()

    async def flush(self, number: int, turns: int = 0) -> None:
        """Flush after so many turns of the event loop."""
        for _ in range(turns):
            await asyncio.sleep(0)
        with suppress(CountersUnreachable):
            await self.routers[number].flush()

    def check(self) -> None:
        for limit in LIMITS:
            reach = {LimitWindow.MINUTE: MINUTE_MS}.get(limit.window, 10**12)
            amounts = [c.amount(limit) for c in self.spent if c.at > self.clock.ms - reach]
            assert sum(amounts) <= limit.amount, limit


ROUTERS = st.integers(0, 2)
FAULTS = st.lists(st.sampled_from(list(Fault)), max_size=3)
STEPS = st.one_of(
    st.tuples(st.just("reserve"), ROUTERS, st.integers(0, 50)),
    st.tuples(st.just("reserve"), ROUTERS, st.sampled_from([1, 7, 10, 41, 49])),
    st.tuples(st.just("together"), ROUTERS, st.sampled_from([1, 2, 15, 25, 33])),
    st.tuples(st.just("settle"), st.integers(0, 9), st.sampled_from([0, 0, 3, 50])),
    st.tuples(st.just("sleep"), st.sampled_from([1, 300, 4_000, 31_000, 66_000]), st.just(0)),
    st.tuples(st.just("flush"), ROUTERS, st.just(0)),
    st.tuples(st.just("flush twice"), ROUTERS, st.just(0)),
    st.tuples(st.just("flush among"), ROUTERS, st.sampled_from(range(2, 2 + 2 * TURNS, 2))),
    st.tuples(st.just("crash"), ROUTERS, st.just(0)),
    st.tuples(st.just("restart"), st.just(0), st.just(0)),
    st.tuples(st.just("faults"), FAULTS, st.just(0)),
    st.tuples(st.just("release"), st.just(0), st.just(0)),
)
FAULTY = ("crash", "faults", "flush twice")


async def play(steps: Sequence[tuple[str, object, int]], deadline_s: float = PATIENT_S) -> World:
    world = World(deadline_s=deadline_s)
    for name, what, amount in steps:
        match name, what:
            case "reserve", int(number):
                await world.reserve(number, amount)
            case "together", int(number):
                others = [world.reserve((number + n) % 3, amount) for n in range(4)]
                await asyncio.gather(*others)
            case "settle", int(number):
                world.settle(number, amount)
            case "sleep", int(ms):
                world.clock.ms += ms
            case "flush", int(number):
                await world.flush(number)
            case "flush twice", int(number):
                world.port.faults = [Fault.ANSWER_LOST]
                await world.flush(number)
                await world.flush(number)
            case "flush among", int(number):
                await asyncio.gather(
                    world.reserve(number, amount), world.flush(number, amount % TURNS)
                )
            case "crash", int(number):
                world.crash(number)
            case "restart", _:
                world.port.restart()
            case "faults", list(faults):
                world.port.faults = list(faults)
            case _:
                world.port.release.set()
                await asyncio.sleep(0)
    world.port.faults = []
    world.port.release.set()
    await asyncio.gather(*(router.close() for router in world.routers))
    return world


# What a Router kept past its slot; a message that came twice; a place or tokens held aside; a
# message about places that was lost, and sent again after the Router had got another place.
@example(
    [
        ("reserve", 0, 41),
        ("settle", 0, 0),
        ("sleep", 66_000, 0),
        ("reserve", 1, 49),
        ("reserve", 2, 41),
        ("reserve", 0, 41),
    ]
)
@example(
    [
        ("reserve", 0, 41),
        ("reserve", 1, 49),
        ("settle", 0, 0),
        ("sleep", 5_000, 0),
        ("flush twice", 0, 0),
        ("reserve", 2, 49),
        ("reserve", 0, 41),
        ("reserve", 2, 1),
    ]
)
@example(
    [
        ("reserve", 0, 41),
        ("settle", 0, 0),
        ("sleep", 4_000, 0),
        ("reserve", 1, 49),
        ("reserve", 0, 49),
        ("reserve", 2, 7),
        ("reserve", 2, 1),
    ]
)
@example(
    [
        ("faults", [Fault.ANSWER_LOST, Fault.MESSAGE_LOST], 0),
        ("reserve", 0, 2),
        ("flush", 0, 0),
        ("reserve", 0, 2),
        ("flush", 0, 0),
        ("reserve", 1, 2),
        ("reserve", 1, 2),
        ("reserve", 1, 2),
    ]
)
@settings(max_examples=300, phases=NO_SHRINKING)
@given(st.lists(STEPS, min_size=20, max_size=100))
def test_no_interleaving_overspends(steps: list[tuple[str, object, int]]) -> None:
    """Routers and the owner crash, messages and answers are lost, late or sent twice: what has
    passed in any minute, in a day and at a time stays within the limits.

    The owner frees no places of silent Routers here. If it frees them, calls that still run on a
    Router out of reach are not counted, as docs/limits.md says."""
    asyncio.run(play(steps, deadline_s=0.003))


@settings(max_examples=150, phases=NO_SHRINKING)
@given(st.lists(STEPS.filter(lambda step: step[0] not in FAULTY), max_size=80))
def test_without_faults_everything_is_accounted_for(
    steps: list[tuple[str, object, int]],
) -> None:
    """When all Routers have given their slices back, the owner has counted what calls have used,
    and no more."""
    world = asyncio.run(play(steps))
    day, places = world.port.owner.standings([DAILY, PLACES], world.clock.ms)
    assert day.used == sum(call.amount(DAILY) for call in world.spent)
    assert places.used == sum(call.amount(PLACES) for call in world.spent)


async def test_most_calls_ask_nobody() -> None:
    """A slice serves several calls, and no slice is larger than its share of the limit."""
    clock, wide = FakeClock(), limit_of(16_000)
    port = FakePort(FakeJournal(), clock)
    router = router_of(port, clock)
    for number in range(100):
        assert (await router.reserve(f"c{number}", [LimitAsk(wide, 10)])).refused is None
    assert port.messages == 1
    (used,) = port.owner.standings([wide], clock.ms)
    assert used.used == 16_000 // SLICES


async def test_a_router_leaves_room_for_the_others() -> None:
    """The nearer the limit, the smaller the slices; no call is refused while the owner has room."""
    clock, limit = FakeClock(), limit_of(800)
    port = FakePort(FakeJournal(), clock)
    routers = [router_of(port, clock) for _ in range(4)]
    passed = 0
    for number in range(900):
        verdict = await routers[number % 4].reserve(f"c{number}", [LimitAsk(limit, 1)])
        passed += verdict.refused is None
        clock.ms += 1
    assert passed == 800
    assert ROOM_SLICES < SLICES


async def test_a_refusal_tells_what_the_owner_knows() -> None:
    """And for a moment the Router repeats it without asking again."""
    clock = FakeClock()
    port = FakePort(FakeJournal(), clock)
    router, other = router_of(port, clock), router_of(port, clock)
    assert (await other.reserve("c1", [LimitAsk(TOKENS, 95)])).refused is None
    for _ in range(50):
        verdict = await router.reserve("c2", [LimitAsk(TOKENS, 10)])
        assert verdict.refused == 0
        assert verdict.standings[0].used == 95
        assert 60_000 < verdict.retry_ms <= 65_000
    assert port.messages == 2
    assert (await router.reserve("c3", [LimitAsk(TOKENS, 5)])).refused is None


async def test_a_place_that_no_call_uses_goes_back() -> None:
    """So that another Router may have it."""
    clock, places = FakeClock(), places_of(1)
    port = FakePort(FakeJournal(), clock)
    one, two, ask = router_of(port, clock), router_of(port, clock), LimitAsk(places_of(1), 1)
    assert (await one.reserve("c1", [ask])).refused is None
    assert (await two.reserve("c2", [ask])).refused == 0
    one.settle("c1", [charge_of(ask, 0)])
    clock.ms += PLACE_MS
    await one.flush()
    assert port.owner.standings([places], clock.ms)[0].used == 0
    assert (await two.reserve("c3", [ask])).refused is None


async def test_the_places_of_a_silent_router_expire() -> None:
    """A Router that lives says so, also without calls."""
    clock, places = FakeClock(), places_of(2)
    port = FakePort(FakeJournal(), clock, place_ms=60_000)
    living, dead, ask = router_of(port, clock), router_of(port, clock), LimitAsk(places_of(2), 1)
    await living.reserve("c1", [ask])
    await dead.reserve("c2", [ask])
    for _ in range(20):
        clock.ms += 5_000
        await living.flush()
    assert port.owner.standings([places], clock.ms)[0].used == 1


async def test_a_router_that_is_heard_again_has_its_places_again() -> None:
    """Its places were free meanwhile; from then on, its calls count."""
    clock, places = FakeClock(), places_of(2)
    port = FakePort(FakeJournal(), clock, place_ms=60_000)
    router, other, ask = router_of(port, clock), router_of(port, clock), LimitAsk(places, 1)
    await router.reserve("c1", [ask])
    clock.ms += 5_000
    port.faults = [Fault.MESSAGE_LOST]
    await _fail(router)
    clock.ms += 60_000
    await other.flush()
    assert port.owner.standings([places], clock.ms)[0].used == 0
    await router.flush()
    await router.flush()
    assert port.owner.standings([places], clock.ms)[0].used == 1


async def test_a_place_whose_answer_was_lost_is_found_again() -> None:
    """The Router says which places it holds, once an answer has been lost."""
    clock, places = FakeClock(), places_of(2)
    port = FakePort(FakeJournal(), clock)
    router, ask = router_of(port, clock), LimitAsk(places_of(2), 1)
    await router.reserve("c1", [ask])
    port.faults = [Fault.ANSWER_LOST]
    with pytest.raises(CountersUnreachable):
        await router.reserve("c2", [ask])
    assert port.owner.standings([places], clock.ms)[0].used == 2
    await router.flush()
    assert port.owner.standings([places], clock.ms)[0].used == 1


async def test_a_lost_message_about_places_does_not_free_a_later_place() -> None:
    """A message that is sent again does not say which places the Router held the first time."""
    clock, places = FakeClock(), places_of(2)
    port = FakePort(FakeJournal(), clock)
    router, ask = router_of(port, clock), LimitAsk(places, 1)
    port.faults = [Fault.ANSWER_LOST, Fault.MESSAGE_LOST]
    with pytest.raises(CountersUnreachable):
        await router.reserve("c1", [ask])
    await _fail(router)
    assert (await router.reserve("c2", [ask])).refused is None
    await router.flush()
    assert port.owner.standings([places], clock.ms)[0].used == 2
    await router.flush()
    assert port.owner.standings([places], clock.ms)[0].used == 1


@pytest.mark.parametrize("turns", range(TURNS))
async def test_a_flush_during_a_reservation_counts_its_place(turns: int) -> None:
    """Also between the answer of the owner and the turn of the call that waits for the answer."""
    clock, places = FakeClock(), places_of(3)
    port = FakePort(FakeJournal(), clock)
    router, ask = router_of(port, clock), LimitAsk(places, 1)
    port.faults = [Fault.ANSWER_LOST]
    with pytest.raises(CountersUnreachable):
        await router.reserve("c1", [ask])
    reserving = asyncio.create_task(router.reserve("c2", [ask]))
    for _ in range(turns):
        await asyncio.sleep(0)
    await router.flush()
    assert (await reserving).refused is None
    await router.flush()
    assert port.owner.standings([places], clock.ms)[0].used == 1


async def test_an_owner_that_dies_forgets_no_charge(tmp_path: Path) -> None:
    """Its journal is on the disk before a Router may spend; a message that comes twice counts
    once."""
    clock = FakeClock()
    journal = SqliteJournal(tmp_path)
    port = FakePort(journal, clock)
    router = router_of(port, clock)
    ask = LimitAsk(DAILY, 60)
    await router.reserve("c1", [ask])
    router.settle("c1", [charge_of(ask, 100)])
    port.faults = [Fault.ANSWER_LOST]
    await _fail(router)
    journal.close()
    again = FakePort(SqliteJournal(tmp_path), clock, place_ms=60_000)
    port.owner = again.owner
    await router.flush()
    assert port.owner.standings([DAILY], clock.ms)[0].used == 100
    clock.ms = NOW + 2 * 86_400_000
    assert port.owner.standings([DAILY], clock.ms)[0].used == 0
    entries, _ = SqliteJournal(tmp_path).load()
    assert list(entries) == []


async def _fail(router: SlicedCounters) -> None:
    with pytest.raises(CountersUnreachable):
        await router.flush()


async def test_a_slow_owner_fails_within_the_deadline() -> None:
    """The slices that come late serve the next call."""
    clock = FakeClock()
    port = FakePort(FakeJournal(), clock)
    router = router_of(port, clock, deadline_s=0.01)
    port.faults = [Fault.ANSWER_LATE]
    with pytest.raises(CountersUnreachable):
        await router.reserve("c1", [LimitAsk(TOKENS, 90)])
    port.release.set()
    await asyncio.sleep(0.01)
    assert (await router.reserve("c2", [LimitAsk(TOKENS, 90)])).refused is None
    assert port.messages == 1
