"""Adds the numbers of all Routers up to what the dashboard shows: pure, no clock and no Ray."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from serve_app.core.call import Reason, TierState
from serve_app.core.load import BreakerState
from serve_app.core.money import to_units
from serve_app.pages.numbers import (
    FIRST_TOKEN_BOUNDS_S,
    SLOW_CALLS,
    STEP_S,
    STEPS,
    EngineNumbers,
    RouterNumbers,
    SlowCall,
    Step,
    TierNumbers,
)
from serve_app.pipeline import CHOSEN_BY_OTHERS

RATE_STEPS = 2
"""Rates are those of the newest complete steps: ten seconds."""

BREAKERS = (BreakerState.CLOSED, BreakerState.HALF_OPEN, BreakerState.OPEN)
"""From best to worst."""


@dataclass(frozen=True, slots=True)
class RouterRow:
    """One Router that has answered."""

    router: str
    started_at: float
    in_flight: int
    calls: int


@dataclass(frozen=True, slots=True)
class TierRow:
    """One tier over all Routers.

    `down_for` counts the Routers for which the tier is down. `running`, `queued` and
    `kv_used_ratio` are those of the engines that have reported lately, None where none has.
    `first_token_p50_s` and `first_token_p95_s` are upper bounds of bins, over the last minutes.
    """

    name: str
    model_id: str
    ready: bool
    replicas: int
    status: str
    message: str | None
    down_for: int
    breaker: BreakerState
    avoided: int
    leases: int
    ongoing: int
    waiting: int
    first_token_wait_s: float | None
    engines: Sequence[EngineNumbers]
    running: int | None
    queued: int | None
    kv_used_ratio: float | None
    calls: int
    output_tokens_per_s: float
    first_token_p50_s: float | None
    first_token_p95_s: float | None


@dataclass(frozen=True, slots=True)
class CallSums:
    """The calls over all Routers; `ended` and `failed` are those of the last minutes."""

    in_flight: int
    per_s: float
    ended: int
    failed: int
    ended_ever: int
    failed_ever: int


@dataclass(frozen=True, slots=True)
class Series:
    """Ended calls in steps of `step_s` seconds, oldest first; the last step is not complete."""

    step_s: int
    until: int
    tiers: Mapping[str, Sequence[int]]
    failed: Sequence[int]


@dataclass(frozen=True, slots=True)
class Count:
    """How many calls of a tier had this reason or error code in the last minutes."""

    tier: str
    what: str
    calls: int


@dataclass(frozen=True, slots=True)
class RoutingRow:
    """The share of the strongest tier among the calls that the Routers routed, in the last minutes.

    Each Router has a threshold of its own where `target` is set.
    """

    strongest: str
    routed: int
    share: float | None
    target: float | None
    threshold_min: float | None
    threshold_max: float | None
    drift: float | None
    drifting: bool


@dataclass(frozen=True, slots=True)
class Money:
    """Amounts in units of the currency: since the Routers started, and of the last minutes."""

    currency: str
    cost: float
    saved: float
    cost_lately: float
    saved_lately: float


@dataclass(frozen=True, slots=True)
class Summary:
    """One moment of the service. `missing` counts the Routers that have not answered in time."""

    at: float
    window_s: int
    routers: Sequence[RouterRow]
    missing: int
    tiers: Sequence[TierRow]
    calls: CallSums
    series: Series
    decisions: Sequence[Count]
    errors: Sequence[Count]
    routing: RoutingRow
    money: Money | None
    slowest: Sequence[SlowCall]
    unclear: str | None = None
    """Why the states of the tiers are old or unknown, None where they are fresh."""


def summarise(
    routers: Sequence[RouterNumbers],
    states: Sequence[TierState],
    *,
    missing: int,
    at: float,
    unclear: str | None = None,
) -> Summary:
    """What the dashboard shows; `states` has every tier, the strongest last."""
    now = int(at) // STEP_S
    steps = [step for router in routers for step in router.steps if step.number > now - STEPS]
    names = [state.name for state in states]
    decisions = _add(step.decisions for step in steps)
    return Summary(
        at=at,
        window_s=STEP_S * STEPS,
        routers=[
            RouterRow(router.router, router.started_at, router.in_flight, router.totals.calls)
            for router in sorted(routers, key=lambda router: router.router)
        ],
        missing=missing,
        tiers=[_sum_tier(state, routers, steps, now) for state in states],
        calls=_sum_calls(routers, steps, now),
        series=_make_series(names, steps, now),
        decisions=_list_counts(decisions),
        errors=_list_counts(_add(step.errors for step in steps)),
        routing=_sum_routing(names[-1], decisions, routers),
        money=_sum_money(routers, steps),
        slowest=_find_slowest(steps),
        unclear=unclear,
    )


def _sum_tier(
    state: TierState, routers: Sequence[RouterNumbers], steps: Sequence[Step], now: int
) -> TierRow:
    seen = [router.tiers[state.name] for router in routers if state.name in router.tiers]
    engines = merge_engines(seen)
    used = [engine.kv_used_ratio for engine in engines if engine.kv_used_ratio is not None]
    waits = [each.load.first_token_s for each in seen if each.load.first_token_s is not None]
    bins = _add_bins(step.first_tokens.get(state.name, ()) for step in steps)
    recent = [step for step in steps if now - RATE_STEPS <= step.number < now]
    tokens = sum(step.output_tokens.get(state.name, 0) for step in recent)
    return TierRow(
        name=state.name,
        model_id=state.model_id,
        ready=state.ready,
        replicas=state.replicas,
        status=state.status,
        message=state.message,
        down_for=sum(each.load.down for each in seen),
        breaker=max((each.load.breaker for each in seen), key=BREAKERS.index, default=BREAKERS[0]),
        avoided=max((each.load.avoided for each in seen), default=0),
        leases=sum(each.leases for each in seen),
        ongoing=sum(each.load.ongoing for each in seen),
        waiting=sum(each.load.waiting for each in seen),
        first_token_wait_s=max(waits, default=None),
        engines=engines,
        running=sum(engine.running for engine in engines) if engines else None,
        queued=sum(engine.queued for engine in engines) if engines else None,
        kv_used_ratio=sum(used) / len(used) if used else None,
        calls=sum(step.calls.get(state.name, 0) for step in steps),
        output_tokens_per_s=tokens / (RATE_STEPS * STEP_S),
        first_token_p50_s=quantile(bins, 0.5),
        first_token_p95_s=quantile(bins, 0.95),
    )


def merge_engines(seen: Sequence[TierNumbers]) -> Sequence[EngineNumbers]:
    """The engines of a tier, each of them once: several Routers hear the same engine.

    The reports are at most two seconds apart. The highest one counts, so that no queue is hidden.
    """
    found: dict[str, EngineNumbers] = {}
    for engine in (engine for each in seen for engine in each.engines):
        other = found.get(engine.address)
        found[engine.address] = engine if other is None else _higher(engine, other)
    return [found[address] for address in sorted(found)]


def _higher(one: EngineNumbers, other: EngineNumbers) -> EngineNumbers:
    ratios = [each.kv_used_ratio for each in (one, other) if each.kv_used_ratio is not None]
    return replace(
        one,
        running=max(one.running, other.running),
        queued=max(one.queued, other.queued),
        kv_used_ratio=max(ratios, default=None),
    )


def _sum_calls(routers: Sequence[RouterNumbers], steps: Sequence[Step], now: int) -> CallSums:
    recent = [step for step in steps if now - RATE_STEPS <= step.number < now]
    return CallSums(
        in_flight=sum(router.in_flight for router in routers),
        per_s=sum(sum(step.calls.values()) for step in recent) / (RATE_STEPS * STEP_S),
        ended=sum(sum(step.calls.values()) for step in steps),
        failed=sum(step.failed for step in steps),
        ended_ever=sum(router.totals.calls for router in routers),
        failed_ever=sum(router.totals.failed for router in routers),
    )


def _make_series(names: Sequence[str], steps: Sequence[Step], now: int) -> Series:
    tiers = {name: [0] * STEPS for name in names}
    failed = [0] * STEPS
    for step in steps:
        place = step.number - now + STEPS - 1
        if not 0 <= place < STEPS:  # the clock of another machine may be ahead
            continue
        failed[place] += step.failed
        for name, calls in step.calls.items():
            if name in tiers:
                tiers[name][place] += calls
    return Series(STEP_S, (now + 1) * STEP_S, tiers, failed)


def _sum_routing(
    strongest: str, decisions: Mapping[tuple[str, str], int], routers: Sequence[RouterNumbers]
) -> RoutingRow:
    routed = {key: n for key, n in decisions.items() if Reason(key[1]) not in CHOSEN_BY_OTHERS}
    total = sum(routed.values())
    strong = sum(n for (tier, _), n in routed.items() if tier == strongest)
    states = [router.routing for router in routers]
    thresholds = [state.threshold for state in states]
    drifts = [state.drift for state in states if state.drift is not None]
    return RoutingRow(
        strongest=strongest,
        routed=total,
        share=strong / total if total else None,
        target=next((state.target for state in states), None),
        threshold_min=min(thresholds, default=None),
        threshold_max=max(thresholds, default=None),
        drift=max(drifts, default=None),
        drifting=any(state.drifting for state in states),
    )


def _sum_money(routers: Sequence[RouterNumbers], steps: Sequence[Step]) -> Money | None:
    currency = next((router.currency for router in routers if router.currency), None)
    if currency is None:
        return None
    return Money(
        currency,
        cost=to_units(sum(router.totals.cost for router in routers)),
        saved=to_units(sum(router.totals.saved for router in routers)),
        cost_lately=to_units(sum(step.cost for step in steps)),
        saved_lately=to_units(sum(step.saved for step in steps)),
    )


def _find_slowest(steps: Sequence[Step]) -> Sequence[SlowCall]:
    calls = [call for step in steps for call in step.slowest]
    return sorted(calls, key=lambda call: -call.total_s)[:SLOW_CALLS]


def _add(
    counts: Iterable[Mapping[tuple[str, str], int]],
) -> Mapping[tuple[str, str], int]:
    total: Counter[tuple[str, str]] = Counter()
    for each in counts:
        total.update(each)
    return total


def _add_bins(counts: Iterable[Sequence[int]]) -> Sequence[int]:
    total = [0] * (len(FIRST_TOKEN_BOUNDS_S) + 1)
    for each in counts:
        for place, count in enumerate(each):
            total[place] += count
    return total


def quantile(bins: Sequence[int], level: float) -> float | None:
    """The upper bound of the bin that holds the quantile; None without counts. The last bin, which
    has no upper bound, counts as its lower bound."""
    wanted, seen = level * sum(bins), 0
    for place, count in enumerate(bins):
        seen += count
        if count and seen >= wanted:
            return FIRST_TOKEN_BOUNDS_S[min(place, len(FIRST_TOKEN_BOUNDS_S) - 1)]
    return None


def _list_counts(counts: Mapping[tuple[str, str], int]) -> Sequence[Count]:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [Count(tier, what, calls) for (tier, what), calls in ordered]
