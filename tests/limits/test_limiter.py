"""Reserving before a call and settling after it, and what the caller is told."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from serve_app.config.limits import LimitRuleConfig
from serve_app.config.prices import PriceConfig, PricesConfig
from serve_app.config.tiers import TierConfig
from serve_app.core.call import Draft, Endpoint, Usage
from serve_app.core.caller import ANONYMOUS, Caller
from serve_app.core.errors import LimitsUnavailable, RateLimited
from serve_app.core.tokens import estimate_tokens
from serve_app.limits.estimate import Estimator
from serve_app.limits.limiter import CallerLimiter
from serve_app.limits.rules import LimitRules
from tests.limits.fakes import NOW, FakeCounters
from tests.limits.samples import ACME, CASCADE, ROUTE, STRONG, call_of, record_of

PROMPT = estimate_tokens(call_of().prompt)
ASKED = PROMPT + 10
TIERS = (
    TierConfig(name="fast", model_id="demo-fast", engine={"max_model_len": 1000}),
    TierConfig(name="strong", model_id="demo-strong", engine={"max_model_len": 1000}),
)
PRICES = PricesConfig(tiers={"strong": PriceConfig(input=1000, output=1000)})


def limiter_of(
    *rules: dict[str, object], on_failure: str = "closed"
) -> tuple[CallerLimiter, FakeCounters]:
    counters = FakeCounters()
    estimator = Estimator(TIERS, PRICES, unbounded_output_tokens=None, checkpoint_tokens=16)
    limiter = CallerLimiter(
        LimitRules([LimitRuleConfig.model_validate(rule) for rule in rules], "EUR"),
        estimator,
        counters,
        "router-1",
        open_on_failure=on_failure == "open",
        clock=lambda: NOW / 1000,
    )
    return limiter, counters


async def used(limiter: CallerLimiter, caller: Caller = ACME) -> list[int]:
    return [use.used for use in await limiter.describe(caller)]


async def test_a_call_is_charged_what_it_used_and_once() -> None:
    """The estimate stands while it runs; settling twice changes nothing."""
    limiter, counters = limiter_of(
        {"per": "tenant", "requests_per_min": 9, "tokens_per_min": 999, "calls_at_a_time": 2}
    )
    record = record_of()
    held = await limiter.reserve(call_of(), record, ROUTE)
    assert await used(limiter) == [1, ASKED, 1]
    record.usage = Usage(7, 2)
    held.settle(record)
    held.settle(record)
    assert await used(limiter) == [1, 9, 0]
    assert len(counters.settled) == 1


async def test_the_limit_that_was_hit_is_named() -> None:
    """The caller reads which limit, how long to wait, and nothing of anybody else."""
    limiter, _ = limiter_of({"per": "key", "requests_per_min": 1})
    await limiter.reserve(call_of(), record_of(), ROUTE)
    record = record_of()
    with pytest.raises(RateLimited) as refused:
        await limiter.reserve(call_of(), record, ROUTE)
    assert refused.value.message == (
        "Rate limit reached: 1 requests per minute for this key. Try again in 65 s."
    )
    assert refused.value.retry_after_s == 65
    assert (b"x-ratelimit-remaining-requests", b"0") in record.headers
    assert record.reservation is None


async def test_a_call_that_can_never_fit_is_told_so() -> None:
    """Its own bound is above the limit, so waiting would not help."""
    limiter, _ = limiter_of({"per": "tenant", "tokens_per_min": 20})
    with pytest.raises(RateLimited, match="the call may need"):
        await limiter.reserve(call_of(output_tokens_max=500), record_of(), ROUTE)


async def test_headers_speak_the_dialect_of_the_endpoint() -> None:
    """OpenAI's durations, and Anthropic's times of day; the tightest limit of each measure."""
    limiter, _ = limiter_of(
        {"per": "tenant", "requests_per_min": 60, "tokens_per_min": 1000, "tokens_per_day": 100},
        {"per": "key", "requests_per_min": 2},
    )
    record = record_of()
    await limiter.reserve(call_of(), record, ROUTE)
    assert dict(record.headers) == {
        b"x-ratelimit-limit-requests": b"2",
        b"x-ratelimit-remaining-requests": b"1",
        b"x-ratelimit-reset-requests": b"1m5s",
        b"x-ratelimit-limit-tokens": b"100",
        b"x-ratelimit-remaining-tokens": b"%d" % (100 - ASKED),
        b"x-ratelimit-reset-tokens": b"1h46m40s",
    }
    messages = record_of(endpoint=Endpoint.MESSAGES)
    await limiter.reserve(call_of(endpoint=Endpoint.MESSAGES), messages, ROUTE)
    assert dict(messages.headers) == {
        b"anthropic-ratelimit-requests-limit": b"2",
        b"anthropic-ratelimit-requests-remaining": b"0",
        b"anthropic-ratelimit-requests-reset": b"2023-11-14T22:14:25Z",
        b"anthropic-ratelimit-tokens-limit": b"100",
        b"anthropic-ratelimit-tokens-remaining": b"%d" % (100 - 2 * ASKED),
        b"anthropic-ratelimit-tokens-reset": b"2023-11-15T00:00:00Z",
    }


async def test_subjects_have_their_own_limits() -> None:
    """Each tenant, each key and each user; named ones have other limits, or none."""
    limiter, _ = limiter_of(
        {
            "per": "tenant",
            "requests_per_min": 1,
            "overrides": {"big": {"requests_per_min": 3}, "free": {"requests_per_min": None}},
        },
        {"per": "user", "requests_per_min": 1, "overrides": {"big/bob": {"requests_per_min": 0}}},
    )
    passed = []
    for caller in (
        ACME,
        Caller("acme", user="carol"),
        Caller("big"),
        Caller("big"),
        Caller("big", user="bob"),
        Caller("big", user="ann"),
        Caller("big", user="ann"),
        *([Caller("free")] * 3),
        ANONYMOUS,
        ANONYMOUS,
    ):
        try:
            await limiter.reserve(call_of(), record_of(caller=caller), ROUTE)
            passed.append(True)
        except RateLimited:
            passed.append(False)
    assert passed == [
        True, False, True, True, False, True, False, True, True, True, True, False,
    ]  # fmt: skip


async def test_limits_of_a_tier_count_only_its_calls() -> None:
    """A cascade reserves both tiers; each is charged what it worked."""
    limiter, _ = limiter_of(
        {"per": "tenant", "tokens_per_min": 1000},
        {"per": "tenant", "tier": "strong", "requests_per_min": 1, "money_per_day": 1},
        {"per": "key", "tier": "fast", "tokens_per_min": 100},
    )
    held = await limiter.reserve(call_of(), record_of(), ROUTE)
    assert await used(limiter) == [ASKED, 0, 0, ASKED]
    held.settle(record_of(7, 3))
    assert await used(limiter) == [10, 0, 0, 10]
    held = await limiter.reserve(call_of(), record_of(), CASCADE)
    record = record_of(8, 4, decision=STRONG)
    record.draft = Draft("fast", model_id="demo-fast", discarded=True, usage=Usage(8, 16))
    held.settle(record)
    assert await used(limiter) == [10 + 12 + 24, 1, 12_000_000, 10 + 24]
    with pytest.raises(RateLimited, match="1 requests per minute for this tenant on tier strong"):
        await limiter.reserve(call_of(), record_of(), CASCADE)
    assert await used(limiter) == [46, 1, 12_000_000, 34]


async def test_a_fallback_is_charged_to_the_tier_that_answered() -> None:
    """Although nothing was reserved there."""
    limiter, _ = limiter_of(
        {"per": "tenant", "tier": "fast", "tokens_per_min": 100},
        {"per": "tenant", "tier": "strong", "tokens_per_min": 100},
    )
    held = await limiter.reserve(call_of(), record_of(), ROUTE)
    held.settle(record_of(7, 3, decision=STRONG))
    assert await used(limiter) == [0, 10]


async def test_money_is_counted_by_the_prices() -> None:
    """Before the call by its bounds, after it by its tokens."""
    limiter, _ = limiter_of({"per": "tenant", "money_per_month": 0.05})
    route = type(ROUTE)(STRONG)
    held = await limiter.reserve(call_of(), record_of(), route)
    assert await used(limiter) == [ASKED * 1_000_000]
    with pytest.raises(RateLimited, match=r"the call may cost more than the limit of 0\.05 EUR"):
        await limiter.reserve(call_of(output_tokens_max=60), record_of(), route)
    held.settle(record_of(7, 3, decision=STRONG))
    assert await used(limiter) == [10_000_000]


async def test_closed_refuses_and_open_passes_while_the_counters_are_away() -> None:
    """What passed is charged when the counters are back; what was refused is not."""
    rule: dict[str, object] = {"per": "tenant", "tokens_per_min": 1000}
    closed, counters = limiter_of(rule)
    counters.reachable = False
    with pytest.raises(LimitsUnavailable):
        await closed.reserve(call_of(), record_of(), ROUTE)
    with pytest.raises(LimitsUnavailable):
        await closed.describe(ACME)
    counters.reachable = True
    assert await used(closed) == [0]
    limiter, counters = limiter_of(rule, on_failure="open")
    counters.reachable = False
    record = record_of()
    held = await limiter.reserve(call_of(), record, ROUTE)
    assert record.headers == []
    counters.reachable = True
    held.settle(record_of(7, 3))
    assert await used(limiter) == [10]


async def test_a_client_that_leaves_while_it_waits_holds_nothing() -> None:
    """The counters may have reserved by then, so they are told."""
    limiter, counters = limiter_of({"per": "tenant", "tokens_per_min": 1000})
    counters.hangs = True
    waiting = asyncio.create_task(limiter.reserve(call_of(), record_of(), ROUTE))
    await asyncio.sleep(0)
    waiting.cancel()
    with suppress(asyncio.CancelledError):
        await waiting
    assert [charge.used for _, charges in counters.settled for charge in charges] == [0]


async def test_a_caller_without_limits_asks_no_counter() -> None:
    """And gets no headers."""
    limiter, counters = limiter_of({"per": "key", "requests_per_min": 1})
    counters.reachable = False
    record = record_of(caller=Caller("acme"))
    held = await limiter.reserve(call_of(), record, ROUTE)
    held.settle(record)
    assert record.headers == []
    assert counters.settled == []


async def test_calls_tell_how_much_of_a_budget_is_spent() -> None:
    """A refused call too, because its tenant's budget is what the alert is about."""
    limiter, _ = limiter_of({"per": "tenant", "tokens_per_day": 2 * ASKED})
    assert limiter.budgets() == {}
    await limiter.reserve(call_of(), record_of(), ROUTE)
    assert limiter.budgets() == {("acme", "tokens_per_day"): 0.5}
