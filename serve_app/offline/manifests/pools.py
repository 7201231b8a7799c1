"""What a config asks of the machines: pools of GPU nodes, CPUs, and time to drain; pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from serve_app.config.app import AppConfig
from serve_app.config.tiers import TierConfig
from serve_app.deploy.plan import plan_need

POOL_LABEL = "pool"
"""The label, of Ray's nodes and of Kubernetes', that names the tier which a node is for."""

STOP_MARGIN_S = 60
"""On top of the longest drain, for Ray's own processes to end."""


@dataclass(frozen=True, slots=True)
class NodePool:
    """Alike nodes for one tier: what each offers to Ray, and how many there are.

    `cpus` holds as many engines as the node's GPUs do, and the Routers that may come on top.
    """

    name: str
    cpus: int
    gpus: int
    accelerator_type: str | None
    nodes_min: int
    nodes_max: int

    @property
    def resources(self) -> dict[str, int]:
        """By Ray's names; Ray's autoscaler cannot guess the GPU's type of a node to come."""
        typed = {f"accelerator_type:{self.accelerator_type}": 1} if self.accelerator_type else {}
        return {"CPU": self.cpus, "GPU": self.gpus, **typed}


def plan_pools(app: AppConfig) -> tuple[NodePool, ...]:
    """One pool for each tier that needs GPUs, in the config's order."""
    return tuple(_plan_pool(tier, app) for tier in app.tiers if tier.accelerator == "gpu")


def _plan_pool(tier: TierConfig, app: AppConfig) -> NodePool:
    gpus = tier.placement.gpus_per_node
    engines_per_node = max(gpus // tier.workers, 1)
    workers_per_node = min(engines_per_node * tier.workers, gpus)
    cpus = (
        engines_per_node * tier.placement.cpus_per_server
        + workers_per_node * tier.placement.cpus_per_worker
        + _routers_per_node(app) * app.router.cpus
    )
    return NodePool(
        name=tier.name,
        cpus=math.ceil(cpus),
        gpus=gpus,
        accelerator_type=tier.accelerator_type,
        nodes_min=_nodes(tier, tier.replicas.min * tier.data_parallel_size),
        nodes_max=_nodes(tier, tier.replicas.max * tier.data_parallel_size),
    )


def _nodes(tier: TierConfig, engines: int) -> int:
    gpus = tier.placement.gpus_per_node
    if tier.workers > gpus:
        return engines * math.ceil(tier.workers / gpus)
    return math.ceil(engines / (gpus // tier.workers))


def _routers_per_node(app: AppConfig) -> int:
    return app.router.max_replicas_per_node or app.router.replicas.max


def head_cpus(app: AppConfig) -> int:
    """Ray's CPUs of the head: none beside pools of workers, else enough for all replicas."""
    if plan_pools(app):
        return 0
    cpus = app.router.cpus * app.router.replicas.max
    for tier in app.tiers:
        bundles = plan_need(tier).bundles
        cpus += tier.replicas.max * sum(bundle.get("CPU", 0.0) for bundle in bundles)
    return math.ceil(cpus)


def drain_s(app: AppConfig) -> int:
    """Seconds after which the last stream of anything that is being replaced has ended."""
    return math.ceil(max(app.router.drain_timeout_s, *(t.drain_timeout_s for t in app.tiers)))


def move_s(app: AppConfig) -> int:
    """Seconds after which a node's replicas run elsewhere and its last stream has ended."""
    return drain_s(app) + math.ceil(max(tier.replicas.start_s for tier in app.tiers))


def stop_s(app: AppConfig) -> int:
    """Seconds that a node may take to stop."""
    return move_s(app) + STOP_MARGIN_S
