"""Which calls may be kept, and which of these are drawn: pure, and cheap enough for every call."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from serve_app.config.runtime import RoutingConfig
from serve_app.config.tiers import TierConfig
from serve_app.core.call import Call, Decision, TierLimits
from serve_app.routing.limits import allowed_tiers

_DRAWS = 1 << 64


@dataclass(frozen=True, slots=True)
class TierPair:
    """The weakest and the strongest tier that generate: whom labels tell apart."""

    small: TierConfig
    large: TierConfig

    def other(self, tier: str) -> TierConfig | None:
        """The one of them that is not this one; None for a tier between them."""
        if tier == self.large.name:
            return self.small
        return self.large if tier == self.small.name else None


def find_pair(tiers: Sequence[TierConfig]) -> TierPair | None:
    """The pair among the tiers, weakest first; None where there is nothing to choose."""
    generating = [tier for tier in tiers if "generate" in tier.tasks]
    return TierPair(generating[0], generating[-1]) if len(generating) > 1 else None


def consents(header: bool | None, config: Literal["asked", "assumed"]) -> bool:
    """Whether the caller lets the call be kept; `header` is None where it did not say."""
    return config == "assumed" if header is None else header


def is_drawn(request_id: str, ratio: float) -> bool:
    """Whether the id is among this share of all ids; the same for every Router."""
    digest = hashlib.blake2b(request_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest) < ratio * _DRAWS


def choose_other(
    call: Call,
    decision: Decision,
    tiers: Sequence[TierConfig],
    pair: TierPair,
    routing: RoutingConfig,
) -> TierConfig | None:
    """The tier to ask as well; None where the call says nothing about the score's choice.

    That is a call whose tier was named, one with tools or images, and one that its limits keep from
    the other tier. A tier that may have no replica is not woken for a label.
    """
    prompt = call.prompt
    if not call.endpoint.generates or decision.score is None or prompt.tools or prompt.images:
        return None
    other = pair.other(decision.tier)
    if other is None or other.replicas.min == 0:
        return None
    standing = TierLimits(routing.never_below, routing.never_above)
    allowed = allowed_tiers([pair.small, pair.large], tiers, call.limits, standing)
    return other if other in allowed else None
