"""The sums over all Routers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from serve_app.core.call import TierState
from serve_app.core.load import BreakerState, TierLoad
from serve_app.pages.numbers import (
    FIRST_TOKEN_BOUNDS_S,
    STEP_S,
    STEPS,
    EngineNumbers,
    RouterNumbers,
    RoutingNumbers,
    SlowCall,
    Step,
    TierNumbers,
    Totals,
)
from serve_app.pages.summary import Summary, merge_engines, quantile, summarise

AT = 1_000_000.0
NOW = int(AT) // STEP_S
STATES = (
    TierState("fast", "m-fast", True, 2, "HEALTHY"),
    TierState("strong", "m-strong", True, 1, "HEALTHY"),
)


def make_router(name: str = "a", **more: object) -> RouterNumbers:
    numbers = RouterNumbers(
        router=name,
        started_at=AT - 100,
        in_flight=2,
        totals=Totals(calls=10, failed=1, cost=2_000_000_000, saved=6_000_000_000),
        tiers={"fast": TierNumbers(TierLoad()), "strong": TierNumbers(TierLoad())},
        steps=(),
        routing=RoutingNumbers(0.5),
    )
    return replace(numbers, **more)  # type: ignore[arg-type]


def sum_up(*routers: RouterNumbers, missing: int = 0) -> Summary:
    return summarise(routers, STATES, missing=missing, at=AT)


def test_counts_are_added_up() -> None:
    """Of the same step of several Routers too."""
    steps = (
        Step(NOW - 2, {"fast": 3}, decisions={("fast", "simple"): 3}, output_tokens={"fast": 50}),
        Step(NOW - 1, {"strong": 1}, failed=1, errors={("strong", "upstream_failed"): 1}),
    )
    found = sum_up(make_router("b", steps=steps), make_router("a", steps=steps), missing=1)
    assert [row.router for row in found.routers] == ["a", "b"]
    assert (found.calls.ended, found.calls.failed, found.calls.in_flight) == (8, 2, 4)
    assert (found.calls.ended_ever, found.calls.failed_ever) == (20, 2)
    assert found.calls.per_s == pytest.approx(8 / (2 * STEP_S))
    assert found.tiers[0].output_tokens_per_s == pytest.approx(100 / (2 * STEP_S))
    assert found.series.tiers["fast"][-3:] == [6, 0, 0]
    assert found.series.failed[-2:] == [2, 0]
    assert [(each.what, each.calls) for each in found.decisions] == [("simple", 6)]
    assert [(each.what, each.calls) for each in found.errors] == [("upstream_failed", 2)]
    assert found.missing == 1


def test_steps_that_are_too_old_or_too_new() -> None:
    """The clocks of machines differ, and a reply may be late."""
    steps = (Step(NOW - STEPS, {"fast": 1}), Step(NOW + 1, {"fast": 1}), Step(NOW, {"fast": 1}))
    found = sum_up(make_router(steps=steps))
    assert sum(found.series.tiers["fast"]) == 1
    assert len(found.series.tiers["fast"]) == STEPS


def test_the_share_counts_only_what_the_routers_chose() -> None:
    """A client that names the tier does not count."""
    decisions = {
        ("fast", "simple"): 3,
        ("strong", "complex"): 1,
        ("strong", "model"): 50,
        ("fast", "header"): 50,
    }
    routers = [
        make_router(steps=[Step(NOW, decisions=decisions)]),
        make_router("b", routing=RoutingNumbers(0.6, target=0.3, drift=0.2)),
    ]
    state = sum_up(*routers).routing
    assert (state.strongest, state.routed, state.share) == ("strong", 4, 0.25)
    assert (state.threshold_min, state.threshold_max, state.drift) == (0.5, 0.6, 0.2)


def test_without_calls_nothing_is_claimed() -> None:
    """Neither a share nor a latency."""
    found = sum_up(make_router())
    assert found.routing.share is None
    assert found.tiers[0].first_token_p50_s is None
    assert found.tiers[0].kv_used_ratio is None
    assert found.money is None
    assert sum_up().calls.ended == 0


def test_money_is_in_units() -> None:
    """Since the start, and of the last minutes."""
    routers = [
        make_router("a", currency="EUR", steps=[Step(NOW, cost=500_000_000, saved=1)]),
        make_router("b", currency="EUR"),
    ]
    money = sum_up(*routers).money
    assert money is not None
    assert (money.currency, money.cost, money.saved, money.cost_lately) == ("EUR", 4.0, 12.0, 0.5)


def test_an_engine_that_two_routers_hear_is_one_engine() -> None:
    """The higher report counts, so that no queue is hidden."""
    one = TierNumbers(TierLoad(), engines=[EngineNumbers("e1", 3, 0, None)])
    other = TierNumbers(
        TierLoad(), engines=[EngineNumbers("e1", 2, 4, 0.5), EngineNumbers("e2", 1, 0, 0.1)]
    )
    merged = merge_engines([one, other])
    assert merged == [EngineNumbers("e1", 3, 4, 0.5), EngineNumbers("e2", 1, 0, 0.1)]
    tier = sum_up(make_router(tiers={"fast": one}), make_router(tiers={"fast": other})).tiers[0]
    assert (tier.running, tier.queued, tier.kv_used_ratio) == (4, 4, pytest.approx(0.3))


def test_a_tier_is_as_down_as_its_worst_router_says() -> None:
    """A breaker is a Router's own."""
    down = TierNumbers(
        TierLoad(down=True, breaker=BreakerState.OPEN, waiting=2, ongoing=1, avoided=1), leases=3
    )
    fine = TierNumbers(TierLoad(waiting=1, ongoing=4), leases=5)
    routers = [make_router(tiers={"strong": fine}), make_router("b", tiers={"strong": down})]
    tier = sum_up(*routers).tiers[1]
    assert (tier.down_for, tier.breaker, tier.avoided) == (1, BreakerState.OPEN, 1)
    assert (tier.leases, tier.waiting, tier.ongoing) == (8, 3, 5)


def test_the_slowest_calls_of_all_routers() -> None:
    """The slowest first."""
    slow = [SlowCall(f"r{n}", AT, "fast", "simple", "ok", 0.1, float(n), 5) for n in range(8)]
    found = sum_up(make_router(slowest=slow[::-1]), make_router("b", slowest=slow)).slowest
    assert [call.total_s for call in found][:4] == [7.0, 7.0, 6.0, 6.0]
    assert len(found) == 10


def test_quantiles_are_bounds_of_bins() -> None:
    """Never below the true value, except beyond the last bound."""
    bins = [0] * (len(FIRST_TOKEN_BOUNDS_S) + 1)
    assert quantile(bins, 0.5) is None
    bins[2], bins[5] = 95, 5
    assert quantile(bins, 0.5) == FIRST_TOKEN_BOUNDS_S[2]
    assert quantile(bins, 0.95) == FIRST_TOKEN_BOUNDS_S[2]
    assert quantile(bins, 0.96) == FIRST_TOKEN_BOUNDS_S[5]
    bins[-1] = 1000
    assert quantile(bins, 0.99) == FIRST_TOKEN_BOUNDS_S[-1]
