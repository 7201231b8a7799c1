"""What one Router knows of its calls and of the tiers, as the dashboard shows it.

Calls are counted in steps of wall-clock time, so that the steps of several Routers can be added up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from serve_app.core.load import TierLoad

STEP_S = 5
STEPS = 60
"""The steps that are kept: five minutes."""
SLOW_CALLS = 10

FIRST_TOKEN_BOUNDS_S = (
    0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75,
    1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 20.0, 30.0, 60.0, 120.0,
)  # fmt: skip
"""Upper bounds of the bins in which first tokens are counted; a last bin holds the rest."""


@dataclass(frozen=True, slots=True)
class SlowCall:
    """One ended call, without anything that its client wrote except the request's id."""

    request_id: str
    arrived_at: float
    tier: str | None
    reason: str | None
    outcome: str
    first_byte_s: float | None
    total_s: float
    completion_tokens: int | None


@dataclass(frozen=True, slots=True)
class EngineNumbers:
    """The newest report of one engine."""

    address: str
    running: int
    queued: int
    kv_used_ratio: float | None


@dataclass(frozen=True, slots=True)
class TierNumbers:
    """One tier as one Router sees it. `leases` counts the Router's places on its replicas."""

    load: TierLoad
    leases: int = 0
    engines: Sequence[EngineNumbers] = ()


@dataclass(slots=True)
class Step:
    """The calls that ended within one step; amounts of money are in nanos.

    `calls` and `output_tokens` are by tier, `decisions` by tier and reason, `errors` by tier and
    code. `first_tokens` counts the waits for first tokens in bins, by tier.
    """

    number: int
    calls: dict[str, int] = field(default_factory=dict)
    failed: int = 0
    output_tokens: dict[str, int] = field(default_factory=dict)
    decisions: dict[tuple[str, str], int] = field(default_factory=dict)
    errors: dict[tuple[str, str], int] = field(default_factory=dict)
    first_tokens: dict[str, list[int]] = field(default_factory=dict)
    cost: int = 0
    saved: int = 0
    slowest: list[SlowCall] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts since the Router has started; amounts of money are in nanos."""

    calls: int = 0
    failed: int = 0
    cost: int = 0
    saved: int = 0


@dataclass(frozen=True, slots=True)
class RoutingNumbers:
    """The state of the routing. `target` is None where the threshold is fixed; `drift` is None
    before there are enough scores."""

    threshold: float
    target: float | None = None
    drift: float | None = None
    drifting: bool = False


@dataclass(frozen=True, slots=True)
class RouterNumbers:
    """Everything that the dashboard shows of one Router."""

    router: str
    started_at: float
    in_flight: int
    totals: Totals
    tiers: Mapping[str, TierNumbers]
    steps: Sequence[Step]
    routing: RoutingNumbers
    currency: str | None = None
