"""What the caches of the tiers change in a decision, and that the share of strong calls holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.config.runtime import RoutingConfig
from serve_app.config.tiers import TierConfig
from serve_app.core.call import Call, Decision, Endpoint, Prompt, Reason, Route
from serve_app.core.load import TierLoad
from serve_app.core.residence import NOWHERE, Residence
from serve_app.routing.choose import choose_route
from serve_app.routing.control import GAIN, ThresholdControl
from serve_app.routing.drift import SCORES_MIN
from serve_app.routing.limits import move
from serve_app.routing.live import Live
from serve_app.routing.residency import weigh_draft, weigh_switch
from tests.routing.fakes import FakePayload, FakeScorer

FAST, MIDDLE, STRONG = (
    TierConfig(name=name, model_id=f"Qwen/{name}") for name in ("fast", "middle", "strong")
)
TWO, THREE = (FAST, STRONG), (FAST, MIDDLE, STRONG)
CALL = Call("id", Endpoint.CHAT, "auto", FakePayload(), Prompt())

SCORES = st.floats(0, 1)
WEIGHTS = st.floats(0, 10)
SECONDS = st.floats(0, 1e4)
RESIDENCES = st.builds(Residence, SECONDS, SECONDS)


def decide(
    score: float,
    strong: Residence = NOWHERE,
    weak: Residence = NOWHERE,
    tiers: Sequence[TierConfig] = TWO,
    threshold: float | None = None,
    loads: dict[str, TierLoad] | None = None,
    **routing: object,
) -> Route:
    config = RoutingConfig.model_validate(routing)
    found = {"strong": strong, "fast": weak}
    live = Live(
        config.strong_score_min if threshold is None else threshold,
        loads or {},
        lambda tier: found[tier.name],
    )
    return choose_route(CALL, tiers, config, FakeScorer(score), live)


@pytest.mark.parametrize(
    ("score", "strong_s", "weak_s", "name", "reason"),
    [
        (0.4, 0.3, 0.0, "strong", Reason.WARM),
        (0.4, 0.3, 0.2, "fast", Reason.SIMPLE),
        (0.6, 0.0, 0.3, "fast", Reason.WARM),
        (0.6, 0.3, 0.0, "strong", Reason.COMPLEX),
        (0.6, 9.0, 9.0, "strong", Reason.COMPLEX),
        (0.0, 900.0, 0.0, "strong", Reason.WARM),
    ],
)
def test_a_cached_conversation_moves_a_borderline_call(
    score: float, strong_s: float, weak_s: float, name: str, reason: Reason
) -> None:
    """The reason says so only where the score alone would have chosen another tier."""
    decision = decide(score, Residence(strong_s), Residence(weak_s), residency_weight=0.5).first
    assert (decision.tier, decision.reason, decision.score) == (name, reason, score)


def test_a_middle_tier_is_left_for_the_weakest() -> None:
    """Below the threshold the moved score divides the range, as the score does."""
    weak = Residence(0.4)
    assert decide(0.3, tiers=THREE).first.tier == "middle"
    decision = decide(0.3, NOWHERE, weak, THREE, residency_weight=0.5).first
    assert (decision.tier, decision.reason) == ("fast", Reason.WARM)


def test_the_load_looks_at_the_moved_score() -> None:
    """A call that the caches bring near the threshold goes to a tier that is idle."""
    idle = {"strong": TierLoad(running=0, queued=0)}
    load = {"idle_score_band": 0.1}
    assert decide(0.3, loads=idle, load=load).first.tier == "fast"
    strong = Residence(0.3)
    decision = decide(0.3, strong, loads=idle, load=load, residency_weight=0.5).first
    assert (decision.tier, decision.reason) == ("strong", Reason.STRONG_IDLE)


@pytest.mark.parametrize(
    ("score", "strong", "weak", "begins", "reason"),
    [
        (0.7, Residence(0.0, 9.0), Residence(0.0, 0.1), "fast", Reason.DRAFT),
        (0.7, Residence(0.0, 9.0), Residence(0.0, 0.3), "strong", Reason.WARM),
        (0.7, Residence(0.3, 0.0), Residence(9.0, 0.0), "strong", Reason.WARM),
        (0.9, NOWHERE, NOWHERE, "strong", Reason.COMPLEX),
    ],
)
def test_a_draft_is_priced_with_what_it_would_read(
    score: float, strong: Residence, weak: Residence, begins: str, reason: Reason
) -> None:
    """What the draft's own tier has cached makes the draft cheap, but is lost by no escalation."""
    route = decide(score, strong, weak, residency_weight=0.5, policy="cascade")
    assert (route.first.tier, route.first.reason) == (begins, reason)


@given(score=SCORES, strong=RESIDENCES, weak=RESIDENCES, cascade=st.booleans())
def test_without_a_weight_nothing_changes(
    score: float, strong: Residence, weak: Residence, cascade: bool
) -> None:
    """Decisions are the same bit for bit, whatever is cached where."""
    policy = "cascade" if cascade else "complexity"
    config = RoutingConfig.model_validate({"policy": policy})
    plain = choose_route(CALL, THREE, config, FakeScorer(score), Live(0.5))
    assert decide(score, strong, weak, THREE, policy=policy) == plain
    assert plain.first.weighed is None


@given(score=SCORES, weight=WEIGHTS, cascade=st.booleans(), same=RESIDENCES)
def test_what_is_equal_on_both_tiers_changes_nothing(
    score: float, weight: float, cascade: bool, same: Residence
) -> None:
    """Neither does it while nothing is known."""
    policy = "cascade" if cascade else "complexity"
    both = NOWHERE if cascade else same
    moved = decide(score, both, both, residency_weight=weight, policy=policy).first
    plain = decide(score, residency_weight=0, policy=policy).first
    assert replace(moved, weighed=None) == plain


@given(score=SCORES, weight=WEIGHTS, strong=RESIDENCES, weak=RESIDENCES)
def test_a_score_moves_by_the_weight_at_most(
    score: float, weight: float, strong: Residence, weak: Residence
) -> None:
    """It stays a score, and a draft's price never speaks for the draft."""
    moved = weigh_switch(score, weight, strong, weak)
    assert 0 <= moved <= 1
    assert abs(moved - score) <= weight + 1e-9
    assert score <= weigh_draft(score, weight, strong, weak) <= 1
    assert (moved - score) * (strong.gain_s - weak.gain_s) >= 0


@given(
    target=st.floats(0, 1),
    weight=WEIGHTS,
    calls=st.lists(st.tuples(SCORES, RESIDENCES, RESIDENCES), min_size=1, max_size=40),
    repeats=st.integers(1, 30),
)
def test_the_share_holds_whatever_is_cached(
    target: float, weight: float, calls: list[tuple[float, Residence, Residence]], repeats: int
) -> None:
    """The bound is that of the controller: any stretch misses the target by 1 / GAIN at most."""
    config = RoutingConfig(strong_ratio_target=target, residency_weight=weight)
    control = ThresholdControl()
    for _ in range(SCORES_MIN):
        control.note(Decision("fast", "Qwen/fast", Reason.SIMPLE, 0.5, 0.5), config, "strong")
    owed = [0.0]
    for score, strong, weak in calls * repeats:
        found = {"strong": strong, "fast": weak}
        live = Live(control.threshold(config), residency=lambda tier, found=found: found[tier.name])
        decision = choose_route(CALL, TWO, config, FakeScorer(score), live).first
        control.note(decision, config, "strong")
        assert decision.score == score
        owed.append(owed[-1] + target - (decision.tier == "strong"))
    assert max(owed) - min(owed) <= 1 / GAIN + 3


def test_a_moved_decision_keeps_the_moved_score() -> None:
    """A call that a limit sends elsewhere is noted like the others."""
    decision = decide(0.4, Residence(0.3), residency_weight=0.5).first
    assert move(decision, FAST, Reason.NEVER_ABOVE).weighed == decision.weighed == 0.55
