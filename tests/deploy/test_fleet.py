"""Nodes that fill up: where each replica lands, and what those lack that land nowhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.deploy.fit import Need, Room, explain_misfit
from serve_app.deploy.fleet import Fleet, fit_all, place_all

BUNDLE = {"GPU": 1.0, "CPU": 1.0}
ONE = Need((BUNDLE,), "STRICT_PACK", {})
FOUR = Need((BUNDLE,) * 4, "STRICT_PACK", {})


def room(free: float, total: float = 8, **labels: str) -> Room:
    """A node with so many GPUs; CPUs are plenty."""
    return Room(labels, {"GPU": total, "CPU": 64.0}, {"GPU": free, "CPU": 64.0}, {})


def test_the_largest_come_first_and_leave_no_holes() -> None:
    """Two small replicas share the node that the large one has opened."""
    placed = place_all([("fast", ONE, 4), ("strong", FOUR, 1)], [room(8), room(8)])
    assert placed.nodes == {"strong": [(0,)], "fast": [(0,)] * 4}
    assert placed.lacking == {}


@pytest.mark.parametrize(
    ("strategy", "group", "free", "nodes"),
    [
        ("STRICT_PACK", 1, [4, 8], (0,)),
        ("PACK", 2, [8, 8], (0,)),
        ("PACK", 2, [3, 3], (0, 1)),
        ("STRICT_SPREAD", 1, [8, 8, 8, 8], (0, 1, 2, 3)),
        ("SPREAD", 1, [8, 8], (0, 1, 0, 0)),
        ("STRICT_PACK", 1, [3, 3], None),
        ("PACK", 4, [3, 3], None),
        ("STRICT_SPREAD", 1, [8, 8, 8], None),
    ],
)
def test_strategies(
    strategy: str, group: int, free: list[float], nodes: tuple[int, ...] | None
) -> None:
    """Together, in whole tensor-parallel groups, each apart, or apart while there are nodes."""
    fleet = Fleet([room(n) for n in free])
    found = fleet.place(Need((BUNDLE,) * 4, strategy, {}, group))
    assert (found and sorted(found)) == (nodes and sorted(nodes))


def test_a_replica_that_has_no_place_takes_nothing() -> None:
    """Half a replica on a node would keep another one from it."""
    fleet = Fleet([room(1), room(1)])
    assert fleet.place(Need((BUNDLE,) * 3, "STRICT_SPREAD", {})) is None
    assert [node.free["GPU"] for node in fleet.rooms] == [1, 1]


def test_labels_and_slots_bound_where_replicas_go() -> None:
    """One on each node with a slot and the label; the third says what it lacks."""
    bundle = {**BUNDLE, "slot": 1.0}
    free = {"GPU": 8.0, "CPU": 64.0, "slot": 1.0}
    rooms = [Room({"zone": zone}, free, free, {}) for zone in "aab"]
    need = Need((bundle,), "STRICT_PACK", {"zone": "a"})
    placed = place_all([("fast", need, 3)], rooms)
    assert placed.nodes["fast"] == [(0,), (1,)]
    assert "replica 3 of 3 has no place: it needs 1 slot free on one node" in placed.lacking["fast"]


def test_torn_groups_have_no_place() -> None:
    """Room for four workers, but for no two together."""
    need = Need((BUNDLE,) * 4, "PACK", {}, group=2)
    lacking = fit_all([("strong", need, 1)], [room(1)] * 4)
    assert "whole tensor-parallel groups" in lacking["strong"]


@given(st.lists(st.integers(0, 8), min_size=1, max_size=6), st.integers(1, 8))
def test_a_place_is_found_exactly_if_none_is_missed(free: list[int], gpus: int) -> None:
    """The fleet and the explanation of a misfit agree."""
    need = Need((BUNDLE,) * gpus, "STRICT_PACK", {})
    rooms = [room(n) for n in free]
    assert (Fleet(rooms).place(need) is None) == (explain_misfit(need, rooms) is not None)


def test_a_thousand_nodes_are_filled_to_the_last_gpu() -> None:
    """Alike nodes are looked at once, so this takes a second and not an hour."""
    placed = place_all([("fast", ONE, 8000)], [room(8)] * 1000)
    assert len(placed.nodes["fast"]) == 8000
    assert placed.lacking == {}
