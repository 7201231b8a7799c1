"""What a replica does at a fault of its engine, and what Ray is told."""

from __future__ import annotations

import asyncio

import pytest

from serve_app.core.call import Endpoint
from serve_app.replica.health import EXIT_S, HeldChecks, ReplicaHealth
from serve_app.replica.lease_table import LeaseTable
from serve_app.replica.liveness import EngineFault, WatchPlan
from tests.replica.fake_engine import FakeEngine

PLAN = WatchPlan(60.0, None, hold_s=60.0, probes=Endpoint.COMPLETIONS)


class Replica:
    """The health of a replica, and what it did."""

    def __init__(self) -> None:
        self.engine, self.leases = FakeEngine(), LeaseTable(60)
        self.killed = 0
        self.exits_in: list[float] = []
        self.health = ReplicaHealth(PLAN, kill=self._kill, exit_soon=self.exits_in.append)

    def _kill(self) -> None:
        self.killed += 1


@pytest.mark.parametrize("fault", EngineFault)
async def test_a_fault_ends_leases_and_the_check_of_rays_that_waits(fault: EngineFault) -> None:
    """At once. Only an engine that hangs has to be killed, and the replica ends by itself later."""
    replica = Replica()
    assert not replica.health.failed
    replica.health.start(replica.engine, replica.leases)
    with replica.leases.open("a", b"secret") as lease:
        async with asyncio.timeout(5):
            await replica.health.wait()
            held = asyncio.create_task(replica.health.wait())
            replica.engine.known = fault
            await held
            assert replica.health.failed
            await lease.wait_ended()
    assert replica.killed == (fault is EngineFault.STUCK)
    assert replica.exits_in == [EXIT_S]
    replica.health.close()


async def test_a_replica_that_ends_looks_no_more() -> None:
    """Its engine and its HTTP server end with it, which is no fault."""
    replica = Replica()
    replica.health.start(replica.engine, replica.leases)
    await replica.health.wait()
    held = asyncio.create_task(replica.health.wait())
    await asyncio.sleep(0)
    replica.health.close()
    replica.engine.known = EngineFault.CLOSED
    async with asyncio.timeout(5):
        await held
    assert not replica.health.failed
    assert replica.exits_in == []


async def test_a_replica_that_never_started_can_be_closed() -> None:
    """Its constructor failed before there was an engine."""
    replica = Replica()
    replica.health.close()
    assert not replica.health.failed


async def test_a_check_of_rays_waits_for_a_fault() -> None:
    """The first belongs to the start of the replica; the next waits, and all later ones do not."""
    checks = HeldChecks(60)
    async with asyncio.timeout(5):
        await checks.wait()
        held = asyncio.create_task(checks.wait())
        await asyncio.sleep(0)
        # Of a controller that was restarted.
        await checks.wait()
        assert not held.done()
        checks.release()
        await held
        await checks.wait()


async def test_a_check_of_rays_is_answered_in_time() -> None:
    """Without a fault too."""
    checks = HeldChecks(0.01)
    async with asyncio.timeout(5):
        await checks.wait()
        await checks.wait()
        await checks.wait()
