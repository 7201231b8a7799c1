"""Whether a replica fits on the nodes in their current state, and if not, what is missing; pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

Amounts = Mapping[str, float]

ROUNDING = 1e-6
"""The tolerance of sums: Ray counts in ten-thousandths, and sums of floats are a little off."""

ACCELERATOR = "accelerator_type:"
_SELECTOR = re.compile(r"(?P<no>!?)(?:in\((?P<several>.*)\)|(?P<one>.*))")


@dataclass(frozen=True, slots=True)
class Need:
    """The needs of one replica: the resources of each worker, and the workers' placement."""

    bundles: tuple[Amounts, ...]
    strategy: str
    labels: Mapping[str, str]
    group: int = 1
    """The size of a tensor-parallel group: bundles in a row that must be on one node."""


@dataclass(frozen=True, slots=True)
class Room:
    """One node: its total and free resources, by Ray's names.

    `holders` says how many GPUs each deployment holds there.
    """

    labels: Mapping[str, str]
    total: Amounts
    free: Amounts
    holders: Amounts


def explain_misfit(need: Need, rooms: Sequence[Room]) -> str | None:
    """The resources that a replica lacks, as one sentence; None if the replica fits now."""
    chosen = [room for room in rooms if has_labels(room, need.labels)]
    if not chosen:
        wanted = ", ".join(f"{key}={value}" for key, value in need.labels.items())
        return f"no node has the labels {wanted}; {_describe_labels(need, rooms)}"
    for name in dict.fromkeys(name for bundle in need.bundles for name in bundle):
        if not any(room.total.get(name, 0) > 0 for room in chosen) and _asks(need, name):
            return _describe_unknown(name, chosen)
    if need.strategy == "STRICT_PACK":
        return _explain_one_node(need, chosen)
    return _explain_several(need, chosen)


def has_labels(room: Room, labels: Mapping[str, str]) -> bool:
    """Whether a node has all of these labels, by the rules of Ray's selectors."""
    return all(_selects(value, room.labels.get(key)) for key, value in labels.items())


def _selects(selector: str, value: str | None) -> bool:
    wanted, without = parse_selector(selector)
    return (value in wanted) != without


def parse_selector(selector: str) -> tuple[list[str], bool]:
    """The values that a selector of Ray names, and whether it excludes these values."""
    match = _SELECTOR.fullmatch(selector)
    assert match is not None, "the pattern takes any text"
    several = match["several"]
    values = [match["one"]] if several is None else [part.strip() for part in several.split(",")]
    return values, bool(match["no"])


def _asks(need: Need, name: str) -> bool:
    return any(bundle.get(name, 0) > 0 for bundle in need.bundles)


def add_up(bundles: Iterable[Amounts]) -> Amounts:
    """The sum of several amounts, by name."""
    total: dict[str, float] = {}
    for bundle in bundles:
        for name, amount in bundle.items():
            total[name] = total.get(name, 0) + amount
    return total


def holds(have: Amounts, need: Amounts) -> bool:
    """Whether the free amount of every resource is large enough."""
    return all(have.get(name, 0) + ROUNDING >= amount for name, amount in need.items())


def _explain_one_node(need: Need, rooms: Sequence[Room]) -> str | None:
    whole = add_up(need.bundles)
    if any(holds(room.free, whole) for room in rooms):
        return None
    large = [room for room in rooms if holds(room.total, whole)]
    if not large:
        name = _scarcest(whole, [room.total for room in rooms])
        most = max(room.total.get(name, 0) for room in rooms)
        return (
            f"it needs {_amount(whole, name)} on one node, and the largest of "
            f"{_nodes(rooms)} has {most:g}"
        )
    name = _scarcest(whole, [room.free for room in large])
    best = max(large, key=lambda room: room.free.get(name, 0))
    text = (
        f"it needs {_amount(whole, name)} free on one node, and the most free of "
        f"{_nodes(large)} has {best.free.get(name, 0):g} of "
        f"{best.total.get(name, 0):g}{_describe_holders(best)}"
    )
    in_all = sum(room.free.get(name, 0) for room in large)
    if in_all + ROUNDING >= whole[name]:
        text += f"; {in_all:g} are free in all, but not together"
    return text


def _explain_several(need: Need, rooms: Sequence[Room]) -> str | None:
    apart = need.strategy == "STRICT_SPREAD"
    if _pack(need.bundles, [room.free for room in rooms], apart=apart):
        return None
    whole = add_up(need.bundles)
    name = _scarcest(whole, [add_up(room.free for room in rooms)])
    free, total = (sum(amounts.get(name, 0) for amounts in side) for side in _sides(rooms))
    where = f"on {len(need.bundles)} different nodes" if apart else "together"
    return (
        f"it needs {_amount(whole, name)} {where}, and {_nodes(rooms)} have {free:g} free "
        f"of {total:g}"
    )


def _sides(rooms: Sequence[Room]) -> tuple[list[Amounts], list[Amounts]]:
    return [room.free for room in rooms], [room.total for room in rooms]


def _pack(bundles: Sequence[Amounts], have: Sequence[Amounts], *, apart: bool) -> bool:
    """First fit, which is exact for equal bundles; the bundles of a replica are nearly equal."""
    left = [dict(amounts) for amounts in have]
    for bundle in bundles:
        room = next((room for room in left if holds(room, bundle)), None)
        if room is None:
            return False
        if apart:
            left.remove(room)
        for name, amount in bundle.items():
            room[name] -= amount
    return True


def _scarcest(whole: Amounts, have: Sequence[Amounts]) -> str:
    """The resource of which most is missing, GPUs before all others."""
    names = sorted(whole, key=lambda name: (name != "GPU", name.startswith(ACCELERATOR), name))
    lacking = [
        name for name in names if all(not holds(amounts, {name: whole[name]}) for amounts in have)
    ]
    return (lacking or names)[0]


def _amount(amounts: Amounts, name: str) -> str:
    return f"{amounts[name]:g} {name}"


def _nodes(rooms: Sequence[Room]) -> str:
    return "1 node" if len(rooms) == 1 else f"{len(rooms)} nodes"


def _describe_holders(room: Room) -> str:
    held = ", ".join(f"{name} {amount:g}" for name, amount in sorted(room.holders.items()))
    return f" (GPUs held there: {held})" if held else ""


def _describe_unknown(name: str, rooms: Sequence[Room]) -> str:
    if not name.startswith(ACCELERATOR):
        return f"none of {_nodes(rooms)} has the resource {name}"
    names = {key for room in rooms for key in room.total if key.startswith(ACCELERATOR)}
    kinds = {key.removeprefix(ACCELERATOR) for key in names}
    there = f"; there are {', '.join(sorted(kinds))}" if kinds else ""
    return f"none of {_nodes(rooms)} has GPUs of the type {name.removeprefix(ACCELERATOR)}{there}"


def _describe_labels(need: Need, rooms: Sequence[Room]) -> str:
    found = Counter(
        f"{key}={room.labels[key]}" for room in rooms for key in need.labels if key in room.labels
    )
    if not found:
        return f"none of {_nodes(rooms)} has a label of these names (`ray start --labels`)"
    return "there are " + ", ".join(f"{label} ({_count(n)})" for label, n in sorted(found.items()))


def _count(nodes: int) -> str:
    return f"{nodes} node" if nodes == 1 else f"{nodes} nodes"
