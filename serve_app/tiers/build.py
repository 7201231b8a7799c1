"""From a tier's config to a Serve application node, by ray.serve.llm's builder."""

from __future__ import annotations

from ray.serve import Application
from ray.serve.llm import LLMConfig, build_llm_deployment

from serve_app.config.tiers import DEPLOYMENT_PREFIX, TierConfig
from serve_app.tiers.engine_args import check_engine_args
from serve_app.tiers.plan import plan_llm_config
from serve_app.tiers.server import TierServer


def build_tier(tier: TierConfig, deployment_cls: type[TierServer] = TierServer) -> Application:
    """The tier as a node of the composition graph; the class is another one in simulations.

    Raises:
        ValueError: the config names an engine argument that vLLM does not have.
    """
    check_engine_args(tier.name, tier.engine)
    config = LLMConfig(**plan_llm_config(tier))
    return build_llm_deployment(
        config,
        name_prefix=DEPLOYMENT_PREFIX,
        bind_kwargs={"sha256sums": tier.sha256sums},
        deployment_cls=deployment_cls,
    )
