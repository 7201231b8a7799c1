"""From a tier's config to a Serve application node, by ray.serve.llm's builder."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pydantic import JsonValue
from ray.serve import Application
from ray.serve.llm import LLMConfig, build_llm_deployment

from serve_app.config.tiers import DEPLOYMENT_PREFIX, TierConfig
from serve_app.core.call import Endpoint, Task
from serve_app.deploy.plan import plan_llm_config
from serve_app.replica.image_fetch import MediaPlan
from serve_app.replica.liveness import WatchPlan
from serve_app.replica.server import DataParallelTierServer, TierServer

PROBES: Mapping[Task, Endpoint] = {
    "generate": Endpoint.COMPLETIONS,
    "embed": Endpoint.EMBEDDINGS,
    "score": Endpoint.RERANK,
}


def plan_watch(tier: TierConfig) -> WatchPlan:
    """How a replica of the tier watches its engine."""
    watch = tier.engine_watch
    return WatchPlan(watch.stuck_s, watch.idle_probe_s, PROBES[tier.tasks[0]])


def plan_media(tier: TierConfig) -> MediaPlan:
    """From where a replica of the tier may fetch images."""
    media = tier.media
    return MediaPlan(
        media.allowed_hosts,
        media.private_networks,
        media.image_bytes_max,
        media.image_pixels_max,
        media.fetch_s,
    )


def choose_server(tier: TierConfig) -> type[TierServer]:
    """The deployment's class: engines that share experts come in groups."""
    return DataParallelTierServer if tier.data_parallel_size > 1 else TierServer


def check_installed(tier: str, engine: Mapping[str, JsonValue]) -> None:
    """Check a tier's engine arguments against the installed vLLM."""
    # Imported here, because simulations build their applications without vLLM.
    from serve_app.deploy.engine_args import check_engine_args

    check_engine_args(tier, engine)


def build_tier(
    tier: TierConfig,
    deployment_cls: Callable[[TierConfig], type[TierServer]] = choose_server,
    check: Callable[[str, Mapping[str, JsonValue]], None] = check_installed,
) -> Application:
    """The tier as a node of the composition graph; simulations pass another class and check.

    Raises:
        ValueError: the config names an engine argument that vLLM does not have.
    """
    check(tier.name, tier.engine)
    plan = plan_llm_config(tier)
    if tier.adapters:
        from vllm.entrypoints.openai.models.protocol import LoRAModulePath

        # vLLM's own type, which its server needs; only vLLM's command line converts a string to it.
        plan["engine_kwargs"]["lora_modules"] = [
            LoRAModulePath(name, path) for name, path in tier.adapters.items()
        ]
    config = LLMConfig(**plan)
    return build_llm_deployment(
        config,
        name_prefix=DEPLOYMENT_PREFIX,
        bind_kwargs={
            "sha256sums": tier.sha256sums,
            "tls": tier.tls,
            "watch": plan_watch(tier),
            "by_prefix": tier.replica_choice == "prefix",
            "media": plan_media(tier),
            "stream_join_s": tier.stream_join_ms / 1000,
        },
        deployment_cls=deployment_cls(tier),
    )
