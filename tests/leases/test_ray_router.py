"""Ray's request routers as the tiers use them: with Ray's own classes, without a cluster."""

from __future__ import annotations

import inspect

import pytest
from ray.serve._private import replica as ray_replica
from ray.serve._private.common import (
    DeploymentHandleSource,
    DeploymentID,
    ReplicaID,
    RunningReplicaInfo,
)
from ray.serve.request_router import RunningReplica

from serve_app.leases.board import METADATA_KEY, Seat, find_board, parse_seat, render_seat
from serve_app.leases.ray_router import BalancedRouter, SessionRouter

TOKEN = "0123456789abcdef" * 2
SEATS = [Seat(("10.0.0.1", 8000), TOKEN), Seat(("fe80::1", 8001, b"d" * 32), TOKEN)]


class FakeReplica(RunningReplica):
    """A replica as Ray's controller tells of it, without its actor."""

    def __init__(self, number: int, metadata: dict[str, object], deployment: str = "t") -> None:
        self._replica_info = RunningReplicaInfo(
            ReplicaID(f"r{number}", DeploymentID(deployment, "app")),
            None,
            None,
            None,
            f"actor-{number}",
            max_ongoing_requests=4,
            replica_metadata=metadata,
        )
        self._multiplexed_model_ids = set()
        self.ongoing = 0

    async def get_queue_len(self, *, deadline_s: float) -> int:
        return self.ongoing


def build(cls: type[BalancedRouter] | type[SessionRouter], deployment: str) -> BalancedRouter:
    return cls(  # type: ignore[return-value]
        deployment_id=DeploymentID(deployment, "app"),
        handle_source=DeploymentHandleSource.REPLICA,
        use_replica_queue_len_cache=True,
    )


@pytest.mark.parametrize("seat", SEATS)
def test_a_seat_passes_through_rays_metadata(seat: Seat) -> None:
    """With the digest of a certificate, or without."""
    assert parse_seat(render_seat(seat)) == seat


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        ["h", "1", "", TOKEN],
        ["h", 1, "zz", TOKEN],
        ["h", 1, "00", TOKEN],
        ["h", 1, "", "no\r\nx: token"],
        [1, 1, "", TOKEN],
        ["h", 1, "", TOKEN, 5],
    ],
)
def test_other_metadata_is_no_seat(value: object) -> None:
    """Such a replica is not read."""
    assert parse_seat({METADATA_KEY: value}) is None
    assert parse_seat({}) is None


@pytest.mark.parametrize("cls", [BalancedRouter, SessionRouter])
async def test_the_board_names_the_replicas_that_ray_knows(
    cls: type[BalancedRouter] | type[SessionRouter],
) -> None:
    """A replica without a seat is called, but not read."""
    router, board = build(cls, cls.__name__), find_board(cls.__name__)
    news: list[int] = []
    board.listen(lambda: news.append(len(board.seats)))
    first, second = (FakeReplica(n, render_seat(seat)) for n, seat in enumerate(SEATS))
    router.update_replicas([first, second, FakeReplica(3, {})])
    assert board.seats == {"r0": SEATS[0], "r1": SEATS[1]}
    router.update_replicas([second])
    assert board.seats == {"r1": SEATS[1]}
    assert news == [2, 1]
    board.listen(None)


def test_ray_asks_replicas_for_their_metadata() -> None:
    """By the name of the method; an upgrade that drops it takes the streams away."""
    assert ray_replica.RECORD_REPLICA_METADATA_METHOD == "record_replica_metadata"
    assert "replica_metadata" in inspect.signature(RunningReplicaInfo).parameters
    assert isinstance(RunningReplica.replica_metadata, property)
