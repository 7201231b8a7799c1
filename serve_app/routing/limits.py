"""Hard limits of the router's choice: never below one tier, never above another."""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.config.runtime import RoutingConfig
from serve_app.config.tiers import TierConfig
from serve_app.core.call import NO_LIMITS, Decision, Reason, Route, TierLimits
from serve_app.core.errors import InvalidField
from serve_app.core.headers import NEVER_ABOVE_HEADER, NEVER_BELOW_HEADER


def allowed_tiers(
    candidates: Sequence[TierConfig],
    tiers: Sequence[TierConfig],
    asked: TierLimits,
    *standing: TierLimits,
) -> Sequence[TierConfig]:
    """The candidates that the limits allow; both lists are weakest first.

    `asked` came with the call; `standing` are the limits of the config. The narrowest limits apply.
    If they allow no candidate together, the ceiling wins.

    Raises:
        InvalidField: `asked` names no tier, contradicts itself or allows no candidate.
    """
    low, high = _asked_range(asked, tiers)
    for limits in standing:
        low = max(low, _position(limits.never_below, tiers, 0))
        high = min(high, _position(limits.never_above, tiers, len(tiers) - 1))
    within = tiers[min(low, high) : high + 1]
    left = [tier for tier in candidates if tier in within]
    if left or asked == NO_LIMITS:
        return left or candidates
    header = NEVER_ABOVE_HEADER if asked.never_below is None else NEVER_BELOW_HEADER
    raise InvalidField(header.decode(), f"a limit that leaves one of {_names(candidates)}")


def fit_limits(
    config: RoutingConfig, tiers: Sequence[TierConfig], visible: Sequence[TierConfig]
) -> RoutingConfig:
    """The config with limits that name only tiers which the caller may use.

    The limits shape the router's choice; what a caller may use at all is up to its rights. So a
    limit that leaves the caller nothing moves to the nearest tier that the caller may use.
    """
    if visible is tiers or (config.never_below is None and config.never_above is None):
        return config
    order = [tier.name for tier in tiers]
    names = [tier.name for tier in visible]
    places = [order.index(name) for name in names]
    fitted = {}
    if config.never_below is not None:
        floor = order.index(config.never_below)
        fitted["never_below"] = next((order[p] for p in places if p >= floor), names[-1])
    if config.never_above is not None:
        ceiling = order.index(config.never_above)
        fitted["never_above"] = next((order[p] for p in reversed(places) if p <= ceiling), names[0])
    return config.model_copy(update=fitted)


def keep_within(route: Route, allowed: Sequence[TierConfig], tiers: Sequence[TierConfig]) -> Route:
    """The route, moved to the nearest tiers that are allowed.

    A draft needs two tiers and must be by the weakest tier, so a draft that would move is dropped.
    """
    decision = _keep_within(route.decision, allowed, tiers)
    if route.draft is None or route.draft.tier == decision.tier:
        return Route(decision)
    draft = _keep_within(route.draft, allowed, tiers)
    return Route(decision, draft) if draft.tier == route.draft.tier else Route(draft)


def _keep_within(
    decision: Decision, allowed: Sequence[TierConfig], tiers: Sequence[TierConfig]
) -> Decision:
    order = [tier.name for tier in tiers]
    chosen = order.index(decision.tier)
    lowest, highest = allowed[0], allowed[-1]
    if chosen < order.index(lowest.name):
        return move(decision, lowest, Reason.NEVER_BELOW)
    if chosen > order.index(highest.name):
        return move(decision, highest, Reason.NEVER_ABOVE)
    return decision


def move(decision: Decision, tier: TierConfig, reason: Reason) -> Decision:
    """The same decision for another tier."""
    # By the constructor: `dataclasses.replace` takes several times as long, and every call is here.
    d = decision
    return Decision(
        tier.name,
        tier.model_id,
        reason,
        d.score,
        d.threshold,
        d.weighed,
        d.objective,
        d.prospects,
    )


def _asked_range(asked: TierLimits, tiers: Sequence[TierConfig]) -> tuple[int, int]:
    for header, name in (
        (NEVER_BELOW_HEADER, asked.never_below),
        (NEVER_ABOVE_HEADER, asked.never_above),
    ):
        if name is not None and _position(name, tiers, -1) < 0:
            raise InvalidField(header.decode(), f"one of {_names(tiers)}, or a model id")
    low = _position(asked.never_below, tiers, 0)
    high = _position(asked.never_above, tiers, len(tiers) - 1)
    if low > high:
        expected = f"a tier no stronger than {NEVER_ABOVE_HEADER.decode()}"
        raise InvalidField(NEVER_BELOW_HEADER.decode(), expected)
    return low, high


def _position(name: str | None, tiers: Sequence[TierConfig], default: int) -> int:
    for position, tier in enumerate(tiers):
        if name in (tier.name, tier.model_id):
            return position
    return default


def _names(tiers: Sequence[TierConfig]) -> str:
    return ", ".join(tier.name for tier in tiers)
