"""The nodes of the cluster and who holds what there, by Ray's public tables."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

import ray
from ray.util import placement_group_table

from serve_app.tiers.fit import Room

_REPLICA = re.compile(r"SERVE_REPLICA::(?P<app>[^#]+)#(?P<deployment>[^#]+)#")
"""How Serve names the placement group of a replica. Private, and so watched by a test."""

_PLACED = frozenset({"CREATED", "RESCHEDULING"})
_WAITING = frozenset({"PENDING"})

Groups = Mapping[str, Mapping[str, Any]]


def read_groups() -> Groups:
    """Every placement group that Ray knows, by id."""
    groups: Groups = placement_group_table()
    return groups


def read_rooms(groups: Groups) -> list[Room]:
    """Every living node. What is not in a placement group (a Router's CPU) counts as free."""
    taken: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    holders: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for group in groups.values():
        if group["state"] not in _PLACED:
            continue
        for index, node in group["bundles_to_node_id"].items():
            bundle = group["bundles"][index]
            for name, amount in bundle.items():
                taken[node][name] += amount
            if gpus := bundle.get("GPU"):
                holders[node][_deployment(group)] += gpus
    return [
        Room(
            labels=node.get("Labels", {}),
            total=node["Resources"],
            free={name: n - taken[node["NodeID"]][name] for name, n in node["Resources"].items()},
            holders=dict(holders[node["NodeID"]]),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def count_waiting(groups: Groups, app: str, deployment: str) -> int:
    """Replicas of a deployment that have no place yet."""
    found = 0
    for group in groups.values():
        match = _REPLICA.match(group["name"])
        if match is not None and group["state"] in _WAITING:
            found += (match["app"], match["deployment"]) == (app, deployment)
    return found


def count_placed(groups: Groups, deployment: str) -> int:
    """Replicas of a deployment of any application that have their place."""
    placed = (group["name"] for group in groups.values() if group["state"] in _PLACED)
    matches = map(_REPLICA.match, placed)
    return sum(match is not None and match["deployment"] == deployment for match in matches)


def own_workers_by_node() -> Mapping[str, int]:
    """How many bundles of the placement group of this process each node holds."""
    group = ray.util.get_current_placement_group()
    if group is None:
        return {}
    return Counter(placement_group_table(group)["bundles_to_node_id"].values())


def _deployment(group: Mapping[str, Any]) -> str:
    match = _REPLICA.match(group["name"])
    return match["deployment"] if match else group["name"] or "another job"
