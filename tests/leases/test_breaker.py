"""Circuit breakers and the retry budget: their rules in any order of events."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from serve_app.config.runtime import LeaseConfig, RetriesConfig
from serve_app.core.errors import UpstreamFailed
from serve_app.core.load import BreakerState
from serve_app.leases.breaker import (
    ANSWERS_MIN,
    OPEN_S,
    OPEN_S_MAX,
    WINDOW_S,
    Breaker,
    TierBreaker,
)
from serve_app.leases.client import TierClient
from serve_app.leases.retries import RetryBudget
from tests.leases.replica import Replica, Replicas, running
from tests.leases.test_availability import ask, until

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN


class BreakerMachine(RuleBasedStateMachine):
    """Any order of failures, successes, calls and pauses."""

    @initialize()
    def begin(self) -> None:
        self.breaker = Breaker()
        self.now = 0.0
        self.tripped_at = float("-inf")
        self.probe_at: float | None = None

    @property
    def state(self) -> BreakerState:
        return self.breaker.state(self.now)

    @rule()
    def fail(self) -> None:
        """A failure always leads to open; in open it changes nothing."""
        if self.state is not OPEN:
            self.tripped_at = self.now
            self.probe_at = None
        self.breaker.trip(self.now)
        assert self.state is OPEN

    @rule()
    def succeed(self) -> None:
        """A success closes, whatever the state was."""
        self.breaker.close()
        self.probe_at = None
        assert self.state is CLOSED

    @rule()
    def call(self) -> None:
        """A call changes no state, and is a probe only in half-open."""
        before, avoided = self.state, self.breaker.avoided(self.now)
        self.breaker.begin(self.now)
        assert self.state is before
        if before is HALF_OPEN and not avoided:
            self.probe_at = self.now
            assert self.breaker.avoided(self.now)

    @rule(seconds=st.floats(0.01, 2 * OPEN_S_MAX))
    def wait(self, seconds: float) -> None:
        """Time alone opens nothing."""
        before = self.state
        self.now += seconds
        assert (before, self.state) not in {(CLOSED, OPEN), (CLOSED, HALF_OPEN), (HALF_OPEN, OPEN)}

    @precondition(lambda self: self.state is HALF_OPEN and self.probe_at is None)
    @rule()
    def is_tried(self) -> None:
        """A half-open breaker lets a call through."""
        assert not self.breaker.avoided(self.now)

    @precondition(lambda self: self.probe_at is not None)
    @rule()
    def is_tried_again(self) -> None:
        """A probe without a result does not keep calls out for ever."""
        assert self.probe_at is not None
        assert not self.breaker.avoided(self.probe_at + OPEN_S_MAX)

    @invariant()
    def opens_for_seconds(self) -> None:
        """Never less than the shortest time, never more than the longest."""
        if self.state is OPEN:
            assert self.now < self.tripped_at + OPEN_S_MAX
        if self.now < self.tripped_at + OPEN_S:
            assert self.state in (OPEN, CLOSED)

    @invariant()
    def keeps_nobody_out_when_closed(self) -> None:
        assert not (self.state is CLOSED and self.breaker.avoided(self.now))


TestBreakerMachine = BreakerMachine.TestCase


@given(failed=st.lists(st.booleans(), max_size=200))
def test_a_tier_opens_only_if_half_of_many_answers_fail(failed: list[bool]) -> None:
    """Whatever the order of the answers."""
    tier = TierBreaker()
    for number, failure in enumerate(failed):
        tier.note(number / 1000, failed=failure)
        if tier.breaker.state(number / 1000) is OPEN:
            so_far = failed[: number + 1]
            assert len(so_far) >= ANSWERS_MIN
            assert sum(so_far) * 2 >= len(so_far)
            return
    assert len(failed) < ANSWERS_MIN or sum(failed) * 2 < len(failed) or not failed[-1]


def test_old_failures_of_a_tier_do_not_count() -> None:
    """Failures that are spread over minutes are no outage."""
    tier = TierBreaker()
    for number in range(100):
        tier.note(number * WINDOW_S / (ANSWERS_MIN - 2), failed=True)
    assert tier.breaker.state(100.0) is CLOSED


@given(
    ratio=st.floats(0, 1),
    spare=st.integers(0, 50),
    wants=st.lists(st.integers(0, 3), max_size=200),
)
def test_the_retries_of_any_time_are_bounded(ratio: float, spare: int, wants: list[int]) -> None:
    """At most `spare` and `ratio_max` of the calls, over every stretch of calls."""
    budget = RetryBudget(RetriesConfig(ratio_max=ratio, spare=spare))
    sent = []
    for want in wants:
        budget.note_call()
        sent.append(sum(budget.spend() for _ in range(want)))
    for first in range(len(sent)):
        assert sum(sent[first:]) <= spare + ratio * (len(sent) - first) + 1e-6


async def tier_client(tier: Replicas, **retries: float) -> TierClient:
    budget = RetryBudget(RetriesConfig.model_validate(retries))
    return TierClient("strong", tier, LeaseConfig(), retries=budget)


async def fail_often(client: TierClient, calls: int) -> None:
    for _ in range(calls):
        with pytest.raises(UpstreamFailed):
            await ask(client)


def asked(replicas: list[Replica]) -> int:
    """The calls that reached an engine."""
    return sum(replica.asked.count("/v1/chat/completions") for replica in replicas)


async def test_a_failing_tier_is_not_flooded_with_retries() -> None:
    """Without the budget each of the calls would be sent twice."""
    async with running(2) as tier:
        client = await tier_client(tier, ratio_max=0.0, spare=3)
        for replica in tier.replicas:
            replica.status = 500
        await fail_often(client, 15)
        assert asked(tier.replicas) == 15 + 3
        client.close()


async def test_a_tier_whose_engines_fail_is_left_and_tried_again() -> None:
    """It is down for calls that may go elsewhere, then half-open, and closed by a good answer."""
    async with running(1) as tier:
        client = await tier_client(tier)
        (replica,) = tier.replicas
        replica.status = 500
        await fail_often(client, ANSWERS_MIN - 1)
        assert client.load().breaker is CLOSED
        await fail_often(client, 1)
        assert client.load().breaker is OPEN
        assert client.down
        replica.status = 200
        await until(lambda: client.load().breaker is HALF_OPEN)
        assert not client.down
        await ask(client)
        assert client.load().breaker is CLOSED
        assert client.load().avoided == 0
        client.close()


async def test_a_tier_that_fails_its_probe_stays_open() -> None:
    """While the probe is on its way, other calls go elsewhere."""
    async with running(1) as tier:
        client = await tier_client(tier)
        (replica,) = tier.replicas
        replica.status = 500
        await fail_often(client, ANSWERS_MIN)
        await until(lambda: client.load().breaker is HALF_OPEN)
        await fail_often(client, 1)
        assert client.load().breaker is OPEN
        client.close()


async def test_the_errors_of_clients_open_no_breaker() -> None:
    """A 4xx is neither a failure of the engine nor a sign of its health."""
    async with running(2) as tier:
        client = await tier_client(tier)
        for replica in tier.replicas:
            replica.status = 400
        for _ in range(2 * ANSWERS_MIN):
            await ask(client)
        load = client.load()
        assert (load.breaker, load.avoided, client.down) == (CLOSED, 0, False)
        client.close()


async def test_an_engine_that_breaks_off_is_avoided() -> None:
    """The stream is not begun again, but the next calls go to another replica."""
    async with running(1) as tier:
        client = await tier_client(tier)
        tier.replicas[0].breaks = True
        with pytest.raises(UpstreamFailed):
            await ask(client)
        assert client.load().avoided == 1
        client.close()
