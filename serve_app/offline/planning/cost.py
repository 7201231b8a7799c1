"""What a tier takes of a cluster: time to load, GPUs, and money where a price is given."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from serve_app.offline.planning.roofline import Speed

HOURS_A_MONTH = 365 * 24 / 12


@dataclass(frozen=True)
class Need:
    """The replicas of one tier, as whole groups of GPUs that must be on one node."""

    tier: str
    group_gpus: int
    groups: int
    replicas_min: int
    replicas_max: int

    @property
    def gpus(self) -> int:
        """Of one replica."""
        return self.group_gpus * self.groups


@dataclass(frozen=True)
class Pool:
    """Nodes of one kind, and which replicas of the tiers they can hold."""

    card: str
    nodes: int
    gpus_per_node: int
    min_fits: bool
    max_fits: bool
    gpus_min: int
    """That all tiers take with their fewest replicas."""
    gpus_max: int
    most: dict[str, int]
    """Replicas of each tier at most, with the others at their fewest."""
    nodes_for_min: int
    nodes_for_max: int


def plan_pool(card: str, nodes: int, gpus_per_node: int, needs: Sequence[Need]) -> Pool:
    """Place the tiers' replicas on nodes of one kind."""
    fewest = {need.tier: need.replicas_min for need in needs}
    largest = {need.tier: need.replicas_max for need in needs}
    at_min = count_nodes(needs, fewest, gpus_per_node)
    at_max = count_nodes(needs, largest, gpus_per_node)
    return Pool(
        card=card,
        nodes=nodes,
        gpus_per_node=gpus_per_node,
        min_fits=at_min <= nodes,
        max_fits=at_max <= nodes,
        gpus_min=sum(need.gpus * need.replicas_min for need in needs),
        gpus_max=sum(need.gpus * need.replicas_max for need in needs),
        most={need.tier: _find_most(need, needs, fewest, gpus_per_node, nodes) for need in needs},
        nodes_for_min=int(at_min) if at_min < math.inf else 0,
        nodes_for_max=int(at_max) if at_max < math.inf else 0,
    )


def count_nodes(needs: Sequence[Need], replicas: Mapping[str, int], gpus_per_node: int) -> float:
    """Nodes that these replicas take: groups one by one, the largest first, to the fullest node.

    That is what is needed if Ray never leaves a hole; infinite if a group is larger than a node.
    """
    nodes: Counter[int] = Counter()
    """Nodes by the GPUs that are free on them."""
    for need in sorted(needs, key=lambda need: -need.group_gpus):
        if need.group_gpus > gpus_per_node:
            return math.inf
        for _ in range(need.groups * replicas[need.tier]):
            fitting = [free for free, count in nodes.items() if count and free >= need.group_gpus]
            free = min(fitting, default=gpus_per_node)
            if fitting:
                nodes[free] -= 1
            nodes[free - need.group_gpus] += 1
    return nodes.total()


def _find_most(
    need: Need, needs: Sequence[Need], fewest: Mapping[str, int], gpus_per_node: int, nodes: int
) -> int:
    low, high = 0, nodes * gpus_per_node // need.gpus
    while low < high:
        middle = (low + high + 1) // 2
        if count_nodes(needs, {**fewest, need.tier: middle}, gpus_per_node) <= nodes:
            low = middle
        else:
            high = middle - 1
    return low


@dataclass(frozen=True)
class Cost:
    """What a replica, and the tier, takes. Money is in the currency of the price that was given."""

    checkpoint_bytes: float
    load_s: float
    """To read the checkpoint from disk once; not to compile and to capture CUDA graphs."""
    gpu_hours_a_million: float
    """Of a million output tokens, with the prompts that belong to them, at the utilisation."""
    price_a_million: float | None
    price_a_month_min: float | None
    price_a_month_max: float | None


def price_tier(
    need: Need,
    speed: Speed,
    checkpoint_bytes: float,
    disk_gb_s: float,
    utilization: float,
    price_per_gpu_hour: float | None,
) -> Cost:
    """Put times and prices to a tier whose replicas have this speed."""
    hours = need.gpus * 1e6 / (speed.tokens_per_s * utilization) / 3600
    price = price_per_gpu_hour
    month = None if price is None else price * HOURS_A_MONTH * need.gpus
    return Cost(
        checkpoint_bytes=checkpoint_bytes,
        load_s=checkpoint_bytes / (disk_gb_s * 1e9),
        gpu_hours_a_million=hours,
        price_a_million=None if price is None else hours * price,
        price_a_month_min=None if month is None else month * need.replicas_min,
        price_a_month_max=None if month is None else month * need.replicas_max,
    )
