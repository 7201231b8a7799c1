"""What a tier costs a cluster: time to read its weights, GPUs, and money if a price is given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from serve_app.config.tiers import TierConfig
from serve_app.deploy.fit import Room, add_up
from serve_app.deploy.fleet import Fleet, Named, place_all, sort_largest_first
from serve_app.deploy.plan import plan_need
from serve_app.deploy.pools import NodePool, Unplaceable, count_nodes, group_machines
from serve_app.offline.planning.roofline import Speed

HOURS_A_MONTH = 365 * 24 / 12


@dataclass(frozen=True)
class Need:
    """The GPUs of one replica of a tier, and how many replicas there are."""

    gpus: int
    replicas_min: int
    replicas_max: int


@dataclass(frozen=True)
class Pool:
    """Nodes of one kind, and the replicas of the tiers that they can hold."""

    card: str
    nodes: int
    gpus_per_node: int
    min_fits: bool
    max_fits: bool
    gpus_min: int
    """GPUs that all tiers take with their fewest replicas."""
    gpus_max: int
    most: dict[str, int]
    """The most replicas of each tier, with the other tiers at their fewest."""
    nodes_for_min: int
    nodes_for_max: int
    together: list[str]
    """Tiers with several replicas at the fewest, all of which one node holds."""


def plan_pool(card: str, nodes: int, gpus_per_node: int, tiers: Sequence[TierConfig]) -> Pool:
    """Place the tiers' replicas on nodes of one kind, with the labels and slots that they need.

    The nodes are the nodes of `deploy.pools`, from which the manifests are generated, too.
    """
    # The card may differ from accelerator_type, and all tiers of this pool are on this card.
    tiers = [tier.model_copy(update={"accelerator_type": None}) for tier in tiers]
    needs = {tier.name: plan_need(tier) for tier in tiers}
    gpus = {name: round(add_up(need.bundles)["GPU"]) for name, need in needs.items()}
    least = [(tier.name, needs[tier.name], tier.replicas.min) for tier in tiers]
    most = [(tier.name, needs[tier.name], tier.replicas.max) for tier in tiers]
    found = _Nodes.build(tiers, gpus_per_node)
    at_min, at_max = found.count(least), found.count(most)
    return Pool(
        card=card,
        nodes=nodes,
        gpus_per_node=gpus_per_node,
        min_fits=at_min <= nodes,
        max_fits=at_max <= nodes,
        gpus_min=sum(gpus[name] * count for name, _, count in least),
        gpus_max=sum(gpus[name] * count for name, _, count in most),
        most={name: found.find_most(name, least, nodes) for name in needs},
        nodes_for_min=int(at_min) if at_min < math.inf else 0,
        nodes_for_max=int(at_max) if at_max < math.inf else 0,
        together=found.find_together(least, nodes) if at_min <= nodes else [],
    )


@dataclass(frozen=True)
class _Nodes:
    """The kinds of nodes that the tiers need; none if a replica is larger than a node."""

    pools: Sequence[NodePool]

    @classmethod
    def build(cls, tiers: Sequence[TierConfig], gpus_per_node: int) -> _Nodes:
        try:
            return cls(group_machines(tiers, gpus_per_node))
        except Unplaceable:
            return cls([])

    def count(self, needs: Sequence[Named]) -> float:
        """Nodes that these replicas take; infinite if one of them fits on no node."""
        return sum(count_nodes(self.pools, needs)) if self.pools else math.inf

    def find_most(self, name: str, least: Sequence[Named], nodes: int) -> int:
        """Replicas of a tier that fit beside the fewest of the others, added one by one as Serve
        does."""
        if not self.pools:
            return 0
        fits = self.count(least) <= nodes
        there = [(other, need, n if fits or other != name else 0) for other, need, n in least]
        rooms = self._share(nodes, name, there)
        if rooms is None:
            return 0
        fleet = Fleet(rooms)
        for _, need, count in sort_largest_first(there):
            for _ in range(count):
                fleet.place(need)
        [(own, begun)] = [(need, count) for other, need, count in there if other == name]
        return begun + sum(1 for _ in iter(lambda: fleet.place(own), None))

    def _share(self, nodes: int, name: str, there: Sequence[Named]) -> list[Room] | None:
        """The rooms of all nodes: each kind has what these replicas need, and one tier's kind the
        rest."""
        counts = list(count_nodes(self.pools, there))
        rest = nodes - sum(counts)
        if rest < 0:
            return None
        counts[next(at for at, pool in enumerate(self.pools) if name in pool.deployments)] += rest
        return [room for pool, n in zip(self.pools, counts, strict=True) for room in pool.rooms(n)]

    def find_together(self, least: Sequence[Named], nodes: int) -> list[str]:
        """The tiers that lose all of their several replicas with one node."""
        placed = place_all(least, self._share(nodes, least[0][0], least) or [])
        return [
            name
            for name, replicas in placed.nodes.items()
            if len(replicas) > 1 and set.intersection(*map(set, replicas))
        ]


@dataclass(frozen=True)
class Cost:
    """The cost of a replica and of the tier. Money is in the currency of the given price."""

    checkpoint_bytes: float
    load_s: float
    """Seconds to read the checkpoint from disk once, without compiling and capturing CUDA
    graphs."""
    gpu_hours_a_million: float
    """GPU-hours of a million output tokens with their prompts, at the utilisation."""
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
    """Compute times and prices of a tier whose replicas have this speed."""
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
