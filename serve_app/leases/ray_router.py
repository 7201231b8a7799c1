"""Ray Serve's request routers of the tiers: they choose as Ray's own, and name the replicas.

Ray carries what a replica's `record_replica_metadata` returns to each process that calls the
deployment, and gives it to the request router there. The interfaces of request routers are public
and alpha in ray 2.60; `tests/leases/test_ray_router.py` fails when an upgrade changes them.
"""

from __future__ import annotations

from ray.serve._private.request_router.pow_2_router import PowerOfTwoChoicesRequestRouter
from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter
from ray.serve.request_router import RequestRouter, RunningReplica

from serve_app.leases.board import Seat, find_board, parse_seat


def read_seats(replicas: list[RunningReplica]) -> dict[str, Seat]:
    """The seats of the replicas that have one, by Ray's ids."""
    found = {each.replica_id.unique_id: parse_seat(each.replica_metadata) for each in replicas}
    return {name: seat for name, seat in found.items() if seat is not None}


class SeatsRouter(RequestRouter):
    """A request router that publishes the seats of the replicas."""

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """The replicas that calls may go to from now on."""
        super().update_replicas(replicas)
        find_board(self._deployment_id.name).publish(read_seats(replicas))


class BalancedRouter(SeatsRouter, PowerOfTwoChoicesRequestRouter):
    """Ray's default: the less loaded of two replicas."""


class SessionRouter(SeatsRouter, ConsistentHashRouter):
    """Ray's choice by a hash of the session."""
