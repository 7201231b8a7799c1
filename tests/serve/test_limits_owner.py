"""The owner of the limits' counters as a real Ray actor."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from serve_app.limits.limit import CountersUnreachable, LimitAsk
from serve_app.limits.owner_actor import RayOwnerPort, find_owner
from serve_app.limits.sliced_counters import SlicedCounters
from serve_app.limits.windows import LimitWindow
from tests.limits.samples import charge_of, limit_of

pytestmark = pytest.mark.serve

PLACE_MS = 60_000
PATIENT_S = 60.0
DAILY = limit_of(200_000, LimitWindow.DAY)


def start_ray(attempts: int) -> None:
    """A local Ray; its node may time out while the last cluster of this machine still ends."""
    for left in reversed(range(attempts)):
        ray.shutdown()  # Earlier tests may have left this process connected to their cluster.
        try:
            ray.init("local", num_cpus=1, include_dashboard=False, namespace="serve")
        except Exception:
            if not left:
                raise
        else:
            return


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray of this process alone."""
    start_ray(attempts=3)
    yield
    ray.shutdown()


def router_of(directory: Path) -> SlicedCounters:
    port = RayOwnerPort(str(directory), PLACE_MS)
    return SlicedCounters(port, "router", deadline_s=PATIENT_S)


async def test_routers_share_one_owner_that_comes_back(cluster: None, tmp_path: Path) -> None:
    """Two Routers find the same actor; when its process is killed, Ray starts it again, and it has
    forgotten nothing."""
    routers = [router_of(tmp_path) for _ in range(2)]
    asks = [LimitAsk(DAILY, 60_000)]
    verdicts = [await router.reserve("c1", asks) for router in routers]
    assert [verdict.refused for verdict in verdicts] == [None, None]
    assert (await routers[0].peek([DAILY])).standings[0].used == 120_000
    ray.kill(find_owner(str(tmp_path), PLACE_MS), no_restart=False)
    assert await used_again(routers[1]) == 120_000
    assert await refused_again(routers[1], LimitAsk(DAILY, 90_000)) == 0
    routers[0].settle("c1", [charge_of(asks[0], 10_000)])
    for router in routers:
        await router.close()
    assert await used_again(router_of(tmp_path)) == 70_000


async def refused_again(router: SlicedCounters, ask: LimitAsk) -> int | None:
    """Which ask the owner refuses; a killed actor may answer once more before it is gone."""
    async with asyncio.timeout(PATIENT_S):
        while True:
            try:
                return (await router.reserve("c2", [ask])).refused
            except CountersUnreachable:
                await asyncio.sleep(0.1)


async def used_again(router: SlicedCounters) -> int:
    """What the owner has counted, as soon as it answers again."""
    async with asyncio.timeout(PATIENT_S):
        while True:
            try:
                return (await router.peek([DAILY])).standings[0].used
            except CountersUnreachable:
                await asyncio.sleep(0.1)
