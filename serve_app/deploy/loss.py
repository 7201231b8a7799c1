"""The replicas that a lost node takes away, and those that return on other nodes; pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from serve_app.deploy.fit import Room, has_labels, holds
from serve_app.deploy.fleet import Named, Placed, place_all
from serve_app.deploy.pools import NodePool


@dataclass(frozen=True)
class Loss:
    """The loss of one node."""

    left: Mapping[str, int]
    """Replicas that continue to answer, by deployment."""
    lacking: Mapping[str, str]
    """The needs of the replicas that do not return, once every other replica has its place."""

    @property
    def silent(self) -> list[str]:
        """Deployments that answer nothing until a replica has started elsewhere."""
        return [name for name, count in self.left.items() if count == 0]


def lose_each(needs: Sequence[Named], rooms: Sequence[Room]) -> Iterator[Loss]:
    """The loss of each node in turn, for the nodes on which Serve has packed these replicas."""
    placed = place_all(needs, rooms)
    for lost in range(len(rooms)):
        rest = [room for node, room in enumerate(rooms) if node != lost]
        yield Loss(count_left(placed.nodes, lost), place_all(needs, rest).lacking)


def count_left(nodes: Mapping[str, Sequence[tuple[int, ...]]], lost: int) -> dict[str, int]:
    """The number of replicas of each deployment that had no part on the lost node."""
    return {
        name: sum(lost not in replica for replica in replicas) for name, replicas in nodes.items()
    }


def spread_pods(pools: Sequence[NodePool], machines: Sequence[Room]) -> Placed:
    """Place pods as Kubernetes spreads them: on the machine with the fewest of their pool.

    The largest pods come first here, but Kubernetes places pods in the order of their creation.
    Pods whose bound keeps them from all machines are lacking.
    """
    free = [dict(machine.free) for machine in machines]
    nodes: dict[str, list[tuple[int, ...]]] = {pool.name: [] for pool in pools}
    lacking: dict[str, str] = {}
    for pool in sorted(pools, key=lambda pool: (-pool.gpus, -pool.cpus)):
        pod = {name: float(n) for name, n in (("CPU", pool.cpus), ("GPU", pool.gpus)) if n}
        on = Counter({at: 0 for at, room in enumerate(machines) if _suits(room, pool)})
        for _ in range(pool.nodes_min):
            at = _choose(on, free, pod, pool.apart)
            if at is None:
                lacking[pool.name] = f"{pool.nodes_min} pods do not fit the machines"
                break
            on[at] += 1
            free[at] = {name: amount - pod.get(name, 0) for name, amount in free[at].items()}
            nodes[pool.name].append((at,))
    return Placed(nodes, lacking)


def _suits(machine: Room, pool: NodePool) -> bool:
    return has_labels(machine, pool.machines)


def _choose(
    on: Mapping[int, int],
    free: Sequence[Mapping[str, float]],
    pod: Mapping[str, float],
    apart: int | None,
) -> int | None:
    fewest = min(on.values(), default=0)
    able = [
        at for at in on if holds(free[at], pod) and (apart is None or on[at] + 1 - fewest <= apart)
    ]
    return min(able, key=lambda at: (on[at], at), default=None)
