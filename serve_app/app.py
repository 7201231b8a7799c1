"""The composition graph: `build` is the `import_path` of every Serve config file.

Router (ingress) ──► one TierServer deployment a tier, weakest first.
"""

# Without `from __future__ import annotations`, because Serve validates a builder's config only if
# the annotation of its parameter is the class itself.
from typing import Any

from ray import serve
from ray.serve import Application, Deployment

from serve_app.config.app import AppConfig
from serve_app.config.serve_file import ROUTER_NAME
from serve_app.deploy.build import build_tier
from serve_app.deploy.plan import DRAIN_POLL_S, LOGGING, plan_router_autoscaling
from serve_app.router import Router


def build(config: AppConfig) -> Application:
    """The whole application from the `args` of a Serve config file.

    Raises:
        ValueError: names the wrong key and what to write instead.
    """
    return compose(config, {tier.name: build_tier(tier) for tier in config.deployed})


def compose(config: AppConfig, tiers: dict[str, Application]) -> Application:
    """The Router over these tiers, by their names."""
    router = config.router
    spread: dict[str, Any] = {}
    if router.max_replicas_per_node is not None:
        spread = {"max_replicas_per_node": router.max_replicas_per_node}
    deployment: Deployment = serve.deployment(
        name=ROUTER_NAME,
        max_ongoing_requests=router.max_ongoing_calls,
        graceful_shutdown_timeout_s=router.drain_timeout_s,
        graceful_shutdown_wait_loop_s=DRAIN_POLL_S,
        autoscaling_config=plan_router_autoscaling(router.replicas, config.tiers),
        logging_config=LOGGING,
        ray_actor_options={"num_cpus": router.cpus, "runtime_env": {"env_vars": dict(router.env)}},
        **spread,
    )(Router)
    return deployment.bind(config, tiers)
