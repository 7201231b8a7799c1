"""The choice among tiers by what each promises, and which head is whose."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.config.runtime import RoutingConfig
from serve_app.config.tiers import TierConfig
from serve_app.core.call import Call, Decision, Endpoint, Objective, Prompt, Prospect, Reason
from serve_app.routing.choose import choose_route
from serve_app.routing.live import Live
from serve_app.routing.weights import HEADS
from serve_app.routing.worth import CostWeights, Weighing, find_headless, match_heads
from tests.routing.fakes import FakePayload, FakeScorer

THREE = tuple(
    TierConfig(name=name, model_id=f"Qwen/{name}") for name in ("small", "middle", "large")
)
NAMES = tuple(tier.name for tier in THREE)
COSTS = dict(zip(NAMES, (1.0, 3.0, 10.0), strict=True))
CALL = Call("id", Endpoint.CHAT, "auto", FakePayload(), Prompt())
CHANCES = st.tuples(*[st.floats(0, 1)] * 3)


def promise(tier: TierConfig, right: float, prompt_tokens: int) -> Prospect:
    return Prospect(tier.name, right, COSTS[tier.name], 2 * COSTS[tier.name])


def promise_cached(name: str, tier: TierConfig, right: float, prompt_tokens: int) -> Prospect:
    saved = 0.2 if tier.name == "middle" else 0.0
    return Prospect(tier.name, right, 1.0 - saved, 1.0 - saved, **{name: saved})


def weigh(heads: tuple[str, ...] = NAMES, **weights: float) -> Weighing:
    positions = match_heads(heads, THREE)
    return Weighing(Objective.WEIGHTED, CostWeights(**weights), positions, "large", promise)


def choose(
    chances: tuple[float, ...],
    weighing: Weighing,
    tiers: tuple[TierConfig, ...] = THREE,
    call: Call = CALL,
    **routing: object,
) -> Decision:
    scorer = FakeScorer(0.3, NAMES, chances)
    config = RoutingConfig.model_validate(routing)
    return choose_route(call, tiers, config, scorer, Live(0.5, weighing=weighing)).decision


@pytest.mark.parametrize(
    ("chances", "money", "tier"),
    [
        ((0.5, 0.6, 0.9), 0.0, "large"),
        ((0.5, 0.6, 0.9), 0.04, "large"),
        ((0.5, 0.6, 0.9), 0.05, "small"),
        ((0.5, 0.8, 0.9), 0.05, "middle"),
        ((0.5, 0.6, 0.5), 0.0, "middle"),
        ((0.7, 0.7, 0.7), 0.0, "small"),
    ],
)
def test_the_tier_that_is_worth_most(chances: tuple[float, ...], money: float, tier: str) -> None:
    """Each by its own chance; a middle tier may be the best or the cheapest that is good enough."""
    decision = choose(chances, weigh(money=money))
    assert (decision.tier, decision.reason, decision.score) == (tier, Reason.WEIGHTED, 0.3)
    assert [p.tier for p in decision.prospects] == list(NAMES)


@given(chances=CHANCES, money=st.floats(0, 1), time=st.floats(0, 1), strong=st.floats(0, 1))
def test_no_other_tier_is_worth_more(
    chances: tuple[float, ...], money: float, time: float, strong: float
) -> None:
    """A higher price of money never buys a dearer tier."""
    weighing = weigh(money=money, time=time, strong=strong)
    decision = choose(chances, weighing)
    worths = {p.tier: weighing.worth(p) for p in decision.prospects}
    assert worths[decision.tier] == max(worths.values())
    dearer = weigh(money=money + 0.1, time=time, strong=strong)
    assert COSTS[choose(chances, dearer).tier] <= COSTS[decision.tier]


def test_a_cached_conversation_is_cheaper_where_it_is() -> None:
    """What it saves of money, time and GPUs may decide; the reason says so."""
    for name, weight in (("saved_cost", "money"), ("saved_s", "time"), ("saved_gpu_s", "gpu")):
        weighing = replace(weigh(**{weight: 1.0}), estimate=partial(promise_cached, name))
        moved = choose((0.7, 0.6, 0.7), weighing)
        assert (moved.tier, moved.reason) == ("middle", Reason.WARM)
        stays = choose((0.5, 0.8, 0.7), weighing)
        assert (stays.tier, stays.reason) == ("middle", Reason.WEIGHTED)


def test_a_tier_without_a_head_is_not_chosen() -> None:
    """Nothing is known of it; without any head the score decides as ever."""
    assert choose((0.1, 0.2), weigh(HEADS)).tier == "large"
    assert [p.tier for p in choose((0.1, 0.2), weigh(HEADS)).prospects] == ["small", "large"]
    decision = choose((), replace(weigh(), heads={}))
    assert (decision.tier, decision.reason, decision.prospects) == ("middle", Reason.SIMPLE, ())


def test_the_limits_hold() -> None:
    """They bind an objective as they bind the score."""
    decision = choose((0.1, 0.2, 0.9), weigh(), never_above="middle")
    assert (decision.tier, decision.reason) == ("middle", Reason.NEVER_ABOVE)
    assert decision.prospects


def test_an_unsure_draft_goes_to_the_tier_that_is_worth_most() -> None:
    """Without an objective it goes to the strongest."""
    scorer = FakeScorer(0.3, NAMES, (0.5, 0.85, 0.9))
    config = RoutingConfig(policy="cascade")
    for weighing, tier in ((weigh(money=0.05), "middle"), (weigh(), "large"), (None, "large")):
        route = choose_route(CALL, THREE, config, scorer, Live(0.5, weighing=weighing))
        assert route.draft is not None
        assert (route.draft.tier, route.decision.tier) == ("small", tier)


@pytest.mark.parametrize(
    ("heads", "positions"),
    [
        (HEADS, {"small": 0, "large": 1}),
        (NAMES, {"small": 0, "middle": 1, "large": 2}),
        (("Qwen/large", "middle"), {"large": 0, "middle": 1}),
        (("other", "small"), {"small": 1}),
    ],
)
def test_heads_belong_to_tiers(heads: tuple[str, ...], positions: dict[str, int]) -> None:
    """By the name of a tier or a model; two heads without names to the weakest and strongest."""
    assert match_heads(heads, THREE) == positions
    assert find_headless(heads, THREE) == [name for name in NAMES if name not in positions]
    assert find_headless(heads, THREE[:1]) == []


@given(fast=st.floats(0, 1), strong=st.floats(0, 1), weight=st.floats(0, 1))
def test_two_tiers_are_a_threshold_on_the_gain(fast: float, strong: float, weight: float) -> None:
    """A weight of strong calls is what a threshold is, so two tiers are a case of any number."""
    two = (THREE[0], THREE[2])
    weighing = replace(weigh(strong=weight), heads=match_heads(HEADS, two))
    chosen = choose((fast, strong), weighing, two)
    assert (chosen.tier == "large") == (strong - weight > fast)
