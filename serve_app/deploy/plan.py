"""From a tier's config to the arguments of ray.serve.llm's LLMConfig; pure, without Ray."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from serve_app import demo
from serve_app.config.tiers import DEMO_PREFIX, DEPLOYMENT_PREFIX, ReplicasConfig, TierConfig
from serve_app.deploy.fit import Need

BACKOFF_S_MIN = 0.01
BACKOFF_MULTIPLIER = 2
BACKOFF_S_PER_REPLICA = 0.03
"""The longest backoff of Ray's request router between two looks, for each possible replica.

Where calls wait, the request router gives a free place to the call that has waited for longest. The
task that found the place keeps waiting for its own place, with a growing backoff: up to half a
second by default. Two tasks per replica then grant only four places a second, however many places
are free.

There are two tasks per replica, at most 50, and each look asks two replicas. So with one replica a
Router looks 67 times a second. With 25 replicas and the same backoff a Router would look 1,667
times and send 3,333 requests. So the backoff grows with the number of replicas, which keeps a
Router at 67 looks and 134 requests a second.
"""
BACKOFF_S_MAX = 0.5
"""Ray's own default. With it one Router asks at most 200 times a second."""

NO_HOST = "media.invalid"
"""A name that can have no address (RFC 6761)."""

DRAIN_POLL_S = 0.5
"""How often a draining replica checks whether its last call has ended."""

STREAM_BATCHING = {"stream_batching_interval_ms": 0}
"""Off, because ray.serve.llm would hold tokens back for 50 ms (unused on the lease path)."""


def plan_llm_config(tier: TierConfig) -> dict[str, Any]:
    """The keyword arguments of `ray.serve.llm.LLMConfig` for one tier.

    Raises:
        CheckpointMissing: the tier uses a demo model whose files are missing.
    """
    return {
        "model_loading_config": {
            "model_id": tier.model_id,
            "model_source": resolve_source(tier),
        },
        "accelerator_type": tier.accelerator_type,
        "accelerator_config": {"kind": tier.accelerator},
        "engine_kwargs": plan_engine(tier),
        "placement_group_config": plan_placement(tier),
        "deployment_config": plan_deployment(tier),
        "experimental_configs": dict(STREAM_BATCHING),
        "runtime_env": {"env_vars": plan_env(tier)},
        "log_engine_metrics": True,
    }


def plan_engine(tier: TierConfig) -> dict[str, Any]:
    """vLLM's engine and server arguments.

    The runner of a model that generates nothing is named, because vLLM would make some of these
    models generate: the files of Qwen3-Reranker are those of a model that writes.
    """
    pooling = {} if "generate" in tier.tasks else {"runner": "pooling"}
    return {**pooling, **tier.engine, **plan_media_arguments(tier), **plan_lora(tier)}


def plan_lora(tier: TierConfig) -> dict[str, Any]:
    """vLLM's arguments for adapters.

    In vLLM 0.29 the CPU engine finds an adapter's weights by a number that is -1 for calls without
    one, and torch takes -1 for the last slot (`vllm/lora/ops/torch_ops/lora_ops.py`). One slot
    more than there are adapters stays empty, and is the last.
    """
    if not tier.adapters:
        return {}
    if tier.accelerator != "cpu":
        return {"enable_lora": True}
    given = tier.engine.get("max_loras")
    slots = given if isinstance(given, int) else 0
    return {"enable_lora": True, "max_loras": max(slots, len(tier.adapters) + 1)}


def plan_media_arguments(tier: TierConfig) -> dict[str, Any]:
    """vLLM's bounds of media; its own list of hosts allows all of them where it is empty."""
    if not tier.takes_images:
        return {"allowed_media_domains": [NO_HOST]}
    limits = tier.engine.get("limit_mm_per_prompt")
    given = limits if isinstance(limits, dict) else {}
    return {
        "allowed_media_domains": list(tier.media.allowed_hosts) or [NO_HOST],
        "limit_mm_per_prompt": {"image": tier.media.images_max, "video": 0, **given},
    }


def plan_env(tier: TierConfig) -> dict[str, str]:
    """The environment of a replica and its engine.

    ray.serve.llm passes shares of a GPU to vLLM's workers, but not to the process that makes the
    workers. Without this variable that process would ask Ray for a whole GPU within a bundle that
    has a part of a GPU, and wait for ever.
    """
    env = {**tier.env, **plan_media_env(tier)}
    if tier.placement.gpus_per_worker == 1:
        return env
    return {"VLLM_RAY_PER_WORKER_GPUS": f"{tier.placement.gpus_per_worker:g}", **env}


def plan_media_env(tier: TierConfig) -> dict[str, str]:
    """What keeps vLLM from fetching by itself, and from decoding what is too large."""
    return {
        "VLLM_MEDIA_CONNECTOR": "serve_app",
        "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
        "VLLM_MAX_IMAGE_PIXELS": str(tier.media.image_pixels_max),
    }


def deployment_name(tier: TierConfig) -> str:
    """The name of the tier's deployment in Ray."""
    return DEPLOYMENT_PREFIX + tier.name


def resolve_source(tier: TierConfig) -> str:
    """The place of the weights; `demo:NAME` stands for a checkpoint that comes with the package."""
    if tier.source.startswith(DEMO_PREFIX):
        return str(demo.locate(tier.source.removeprefix(DEMO_PREFIX)))
    return tier.source


def plan_placement(tier: TierConfig) -> dict[str, Any]:
    """One bundle per worker of one engine; ray.serve.llm adds the server process to the first."""
    placement = tier.placement
    bundle: dict[str, float] = {"CPU": placement.cpus_per_worker}
    if tier.accelerator == "gpu":
        bundle["GPU"] = placement.gpus_per_worker
    bundle.update(placement.resources_per_worker)
    if tier.accelerator_type is not None:
        bundle[f"accelerator_type:{tier.accelerator_type}"] = 0.001
    bundles = [dict(bundle) for _ in range(tier.workers)]
    for name, amount in placement.resources_per_replica.items():
        bundles[0][name] = bundles[0].get(name, 0.0) + amount
    return {"bundles": bundles, "strategy": tier.placement_strategy}


def plan_need(tier: TierConfig) -> Need:
    """The cluster resources of one replica, with its server processes: one for each engine."""
    placement = plan_placement(tier)
    first, *others = placement["bundles"]
    first["CPU"] += tier.placement.cpus_per_server
    bundles = (first, *others) * tier.data_parallel_size
    return Need(
        bundles, placement["strategy"], tier.placement.node_labels, tier.tensor_parallel_size
    )


REQUEST_ROUTERS = {
    "balanced": "serve_app.leases.ray_router.BalancedRouter",
    "session": "serve_app.leases.ray_router.SessionRouter",
    "prefix": "serve_app.leases.ray_router.PrefixRouter",
}
"""Classes that also tell a Router where its replicas are; the first two choose as Ray's own."""

LOGGING = {"enable_access_log": False}
"""Serve would write a line for each call and each lease. The Router's access log holds more, and
Serve's log takes a quarter of the CPU that a Router needs for a call (py-spy)."""


def plan_deployment(tier: TierConfig) -> dict[str, Any]:
    """The Serve options of the tier's deployment, every limit named."""
    return {
        "name": tier.name,
        "max_ongoing_requests": tier.max_ongoing_calls,
        "max_queued_requests": tier.max_queued_calls,
        "request_router_config": plan_request_router(tier),
        "graceful_shutdown_timeout_s": tier.drain_timeout_s,
        "graceful_shutdown_wait_loop_s": DRAIN_POLL_S,
        "health_check_period_s": tier.health_check_period_s,
        "health_check_timeout_s": tier.health_check_timeout_s,
        "ray_actor_options": {"num_cpus": tier.placement.cpus_per_server},
        "autoscaling_config": plan_tier_autoscaling(tier),
        "logging_config": dict(LOGGING),
        **plan_labels(tier),
    }


def plan_labels(tier: TierConfig) -> dict[str, Any]:
    """Serve's label selector for the bundles."""
    labels = tier.placement.node_labels
    if not labels:
        return {}
    # A single selector is for all bundles, but Serve repeats it unchanged for each engine of a
    # group.
    times = tier.workers if tier.data_parallel_size > 1 else 1
    return {"placement_group_bundle_label_selector": [dict(labels) for _ in range(times)]}


def plan_request_router(tier: TierConfig) -> dict[str, Any]:
    """Serve's `request_router_config`."""
    chosen = REQUEST_ROUTERS[tier.replica_choice]
    return {"request_router_class": chosen, **plan_backoff(tier)}


def plan_backoff(tier: TierConfig) -> dict[str, Any]:
    """How often a Router checks whether a full tier has a free place again."""
    engines = tier.replicas.max * tier.data_parallel_size
    return {
        "initial_backoff_s": BACKOFF_S_MIN,
        "backoff_multiplier": BACKOFF_MULTIPLIER,
        "max_backoff_s": min(BACKOFF_S_MAX, round(BACKOFF_S_PER_REPLICA * engines, 2)),
    }


def plan_autoscaling(replicas: ReplicasConfig) -> dict[str, Any]:
    """Serve's `autoscaling_config` for a deployment."""
    return {
        "min_replicas": replicas.min,
        "max_replicas": replicas.max,
        "target_ongoing_requests": replicas.target_ongoing_calls,
        "upscale_delay_s": replicas.upscale_delay_s,
        "downscale_delay_s": replicas.downscale_delay_s,
    }


LLM_POLICY = "serve_app.autoscaling.ray_policies:LLMPolicy"

LLM_LOOK_BACK_S = 4.0
"""The period over which Ray averages the calls. Its default of 30 s hides a surge for half a
minute; the policy itself separates growth from chance."""
ROUTER_LOOK_BACK_S = 10.0
"""The same period for Routers, which start in seconds and scale by Ray's own policy. Routers report
at a fifth of this period."""
LLM_METRICS_INTERVAL_S = 2.0
"""How often Routers and replicas report to the controller; by default every 10 s. Ray calls the key
deprecated, in favour of environment variables that ray 2.60 does not read."""


def plan_tier_autoscaling(tier: TierConfig) -> dict[str, Any]:
    """Serve's `autoscaling_config` for a tier: with Ray's own policy, or with ours.

    Ray adds delays to any policy. Our policy has its own delays, so Ray's delays are off.
    """
    replicas = tier.replicas
    planned = plan_autoscaling(replicas)
    if replicas.policy == "ongoing_calls":
        return planned
    return planned | {
        "upscale_delay_s": 0.0,
        "downscale_delay_s": 0.0,
        "look_back_period_s": LLM_LOOK_BACK_S,
        "metrics_interval_s": LLM_METRICS_INTERVAL_S,
        "policy": {"policy_function": LLM_POLICY, "policy_kwargs": plan_policy(tier)},
    }


def plan_router_autoscaling(
    replicas: ReplicasConfig, tiers: Sequence[TierConfig]
) -> dict[str, Any]:
    """Serve's `autoscaling_config` for the Router, which counts calls for a policy of all tiers."""
    planned = plan_autoscaling(replicas)
    if any(tier.replicas.policy == "llm" for tier in tiers):
        planned["metrics_interval_s"] = LLM_METRICS_INTERVAL_S
        planned["look_back_period_s"] = ROUTER_LOOK_BACK_S
    return planned


def plan_policy(tier: TierConfig) -> dict[str, Any]:
    """The rules of `autoscaling.ray_policies.LLMPolicy`, as JSON, because they pass through Ray."""
    replicas = tier.replicas
    return {
        "gpus": tier.workers if tier.accelerator == "gpu" else 0,
        "min": replicas.min,
        "max": replicas.max,
        "capacity": {
            "calls": replicas.target_ongoing_calls,
            "first_token_target_s": replicas.first_token_target_s,
            "kv_used_ratio": replicas.kv_used_ratio_max,
            "busy_ratio": replicas.busy_ratio,
            "prompt_tokens_per_s": replicas.prompt_tokens_per_s,
            "output_tokens_per_s": replicas.output_tokens_per_s,
        },
        "start_s": replicas.start_s,
        "quiet_s": replicas.downscale_delay_s,
        "idle_s": replicas.idle_s,
        "schedule": [window.model_dump(by_alias=True) for window in replicas.floors],
        "batch_schedule": [window.model_dump(by_alias=True) for window in replicas.batch_floors],
    }
