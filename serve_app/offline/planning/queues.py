"""How many calls may wait for a tier, so that each is served before its deadline."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from serve_app.config.reader import ServeConfig
from serve_app.config.tiers import HOUR_S, TierConfig
from serve_app.model_files.finding import Finding
from serve_app.offline.planning.roofline import Workload
from serve_app.offline.planning.starting import Rates, round_down


@dataclass(frozen=True)
class Queue:
    """The calls that wait for one tier while its fewest replicas are all full."""

    tier: str
    calls_per_s: float
    """Calls per second that these replicas take together."""
    lease_s: float
    routers: int
    """The most Routers; each has a queue of its own."""
    queued_max: int
    """Calls that one Router lets wait, from the config."""

    @property
    def served_max(self) -> int:
        """Calls that one Router may let wait, so that the last call gets its place within
        `lease_s`."""
        return math.floor(self.calls_per_s * self.lease_s / self.routers)

    @property
    def last_wait_s(self) -> float:
        """The wait of the last call of full queues for its place."""
        return self.queued_max * self.routers / self.calls_per_s

    def check(self) -> Iterator[Finding]:
        """Check that no call is queued that cannot be served in time."""
        if self.queued_max <= self.served_max:
            return
        what = (
            f"{self.routers} Routers let {self.queued_max} calls each wait for the fewest "
            f"replicas, which take {self.calls_per_s:.1f} calls/s: the last would be served after "
            f"{self.last_wait_s:,.0f} s, but gets 503 after deadlines.lease_s, {self.lease_s:g} s"
        )
        mend = f"max_queued_calls: {round_down(self.served_max):g}, or more replicas.min"
        if self.last_wait_s <= HOUR_S:
            mend += f", or lease_s: {math.ceil(self.last_wait_s)}"
        yield Finding(f"tiers.{self.tier}.max_queued_calls", what, mend, fatal=False)


def plan_queues(
    config: ServeConfig, planned: Mapping[str, Rates | None], load: Workload
) -> Iterator[Queue]:
    """The queues of all tiers with a known speed: from the config's rates, or from the plan's."""
    for tier in config.app.deployed:
        estimate = planned[tier.name]
        rates = _read_rates(tier) or (estimate and estimate.round_down())
        if rates is not None:
            yield Queue(
                tier=tier.name,
                calls_per_s=max(1, tier.replicas.min) * rates.calls_per_s(load),
                lease_s=config.runtime.deadlines.lease_s,
                routers=config.app.router.replicas.max,
                queued_max=min(tier.max_queued_calls, config.runtime.limits.calls_max),
            )


def _read_rates(tier: TierConfig) -> Rates | None:
    replicas = tier.replicas
    if replicas.prompt_tokens_per_s is None or replicas.output_tokens_per_s is None:
        return None
    return Rates(replicas.prompt_tokens_per_s, replicas.output_tokens_per_s)
