"""Ray Serve's request routers of the tiers: they choose as Ray's own, and name the replicas.

Ray carries what a replica's `record_replica_metadata` returns to each process that calls the
deployment, and gives it to the request router there. The interfaces of request routers are public
and alpha in ray 2.60; `tests/leases/test_ray_router.py` fails when an upgrade changes them.
"""

from __future__ import annotations

import random

from ray.serve._private.request_router.pow_2_router import PowerOfTwoChoicesRequestRouter
from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter
from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from serve_app.leases.board import Seat, find_board, parse_seat
from serve_app.leases.ranking import find_ranking


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


RANKED_MAX = 4
"""How many replicas of a ranking are tried in one look; a replica that turns out to be full costs a
message."""


class PrefixRouter(SeatsRouter):
    """The replica that the call ranks first, of those that have a place.

    Without Ray's `FIFOMixin`, which gives the found replica to the call that has waited for
    longest. Each rank is one replica, because within a rank Ray takes the shortest queue.
    """

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """The best replicas of the call's ranking, one by one, and then any two."""
        if not candidate_replicas:
            return []
        wanted: tuple[str, ...] = ()
        if pending_request is not None:
            # Without it Ray looks again at once, and a full tier takes all of the Router's time
            # (https://github.com/ray-project/ray/issues/63238).
            pending_request.routing_context.should_backoff = True
            wanted = find_ranking(next(iter(pending_request.args), None))
        free = self.select_available_replicas(candidate_replicas)
        by_name = {each.replica_id.unique_id: each for each in free} if wanted else {}
        best = [by_name[name] for name in wanted if name in by_name][:RANKED_MAX]
        others = [each for each in candidate_replicas if each not in best]
        two = random.sample(others, min(2, len(others)))
        return [*([each] for each in best), *([two] if two else [])]
