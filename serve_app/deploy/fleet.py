"""Nodes that fill up with replicas, in the order in which Serve packs replicas; pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from serve_app.deploy.fit import Amounts, Need, Room, add_up, explain_misfit, has_labels, holds

Named = tuple[str, Need, int]
"""The name of a deployment, the needs of one replica, and the number of replicas."""
State = tuple[tuple[tuple[str, str], ...], tuple[tuple[str, float], ...]]

DECIMALS = 6


class Fleet:
    """Nodes and their free resources.

    Nodes with equal free resources are examined once, so a thousand nodes cost little more than
    ten.
    """

    def __init__(self, rooms: Sequence[Room] = ()) -> None:
        self._rooms: list[Room] = []
        self._alike: dict[State, list[int]] = defaultdict(list)
        for room in rooms:
            self.add(room)

    @property
    def rooms(self) -> Sequence[Room]:
        """The nodes in their current state."""
        return self._rooms

    def add(self, room: Room) -> None:
        """Add a node."""
        self._alike[_state(room)].append(len(self._rooms))
        self._rooms.append(room)

    def place(self, need: Need) -> tuple[int, ...] | None:
        """Take the resources of one replica; the node of each part, None if it does not fit."""
        placing = _Placing(self._rooms, self._alike)
        nodes: list[int] = []
        for part in _split(need, placing):
            node = placing.put(part, need)
            if node is None:
                return None
            nodes.append(node)
        for node, room in placing.changed.items():
            self._change(node, room)
        return tuple(nodes)

    def _change(self, node: int, room: Room) -> None:
        before = _state(self._rooms[node])
        self._alike[before].remove(node)
        if not self._alike[before]:
            del self._alike[before]
        self._alike[_state(room)].append(node)
        self._rooms[node] = room


@dataclass
class _Placing:
    """The placing of one replica: no resource is taken before all parts have a node."""

    rooms: Sequence[Room]
    alike: Mapping[State, Sequence[int]]
    changed: dict[int, Room] = field(default_factory=dict)

    def put(self, part: Amounts, need: Need) -> int | None:
        """Take the node with the least left over; spread strategies prefer nodes without a part."""
        found = [(index, room) for index, room in self._candidates(need) if holds(room.free, part)]
        if not found:
            return None
        spread = need.strategy in ("SPREAD", "STRICT_SPREAD")
        used = 1 if spread else -1
        index, room = min(
            found, key=lambda pair: (used * (pair[0] in self.changed), *_size(pair[1].free))
        )
        free = {name: amount - part.get(name, 0) for name, amount in room.free.items()}
        self.changed[index] = replace(room, free=free)
        return index

    def _candidates(self, need: Need) -> Iterator[tuple[int, Room]]:
        """The nodes that have a part already, and one node of each group of equal nodes."""
        if need.strategy != "STRICT_SPREAD":
            yield from (pair for pair in self.changed.items() if has_labels(pair[1], need.labels))
        for nodes in self.alike.values():
            fresh = next((index for index in nodes if index not in self.changed), None)
            if fresh is not None and has_labels(self.rooms[fresh], need.labels):
                yield fresh, self.rooms[fresh]

    def has_room(self, whole: Amounts, need: Need) -> bool:
        """Whether one node could take the whole replica."""
        return any(holds(room.free, whole) for _, room in self._candidates(need))


def _split(need: Need, placing: _Placing) -> Sequence[Amounts]:
    """The parts that need one node each: the replica, its tensor-parallel groups or workers."""
    whole = add_up(need.bundles)
    if need.strategy == "STRICT_PACK":
        return [whole]
    if need.strategy == "PACK" and placing.has_room(whole, need):
        return [whole]
    size = need.group
    return [
        add_up(need.bundles[start : start + size]) for start in range(0, len(need.bundles), size)
    ]


def _state(room: Room) -> State:
    free = ((name, round(amount, DECIMALS)) for name, amount in room.free.items())
    return tuple(sorted(room.labels.items())), tuple(sorted(free))


def _size(amounts: Amounts) -> tuple[float, float]:
    """The key by which Serve compares replicas, and the resources left on nodes."""
    return amounts.get("GPU", 0), amounts.get("CPU", 0)


@dataclass(frozen=True)
class Placed:
    """The nodes of each placed replica, and the unmet needs, by deployment."""

    nodes: Mapping[str, Sequence[tuple[int, ...]]]
    lacking: Mapping[str, str]


def place_all(needs: Sequence[Named], rooms: Sequence[Room]) -> Placed:
    """Place the replicas of each named need: the largest first, each where least is left over."""
    fleet = Fleet(rooms)
    placed: dict[str, list[tuple[int, ...]]] = {name: [] for name, _, _ in needs}
    lacking: dict[str, str] = {}
    for name, need, count in sort_largest_first(needs):
        for number in range(1, count + 1):
            nodes = fleet.place(need)
            if nodes is None:
                misfit = explain_misfit(need, fleet.rooms) or _TORN
                lacking[name] = f"replica {number} of {count} has no place: {misfit}"
                break
            placed[name].append(nodes)
    return Placed(placed, lacking)


_TORN = "no nodes have room for whole tensor-parallel groups of it"


def sort_largest_first(needs: Sequence[Named]) -> list[Named]:
    """Sort in the order in which Serve places replicas that wait at the same time."""
    return sorted(needs, key=lambda wanted: _size(add_up(wanted[1].bundles)), reverse=True)


def fit_all(needs: Sequence[Named], rooms: Sequence[Room]) -> dict[str, str]:
    """The resources missing to replicas that do not fit, by deployment."""
    return dict(place_all(needs, rooms).lacking)
