"""From a tier's config to what Ray is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
from ray.serve._private.request_router.pow_2_router import PowerOfTwoChoicesRequestRouter
from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter

from serve_app.config.tiers import (
    PlacementConfig,
    ReplicasConfig,
    TierConfig,
    TierReplicasConfig,
)
from serve_app.demo import CheckpointMissing
from serve_app.deploy.plan import (
    deployment_name,
    plan_autoscaling,
    plan_deployment,
    plan_engine,
    plan_llm_config,
    plan_need,
    plan_placement,
    plan_request_router,
    resolve_source,
)

CLOSED_ENV = {
    "VLLM_MEDIA_CONNECTOR": "serve_app",
    "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
    "VLLM_MAX_IMAGE_PIXELS": "16777216",
}


def tier(**fields: Any) -> TierConfig:
    return TierConfig(**{"name": "fast", "model_id": "org/model", **fields})


def test_engines_share_a_gpu() -> None:
    """The bundle has a part of a GPU, and vLLM is told to ask for no more than that."""
    shared = tier(
        placement=PlacementConfig(gpus_per_worker=0.25),
        engine={"kv_cache_memory_bytes": 2**30},
        env={"A": "1"},
    )
    plan = plan_llm_config(shared)
    assert plan["placement_group_config"]["bundles"] == [{"CPU": 1.0, "GPU": 0.25}]
    env = {"VLLM_RAY_PER_WORKER_GPUS": "0.25", "A": "1", **CLOSED_ENV}
    assert plan["runtime_env"]["env_vars"] == env


def test_the_whole_plan() -> None:
    """Every option is named, so that no default of Ray's decides in silence."""
    plan = plan_llm_config(
        tier(
            model_source="/models/m",
            accelerator_type="H100",
            engine={"max_model_len": 4096},
            env={"A": "1"},
            replicas=TierReplicasConfig(min=2, max=4, target_ongoing_calls=8.0),
            max_ongoing_calls=32,
            max_queued_calls=64,
            drain_timeout_s=60.0,
        )
    )
    assert plan == {
        "model_loading_config": {"model_id": "org/model", "model_source": "/models/m"},
        "accelerator_type": "H100",
        "accelerator_config": {"kind": "gpu"},
        "engine_kwargs": {"max_model_len": 4096, "allowed_media_domains": ["media.invalid"]},
        "placement_group_config": {
            "bundles": [{"CPU": 1.0, "GPU": 1, "accelerator_type:H100": 0.001}],
            "strategy": "STRICT_PACK",
        },
        "deployment_config": {
            "name": "fast",
            "max_ongoing_requests": 32,
            "max_queued_requests": 64,
            "request_router_config": {
                "request_router_class": "serve_app.leases.ray_router.BalancedRouter",
                "initial_backoff_s": 0.01,
                "backoff_multiplier": 2,
                "max_backoff_s": 0.12,
            },
            "graceful_shutdown_timeout_s": 60.0,
            "graceful_shutdown_wait_loop_s": 0.5,
            "health_check_period_s": 10.0,
            "health_check_timeout_s": 30.0,
            "ray_actor_options": {"num_cpus": 1.0},
            "autoscaling_config": {
                "min_replicas": 2,
                "max_replicas": 4,
                "target_ongoing_requests": 8.0,
                "upscale_delay_s": 10.0,
                "downscale_delay_s": 600.0,
            },
            "logging_config": {"enable_access_log": False},
        },
        "experimental_configs": {"stream_batching_interval_ms": 0},
        "runtime_env": {"env_vars": {"A": "1", **CLOSED_ENV}},
        "log_engine_metrics": True,
    }


def test_a_plan_shares_nothing_with_the_config() -> None:
    """Ray may change what it is given; the frozen config stays as it was."""
    config = tier(engine={"max_model_len": 4096}, env={"A": "1"})
    plan = plan_llm_config(config)
    plan["engine_kwargs"]["seed"] = 1
    plan["runtime_env"]["env_vars"]["B"] = "2"
    plan["experimental_configs"].clear()
    assert (config.engine, config.env) == ({"max_model_len": 4096}, {"A": "1"})
    assert plan_llm_config(config)["experimental_configs"]


@pytest.mark.parametrize(
    ("fields", "bundles"),
    [
        ({"accelerator": "cpu"}, [{"CPU": 1.0}]),
        ({}, [{"CPU": 1.0, "GPU": 1}]),
        ({"engine": {"tensor_parallel_size": 2}}, [{"CPU": 1.0, "GPU": 1}] * 2),
        (
            {"engine": {"tensor_parallel_size": 2, "pipeline_parallel_size": 3}},
            [{"CPU": 1.0, "GPU": 1}] * 6,
        ),
        (
            {
                "accelerator": "cpu",
                "placement": PlacementConfig(
                    cpus_per_worker=0.5, resources_per_worker={"fast_pool": 0.001}
                ),
            },
            [{"CPU": 0.5, "fast_pool": 0.001}],
        ),
    ],
)
def test_one_bundle_a_worker(fields: dict[str, Any], bundles: list[dict[str, float]]) -> None:
    """Each engine worker gets its own CPUs, GPU and custom resources."""
    config = tier(**fields)
    assert plan_placement(config)["bundles"] == bundles
    assert config.workers == len(bundles)


def test_bundles_are_separate_objects() -> None:
    """ray.serve.llm adds the server to the first bundle, and only to that one."""
    first, second = plan_placement(tier(engine={"tensor_parallel_size": 2}))["bundles"]
    first["CPU"] += 1
    assert second["CPU"] == 1.0


@pytest.mark.parametrize("strategy", ["PACK", "STRICT_PACK", "SPREAD", "STRICT_SPREAD"])
def test_the_strategy_is_the_configs(strategy: str) -> None:
    """Ray's four strategies pass through by name."""
    config = tier(placement={"strategy": strategy})
    assert plan_placement(config)["strategy"] == strategy


@pytest.mark.parametrize(
    ("tensor", "pipeline", "gpus_per_node", "strategy"),
    [
        (4, 1, 8, "STRICT_PACK"),
        (4, 2, 8, "STRICT_PACK"),
        (8, 2, 8, "PACK"),
        (1, 1, 1, "STRICT_PACK"),
    ],
)
def test_a_replica_stays_on_one_node_where_it_fits(
    tensor: int, pipeline: int, gpus_per_node: int, strategy: str
) -> None:
    """Pipeline stages go to other nodes only when they must."""
    engine = {"tensor_parallel_size": tensor, "pipeline_parallel_size": pipeline}
    config = tier(engine=engine, placement=PlacementConfig(gpus_per_node=gpus_per_node))
    assert plan_placement(config)["strategy"] == strategy


def test_a_group_of_engines_is_placed_as_one() -> None:
    """The bundles of one engine again and again, a server for each, and labels for them all."""
    config = tier(
        engine={"tensor_parallel_size": 2, "data_parallel_size": 3},
        placement=PlacementConfig(node_labels={"pool": "a"}, cpus_per_server=0.5),
    )
    need = plan_need(config)
    assert need.strategy == "PACK"
    assert [bundle["CPU"] for bundle in need.bundles] == [1.5, 1.0] * 3
    selector = plan_deployment(config)["placement_group_bundle_label_selector"]
    assert selector == [{"pool": "a"}] * 2


def test_a_replica_may_take_a_slot_and_a_pool() -> None:
    """A resource once for the whole replica, labels for every bundle, the server in the first."""
    placement = PlacementConfig(
        resources_per_replica={"strong_slot": 1}, node_labels={"pool": "in(a,b)"}
    )
    config = tier(engine={"tensor_parallel_size": 2}, placement=placement)
    assert plan_placement(config)["bundles"] == [
        {"CPU": 1.0, "GPU": 1, "strong_slot": 1},
        {"CPU": 1.0, "GPU": 1},
    ]
    selector = plan_deployment(config)["placement_group_bundle_label_selector"]
    assert selector == [{"pool": "in(a,b)"}]
    need = plan_need(config)
    assert [bundle["CPU"] for bundle in need.bundles] == [2.0, 1.0]
    assert need.labels == {"pool": "in(a,b)"}
    assert "placement_group_bundle_label_selector" not in plan_deployment(tier())


@pytest.mark.parametrize("replicas", [1, 2, 8, 16, 25, 100, 1000])
def test_a_router_asks_full_replicas_as_often_as_one(replicas: int) -> None:
    """Ray runs two routing tasks a replica, 50 at most; each look asks two replicas."""
    planned = plan_request_router(tier(replicas=TierReplicasConfig(max=replicas)))
    tasks = min(50, 2 * replicas)
    assert 60 <= tasks / planned["max_backoff_s"] <= 101
    assert planned["initial_backoff_s"] <= planned["max_backoff_s"] <= 0.5


def test_the_engines_of_a_group_are_asked_each() -> None:
    """To Ray's request router they are replicas."""
    config = tier(engine={"data_parallel_size": 4}, replicas=TierReplicasConfig(max=2))
    assert plan_request_router(config)["max_backoff_s"] == 0.24


def test_autoscaling_has_both_ends() -> None:
    """A fixed number of replicas is a range of one."""
    plan = plan_autoscaling(ReplicasConfig(min=3, max=3))
    assert (plan["min_replicas"], plan["max_replicas"]) == (3, 3)


@pytest.mark.parametrize(
    ("source", "expected"), [(None, "org/model"), ("s3://bucket/m", "s3://bucket/m")]
)
def test_the_weights_come_from_the_source(source: str | None, expected: str) -> None:
    """The source where it is named, the model id otherwise."""
    assert resolve_source(tier(model_source=source)) == expected


def test_an_unknown_demo_model_is_named() -> None:
    """A typing error in `demo:NAME` fails at once, with the names that exist."""
    with pytest.raises(CheckpointMissing, match="fast, strong, embed and rerank"):
        resolve_source(tier(model_source="demo:huge"))


def test_a_deployment_is_named_after_its_tier() -> None:
    """The dashboard shows which deployment is which tier."""
    assert deployment_name(tier()) == "tier-fast"


@pytest.mark.parametrize(
    ("choice", "expected"),
    [("balanced", PowerOfTwoChoicesRequestRouter), ("session", ConsistentHashRouter)],
)
def test_the_config_says_how_ray_chooses_the_replica(choice: str, expected: type) -> None:
    """By a class of Ray, or a class of ours that chooses as it does."""
    planned = plan_llm_config(tier(replica_choice=choice))["deployment_config"]
    path = planned["request_router_config"]["request_router_class"]
    module, _, name = path.rpartition(".")
    assert issubclass(getattr(import_module(module), name), expected)


@pytest.mark.parametrize(
    ("given", "slots"), [({}, 3), ({"max_loras": 1}, 3), ({"max_loras": 8}, 8)]
)
def test_one_slot_for_adapters_stays_empty_on_a_cpu(given: dict[str, Any], slots: int) -> None:
    """There vLLM gives the last slot to the calls without an adapter."""
    adapters = {"one": "/adapters/one", "two": "/adapters/two"}
    planned = plan_engine(tier(accelerator="cpu", adapters=adapters, engine=given))
    assert planned["enable_lora"] is True
    assert planned["max_loras"] == slots


def test_a_gpu_has_the_slots_that_are_asked_for() -> None:
    """Its kernels leave calls without an adapter alone."""
    planned = plan_engine(tier(adapters={"one": "/adapters/one"}, engine={"max_loras": 1}))
    assert (planned["enable_lora"], planned["max_loras"]) == (True, 1)
