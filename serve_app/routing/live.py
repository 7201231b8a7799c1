"""Adjusts a decision to the state of the tiers: borderline calls, and tiers that are down."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

from serve_app.config.runtime import LoadConfig
from serve_app.config.tiers import TierConfig
from serve_app.core.call import Decision, Reason, Route
from serve_app.core.load import TierLoad
from serve_app.core.residence import Residence
from serve_app.routing.limits import move
from serve_app.routing.worth import Weighing


@dataclass(frozen=True, slots=True)
class Live:
    """The state at a decision: the threshold in force, and the load of tiers by name.

    A tier without a known load is neither busy nor idle. `residency` says what a tier has cached of
    the call, in seconds of GPUs; None: it does not count. `weighing` is how an objective weighs the
    call; None: the threshold decides it.
    """

    threshold: float
    loads: Mapping[str, TierLoad] = field(default_factory=dict)
    residency: Callable[[TierConfig], Residence] | None = None
    weighing: Weighing | None = None

    @property
    def down(self) -> Set[str]:
        """The tiers that cannot be reached."""
        return {name for name, load in self.loads.items() if load.down}


def choose_by_load(
    candidates: Sequence[TierConfig], score: float, live: Live, config: LoadConfig
) -> tuple[TierConfig, Reason] | None:
    """The tier that the load chooses for a call with a score near the threshold, otherwise None."""
    strongest, weaker = candidates[-1], candidates[-2]
    strong, above = live.loads.get(strongest.name), score - live.threshold
    if strong is None:
        return None
    if 0 <= above < config.busy_score_band and is_busy(strong, config):
        other = live.loads.get(weaker.name)
        if other is None or not (other.down or is_busy(other, config)):
            return weaker, Reason.STRONG_BUSY
    if -config.idle_score_band <= above < 0 and is_idle(strong, config):
        return strongest, Reason.STRONG_IDLE
    return None


def is_busy(load: TierLoad, config: LoadConfig) -> bool:
    """Whether a call would wait too long at the tier, as far as its load is known."""
    target_s, wait_s, free = config.first_token_target_s, load.first_token_s, load.kv_free_ratio
    return (target_s is not None and wait_s is not None and wait_s > target_s) or (
        free is not None and free < config.kv_free_ratio_min
    )


def is_idle(load: TierLoad, config: LoadConfig) -> bool:
    """Whether the tier's replicas are nearly idle, as far as their load is known."""
    calls = max(load.ongoing, (load.running or 0) + (load.queued or 0))
    allowed = config.idle_ongoing_max * max(load.replicas or 1, 1)
    return not load.down and not load.waiting and calls <= allowed


def leave_down(
    route: Route, allowed: Sequence[TierConfig], total_tokens: int, down: Set[str]
) -> Route:
    """The route without the tiers that are down, unless all of its tiers are down.

    A cascade needs both of its tiers: where one tier is down, the other tier answers alone.
    """
    if route.draft is not None and not down.isdisjoint({route.draft.tier, route.decision.tier}):
        left = route.draft if route.decision.tier in down else route.decision
        route = Route(replace(left, reason=Reason.FALLBACK))
    if route.decision.tier not in down:
        return route
    others = Route(route.decision, others=list_others(route.decision, allowed, total_tokens))
    return Route(others.other(down) or route.decision)


def list_others(
    decision: Decision, allowed: Sequence[TierConfig], total_tokens: int
) -> tuple[Decision, ...]:
    """The tiers that may answer instead: the next stronger tiers, then the next weaker tiers.

    `allowed` are weakest first and hold the decision's tier. `total_tokens` must fit a tier's
    context.
    """
    at = [tier.name for tier in allowed].index(decision.tier)
    ordered = (*allowed[at + 1 :], *reversed(allowed[:at]))
    fitting = (tier for tier in ordered if fits(tier, total_tokens))
    return tuple(move(decision, tier, Reason.FALLBACK) for tier in fitting)


def fits(tier: TierConfig, total_tokens: int) -> bool:
    """Whether so many tokens, prompt and answer, fit the context of a tier."""
    return tier.max_model_len is None or total_tokens <= tier.max_model_len
