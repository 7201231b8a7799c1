"""The config files that we ship: valid to the last engine argument, and bounded everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from serve_app.config.app import complete_runtime
from serve_app.config.reader import read_serve_config
from serve_app.config.tiers import TierConfig
from serve_app.deploy.plan import plan_deployment, plan_engine, plan_llm_config, plan_placement
from serve_app.offline.checkpoints.checkout import COMMIT
from serve_app.offline.planning.cards import read_card_table
from serve_app.offline.planning.plan import Options, make_plan, plan_tier

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
every_config = pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)


def tier_of(config: str, name: str) -> TierConfig:
    path = next(path for path in CONFIGS if path.stem == config)
    return next(tier for tier in read_serve_config(path).app.tiers if tier.name == name)


def test_there_are_configs() -> None:
    """The tables below are not empty."""
    shipped = {"local", "local-rag", "local-tp2", "prod", "prod-fp8", "prod-qwen3", "prod-rag"}
    assert shipped | {"prod-vl"} <= {path.stem for path in CONFIGS}


@every_config
def test_a_shipped_config_is_valid(path: Path) -> None:
    """Every key is known to us, and every engine argument to the pinned vLLM."""
    from serve_app.deploy.engine_args import check_engine_args

    config = read_serve_config(path)
    rag = path.stem.endswith("-rag")
    chat = ["fast"] if path.stem == "local-rag" else ["fast", "strong"]
    assert [tier.name for tier in config.app.tiers] == chat + ["embed", "rerank"] * rag
    for tier in config.app.tiers:
        check_engine_args(tier.name, tier.engine)


@every_config
@pytest.mark.filterwarnings(
    "ignore:.*metrics_interval_s.*:DeprecationWarning"
)  # see deploy/plan.py
def test_ray_takes_the_plan(path: Path) -> None:
    """ray.serve.llm accepts what we plan, and nothing of Ray starts for it.

    `serve_app.app.build` goes one step further, into `ray.get_runtime_context`, which starts Ray.
    """
    from ray.serve.llm import LLMConfig

    for tier in read_serve_config(path).app.tiers:
        config = LLMConfig(**plan_llm_config(tier))
        assert config.model_id == tier.model_id
        assert config.engine_kwargs == plan_engine(tier)
        assert config.engine_kwargs.items() >= tier.engine.items()
        assert config.placement_group_config == plan_placement(tier)
    assert not ray.is_initialized()


def limits(path: Path) -> Iterator[tuple[str, float]]:
    """Every number that bounds something, but for those counted in bytes."""
    config = read_serve_config(path)
    for tier in config.app.tiers:
        plan = plan_deployment(tier)
        for key, value in (*plan.items(), *plan["autoscaling_config"].items()):
            if not isinstance(value, (str, dict)):
                yield f"{tier.name}.{key}", value
        for key in ("max_model_len", "max_num_seqs"):
            yield f"{tier.name}.engine.{key}", tier.engine[key]
    router = config.app.router
    yield "router.max_ongoing_calls", router.max_ongoing_calls
    yield "router.drain_timeout_s", router.drain_timeout_s
    yield "router.replicas.max", router.replicas.max
    for section in (config.runtime.limits, config.runtime.deadlines, config.runtime.leases):
        for key, value in section:
            # first_token_s bounds nothing by itself: without it, first_byte_s holds.
            bounded = not key.endswith("body_bytes_max") and key != "first_token_s"
            if bounded and isinstance(value, int | float):
                yield key, value


@every_config
def test_every_limit_is_a_limit(path: Path) -> None:
    """No queue, wait or count is missing or as good as endless."""
    found = dict(limits(path))
    assert {"fast.max_queued_requests", "fast.max_ongoing_requests", "total_s"} <= set(found)
    delays_off = {
        f"{tier.name}.{key}_delay_s"
        for tier in read_serve_config(path).app.tiers
        if tier.replicas.policy == "llm"  # which has delays of its own
        for key in ("upscale", "downscale")
    }
    wrong = {key: value for key, value in found.items() if not 0 < value < 1e6}
    assert wrong == dict.fromkeys(delays_off, 0.0)
    config = read_serve_config(path)
    runtime = complete_runtime(config.runtime, config.app.tiers)
    assert 0 < runtime.limits.body_bytes_max < 1e9


@every_config
def test_callers_meet_our_limit_before_rays(path: Path) -> None:
    """The Router's own 429 comes before Ray's bare one."""
    config = read_serve_config(path)
    assert config.runtime.limits.calls_max < config.app.router.max_ongoing_calls


@pytest.mark.parametrize(
    ("config", "name", "workers"),
    [
        ("prod", "fast", 1),
        ("prod", "strong", 4),
        ("prod-fp8", "fast", 1),
        ("prod-fp8", "strong", 2),
        ("prod-qwen3", "fast", 1),
        ("prod-qwen3", "strong", 2),
        ("prod-vl", "fast", 1),
        ("prod-vl", "strong", 4),
    ],
)
def test_gpu_tiers_are_packed(config: str, name: str, workers: int) -> None:
    """A GPU for each worker, of the wanted type, and all of a replica on one node."""
    bundle = {"CPU": 1, "GPU": 1, "accelerator_type:H100": 0.001}
    assert plan_placement(tier_of(config, name)) == {
        "bundles": [bundle] * workers,
        "strategy": "STRICT_PACK",
    }


def test_the_pair_of_the_gpu_check_shares_one_gpu() -> None:
    """Ray gives both engines parts of one, and at its start each finds free what it looks for."""
    card = read_card_table()["H200"]
    tiers = [tier_of("gpu-check", name) for name in ("fast", "strong")]
    assert sum(plan_placement(tier)["bundles"][0]["GPU"] for tier in tiers) == 1
    held = []
    for tier in tiers:
        memory = plan_tier(tier, Options()).variants[0].memory
        fixed = memory.weights_bytes + memory.activation_bytes + memory.overhead_bytes
        held.append(fixed + memory.kv_bytes)
    for tier, neighbour in zip(tiers, reversed(held), strict=True):
        wanted = tier.engine["gpu_memory_utilization"]
        assert isinstance(wanted, float)
        assert wanted * card.memory_bytes < card.memory_bytes - neighbour
    assert sum(held) < 0.95 * card.memory_bytes


@pytest.mark.parametrize(("config", "workers"), [("local", 1), ("local-tp2", 2)])
def test_cpu_tiers_need_no_gpu(config: str, workers: int) -> None:
    """The local strong tier fits on any machine, tensor-parallel or not."""
    assert plan_placement(tier_of(config, "strong")) == {
        "bundles": [{"CPU": 0.2}] * workers,
        "strategy": "STRICT_PACK",
    }


@pytest.mark.parametrize("config", ["prod", "prod-qwen3", "prod-rag", "prod-vl"])
def test_models_of_the_hub_are_pinned(config: str) -> None:
    """By a commit: a branch would let replicas start with different files."""
    path = next(path for path in CONFIGS if path.stem == config)
    for tier in read_serve_config(path).app.tiers:
        assert COMMIT.fullmatch(str(tier.engine["revision"]))


def test_the_tiers_of_retrieval_fit_one_node_and_only_read() -> None:
    """Chat, embeddings and reranking together need the eight GPUs of one node."""
    path = next(path for path in CONFIGS if path.stem == "prod-rag")
    config = read_serve_config(path)
    plan = make_plan(config.app.tiers, Options(nodes=1, router=config.app.router))
    assert plan.ok
    assert [tier.reads for tier in plan.tiers] == [False, False, True, True]
    assert sum(tier.gpus * tier.replicas_max for tier in plan.tiers) == 8
    assert not any(finding.fatal for finding in plan.findings)
    for tier in config.app.tiers[2:]:
        assert plan_engine(tier)["runner"] == "pooling"
