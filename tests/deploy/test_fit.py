"""Whether a replica finds room, and what an operator reads if it does not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.deploy.fit import Need, Room, explain_misfit, has_labels

BUNDLE = {"GPU": 1.0, "CPU": 1.0, "accelerator_type:H100": 0.001}
FOUR = Need((BUNDLE,) * 4, "STRICT_PACK", {})
SIXTEEN = Need((BUNDLE,) * 16, "PACK", {})


def room(
    free: float, total: float = 8, *, kind: str = "H100", held: float = 0, **labels: str
) -> Room:
    """A node with so many GPUs; CPUs are plenty."""
    others = {"CPU": 64.0, f"accelerator_type:{kind}": 1.0}
    return Room(
        labels=labels,
        total={"GPU": total, **others},
        free={"GPU": free, **others},
        holders={"tier-fast": held} if held else {},
    )


@pytest.mark.parametrize(
    ("need", "rooms"),
    [
        (FOUR, [room(4)]),
        (FOUR, [room(1), room(8)]),
        (SIXTEEN, [room(8), room(8)]),
        (Need((BUNDLE,) * 2, "STRICT_SPREAD", {}), [room(1), room(1)]),
        (Need((BUNDLE,), "STRICT_PACK", {"pool": "strong"}), [room(8), room(1, pool="strong")]),
        (Need(({"GPU": 0.1},) * 10, "STRICT_PACK", {}), [room(1)]),
    ],
)
def test_there_is_room(need: Need, rooms: list[Room]) -> None:
    """On one node, on several, on those with the label; floats are not taken too exactly."""
    assert explain_misfit(need, rooms) is None


@pytest.mark.parametrize(
    ("need", "rooms", "words"),
    [
        (FOUR, [room(2, 2), room(1, 1)], "it needs 4 GPU on one node, and the largest of 2 nodes"),
        (
            FOUR,
            [room(3, held=5), room(3, held=5)],
            "the most free of 2 nodes has 3 of 8 (GPUs held there: tier-fast 5); "
            "6 are free in all, but not together",
        ),
        (FOUR, [room(1), room(2)], "4 GPU free on one node, and the most free of 2 nodes has 2"),
        (SIXTEEN, [room(8), room(4)], "it needs 16 GPU together, and 2 nodes have 12 free of 16"),
        (
            FOUR,
            [room(8, kind="A100-80G"), room(8, kind="L4")],
            "none of 2 nodes has GPUs of the type H100; there are A100-80G, L4",
        ),
        (
            Need((BUNDLE,), "STRICT_PACK", {"pool": "strong"}),
            [room(8, pool="fast"), room(8, pool="fast")],
            "no node has the labels pool=strong; there are pool=fast (2 nodes)",
        ),
        (
            Need((BUNDLE,), "STRICT_PACK", {"pool": "strong"}),
            [room(8)],
            "none of 1 node has a label of these names",
        ),
        (
            Need(({**BUNDLE, "slot": 1.0},), "STRICT_PACK", {}),
            [room(8)],
            "none of 1 node has the resource slot",
        ),
        (
            Need((BUNDLE,) * 3, "STRICT_SPREAD", {}),
            [room(8), room(8)],
            "it needs 3 GPU on 3 different nodes",
        ),
        (
            Need(({"CPU": 128.0, "GPU": 1.0},), "STRICT_PACK", {}),
            [room(8)],
            "it needs 128 CPU on one node, and the largest of 1 node has 64",
        ),
        (FOUR, [], "no node has the labels"),
    ],
)
def test_what_is_missing_is_named(need: Need, rooms: list[Room], words: str) -> None:
    """The resource, how much of it, and what there is."""
    found = explain_misfit(need, rooms)
    assert found is not None
    assert words in found


@pytest.mark.parametrize(
    ("selector", "value", "selected"),
    [
        ("a", "a", True),
        ("a", "b", False),
        ("a", None, False),
        ("!a", "b", True),
        ("!a", None, True),
        ("in(a,b)", "b", True),
        ("in(a, b)", "c", False),
        ("!in(a,b)", "c", True),
        ("!in(a,b)", "a", False),
    ],
)
def test_labels_are_selected_as_ray_does(selector: str, value: str | None, selected: bool) -> None:
    """Equal, not equal, one of, none of."""
    labels = {} if value is None else {"zone": value}
    assert has_labels(Room(labels, {}, {}, {}), {"zone": selector}) is selected


@given(st.lists(st.integers(0, 8), min_size=1, max_size=6), st.integers(1, 8))
def test_one_node_is_enough_exactly_if_one_has_enough(free: list[int], wanted: int) -> None:
    """No arrangement of the others helps a tensor-parallel replica."""
    need = Need((BUNDLE,) * wanted, "STRICT_PACK", {})
    assert (explain_misfit(need, [room(n) for n in free]) is None) == (max(free) >= wanted)
