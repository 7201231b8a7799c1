"""The runs of `serve-app bench scaling`: every policy on every trace, and the tuning."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from statistics import fmean
from typing import Any

import numpy as np
from ray.serve.autoscaling_policy import replica_queue_length_autoscaling_policy
from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy

from serve_app.autoscaling.ray_policies import JointPolicy, LLMPolicy, Scaled
from serve_app.deploy.plan import LLM_LOOK_BACK_S, LLM_METRICS_INTERVAL_S, LLM_POLICY
from serve_app.offline.bench.bench_errors import BenchFailed
from serve_app.offline.bench.ray_controller import Policy, RayController, RayJointController
from serve_app.offline.simulation.cluster import Cluster, Controller, News, SimTier
from serve_app.offline.simulation.hardware import fast_tier, strong_tier, token_rates
from serve_app.offline.simulation.outcome import Outcome, sum_up
from serve_app.offline.simulation.reference import (
    PlannedController,
    count_needed,
    plan_oracle,
    plan_reaction,
)
from serve_app.offline.simulation.trace import (
    DOCUMENTS,
    Lengths,
    Shape,
    Trace,
    all_shapes,
    draw_trace,
)

TUNING_SEEDS = (1, 2)
JUDGING_SEEDS = (101, 102, 103)
BASE_FILL = 0.6
"""The base load, as a share of the load that one replica carries."""
MISSED_MAX = 0.01
"""The service level: 99 % of the calls get their first token in time."""
FILLS = (1.1, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
GPU_WEIGHT = 0.1
"""The weight of GPU-hours in tuning, which minimises missed calls plus a tenth of the GPU-hours
beyond the oracle's: one in a hundred calls missed weighs as much as a tenth more GPU-hours.
"""


@dataclass(frozen=True, slots=True)
class RaySetting:
    """Ray's own policy: calls at a time for a replica, and everything else that it lets one set."""

    target: float
    upscale_delay_s: float = 30.0
    downscale_delay_s: float = 600.0
    look_back_s: float = 30.0
    metrics_interval_s: float = 10.0

    def build(self, tier: SimTier) -> tuple[Controller, News]:
        """The controller of one tier, and the age of its reports."""
        return RayController([self.part(tier)]), self.news

    @property
    def news(self) -> News:
        """The largest age of a report to the controller."""
        return News(self.look_back_s, self.metrics_interval_s)

    def part(self, tier: SimTier) -> tuple[str, AutoscalingConfig, Policy]:
        """The parameters of a controller of several tiers."""
        config = _build_config(
            min_replicas=1,
            max_replicas=tier.replicas_max,
            target_ongoing_requests=self.target,
            upscale_delay_s=self.upscale_delay_s,
            downscale_delay_s=self.downscale_delay_s,
            look_back_period_s=self.look_back_s,
            metrics_interval_s=self.metrics_interval_s,
        )
        return tier.name, config, replica_queue_length_autoscaling_policy


@dataclass(frozen=True, slots=True)
class LLMSetting:
    """The llm policy."""

    busy_ratio: float
    quiet_s: float

    def build(self, tier: SimTier) -> tuple[Controller, News]:
        """The controller of one tier, and the age of its reports."""
        return RayController([self.part(tier)]), self.news

    @property
    def news(self) -> News:
        """The largest age of a report to the controller."""
        return LLM_NEWS

    def part(self, tier: SimTier) -> tuple[str, AutoscalingConfig, Policy]:
        """The parameters of a controller of several tiers."""
        return tier.name, self.config(tier), _Checked(LLMPolicy(**self.rules(tier)))

    def rules(self, tier: SimTier) -> dict[str, object]:
        """What `plan_policy` makes of a config."""
        prompt_per_s, output_per_s = token_rates(tier.timing, _mean_context())
        return {
            "gpus": tier.gpus,
            "min": 1,
            "max": tier.replicas_max,
            "capacity": {
                "calls": tier.max_ongoing_calls / 2,
                "first_token_target_s": tier.first_token_target_s,
                "kv_used_ratio": 0.9,
                "busy_ratio": self.busy_ratio,
                "prompt_tokens_per_s": prompt_per_s,
                "output_tokens_per_s": output_per_s,
            },
            "start_s": tier.start_s,
            "quiet_s": self.quiet_s,
            "idle_s": None,
            "schedule": [],
        }

    def config(self, tier: SimTier) -> AutoscalingConfig:
        """What `plan_tier_autoscaling` makes of a config."""
        return _build_config(
            min_replicas=1,
            max_replicas=tier.replicas_max,
            target_ongoing_requests=tier.max_ongoing_calls / 2,
            upscale_delay_s=0.0,
            downscale_delay_s=0.0,
            look_back_period_s=LLM_LOOK_BACK_S,
            metrics_interval_s=LLM_METRICS_INTERVAL_S,
            policy=AutoscalingPolicy(policy_function=LLM_POLICY, policy_kwargs=self.rules(tier)),
        )


Setting = RaySetting | LLMSetting
LLM_NEWS = News(LLM_LOOK_BACK_S, LLM_METRICS_INTERVAL_S)


class _Checked:
    """A policy whose failure ends the bench; in Ray's controller a failure must not end
    anything."""

    def __init__(self, policy: LLMPolicy) -> None:
        self._policy = policy

    def __call__(self, ctx: AutoscalingContext) -> Scaled:
        decided = self._policy(ctx)
        if self._policy.failed:
            raise BenchFailed("the llm policy failed; see the traceback above")
        return decided


def _build_config(**fields: Any) -> AutoscalingConfig:
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # metrics_interval_s; see deploy/plan.py
        return AutoscalingConfig(**fields)


def _mean_context() -> float:
    """The mean context of the traces' usual calls, half of the answer written."""
    prompt, output = (length.median * math.exp(length.sigma**2 / 2) for length in DOCUMENTS)
    return prompt + output / 2


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one tier: its outcome, and the data of a picture.

    `picture` holds seconds, replicas ordered, replicas ready, and calls that waited.
    """

    outcome: Outcome
    picture: Sequence[tuple[float, int, int, int]]


def run_one(
    tier: SimTier,
    trace: Trace,
    controller: Controller,
    news: News,
    initial: int,
    seed: int,
    *,
    admits: bool = False,
) -> Run:
    """A trace through a tier; `admits`: late calls are rejected when they arrive."""
    cluster = Cluster([tier], controller, news, [initial], admits=admits, seed=seed)
    calls = cluster.run([trace])[0]
    state = cluster.states[0]
    outcome = sum_up(state, calls, trace.length_s, tier.first_token_target_s)
    return Run(outcome, state.picture)


@cache
def find_capacity(tier: SimTier, prompt: Lengths, output: Lengths) -> float:
    """Calls per second that one replica carries within the service level, found by trials."""
    low, high = 0.1, 40.0
    for _ in range(12):
        middle = math.sqrt(low * high)
        shape = Shape("flat", 900.0, 1.0, np.ones_like, prompt, output)
        missed = []
        for seed in TUNING_SEEDS:
            trace = draw_trace(shape, middle, seed)
            planned = PlannedController([[(0.0, 1)]])
            missed.append(run_one(tier, trace, planned, LLM_NEWS, 1, seed).outcome.missed_ratio)
        low, high = (middle, high) if fmean(missed) <= MISSED_MAX else (low, middle)
    return low


@dataclass(frozen=True, slots=True)
class Case:
    """A trace for a tier, with both references: the oracle and the perfect reaction."""

    tier: SimTier
    shape: Shape
    trace: Trace
    seed: int
    oracle: Run
    reaction: Run
    initial: int

    def run(self, setting: Setting, *, admits: bool = False) -> Run:
        """What a policy makes of it."""
        controller, news = setting.build(self.tier)
        return run_one(
            self.tier, self.trace, controller, news, self.initial, self.seed, admits=admits
        )


def build_case(tier: SimTier, shape: Shape, seed: int) -> Case:
    """Draws the trace, and finds both references for it."""
    trace = draw_trace(shape, BASE_FILL * find_capacity(tier, *DOCUMENTS), seed)
    needed, oracle = find_oracle(tier, shape, trace, seed)
    planned = PlannedController([plan_reaction(needed)])
    reaction = run_one(tier, trace, planned, LLM_NEWS, needed[0], seed)
    return Case(tier, shape, trace, seed, oracle, reaction, needed[0])


def find_oracle(tier: SimTier, shape: Shape, trace: Trace, seed: int) -> tuple[list[int], Run]:
    """The smallest plan that meets the service level, and its outcome."""
    capacity = find_capacity(tier, shape.prompt, shape.output)
    for fill in FILLS:
        needed = count_needed(trace, capacity, fill, tier.start_s)
        plan = PlannedController([plan_oracle(needed, tier.start_s)])
        oracle = run_one(tier, trace, plan, LLM_NEWS, needed[0], seed)
        if oracle.outcome.missed_ratio <= MISSED_MAX:
            break
    return needed, oracle


def weigh(case: Case, run: Run) -> float:
    """What tuning minimises, for one run."""
    beyond = run.outcome.gpu_hours / case.oracle.outcome.gpu_hours - 1
    return run.outcome.missed_ratio + GPU_WEIGHT * beyond


def tune(cases: Sequence[Case], settings: Sequence[Setting]) -> list[tuple[float, Setting]]:
    """The settings by their mean weight over all cases, best first."""
    weighed = [
        (fmean(weigh(case, case.run(setting)) for case in cases), setting) for setting in settings
    ]
    return sorted(weighed, key=lambda item: item[0])


def ray_settings(tier: SimTier) -> Iterator[Setting]:
    """The settings to try for Ray's policy with its own delays and its own age of reports."""
    for part in (0.1, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5):
        yield RaySetting(round(part * tier.max_ongoing_calls, 1))


def quick_ray_settings(tier: SimTier) -> Iterator[Setting]:
    """The settings to try for Ray's policy with reports as fresh as ours, and shorter delays."""
    for part in (0.2, 0.3, 0.4):
        for down_s in (300.0, 600.0):
            for up_s, look_back_s in ((0.0, 4.0), (10.0, 15.0)):
                target = round(part * tier.max_ongoing_calls, 1)
                yield RaySetting(target, up_s, down_s, look_back_s, LLM_METRICS_INTERVAL_S)


def llm_settings(_: SimTier) -> Iterator[Setting]:
    """The settings to try for the llm policy."""
    for busy_ratio in (0.8, 0.9, 1.0):
        for quiet_s in (120.0, 300.0, 600.0):
            yield LLMSetting(busy_ratio, quiet_s)


def all_tiers() -> tuple[SimTier, ...]:
    """The tiers that are compared on."""
    return (fast_tier(), strong_tier())


TUNED: Mapping[str, Mapping[str, Setting]] = {
    "fast": {
        "Ray": RaySetting(51.2),
        "Ray, fresh news": RaySetting(51.2, 10.0, 600.0, 15.0, LLM_METRICS_INTERVAL_S),
        "llm": LLMSetting(1.0, 120.0),
    },
    "strong": {
        "Ray": RaySetting(38.4),
        "Ray, fresh news": RaySetting(38.4, 10.0, 600.0, 15.0, LLM_METRICS_INTERVAL_S),
        "llm": LLMSetting(0.9, 120.0),
    },
}
"""What tuning has found, but that on the 72B a `busy_ratio` of 1.0 weighs a little less."""

SPILLS = (
    "Ray",
    "Ray, spill",
    "llm",
    "llm, spill",
    "llm, spill, deadline",
    "joint, spill",
    "joint, spill, deadline",
    "oracle",
)


@dataclass(frozen=True, slots=True)
class JointRun:
    """Both tiers in one run; a spilled call counts for the tier that it was meant for."""

    fast: Outcome
    strong: Outcome

    @property
    def gpu_hours(self) -> float:
        """Of both tiers."""
        return self.fast.gpu_hours + self.strong.gpu_hours


def draw_joint(seed: int) -> list[tuple[SimTier, Shape, Trace]]:
    """The step on the strong tier, the base load on the fast one."""
    step = next(shape for shape in all_shapes() if shape.name == "10x step")
    flat = replace(step, name="flat", peak=1.0, rate=np.ones_like)
    return [
        (tier, shape, draw_trace(shape, BASE_FILL * find_capacity(tier, *DOCUMENTS), number))
        for tier, shape, number in ((fast_tier(), flat, seed), (strong_tier(), step, 1000 + seed))
    ]


def run_joint(seed: int, name: str) -> JointRun:
    """What one of `SPILLS` makes of both tiers' traces."""
    drawn = draw_joint(seed)
    tiers, traces = [item[0] for item in drawn], [item[2] for item in drawn]
    policy, *rules = name.split(", ")
    if policy == "oracle":
        oracles = [find_oracle(*item, seed)[1].outcome for item in drawn]
        return JointRun(*oracles)
    controller, news = _build_joint(policy, tiers)
    cluster = Cluster(
        tiers,
        controller,
        news,
        [1, 1],
        spill={1: 0} if "spill" in rules else None,
        admits="deadline" in rules,
        seed=seed,
    )
    calls = cluster.run(traces)
    outcomes = [
        sum_up(state, sent, trace.length_s, state.tier.first_token_target_s)
        for state, sent, trace in zip(cluster.states, calls, traces, strict=True)
    ]
    return JointRun(*outcomes)


def _build_joint(policy: str, tiers: Sequence[SimTier]) -> tuple[Controller, News]:
    settings = [TUNED[tier.name]["llm" if policy == "joint" else policy] for tier in tiers]
    if policy != "joint":
        parts = [setting.part(tier) for setting, tier in zip(settings, tiers, strict=True)]
        return RayController(parts), settings[0].news
    configs = [
        (tier.name, setting.part(tier)[1]) for setting, tier in zip(settings, tiers, strict=True)
    ]
    joint = JointPolicy([tier.name for tier in tiers])
    return RayJointController(configs, joint), LLM_NEWS
