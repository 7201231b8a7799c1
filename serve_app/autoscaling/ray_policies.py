"""The seam between Ray's autoscaler and this package: contexts in, numbers of replicas out.

Ray's controller imports these classes and calls them in its control loop, ten times a second. So
the policies must be quick, and they must never raise. They read a context only when a look is due,
because Ray computes its metrics from all replicas' reports when they are read. The controller needs
this package on the head node.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import time
from statistics import fmean
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from ray.serve.autoscaling_policy import replica_queue_length_autoscaling_policy

from serve_app.autoscaling.demand import Capacity, EngineSignals, TierSignals
from serve_app.autoscaling.joint import TierWish, count_spilled, share_gpus
from serve_app.autoscaling.policy import TierPolicy, TierRules
from serve_app.autoscaling.schedule import Window, parse_days

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

TIER_PREFIX = "tier-"
"""Equal to `config.tiers.DEPLOYMENT_PREFIX`, without importing the config's models.
"""
WANTED_PREFIX = "wanted_"
"""The prefix of a tier's name in a Router's metrics."""
ENGINE_PREFIX = "engine_"
SPARE_METRIC = "spare_calls"
"""The places that lines of batches hold at a replica, of those that Ray counts."""
MEAN_ERROR = 0.1
"""The part of the lines by which two means of the same seconds may differ: that is no call."""
ENGINE_METRICS = tuple(field.name for field in fields(EngineSignals))

Scaled = tuple[int | float, dict[str, Any]]


class LLMPolicy:
    """An autoscaling policy of one deployment, for `AutoscalingPolicy.policy_function`."""

    def __init__(self, **rules: Any) -> None:
        """`rules` come from `plan_policy`, which makes them from the tier's config."""
        self._policy = TierPolicy(parse_rules(rules))
        self.failed = False
        """Whether this policy ever had to use Ray's policy."""

    def __call__(self, ctx: AutoscalingContext) -> Scaled:
        """The number of replicas from now on; from Ray's own policy if this policy fails."""
        try:
            if not self._policy.is_due(now_s(ctx)):
                return self._policy.last.replicas, {}
            return self._policy.decide(read_signals(ctx)).replicas, {}
        except Exception:  # Ray would end its control loop's round for every tier
            if not self.failed:
                self.failed = True
                logging.getLogger("ray.serve").exception(
                    "autoscaling of %s follows ongoing calls: the llm policy failed",
                    ctx.deployment_name,
                )
            return count_by_calls(ctx), {}


class JointPolicy:
    """An autoscaling policy of the whole application: `autoscaling_policy` in the Serve file.

    It sees what `LLMPolicy` cannot see: how many calls the Routers meant for each tier, whichever
    tier answered. So a tier that other tiers spill to grows at once, and the tier that is short
    still knows by how much. Ray calls application-level policies experimental.
    """

    def __init__(self, tiers: Sequence[str], gpus_max: float | None = None) -> None:
        """`tiers` are names, weakest first, each with `policy: llm`; `gpus_max` is their sum."""
        self._names = tuple(tiers)
        self._gpus_max = gpus_max
        self._policies: dict[str, TierPolicy] = {}
        self._shares: Mapping[str, int] = {}
        self._gpus: dict[str, float] = {}
        self.failed = False
        """Whether this policy ever had to use Ray's policy."""

    def __call__(
        self, contexts: Mapping[Any, AutoscalingContext]
    ) -> tuple[dict[Any, int | float], dict[Any, dict[str, Any]]]:
        """The replicas of every deployment; deployments that are not tiers use Ray's own policy."""
        decided: dict[Any, int | float] = {}
        try:
            decided.update(self._decide(contexts))
        except Exception:  # Ray would end its control loop's round
            if not self.failed:
                self.failed = True
                logging.getLogger("ray.serve").exception(
                    "autoscaling follows ongoing calls: the joint policy failed"
                )
        ours = {TIER_PREFIX + name for name in self._names}
        for key, ctx in contexts.items():
            if key not in decided:
                decided[key] = count_by_calls(ctx) if ctx.deployment_name in ours else by_ray(ctx)
        return decided, {}

    def _decide(self, contexts: Mapping[Any, AutoscalingContext]) -> dict[Any, int]:
        named = {ctx.deployment_name: (key, ctx) for key, ctx in contexts.items()}
        if self._is_due(named[TIER_PREFIX + name][1] for name in self._names):
            self._shares = self._look(named, contexts.values())
        return {named[TIER_PREFIX + name][0]: count for name, count in self._shares.items()}

    def _is_due(self, contexts: Iterable[AutoscalingContext]) -> bool:
        policies = self._policies
        return len(self._shares) < len(self._names) or any(
            policies[name].is_due(now_s(ctx))
            for name, ctx in zip(self._names, contexts, strict=True)
        )

    def _look(
        self,
        named: Mapping[str, tuple[Any, AutoscalingContext]],
        contexts: Iterable[AutoscalingContext],
    ) -> Mapping[str, int]:
        wishes: list[TierWish] = []
        spilled = 0.0
        for name in reversed(self._names):
            _, ctx = named[TIER_PREFIX + name]
            policy = self._policy(name, ctx)
            signals = read_signals(ctx, read_wanted(name, contexts))
            decision = policy.decide(signals, spilled=spilled)
            wishes.insert(
                0,
                TierWish(name, decision.floor, decision.own, decision.replicas, self._gpus[name]),
            )
            index = self._names.index(name)
            if index:
                weaker = self._names[index - 1]
                below = self._policy(weaker, named[TIER_PREFIX + weaker][1]).rules.capacity
                spilled = count_spilled(
                    decision.needed, signals.ready, policy.rules.capacity, below
                )
        return share_gpus(wishes, self._gpus_max)

    def _policy(self, name: str, ctx: AutoscalingContext) -> TierPolicy:
        if name not in self._policies:
            rules = ctx.config.policy.policy_kwargs  # type: ignore[union-attr]  # Ray says Any
            self._policies[name] = TierPolicy(parse_rules(rules))
            self._gpus[name] = rules["gpus"]
        return self._policies[name]


def by_ray(ctx: AutoscalingContext) -> int | float:
    """The number of replicas from Ray's own policy."""
    replicas: int | float = replica_queue_length_autoscaling_policy(ctx)[0]
    return replicas


def count_by_calls(ctx: AutoscalingContext) -> int | float:
    """As Ray's own policy, but never down: without Ray's delays, which are off, it would flap."""
    return max(ctx.target_num_replicas, by_ray(ctx))


def read_wanted(name: str, contexts: Iterable[AutoscalingContext]) -> dict[str, float]:
    """How many calls each Router has meant for a tier since it started, by the Router's id."""
    counts: dict[str, float] = {}
    for ctx in contexts:
        for replica, series in ((ctx.raw_metrics or {}).get(WANTED_PREFIX + name) or {}).items():
            if series:
                counts[str(replica)] = float(series[-1].value)
    return counts


def now_s(ctx: AutoscalingContext) -> float:
    """The Unix time of the look."""
    return float(ctx.current_time or 0.0)


def read_signals(ctx: AutoscalingContext, wanted: Mapping[str, float] | None = None) -> TierSignals:
    """Ray's reports of a deployment; replicas that have reported nothing are left out."""
    metrics = ctx.raw_metrics or {}
    spare = read_spare(metrics)
    return TierSignals(
        now_s=now_s(ctx),
        ready=ctx.current_num_replicas,
        target=ctx.target_num_replicas,
        calls=leave_out(spare, float(ctx.total_num_requests)),
        waiting=leave_out(spare, float(ctx.total_queued_requests or 0.0)),
        engines=read_engines(metrics),
        wanted=wanted or {},
        spare=spare,
    )


def leave_out(spare: float, calls: float) -> float:
    """The calls without lines of batches; calls that wait get the lines' places first."""
    others = calls - spare
    return others if others > MEAN_ERROR * spare else 0.0


def read_spare(metrics: Mapping[str, Mapping[Any, Any]]) -> float:
    """The places that lines of batches held, a mean like Ray's own number of calls."""
    told = (series for series in (metrics.get(SPARE_METRIC) or {}).values() if series)
    return sum(fmean(point.value for point in series) for series in told)


def read_engines(metrics: Mapping[str, Mapping[Any, Any]]) -> dict[str, EngineSignals]:
    """The newest value of each number that a replica has recorded, by the replica's id."""
    values: dict[str, dict[str, float]] = {}
    for name in ENGINE_METRICS:
        for replica, series in metrics.get(ENGINE_PREFIX + name, {}).items():
            if series:
                values.setdefault(str(replica), {})[name] = float(series[-1].value)
    complete = {key: told for key, told in values.items() if len(told) == len(ENGINE_METRICS)}
    return {key: EngineSignals(**told) for key, told in complete.items()}


def render_signals(signals: EngineSignals | None) -> dict[str, float]:
    """The metrics that `read_engines` reads; empty before there are any."""
    if signals is None:
        return {}
    return {ENGINE_PREFIX + name: float(getattr(signals, name)) for name in ENGINE_METRICS}


def parse_rules(rules: Mapping[str, Any]) -> TierRules:
    """Read the rules from their JSON, in which they have passed through Ray.

    Raises:
        ValueError, KeyError: the rules are not from `plan_policy`.
    """
    return TierRules(
        min=rules["min"],
        max=rules["max"],
        capacity=Capacity(**rules["capacity"]),
        start_s=rules["start_s"],
        quiet_s=rules["quiet_s"],
        idle_s=rules["idle_s"],
        schedule=tuple(parse_window(window) for window in rules["schedule"]),
        batch_schedule=tuple(parse_window(window) for window in rules.get("batch_schedule", ())),
    )


def parse_window(window: Mapping[str, Any]) -> Window:
    """One window of a schedule.

    Raises:
        ValueError: a day, a time or the zone is not valid.
    """
    days = [parse_days(text) for text in window["days"]]
    return Window(
        days=frozenset().union(*days),
        begin=time.fromisoformat(window["from"]),
        end=time.fromisoformat(window["to"]),
        zone=ZoneInfo(window["timezone"]),
        min=window["min"],
    )
