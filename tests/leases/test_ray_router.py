"""Ray's request routers as the tiers use them: with Ray's own classes, without a cluster."""

from __future__ import annotations

import asyncio
import inspect
from contextlib import ExitStack
from typing import cast

import pytest
from ray.serve._private import replica as ray_replica
from ray.serve._private.common import (
    DeploymentHandleSource,
    DeploymentID,
    ReplicaID,
    RequestMetadata,
    RunningReplicaInfo,
)
from ray.serve.request_router import PendingRequest, RunningReplica

from serve_app.leases.board import METADATA_KEY, Seat, find_board, parse_seat, render_seat
from serve_app.leases.ranking import handed_over
from serve_app.leases.ray_router import BalancedRouter, PrefixRouter, SeatsRouter, SessionRouter

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


def build(cls: type[SeatsRouter], deployment: str) -> SeatsRouter:
    return cls(
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


@pytest.mark.parametrize("cls", [BalancedRouter, SessionRouter, PrefixRouter])
async def test_the_board_names_the_replicas_that_ray_knows(cls: type[SeatsRouter]) -> None:
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


def names(ranks: list[list[RunningReplica]]) -> list[list[str]]:
    return [[each.replica_id.unique_id for each in rank] for rank in ranks]


def ask(lease_id: str) -> PendingRequest:
    """What Ray keeps of a call of `lease`, which a Router has made in a context of its own."""
    metadata = RequestMetadata(lease_id, lease_id, call_method="lease", is_streaming=True)
    return PendingRequest([lease_id, b"secret"], {}, metadata)


async def build_ranked(name: str, replicas: int = 6) -> tuple[PrefixRouter, list[FakeReplica]]:
    router = cast("PrefixRouter", build(PrefixRouter, name))
    found = [FakeReplica(n, {}, name) for n in range(replicas)]
    router.update_replicas(list(found))
    await asyncio.sleep(0.01)  # Ray asks new replicas for their queues.
    return router, found


async def test_the_ranking_comes_first_one_by_one() -> None:
    """Then any two others; a call without a ranking goes to any two."""
    router, found = await build_ranked("ranked")
    pending = ask("x")
    with handed_over("x", ("r3", "gone", "r1", "r0", "r2", "r4")):
        ranks = names(await router.choose_replicas(list(found), pending))
    assert ranks[:4] == [["r3"], ["r1"], ["r0"], ["r2"]]
    assert set(ranks[4]) == {"r4", "r5"}
    assert pending.routing_context.should_backoff
    assert [len(rank) for rank in await router.choose_replicas(list(found), ask("y"))] == [2]
    assert await router.choose_replicas([], ask("y")) == []
    assert [len(rank) for rank in await router.choose_replicas(list(found), None)] == [2]


async def test_a_full_replica_is_passed_over() -> None:
    """Without a message to it, as long as Ray's own count is fresh."""
    router, found = await build_ranked("full")
    router.on_new_queue_len_info(found[3].replica_id, 4)
    with handed_over("x", ("r3", "r1")):
        assert names(await router.choose_replicas(list(found), ask("x")))[0] == ["r1"]


async def test_each_call_gets_the_replica_that_was_found_for_it() -> None:
    """Through Ray's own loop: also of calls that come together, and after a full tier."""
    router, found = await build_ranked("each")
    for each in found:
        each.ongoing = 4
        router.on_new_queue_len_info(each.replica_id, 4)
    router.update_backoff_params(0.01, 1, 0.01)
    wanted = {"x": "r5", "y": "r2", "z": "r0"}
    tasks = {}
    with ExitStack() as stack:
        for lease_id, name in wanted.items():
            stack.enter_context(handed_over(lease_id, (name,)))
            tasks[lease_id] = asyncio.create_task(router._choose_replica_for_request(ask(lease_id)))
        await asyncio.sleep(0.1)
        assert not any(task.done() for task in tasks.values())
        for each in found:
            each.ongoing = 0
            router.on_new_queue_len_info(each.replica_id, 0)
        async with asyncio.timeout(10):
            chosen = {lease_id: await task for lease_id, task in tasks.items()}
    assert {key: each.replica_id.unique_id for key, each in chosen.items()} == wanted
