"""What load, limits and tiers that are down change in a decision."""

from __future__ import annotations

import pytest

from serve_app.config.runtime import LoadConfig, RoutingConfig
from serve_app.config.tiers import TierConfig
from serve_app.core.call import (
    NO_LIMITS,
    Call,
    Decision,
    Endpoint,
    Prompt,
    Reason,
    Route,
    TierLimits,
    Turn,
)
from serve_app.core.errors import InvalidField
from serve_app.core.load import TierLoad
from serve_app.routing.choose import choose_route
from serve_app.routing.live import Live, fits, is_idle
from tests.routing.fakes import FakePayload, FakeScorer


def tier(name: str, *tasks: str, context: int | None = None) -> TierConfig:
    engine = {} if context is None else {"max_model_len": context}
    document = {"name": name, "model_id": f"Qwen/{name}", "tasks": tasks or ("generate",)}
    return TierConfig.model_validate({**document, "engine": engine})


FAST, MIDDLE, STRONG = tier("fast"), tier("middle"), tier("strong")
TWO, THREE = (FAST, STRONG), (FAST, MIDDLE, STRONG)

IDLE = TierLoad(first_token_s=0.1, running=0, queued=0, kv_free_ratio=1.0)
SLOW = TierLoad(ongoing=9, first_token_s=3.0, running=9, queued=4, kv_free_ratio=0.5)
FULL = TierLoad(ongoing=9, first_token_s=0.1, running=9, queued=0, kv_free_ratio=0.01)
DOWN = TierLoad(down=True)
WATCHED = {"first_token_target_s": 1, "kv_free_ratio_min": 0.05, "idle_score_band": 0.1}


def call(
    model: str = "auto",
    limits: TierLimits = NO_LIMITS,
    endpoint: Endpoint = Endpoint.CHAT,
    chars: int = 0,
) -> Call:
    prompt = Prompt(turns=(Turn("user", "x" * chars),))
    return Call("id", endpoint, model, FakePayload(), prompt, limits=limits)


def choose(
    request: Call | None = None,
    tiers: tuple[TierConfig, ...] = TWO,
    score: float = 0.0,
    loads: dict[str, TierLoad] | None = None,
    **routing: object,
) -> Decision:
    return find_route(request, tiers, score, loads, **routing).first


def find_route(
    request: Call | None = None,
    tiers: tuple[TierConfig, ...] = TWO,
    score: float = 0.0,
    loads: dict[str, TierLoad] | None = None,
    **routing: object,
) -> Route:
    config = RoutingConfig.model_validate(routing)
    live = Live(config.strong_score_min, loads or {})
    return choose_route(request or call(), tiers, config, FakeScorer(score), live)


@pytest.mark.parametrize(
    ("score", "strong", "name", "reason"),
    [
        (0.64, SLOW, "fast", Reason.STRONG_BUSY),
        (0.50, SLOW, "fast", Reason.STRONG_BUSY),
        (0.66, SLOW, "strong", Reason.COMPLEX),
        (0.49, SLOW, "fast", Reason.SIMPLE),
        (0.50, FULL, "fast", Reason.STRONG_BUSY),
        (0.50, IDLE, "strong", Reason.COMPLEX),
        (0.49, IDLE, "strong", Reason.STRONG_IDLE),
        (0.40, IDLE, "strong", Reason.STRONG_IDLE),
        (0.39, IDLE, "fast", Reason.SIMPLE),
        (0.49, TierLoad(), "strong", Reason.STRONG_IDLE),
        (0.49, TierLoad(waiting=1), "fast", Reason.SIMPLE),
        (0.49, TierLoad(ongoing=1), "fast", Reason.SIMPLE),
        (0.49, TierLoad(queued=1), "fast", Reason.SIMPLE),
        (0.50, TierLoad(), "strong", Reason.COMPLEX),
    ],
)
def test_borderline_calls_follow_the_load(
    score: float, strong: TierLoad, name: str, reason: Reason
) -> None:
    """Busy moves what is little above the threshold, idle what is little below; unknown neither."""
    loads = {"fast": TierLoad(ongoing=3), "strong": strong}
    decision = choose(score=score, loads=loads, load=WATCHED)
    assert (decision.tier, decision.reason) == (name, reason)
    assert (decision.score, decision.threshold) == (score, 0.5)


@pytest.mark.parametrize(
    ("replicas", "calls", "idle"), [(0, 2, True), (0, 3, False), (10, 20, True), (10, 21, False)]
)
def test_a_tier_is_idle_by_the_calls_of_each_replica(replicas: int, calls: int, idle: bool) -> None:
    """Ten replicas with two calls each are as idle as one with two."""
    load = LoadConfig(idle_ongoing_max=2)
    assert is_idle(TierLoad(running=calls, queued=0, replicas=replicas), load) is idle


@pytest.mark.parametrize(("score", "name"), [(0.5, "strong"), (0.49, "fast")])
def test_a_strongest_tier_without_a_known_load_keeps_its_calls(score: float, name: str) -> None:
    """It is neither busy nor idle."""
    assert choose(score=score, loads={"fast": IDLE}, load=WATCHED).tier == name


def test_a_weaker_tier_without_a_known_load_may_help_out() -> None:
    """Nothing says that it is busy."""
    decision = choose(score=0.5, loads={"strong": SLOW}, load=WATCHED)
    assert (decision.tier, decision.reason) == ("fast", Reason.STRONG_BUSY)


@pytest.mark.parametrize("fast", [SLOW, FULL, DOWN])
def test_a_busy_tier_keeps_its_calls_if_the_other_is_no_better(fast: TierLoad) -> None:
    """Moving a call from one queue to another helps nobody."""
    decision = choose(score=0.5, loads={"fast": fast, "strong": SLOW}, load=WATCHED)
    assert (decision.tier, decision.reason) == ("strong", Reason.COMPLEX)


def test_of_three_tiers_the_middle_one_helps_out() -> None:
    """A call that the strongest has no time for goes to the next weaker."""
    loads = dict.fromkeys(("fast", "middle"), IDLE) | {"strong": SLOW}
    decision = choose(tiers=THREE, score=0.5, loads=loads, load=WATCHED)
    assert (decision.tier, decision.reason) == ("middle", Reason.STRONG_BUSY)


def test_by_default_the_load_changes_nothing() -> None:
    """Whatever it is."""
    for strong in (SLOW, FULL, IDLE):
        loads = {"fast": IDLE, "strong": strong}
        assert choose(score=0.5, loads=loads).reason is Reason.COMPLEX
        assert choose(score=0.49, loads=loads).reason is Reason.SIMPLE


@pytest.mark.parametrize(
    ("below", "above", "score", "name", "reason"),
    [
        ("strong", None, 0.1, "strong", Reason.NEVER_BELOW),
        ("Qwen/strong", None, 0.1, "strong", Reason.NEVER_BELOW),
        ("middle", None, 0.1, "middle", Reason.NEVER_BELOW),
        ("middle", None, 0.9, "strong", Reason.COMPLEX),
        (None, "fast", 0.9, "fast", Reason.NEVER_ABOVE),
        (None, "middle", 0.9, "middle", Reason.NEVER_ABOVE),
        (None, "middle", 0.1, "fast", Reason.SIMPLE),
        ("middle", "middle", 0.1, "middle", Reason.NEVER_BELOW),
        ("middle", "middle", 0.9, "middle", Reason.NEVER_ABOVE),
        ("fast", "strong", 0.9, "strong", Reason.COMPLEX),
    ],
)
@pytest.mark.parametrize("by_config", [False, True])
def test_limits_are_hard(
    below: str | None, above: str | None, score: float, name: str, reason: Reason, by_config: bool
) -> None:
    """They move a decision into the nearest tier they allow, and the reason says which did."""
    routing: dict[str, object] = {}
    limits = TierLimits(below, above)
    if by_config:
        strip = "Qwen/"
        routing = {"never_below": below and below.removeprefix(strip), "never_above": above}
        limits = NO_LIMITS
    decision = choose(call(limits=limits), THREE, score, **routing)
    assert (decision.tier, decision.reason) == (name, reason)
    assert decision.score == score


def test_the_narrowest_limits_hold() -> None:
    """A call cannot widen what the config sets; where nothing is left, the ceiling wins."""
    config = {"never_below": "middle"}
    assert choose(call(limits=TierLimits("fast")), THREE, 0.1, **config).tier == "middle"
    assert choose(call(limits=TierLimits("strong")), THREE, 0.1, **config).tier == "strong"
    ceiling = {"never_above": "fast"}
    assert choose(call(limits=TierLimits("strong")), THREE, 0.9, **ceiling).tier == "fast"


def test_limits_bind_the_routers_choice_only() -> None:
    """A call that names its model has chosen for itself, and vectors have but one model."""
    limits = TierLimits(never_above="fast")
    assert choose(call("strong", limits)).tier == "strong"
    tiers = (FAST, tier("embed", "embed"))
    embeddings = call(limits=limits, endpoint=Endpoint.EMBEDDINGS)
    assert choose(embeddings, tiers).tier == "embed"


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (TierLimits("huge"), "'x-route-never-below': expected one of fast, middle, strong"),
        (TierLimits(None, "huge"), "'x-route-never-above': expected one of fast, middle, strong"),
        (TierLimits("auto"), "'x-route-never-below': expected one of"),
        (TierLimits("strong", "fast"), "a tier no stronger than x-route-never-above"),
    ],
)
def test_limits_that_make_no_sense(limits: TierLimits, message: str) -> None:
    """The header is named, and what belongs there."""
    with pytest.raises(InvalidField) as caught:
        choose(call(limits=limits), THREE)
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("limits", "header"),
    [
        (TierLimits(never_above="embed"), "x-route-never-above"),
        (TierLimits("embed", "embed"), "x-route-never-below"),
    ],
)
def test_limits_that_leave_no_tier_for_the_task(limits: TierLimits, header: str) -> None:
    """Nothing else is chosen behind the caller's back; a header that the call has is named."""
    tiers = (tier("embed", "embed"), FAST, STRONG)
    with pytest.raises(InvalidField, match="leaves one of fast, strong") as caught:
        choose(call(limits=limits), tiers)
    assert header in caught.value.message


def test_limits_of_the_config_that_leave_no_tier_for_the_task() -> None:
    """They were meant for other tasks, and the call cannot do anything about them."""
    tiers = (tier("embed", "embed"), FAST, STRONG)
    decision = choose(tiers=tiers, score=0.1, never_above="embed")
    assert (decision.tier, decision.reason) == ("fast", Reason.SIMPLE)


@pytest.mark.parametrize(
    ("score", "down", "name", "reason"),
    [
        (0.9, {"strong"}, "middle", Reason.FALLBACK),
        (0.9, {"strong", "middle"}, "fast", Reason.FALLBACK),
        (0.1, {"fast"}, "middle", Reason.FALLBACK),
        (0.1, {"fast", "middle"}, "strong", Reason.FALLBACK),
        (0.4, {"middle"}, "strong", Reason.FALLBACK),
        (0.4, {"middle", "strong"}, "fast", Reason.FALLBACK),
        (0.1, {"strong"}, "fast", Reason.SIMPLE),
        (0.9, {"fast", "middle", "strong"}, "strong", Reason.COMPLEX),
    ],
)
def test_calls_leave_a_tier_that_is_down(
    score: float, down: set[str], name: str, reason: Reason
) -> None:
    """To the next stronger, else to the next weaker; where all are down, nothing changes."""
    loads = {tier.name: TierLoad(down=tier.name in down) for tier in THREE}
    decision = choose(tiers=THREE, score=score, loads=loads)
    assert (decision.tier, decision.reason, decision.score) == (name, reason, score)


@pytest.mark.parametrize(
    ("request_", "routing"),
    [
        (call("strong"), {}),
        (call(limits=TierLimits("strong")), {}),
        (call(), {"never_below": "strong"}),
        (call(), {"fallback": False}),
        (call(endpoint=Endpoint.TOKENIZE), {"never_below": "strong"}),
    ],
)
def test_who_stays_with_a_tier_that_is_down(request_: Call, routing: dict[str, object]) -> None:
    """Who named it, whom limits keep there, all if policy says so, and who generates nothing."""
    at = "strong" if request_.endpoint.generates else "fast"
    route = find_route(request_, score=0.9, loads={at: DOWN}, **routing)
    assert route.decision.tier == at
    assert route.decision.reason is not Reason.FALLBACK
    assert route.others == ()


def test_a_context_can_be_filled() -> None:
    """To its last token."""
    assert fits(tier("fast", context=100), 100)
    assert not fits(tier("fast", context=100), 101)


def test_a_call_falls_back_only_to_where_it_fits() -> None:
    """A context that is too short can only refuse it."""
    tiers = (tier("fast", context=100), STRONG)
    decision = choose(call(chars=4000), tiers, loads={"strong": DOWN})
    assert (decision.tier, decision.reason) == ("strong", Reason.PROMPT_TOO_LONG)
    decision = choose(call(chars=40), tiers, score=0.9, loads={"strong": DOWN})
    assert (decision.tier, decision.reason) == ("fast", Reason.FALLBACK)


@pytest.mark.parametrize(
    ("score", "routing", "first", "others"),
    [
        (0.1, {}, "fast", ["middle", "strong"]),
        (0.4, {}, "middle", ["strong", "fast"]),
        (0.9, {}, "strong", ["middle", "fast"]),
        (0.9, {"default_tier": "middle"}, "middle", ["strong", "fast"]),
        (0.4, {"policy": "cascade"}, "fast", ["middle", "fast"]),
        (0.9, {"never_below": "middle"}, "strong", ["middle"]),
        (0.9, {"fallback": False}, "strong", []),
    ],
)
def test_a_route_holds_who_answers_instead(
    score: float, routing: dict[str, object], first: str, others: list[str]
) -> None:
    """The next stronger tiers, then the next weaker ones, each within limits; decided once."""
    route = find_route(tiers=THREE, score=score, **routing)
    assert route.first.tier == first
    assert [other.tier for other in route.others] == others
    assert {other.reason for other in route.others} <= {Reason.FALLBACK}


def test_the_first_of_the_others_that_can_be_had_answers() -> None:
    """Those to avoid are passed over; where all are, there is none."""
    route = find_route(tiers=THREE, score=0.1)
    other = route.other({"fast", "middle"})
    assert other is not None
    assert (other.tier, other.model_id) == ("strong", "Qwen/strong")
    assert route.other({"middle", "strong"}) is None
