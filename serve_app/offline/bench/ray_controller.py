"""Ray's autoscaler as a controller of the simulation: its own functions, on its own contexts.

What Ray's controller does around a policy (factors, delays, bounds) is not public; it is called by
its private names, of the version that this project pins, because a copy would prove less.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray.serve._private.common import DeploymentID, ReplicaID, TimeStampedValue
from ray.serve.autoscaling_policy import (
    _apply_delay_logic,
    _apply_scaling_factors,
    _get_cold_start_scale_up_replicas,
)
from ray.serve.config import AutoscalingConfig, AutoscalingContext

from serve_app.autoscaling.ray_policies import (
    ENGINE_METRICS,
    ENGINE_PREFIX,
    TIER_PREFIX,
    WANTED_PREFIX,
    JointPolicy,
)
from serve_app.offline.bench.bench_errors import BenchFailed
from serve_app.offline.simulation.cluster import TierView

Policy = Callable[[AutoscalingContext], tuple[int | float, dict[str, Any]]]
EPOCH_S = 1_767_225_600.0
"""Where the simulation's clock begins: 1 January 2026, 00:00 UTC."""


class RayController:
    """One policy a tier, called as Ray calls it."""

    def __init__(self, tiers: Sequence[tuple[str, AutoscalingConfig, Policy]]) -> None:
        self._tiers = [(_RayTier(name, config), policy) for name, config, policy in tiers]

    def decide(self, now_s: float, views: Sequence[TierView]) -> Sequence[int]:
        """The targets, one a tier."""
        targets = []
        for (tier, policy), view in zip(self._tiers, views, strict=True):
            ctx = tier.context(view, now_s)
            cold = _get_cold_start_scale_up_replicas(ctx)
            targets.append(tier.settle(ctx, cold, *policy(ctx)))
        return targets


class RayJointController:
    """One policy for all tiers; the Routers' counts come as those of a deployment of their own."""

    def __init__(self, tiers: Sequence[tuple[str, AutoscalingConfig]], policy: JointPolicy) -> None:
        self._tiers = [_RayTier(name, config) for name, config in tiers]
        self._router = _RayTier("Router", AutoscalingConfig())
        self._policy = policy

    def decide(self, now_s: float, views: Sequence[TierView]) -> Sequence[int]:
        """The targets, one a tier."""
        pairs = list(zip(self._tiers, views, strict=True))
        contexts = {tier.id: tier.context(view, now_s) for tier, view in pairs}
        wanted = {tier.name: view for tier, view in pairs if view.samples}
        contexts[self._router.id] = self._router.router_context(wanted, now_s)
        decided, _ = self._policy(contexts)
        if self._policy.failed:
            raise BenchFailed("the joint policy failed; see the traceback above")
        return [
            tier.settle(
                contexts[tier.id],
                _get_cold_start_scale_up_replicas(contexts[tier.id]),
                decided[tier.id],
                {},
            )
            for tier in self._tiers
        ]


class _RayTier:
    def __init__(self, name: str, config: AutoscalingConfig) -> None:
        self.name = name
        self.id = DeploymentID(name=TIER_PREFIX + name, app_name="llm")
        self._config = config
        self._state: dict[str, Any] = {}
        self._replicas: dict[str, ReplicaID] = {}

    def settle(
        self, ctx: AutoscalingContext, cold: int | None, raw: int | float, own: dict[str, Any]
    ) -> int:
        """As `_apply_autoscaling_config` and `apply_bounds` do, with the simulation's clock."""
        wanted: int | float = raw if cold is None else cold
        if cold is None:
            wanted = _apply_scaling_factors(raw, ctx.current_num_replicas, self._config)
            if not (ctx.current_num_replicas == 0 and wanted > 0):
                wanted, delays = _apply_delay_logic(
                    max(0, wanted),
                    ctx.target_num_replicas,
                    self._config,
                    self._state,
                    _now=ctx.current_time,
                )
                own = {**own, **delays}
            self._state = own
        return max(self._config.min_replicas, min(self._config.max_replicas, math.ceil(wanted)))

    def router_context(self, tiers: Mapping[str, TierView], now_s: float) -> AutoscalingContext:
        """The deployment of the Routers, of which only the counts matter."""
        router = self._replicas.setdefault("router", ReplicaID("router", self.id))
        metrics = {
            WANTED_PREFIX + name: {router: [TimeStampedValue(now_s, view.samples[-1].wanted)]}
            for name, view in tiers.items()
        }
        return self._make(TierView(1, 1, (), {}), now_s, lambda: metrics)

    def context(self, view: TierView, now_s: float) -> AutoscalingContext:
        """The context that Ray would give a policy for the tier."""
        return self._make(view, now_s, lambda: self._metrics(view))

    def _make(
        self, view: TierView, now_s: float, metrics: Callable[[], dict[str, Any]]
    ) -> AutoscalingContext:
        total = average([sample.ongoing + sample.queued for sample in view.samples], view, now_s)
        queued = average([sample.queued for sample in view.samples], view, now_s)
        return AutoscalingContext(
            deployment_id=self.id,
            deployment_name=self.id.name,
            app_name=self.id.app_name,
            current_num_replicas=view.ready,
            target_num_replicas=view.target,
            running_replicas=[],
            total_num_requests=total,
            total_queued_requests=queued,
            aggregated_metrics=None,
            raw_metrics=metrics,
            capacity_adjusted_min_replicas=self._config.min_replicas,
            capacity_adjusted_max_replicas=self._config.max_replicas,
            policy_state=dict(self._state),
            last_scale_up_time=None,
            last_scale_down_time=None,
            current_time=EPOCH_S + now_s,
            config=self._config,
        )

    def _metrics(self, view: TierView) -> dict[str, dict[ReplicaID, Any]]:
        metrics: dict[str, dict[ReplicaID, Any]] = {}
        for name in ENGINE_METRICS:
            by_replica = metrics.setdefault(ENGINE_PREFIX + name, {})
            for key, engine in view.engines.items():
                replica = self._replicas.setdefault(key, ReplicaID(key, self.id))
                told = TimeStampedValue(EPOCH_S + engine.at_s, getattr(engine, name))
                by_replica[replica] = [told]
        return metrics


def average(values: Sequence[float], view: TierView, now_s: float) -> float:
    """The mean over time of what the last report holds; its last value holds until now.

    As `DeploymentAutoscalingState` reduces a series: each value counts from its sample to the next.
    """
    samples = view.samples
    if not samples:
        return 0.0
    ends = [sample.at_s for sample in samples[1:]] + [max(now_s, samples[-1].at_s + 1e-3)]
    spans = [end - sample.at_s for sample, end in zip(samples, ends, strict=True)]
    return sum(v * span for v, span in zip(values, spans, strict=True)) / sum(spans)
