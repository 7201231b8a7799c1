"""The nodes that a config needs: the resources of each for Ray, and their number; pure.

`plan_machines` counts whole machines, which tiers share: for `serve-app plan --nodes`, systemd and
`ray up`. `plan_pods` cuts machines into pods of the size of a replica: for Kubernetes. Both place
replicas by `deploy.fleet`, and every generated manifest comes from one of the two.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from serve_app.config.app import AppConfig, RouterConfig
from serve_app.config.serve_file import ROUTER_NAME
from serve_app.config.tiers import TierConfig
from serve_app.deploy.fit import ACCELERATOR, Need, Room, add_up, parse_selector
from serve_app.deploy.fleet import Fleet, Named, place_all, sort_largest_first
from serve_app.deploy.plan import plan_need

POOL_LABEL = "pool"
"""The label of Ray's nodes that names a node's pool."""
ROUTER_POOL = "router"
ROUTER_SLOT = "implicit:Router"
"""The resource that Serve itself adds to each node, to enforce `max_replicas_per_node`."""

GPU_MEMORY_GIB = 64
"""Memory of a pod for each of its GPUs: the engine's processes, pinned buffers, shared memory and
the pages of the weights that are being read. Assumed, not measured: docs/placement.md."""
POD_MEMORY_GIB = 8
"""Memory of a pod for each engine on its CPUs, and for a Router."""


class Unplaceable(Exception):
    """A replica has no place on any number of such nodes; the message says why."""


@dataclass(frozen=True, slots=True)
class NodePool:
    """Equal Ray nodes: the resources that each node offers to Ray, and the number of nodes."""

    name: str
    deployments: tuple[str, ...]
    """The deployments that the nodes are for: tiers by their names, and `Router`."""
    cpus: int
    gpus: int = 0
    accelerator_type: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    """Ray's labels of each node."""
    custom: Mapping[str, int] = field(default_factory=dict)
    """Ray's custom resources of each node."""
    machines: Mapping[str, str] = field(default_factory=dict)
    """The label selectors, in Ray's form, of the machines that the nodes may run on."""
    nodes_min: int = 0
    nodes_max: int = 0
    memory_gib: int = POD_MEMORY_GIB
    apart: int | None = None
    """For pods: how many more of them one machine may hold than another; None: no limit."""

    @property
    def resources(self) -> dict[str, int]:
        """The resources by Ray's names, with the GPU type, which Ray's autoscaler cannot guess."""
        gpus = {"GPU": self.gpus} if self.gpus else {}
        typed = {f"{ACCELERATOR}{self.accelerator_type}": 1} if self.accelerator_type else {}
        return {"CPU": self.cpus, **gpus, **typed, **self.custom}

    @property
    def room(self) -> Room:
        """An empty node of the pool."""
        amounts = {**self.resources, ROUTER_SLOT: 1}
        return Room(labels=self.labels, total=amounts, free=amounts, holders={})

    def rooms(self, nodes: int) -> list[Room]:
        """This many empty nodes of the pool."""
        return [self.room] * nodes


# --- the replicas to place ---


def need_of_router(router: RouterConfig, labels: Mapping[str, str] | None = None) -> Need:
    """One Router replica."""
    slot = 1 / router.max_replicas_per_node if router.max_replicas_per_node else 0.0
    return Need(({"CPU": router.cpus, ROUTER_SLOT: slot},), "STRICT_PACK", labels or {})


def list_needs(app: AppConfig, *, most: bool) -> list[Named]:
    """The replicas of all tiers and the Routers, at their lowest or highest numbers."""
    needs = [(tier.name, plan_need(tier), _replicas(tier, most=most)) for tier in app.deployed]
    replicas = app.router.replicas
    routers = replicas.max if most else replicas.min
    return [*needs, (ROUTER_NAME, need_of_router(app.router), routers)]


def _replicas(tier: TierConfig, *, most: bool) -> int:
    return tier.replicas.max if most else tier.replicas.min


# --- whole machines ---


def plan_machines(app: AppConfig, gpus_per_node: int | None = None) -> tuple[NodePool, ...]:
    """Machines for all tiers and the Routers; tiers share machines that suit them.

    Raises:
        Unplaceable: a replica has no place on any number of machines.
    """
    pools = group_machines(app.deployed, gpus_per_node, app.router)
    least = count_nodes(pools, list_needs(app, most=False))
    most = count_nodes(pools, list_needs(app, most=True))
    return tuple(
        replace(pool, nodes_min=low, nodes_max=max(low, high))
        for pool, low, high in zip(pools, least, most, strict=True)
    )


def group_machines(
    tiers: Iterable[TierConfig],
    gpus_per_node: int | None = None,
    router: RouterConfig | None = None,
) -> list[NodePool]:
    """One pool for tiers with the same GPUs and with labels that one node can have."""
    groups: list[list[TierConfig]] = []
    for tier in tiers:
        group = next((group for group in groups if _suit([*group, tier])), None)
        if group is None:
            groups.append([tier])
        else:
            group.append(tier)
    names = _name_apart(_name_group(group) for group in groups)
    return [
        _build_machine(name, group, gpus_per_node, router)
        for name, group in zip(names, groups, strict=True)
    ]


def _suit(tiers: Sequence[TierConfig]) -> bool:
    kinds = {(tier.accelerator, _gpus_per_node(tier)) for tier in tiers}
    types = {tier.accelerator_type for tier in tiers} - {None}
    return len(kinds) == 1 and len(types) <= 1 and choose_labels(tiers) is not None


def _gpus_per_node(tier: TierConfig) -> int:
    return tier.placement.gpus_per_node if tier.accelerator == "gpu" else 0


def choose_labels(tiers: Iterable[TierConfig]) -> dict[str, str] | None:
    """Labels with which a node suits all of these tiers; None if no labels do."""
    wanted: dict[str, set[str]] = {}
    unwanted: dict[str, set[str]] = {}
    for key, selector in (pair for tier in tiers for pair in tier.placement.node_labels.items()):
        values, without = parse_selector(selector)
        if without:
            unwanted.setdefault(key, set()).update(values)
        else:
            wanted[key] = wanted.get(key, set(values)) & set(values)
    left = {key: sorted(values - unwanted.get(key, set())) for key, values in wanted.items()}
    return {key: values[0] for key, values in left.items()} if all(left.values()) else None


def _build_machine(
    name: str, tiers: Sequence[TierConfig], gpus_per_node: int | None, router: RouterConfig | None
) -> NodePool:
    gpus = _gpus_per_node(tiers[0]) and (gpus_per_node or _gpus_per_node(tiers[0]))
    types = [tier.accelerator_type for tier in tiers if tier.accelerator_type]
    wholes = [_largest_part(tier, gpus) for tier in tiers]
    cpus = max(whole["CPU"] * max(1, gpus // max(1, whole.get("GPU", 0))) for whole in wholes)
    return NodePool(
        name=name,
        deployments=tuple(tier.name for tier in tiers),
        cpus=math.ceil(cpus + _router_cpus(router)),
        gpus=gpus,
        accelerator_type=types[0] if types else None,
        labels=choose_labels(tiers) or {},
        custom=_offer(wholes),
        memory_gib=_memory(gpus, len(tiers)),
    )


def _router_cpus(router: RouterConfig | None) -> float:
    if router is None:
        return 0.0
    return (router.max_replicas_per_node or router.replicas.max) * router.cpus


def _offer(parts: Iterable[Mapping[str, float]]) -> dict[str, int]:
    """Custom resources of a node: at least one of each, or the amount that a replica takes."""
    offered: dict[str, int] = {}
    for part in parts:
        for name, amount in part.items():
            if name not in ("CPU", "GPU") and not name.startswith(ACCELERATOR) and amount > 0:
                offered[name] = max(1, math.ceil(amount), offered.get(name, 0))
    return offered


def _largest_part(tier: TierConfig, gpus: int) -> dict[str, float]:
    """The largest amount of each resource that one replica takes from one node."""
    parts = _cut(tier, gpus)
    names = {name for part in parts for name in part}
    return {name: max(part.get(name, 0.0) for part in parts) for name in names}


def _cut(tier: TierConfig, gpus: int) -> list[dict[str, float]]:
    """The replica in as few parts as its strategy and nodes with this many GPUs allow."""
    need = plan_need(tier)
    bundles = len(need.bundles)
    room = bundles if tier.accelerator == "cpu" else gpus
    if need.strategy == "STRICT_PACK" or (need.strategy == "PACK" and bundles <= room):
        size = bundles
    elif need.strategy == "PACK":
        size = _share(bundles // need.group, max(1, room // need.group)) * need.group
    else:
        size = 1
    if size > room:
        raise Unplaceable(_tell_unplaceable(tier, size, gpus))
    return [dict(add_up(need.bundles[at : at + size])) for at in range(0, bundles, size)]


def _share(groups: int, most: int) -> int:
    """Groups per node, if as few nodes as possible share the groups evenly."""
    return math.ceil(groups / math.ceil(groups / most))


def _tell_unplaceable(tier: TierConfig, size: int, gpus: int) -> str:
    return (
        f"tiers.{tier.name}: a replica needs {size} GPUs on one node, and nodes have {gpus} "
        "(placement.gpus_per_node); take pipeline stages and strategy `auto`, or larger nodes"
    )


def _memory(gpus: int, engines: int) -> int:
    return gpus * GPU_MEMORY_GIB or engines * POD_MEMORY_GIB


def _name_group(tiers: Sequence[TierConfig]) -> str:
    if len(tiers) == 1:
        return tiers[0].name
    types = [tier.accelerator_type for tier in tiers if tier.accelerator_type]
    return types[0] if types else tiers[0].accelerator


def _name_apart(names: Iterable[str]) -> list[str]:
    """Unique names that Kubernetes accepts; the Routers' pool has its own name."""
    taken = {ROUTER_POOL}
    found = []
    for name in names:
        plain = re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")
        choices = (plain, *(f"{plain}-{number}" for number in range(2, len(taken) + 3)))
        found.append(next(choice for choice in choices if choice not in taken))
        taken.add(found[-1])
    return found


# --- the number of nodes ---


def count_nodes(pools: Sequence[NodePool], needs: Sequence[Named]) -> tuple[int, ...]:
    """The number of nodes of each pool that gives all replicas a place, in any order of placing.

    Raises:
        Unplaceable: a replica has no place on any number of nodes.
    """
    owners = {name: at for at, pool in enumerate(pools) for name in pool.deployments}
    counts = _open_nodes(pools, needs, owners)
    while lacking := place_all(needs, _all_rooms(pools, counts)).lacking:
        counts[owners.get(next(iter(lacking)), 0)] += 1
    return tuple(counts)


def _open_nodes(
    pools: Sequence[NodePool], needs: Sequence[Named], owners: Mapping[str, int]
) -> list[int]:
    """Count one more node of its own pool for each replica that does not fit."""
    fleet, counts = Fleet(), [0] * len(pools)
    for name, need, count in sort_largest_first(needs):
        owner = owners.get(name, 0)
        for _ in range(count):
            for _ in _until_placed(fleet, name, need):
                fleet.add(pools[owner].room)
                counts[owner] += 1
    return counts


def _until_placed(fleet: Fleet, name: str, need: Need) -> Iterator[None]:
    """Yield for each missing node; the worst case is a separate node for each worker."""
    for _ in need.bundles:
        if fleet.place(need) is not None:
            return
        yield
    if fleet.place(need) is None:
        raise Unplaceable(f"{name}: a replica has no place on any number of these nodes")


def _all_rooms(pools: Sequence[NodePool], counts: Sequence[int]) -> list[Room]:
    return [room for pool, n in zip(pools, counts, strict=True) for room in pool.rooms(n)]


# --- pods ---


def plan_pods(app: AppConfig) -> tuple[NodePool, ...]:
    """Pods of the size of a replica: a pool for each tier, and a pool for the Routers.

    No pools if the head has room for everything: then every tier computes on CPU, and no rule keeps
    replicas apart.

    Raises:
        Unplaceable: a replica is larger than its strategy allows.
    """
    if fits_on_head(app):
        return ()
    names = _name_apart(tier.name for tier in app.deployed)
    pods = [_build_pod(name, tier) for name, tier in zip(names, app.deployed, strict=True)]
    return (*pods, _build_router_pod(app.router))


def fits_on_head(app: AppConfig) -> bool:
    """Whether one node without GPUs, labels and custom resources is enough."""
    one = app.router.max_replicas_per_node
    together = one is None or one >= app.router.replicas.max
    return together and all(_is_plain(tier) for tier in app.deployed)


def _is_plain(tier: TierConfig) -> bool:
    placement = tier.placement
    bound = (
        placement.node_labels or placement.resources_per_replica or placement.resources_per_worker
    )
    return tier.accelerator == "cpu" and not bound and placement.strategy != "STRICT_SPREAD"


def _build_pod(name: str, tier: TierConfig) -> NodePool:
    parts = _cut(tier, _gpus_per_node(tier))
    part = _largest_part(tier, _gpus_per_node(tier))
    gpus = math.ceil(part.get("GPU", 0))  # Kubernetes gives whole GPUs to a pod
    return NodePool(
        name=name,
        deployments=(tier.name,),
        cpus=math.ceil(part["CPU"]),
        gpus=gpus,
        accelerator_type=tier.accelerator_type,
        labels={POOL_LABEL: name},
        custom=_offer([part]),
        machines=tier.placement.node_labels,
        nodes_min=tier.replicas.min * len(parts),
        nodes_max=tier.replicas.max * len(parts),
        memory_gib=_memory(gpus, max(1, tier.workers // len(parts))),
        apart=_find_bound(tier, part),
    )


def _find_bound(tier: TierConfig, part: Mapping[str, float]) -> int | None:
    """How many replicas fit on a machine that has one of each custom resource."""
    if tier.placement_strategy == "STRICT_SPREAD":
        return 1
    bounds = [max(1, math.floor(1 / part[name])) for name in _offer([part])]
    return min(bounds, default=None)


def _build_router_pod(router: RouterConfig) -> NodePool:
    return NodePool(
        name=ROUTER_POOL,
        deployments=(ROUTER_NAME,),
        cpus=max(1, math.ceil(router.cpus)),
        labels={POOL_LABEL: ROUTER_POOL},
        nodes_min=router.replicas.min,
        nodes_max=router.replicas.max,
        apart=router.max_replicas_per_node,
    )
