"""Which calls may be kept, and which of them are."""

from __future__ import annotations

import pytest

from serve_app.config.runtime import RoutingConfig
from serve_app.config.tiers import ReplicasConfig, TierConfig
from serve_app.core.call import (
    NO_LIMITS,
    Call,
    Decision,
    Endpoint,
    Prompt,
    Reason,
    TierLimits,
    Turn,
)
from serve_app.feedback.sampling import choose_other, consents, find_pair, is_drawn
from tests.routing.fakes import FakePayload

FAST = TierConfig(name="fast", model_id="demo-fast")
MIDDLE = TierConfig(name="middle", model_id="demo-middle")
STRONG = TierConfig(name="strong", model_id="demo-strong")
EMBED = TierConfig(name="embed", model_id="demo-embed", tasks=("embed",))
TIERS = (EMBED, FAST, MIDDLE, STRONG)
TURNS = (Turn("user", "Hi"),)
PROMPT = Prompt(TURNS)


def call(
    prompt: Prompt = PROMPT,
    endpoint: Endpoint = Endpoint.CHAT,
    limits: TierLimits = NO_LIMITS,
) -> Call:
    return Call("id", endpoint, "auto", FakePayload(), prompt, limits=limits)


def decision(tier: str = "fast", score: float | None = 0.2) -> Decision:
    return Decision(tier, f"demo-{tier}", Reason.SIMPLE, score)


def other(
    a_call: Call, a_decision: Decision, routing: RoutingConfig | None = None
) -> TierConfig | None:
    pair = find_pair(TIERS)
    assert pair is not None
    return choose_other(a_call, a_decision, TIERS, pair, routing or RoutingConfig())


def test_the_other_one_is_asked() -> None:
    """The weakest where the strongest answered, and the other way round."""
    assert other(call(), decision("fast")) is STRONG
    assert other(call(), decision("strong")) is FAST


@pytest.mark.parametrize(
    ("a_call", "a_decision"),
    [
        (call(), decision(score=None)),
        (call(), decision("middle")),
        (call(Prompt(TURNS, tools=1)), decision()),
        (call(Prompt(TURNS, images=1)), decision()),
        (call(endpoint=Endpoint.COUNT_TOKENS), decision()),
        (call(limits=TierLimits(never_above="fast")), decision("fast")),
        (call(limits=TierLimits(never_below="demo-strong")), decision("strong")),
    ],
    ids=["named", "between", "tools", "images", "no generation", "never above", "never below"],
)
def test_calls_that_tell_nothing(a_call: Call, a_decision: Decision) -> None:
    """Nor are calls sent where their own limits forbid it."""
    assert other(a_call, a_decision) is None


def test_the_limits_of_the_config_hold_as_well() -> None:
    """A label is no way round them."""
    assert other(call(), decision("fast"), RoutingConfig(never_above="middle")) is None


def test_a_tier_that_may_have_no_replica_is_not_woken() -> None:
    """Its start would cost more than a label is worth."""
    replicas = ReplicasConfig.model_construct(min=0, max=1)
    sleeper = STRONG.model_copy(update={"replicas": replicas})
    pair = find_pair((FAST, sleeper))
    assert pair is not None
    assert choose_other(call(), decision(), (FAST, sleeper), pair, RoutingConfig()) is None
    assert choose_other(call(), decision("strong"), (FAST, sleeper), pair, RoutingConfig()) is FAST


def test_one_model_has_no_pair() -> None:
    """There is nothing to learn, then."""
    assert find_pair((EMBED, FAST)) is None


@pytest.mark.parametrize(
    ("header", "config", "may"),
    [
        (None, "asked", False),
        (True, "asked", True),
        (False, "asked", False),
        (None, "assumed", True),
        (True, "assumed", True),
        (False, "assumed", False),
    ],
)
def test_consent(header: bool | None, config: str, may: bool) -> None:
    """A caller's word counts, whatever the config assumes."""
    assert consents(header, config) is may  # type: ignore[arg-type]  # a parameter is any string


def test_the_draw_is_fair_and_always_the_same() -> None:
    """The same id is drawn on every Router, and about the share that was asked for."""
    ids = [f"id-{number}" for number in range(4000)]
    drawn = [name for name in ids if is_drawn(name, 0.25)]
    assert 900 < len(drawn) < 1100
    assert [name for name in ids if is_drawn(name, 0.25)] == drawn
    assert set(drawn) <= {name for name in ids if is_drawn(name, 0.5)}
    assert not any(is_drawn(name, 0) for name in ids)
    assert all(is_drawn(name, 1) for name in ids)
