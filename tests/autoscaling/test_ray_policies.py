"""The seam to Ray's autoscaler: what it tells, what it is told, and that nothing is raised."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import cloudpickle
import pytest
from ray.serve._private.common import TimeStampedValue
from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy

from serve_app.autoscaling.demand import EngineSignals
from serve_app.autoscaling.ray_policies import (
    ENGINE_METRICS,
    ENGINE_PREFIX,
    SPARE_METRIC,
    TIER_PREFIX,
    WANTED_PREFIX,
    JointPolicy,
    LLMPolicy,
    read_engines,
    read_signals,
    render_signals,
)
from serve_app.config.app import AppConfig
from serve_app.config.tiers import DEPLOYMENT_PREFIX, ReplicasConfig, TierConfig
from serve_app.deploy.plan import (
    plan_autoscaling,
    plan_policy,
    plan_router_autoscaling,
    plan_tier_autoscaling,
)
from serve_app.replica.engine_stats import EngineStats
from tests.leases.replica import Stats

NOW_S = 1_767_225_600.0
REPLICAS = {
    "policy": "llm",
    "min": 1,
    "max": 8,
    "target_ongoing_calls": 10,
    "prompt_tokens_per_s": 10_000,
    "output_tokens_per_s": 4000,
    "start_s": 60,
    "floors": [{"days": ["mon-fri"], "from": "08:00", "to": "18:00", "min": 2}],
}


def tier(name: str = "fast", **replicas: Any) -> TierConfig:
    return TierConfig.model_validate(
        {"name": name, "model_id": f"org/{name}", "replicas": {**REPLICAS, **replicas}}
    )


def context(tier_config: TierConfig, **fields: Any) -> AutoscalingContext:
    told: dict[str, Any] = {
        "deployment_id": DEPLOYMENT_PREFIX + tier_config.name,
        "deployment_name": DEPLOYMENT_PREFIX + tier_config.name,
        "app_name": "llm",
        "current_num_replicas": 1,
        "target_num_replicas": 1,
        "running_replicas": [],
        "total_num_requests": 0.0,
        "total_queued_requests": 0.0,
        "aggregated_metrics": None,
        "raw_metrics": None,
        "capacity_adjusted_min_replicas": 1,
        "capacity_adjusted_max_replicas": 8,
        "policy_state": {},
        "last_scale_up_time": None,
        "last_scale_down_time": None,
        "current_time": NOW_S,
        "config": SimpleNamespace(
            policy=SimpleNamespace(policy_kwargs=plan_policy(tier_config)),
            get_target_ongoing_requests=lambda: 10.0,
            get_upscaling_factor=lambda: 1.0,
        ),
    }
    return AutoscalingContext(**{**told, **fields})


def metrics_of(signals: EngineSignals, replica: str = "a") -> dict[str, Any]:
    return {
        name: {replica: [TimeStampedValue(NOW_S - 9, 0.0), TimeStampedValue(NOW_S, value)]}
        for name, value in render_signals(signals).items()
    }


def test_signals_pass_through_ray_unchanged() -> None:
    """What a replica records is what the policy reads: the newest of each series."""
    signals = EngineSignals(3, 1, 0.5, 10, 2.5, 9, 9000, 4000)
    assert read_engines(metrics_of(signals)) == {"a": signals}


def test_a_replica_that_tells_only_a_part_is_left_out() -> None:
    """As one of another version would; an empty series tells nothing either."""
    metrics = metrics_of(EngineSignals(3, 1, 0.5, 0, 0.0, 0, 0, 0))
    metrics[ENGINE_PREFIX + "finished"] = {"a": []}
    assert read_engines(metrics) == {}
    assert read_engines({}) == {}


def test_what_ray_lacks_is_nothing() -> None:
    """No metrics, no queue, no clock: a tier without calls."""
    signals = read_signals(
        context(tier(), total_queued_requests=None, raw_metrics=None, current_time=None)
    )
    assert (signals.calls, signals.waiting, dict(signals.engines)) == (0.0, 0.0, {})


def test_lines_are_no_calls() -> None:
    """Ray counts their places, and replicas tell how many these are; both are means."""
    series = [TimeStampedValue(NOW_S - 1, 4.0), TimeStampedValue(NOW_S, 8.0)]
    metrics = {SPARE_METRIC: {"a": series, "b": [TimeStampedValue(NOW_S, 3.0)], "c": []}}
    ctx = context(tier(), total_num_requests=12.0, total_queued_requests=2.0, raw_metrics=metrics)
    signals = read_signals(ctx)
    assert (signals.spare, signals.calls, signals.waiting) == (9.0, 3.0, 0.0)
    ctx = context(tier(), total_num_requests=9.6, raw_metrics=metrics)
    assert read_signals(ctx).calls == 0.0


def test_a_tier_full_of_lines_stays_as_it_is() -> None:
    """35 calls are four replicas, and none of them is one if they are lines."""
    policy = LLMPolicy(**plan_policy(tier(batch_floors=[])))
    spare = {SPARE_METRIC: {"a": [TimeStampedValue(NOW_S, 35.0)]}}
    for second in range(3):
        ctx = context(
            tier(), total_num_requests=35.0, raw_metrics=spare, current_time=NOW_S + second
        )
        assert policy(ctx) == (1, {})
    assert not policy.failed


def test_a_floor_for_lines_passes_through_ray() -> None:
    """As the rule of the tier's config, with the lines that its replicas report."""
    night = {"from": "00:00", "to": "06:00", "timezone": "UTC", "min": 3}
    rules = json.loads(json.dumps(plan_policy(tier(batch_floors=[night]))))
    spare = {SPARE_METRIC: {"a": [TimeStampedValue(NOW_S, 2.0)]}}
    assert LLMPolicy(**rules)(context(tier(), total_num_requests=2.0)) == (1, {})
    ctx = context(tier(), total_num_requests=2.0, raw_metrics=spare)
    assert LLMPolicy(**rules)(ctx) == (3, {})


def test_the_engine_counts_what_its_steps_bring() -> None:
    """First tokens and their waits, calls that ended, and their tokens."""
    stats = EngineStats()
    assert stats.signals() is None
    assert render_signals(None) == {}
    ended = SimpleNamespace(num_prompt_tokens=100, num_generation_tokens=20)
    for waits_s, finished in (((0.5, 1.5), ()), ((), (ended, ended))):
        step = SimpleNamespace(time_to_first_tokens_iter=waits_s, finished_requests=finished)
        stats.record(Stats(2, 1, 0.25), step)
    stats.record(Stats(1, 0, 0.1), None)
    assert stats.signals() == EngineSignals(1, 0, 0.1, 2, 2.0, 2, 200, 40)
    assert set(render_signals(stats.signals())) == {ENGINE_PREFIX + n for n in ENGINE_METRICS}


def test_the_plan_is_what_ray_takes() -> None:
    """Ray loads the policy by its path, makes it with the rules, and puts no delay around it."""
    planned = json.loads(json.dumps(plan_tier_autoscaling(tier())))
    with pytest.warns(DeprecationWarning, match="metrics_interval_s"):
        config = AutoscalingConfig(**planned)
    assert (config.upscale_delay_s, config.downscale_delay_s) == (0.0, 0.0)
    policy = config.policy.get_policy()(**config.policy.policy_kwargs)
    ctx = context(tier(), total_num_requests=35.0)
    assert policy(ctx) == (4, {})


def test_ray_may_load_the_policy_in_its_controller() -> None:
    """Ray pickles the class by value; that must not fail for anything in its module."""
    for name in ("LLMPolicy", "JointPolicy"):
        policy = AutoscalingPolicy(policy_function=f"serve_app.autoscaling.ray_policies:{name}")
        loaded = cloudpickle.loads(policy.get_serialized_policy_def())
        assert loaded.__name__ == name


def test_rays_own_policy_stays_the_default() -> None:
    """Nothing of ours is in the plan of a tier that does not ask for it."""
    config = TierConfig(name="fast", model_id="m")
    assert plan_tier_autoscaling(config) == plan_autoscaling(config.replicas)
    replicas = ReplicasConfig()
    assert plan_router_autoscaling(replicas, [config]) == plan_autoscaling(replicas)


def test_routers_tell_often_where_a_tier_has_the_policy() -> None:
    """Their counts are news for the policy of all tiers."""
    planned = plan_router_autoscaling(ReplicasConfig(), [tier()])
    assert planned["metrics_interval_s"] < planned["look_back_period_s"]


def test_a_failure_falls_back_to_calls_and_never_goes_down() -> None:
    """Ray's control loop must go on, and its delays are off: so replicas only come."""
    policy = LLMPolicy(**plan_policy(tier()))
    broken = {ENGINE_PREFIX + "running": 5}
    ctx = context(tier(), total_num_requests=35.0, raw_metrics=broken)
    assert policy(ctx) == (3.5, {})
    ctx = context(
        tier(),
        raw_metrics=broken,
        total_num_requests=1.0,
        target_num_replicas=3,
        current_num_replicas=3,
    )
    assert policy(ctx) == (3, {})
    assert policy.failed


def joint_contexts(fast: TierConfig, strong: TierConfig, second: int) -> dict[Any, Any]:
    wanted = {
        WANTED_PREFIX + "fast": {"r": [TimeStampedValue(NOW_S, 5.0 * second)]},
        WANTED_PREFIX + "strong": {"r": [TimeStampedValue(NOW_S, 20.0 * second)]},
    }
    contexts = {}
    for config, per_s in ((fast, 5.0), (strong, 2.0)):
        ended = per_s * second
        signals = EngineSignals(5, 0, 0.1, ended, 0.0, ended, 1000 * ended, 400 * ended)
        contexts[config.name] = context(
            config,
            total_num_requests=5.0,
            raw_metrics=metrics_of(signals),
            current_time=NOW_S + second,
        )
    router = AutoscalingConfig(target_ongoing_requests=10)
    contexts["Router"] = context(fast, raw_metrics=wanted, config=router, total_num_requests=25.0)
    contexts["Router"].deployment_name = "Router"
    return contexts


def test_the_joint_policy_sees_calls_that_went_elsewhere() -> None:
    """The strong tier grows by what was meant for it, the fast one by what spills meanwhile."""
    fast, strong = tier("fast"), tier("strong")
    assert TIER_PREFIX == DEPLOYMENT_PREFIX
    policy = JointPolicy(["fast", "strong"])
    for second in range(60):
        decided, _ = policy(joint_contexts(fast, strong, second))
    assert not policy.failed
    # 20 calls a second of 0.2 s of a replica each, at 0.9: 4.4; four of them missing now.
    assert decided["strong"] == 5
    assert decided["fast"] == 5
    assert decided["Router"] == 2.5


def test_escalations_get_the_strong_tier_its_replicas() -> None:
    """Ten a second that no Router has counted as meant for it: the engines see them come."""
    fast, strong = tier("fast"), tier("strong", min=0, idle_s=600, floors=[])
    policy = JointPolicy(["fast", "strong"])
    for second in range(90):
        contexts = joint_contexts(fast, strong, second)
        contexts["Router"].raw_metrics[WANTED_PREFIX + "strong"] = {
            "r": [TimeStampedValue(NOW_S, 0.0)]
        }
        ended = 10.0 * second
        signals = EngineSignals(2, 0, 0.1, ended, 0.0, ended, 1000 * ended, 400 * ended)
        contexts["strong"] = context(
            strong,
            total_num_requests=2.0,
            raw_metrics=metrics_of(signals),
            current_time=NOW_S + second,
        )
        decided, _ = policy(contexts)
    assert not policy.failed
    # 10 calls a second of 0.2 s of a replica each, at 0.9.
    assert decided["strong"] == 3


@pytest.mark.parametrize("joint", [False, True])
def test_a_context_is_read_once_a_look(joint: bool) -> None:
    """Ray asks ten times a second and makes the metrics when they are read: 2.7 ms for 1,000."""
    reads: list[float] = []
    policy: Any = JointPolicy(["fast"]) if joint else LLMPolicy(**plan_policy(tier()))

    def at(second: float) -> Any:
        def metrics() -> dict[str, Any]:
            reads.append(second)
            return metrics_of(EngineSignals(3, 1, 0.5, 0, 0.0, 0, 0, 0))

        ctx = context(tier(), raw_metrics=metrics, current_time=NOW_S + second)
        return {"fast": ctx} if joint else ctx

    answers = [policy(at(step / 10)) for step in range(25)]
    assert sorted(set(reads)) == [0.0, 1.0, 2.0]
    assert all(answer == answers[0] for answer in answers)
    policy(at(-60.0))
    assert reads[-1] == -60.0
    assert not policy.failed


def test_the_joint_policy_keeps_within_the_gpus() -> None:
    """All tiers together; each keeps its floor."""
    fast, strong = tier("fast"), tier("strong")
    policy = JointPolicy(["fast", "strong"], gpus_max=6)
    for second in range(60):
        decided, _ = policy(joint_contexts(fast, strong, second))
    assert decided["fast"] + decided["strong"] == 6


def test_a_joint_policy_that_fails_leaves_every_tier_as_it_is_or_larger() -> None:
    """A tier that is not there, or not one of ours."""
    policy = JointPolicy(["fast", "huge"])
    contexts = joint_contexts(tier("fast"), tier("strong"), 1)
    decided, state = policy(contexts)
    assert policy.failed
    assert decided["fast"] == 1
    assert state == {}
    assert set(decided) == set(contexts)


@pytest.mark.parametrize(
    ("replicas", "message"),
    [
        ({"policy": "ongoing_calls", "start_s": 5}, "start_s has no effect"),
        ({"min": 0}, "min is 0"),
        ({"policy": "llm", "idle_s": 60}, "set min to 0"),
        ({"policy": "llm", "prompt_tokens_per_s": 5}, "must be set together"),
        ({"policy": "llm", "floors": [{"from": "8", "to": "18:00", "min": 1}]}, "time of day"),
        (
            {"policy": "llm", "floors": [{"from": "08:00", "to": "18:00", "min": 9}]},
            r"above replicas.max \(1\)",
        ),
        (
            {"policy": "llm", "batch_floors": [{"from": "22:00", "to": "06:00", "min": 9}]},
            r"batch_floors: min \(9\) is above",
        ),
        ({"batch_floors": [{"from": "22:00", "to": "06:00", "min": 1}]}, "has no effect"),
        (
            {
                "policy": "llm",
                "floors": [{"from": "08:00", "to": "18:00", "min": 1, "days": ["workdays"]}],
            },
            "is not a day",
        ),
        (
            {
                "policy": "llm",
                "floors": [{"from": "08:00", "to": "18:00", "min": 1, "timezone": "Mars/Base"}],
            },
            "Europe/Berlin",
        ),
    ],
)
def test_a_wrong_config_is_told_how_to_mend_it(replicas: dict[str, Any], message: str) -> None:
    """A key without effect, a floor out of reach, a time that is none."""
    with pytest.raises(ValueError, match=message):
        TierConfig.model_validate({"name": "fast", "model_id": "m", "replicas": replicas})


def test_a_tier_may_have_no_replicas() -> None:
    """With the policy and an idle time."""
    config = tier(min=0, idle_s=600, floors=[])
    assert plan_tier_autoscaling(config)["min_replicas"] == 0
    assert plan_policy(config)["idle_s"] == 600


def test_a_router_has_no_such_policy() -> None:
    """It starts in seconds, and Ray's own does for it."""
    with pytest.raises(ValueError, match="policy"):
        AppConfig.model_validate(
            {
                "tiers": [{"name": "fast", "model_id": "m"}],
                "router": {"replicas": {"policy": "llm"}},
            }
        )
