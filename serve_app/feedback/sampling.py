"""Which calls may be kept, and which of them are drawn: pure, and cheap enough for every call."""

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
    """The weakest and the strongest tier that generate: labels compare these two."""

    small: TierConfig
    large: TierConfig

    def other(self, tier: str) -> TierConfig | None:
        """The other tier of the pair; None for a tier that is not in the pair."""
        if tier == self.large.name:
            return self.small
        return self.large if tier == self.small.name else None


def find_pair(tiers: Sequence[TierConfig]) -> TierPair | None:
    """The pair among the tiers, weakest first; None where there are no two tiers."""
    generating = [tier for tier in tiers if "generate" in tier.tasks]
    return TierPair(generating[0], generating[-1]) if len(generating) > 1 else None


def consents(header: bool | None, config: Literal["asked", "assumed"]) -> bool:
    """Whether the client lets the call be kept; `header` is None where the client did not say."""
    return config == "assumed" if header is None else header


def is_drawn(request_id: str, ratio: float) -> bool:
    """Whether the id is in this share of all ids; the same result in every Router."""
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

    Such calls name their tier, have tools or images, or have limits that exclude the other tier. A
    tier that may have no replicas is not started for a label.
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
