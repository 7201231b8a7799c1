"""What a replica does at a fault of its engine, and what Ray is told."""

from __future__ import annotations

import asyncio
import threading

import pytest

from serve_app.core.call import Endpoint
from serve_app.replica.health import EXIT_S, HeldChecks, ReplicaHealth, choose_hold_s
from serve_app.replica.lease_table import LeaseTable
from serve_app.replica.liveness import EngineFault, WatchPlan
from tests.replica.fake_engine import FakeEngine

PLAN = WatchPlan(60.0, None, Endpoint.COMPLETIONS)
HOLD_S = 60.0


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
            await replica.health.wait(HOLD_S)
            held = asyncio.create_task(replica.health.wait(HOLD_S))
            replica.engine.known = fault
            await held
            assert replica.health.failed
            await lease.wait_ended()
    assert replica.killed == (fault is EngineFault.STUCK)
    assert replica.exits_in == [EXIT_S]
    replica.health.close()


async def test_a_replica_whose_event_loop_is_blocked_ends_at_once() -> None:
    """Its engine is well, but no call gets through."""
    exited = threading.Event()
    plan = WatchPlan(0.5, None, Endpoint.COMPLETIONS)
    health = ReplicaHealth(plan, exit_soon=lambda _: exited.set())
    health.start(FakeEngine(), LeaseTable())
    await asyncio.sleep(0)
    assert exited.wait(20), "the thread looks, although this blocks the loop"
    health.close()


async def test_a_watch_that_fails_harms_no_replica(caplog: pytest.LogCaptureFixture) -> None:
    """For example with another version of vLLM: it is logged, and the replica goes on."""
    engine, exits_in = FakeEngine(), list[float]()
    health = ReplicaHealth(WatchPlan(0.1, None, Endpoint.COMPLETIONS), exit_soon=exits_in.append)
    engine.steps_error = AttributeError("scheduler")
    health.start(engine, LeaseTable())
    async with asyncio.timeout(5):
        while "no longer watched" not in caplog.text:
            await asyncio.sleep(0)
    await asyncio.to_thread(join_loop_watches)
    assert not health.failed
    assert exits_in == []


def join_loop_watches() -> None:
    for thread in threading.enumerate():
        if thread.name == "loop-watch":
            thread.join(20)


async def test_a_replica_that_ends_looks_no_more() -> None:
    """Its engine and its HTTP server end with it, which is no fault."""
    replica = Replica()
    replica.health.start(replica.engine, replica.leases)
    await replica.health.wait(HOLD_S)
    held = asyncio.create_task(replica.health.wait(HOLD_S))
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
    checks = HeldChecks()
    async with asyncio.timeout(5):
        await checks.wait(HOLD_S)
        held = asyncio.create_task(checks.wait(HOLD_S))
        await asyncio.sleep(0)
        # Of a controller that was restarted.
        await checks.wait(HOLD_S)
        assert not held.done()
        checks.release()
        await held
        await checks.wait(HOLD_S)


async def test_a_check_of_rays_is_answered_in_time() -> None:
    """Without a fault too."""
    checks = HeldChecks()
    async with asyncio.timeout(5):
        await checks.wait(0.01)
        await checks.wait(0.01)
        await checks.wait(0.01)


def test_one_of_rays_checks_is_always_waiting() -> None:
    """Ray's period varies by a tenth, and a check that waits for too long counts as failed."""
    assert choose_hold_s(period_s=10, timeout_s=30) > 1.1 * 10
    assert choose_hold_s(period_s=10, timeout_s=12) == 6
    assert choose_hold_s(0, 0) == 0
