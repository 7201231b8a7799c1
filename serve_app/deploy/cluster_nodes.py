"""The nodes of the cluster and the resources that are in use there, from Ray's public tables."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import ray
from ray.util import placement_group_table

from serve_app.config.tiers import DEPLOYMENT_PREFIX
from serve_app.deploy.fit import Room

_REPLICA = re.compile(
    r"SERVE_REPLICA::(?P<app>[^#]+)#(?P<deployment>[^#]+)#"
    rf"|SERVE_GANG::(?P<gang_app>.+)_(?P<gang>{DEPLOYMENT_PREFIX}.+)_\d+_[0-9a-f]+$"
)
"""Serve's names for the placement group of a replica, and of a group of data-parallel engines. The
names are private to Serve, so a test watches them."""

_PLACED = frozenset({"CREATED", "RESCHEDULING"})
_WAITING = frozenset({"PENDING"})

Groups = Mapping[str, Mapping[str, Any]]


def read_groups() -> Groups:
    """Every placement group that Ray knows, by id."""
    groups: Groups = placement_group_table()
    return groups


def read_rooms(groups: Groups) -> list[Room]:
    """Every living node. A resource outside a placement group (a Router's CPU) counts as free."""
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
    """Count the replicas of a deployment that have no place yet."""
    waiting = (group["name"] for group in groups.values() if group["state"] in _WAITING)
    return sum(_owner(name) == (app, deployment) for name in waiting)


def count_placed(groups: Groups, deployment: str) -> int:
    """Count the replicas of a deployment, in any application, that have a place."""
    placed = (group["name"] for group in groups.values() if group["state"] in _PLACED)
    return sum(_owner(name)[1] == deployment for name in placed)


def _owner(name: str) -> tuple[str, str]:
    """The application and the deployment of a placement group; empty if it is not Serve's."""
    match = _REPLICA.match(name)
    if match is None:
        return "", ""
    return match["app"] or match["gang_app"], match["deployment"] or match["gang"]


def _deployment(group: Mapping[str, Any]) -> str:
    return _owner(group["name"])[1] or group["name"] or "another job"
