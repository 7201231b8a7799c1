"""Rooms and waiting replicas, from Ray's tables of nodes and placement groups."""

from __future__ import annotations

from typing import Any

import pytest
import ray

from serve_app.deploy import cluster_nodes
from serve_app.deploy.cluster_nodes import count_placed, count_waiting, read_groups, read_rooms
from serve_app.deploy.fit import Room

FAST = "SERVE_REPLICA::llm#tier-fast#abc123"
OTHER_APP = "SERVE_REPLICA::other#tier-fast#abc123"
GANG = "SERVE_GANG::llm_tier-strong_0_1f2e"


def group(name: str, state: str, *bundles: tuple[str, dict[str, float]]) -> dict[str, Any]:
    """A placement group, as `placement_group_table` shows it; each bundle with its node."""
    return {
        "name": name,
        "state": state,
        "bundles": {index: bundle for index, (_, bundle) in enumerate(bundles)},
        "bundles_to_node_id": {index: node for index, (node, _) in enumerate(bundles)},
    }


def groups(*found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {str(index): one for index, one in enumerate(found)}


@pytest.fixture
def _nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two nodes of 8 GPUs, of which the first has labels, and a dead one."""
    resources = {"CPU": 16.0, "GPU": 8.0}
    nodes = [
        {"NodeID": "a", "Alive": True, "Resources": resources, "Labels": {"zone": "1"}},
        {"NodeID": "b", "Alive": True, "Resources": resources},
        {"NodeID": "c", "Alive": False, "Resources": resources},
    ]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)


@pytest.mark.usefixtures("_nodes")
def test_placed_groups_take_room() -> None:
    """All bundles of a node count, by deployment; a group without a place takes nothing."""
    found = groups(
        group(FAST, "CREATED", ("a", {"CPU": 2.0, "GPU": 1.0}), ("a", {"GPU": 2.0})),
        group(GANG, "RESCHEDULING", ("a", {"GPU": 1.0}), ("b", {"GPU": 4.0})),
        group(FAST, "PENDING", ("b", {"GPU": 4.0})),
        group(FAST, "REMOVED", ("b", {"GPU": 4.0})),
    )
    assert read_rooms(found) == [
        Room(
            labels={"zone": "1"},
            total={"CPU": 16.0, "GPU": 8.0},
            free={"CPU": 14.0, "GPU": 4.0},
            holders={"tier-fast": 3.0, "tier-strong": 1.0},
        ),
        Room(
            labels={},
            total={"CPU": 16.0, "GPU": 8.0},
            free={"CPU": 16.0, "GPU": 4.0},
            holders={"tier-strong": 4.0},
        ),
    ]


@pytest.mark.usefixtures("_nodes")
@pytest.mark.parametrize(("name", "holder"), [("training", "training"), ("", "another job")])
def test_others_hold_gpus_too(name: str, holder: str) -> None:
    """A group that is not Serve's counts under its own name, if it has a name."""
    found = groups(group(name, "CREATED", ("b", {"GPU": 1.0, "CPU": 1.0}), ("b", {"CPU": 1.0})))
    assert [dict(room.holders) for room in read_rooms(found)] == [{}, {holder: 1.0}]


def test_replicas_are_counted_by_state() -> None:
    """Waiting replicas count for one application, placed replicas for all applications."""
    found = groups(
        group(FAST, "PENDING"),
        group(FAST, "PENDING"),
        group(OTHER_APP, "PENDING"),
        group(FAST, "CREATED"),
        group(OTHER_APP, "RESCHEDULING"),
        group(FAST, "REMOVED"),
        group(GANG, "PENDING"),
        group(GANG, "CREATED"),
        group("training", "PENDING"),
    )
    assert count_waiting(found, "llm", "tier-fast") == 2
    assert count_placed(found, "tier-fast") == 2
    assert count_waiting(found, "llm", "tier-strong") == 1
    assert count_placed(found, "tier-strong") == 1


def test_the_groups_are_those_that_ray_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's table of placement groups, as it is."""
    found = groups(group(FAST, "CREATED"))
    monkeypatch.setattr(cluster_nodes, "placement_group_table", lambda: found)
    assert read_groups() == found
