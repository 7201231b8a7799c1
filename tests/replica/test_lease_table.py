"""The replica's table of leases."""

from __future__ import annotations

import asyncio

import pytest

from serve_app.replica.lease_table import LeaseTable

SECRET = b"secret"


async def test_a_lease_lives_as_long_as_its_block() -> None:
    """An id opens the door only while Ray's call is open."""
    table = LeaseTable()
    with table.open("a", SECRET) as lease:
        assert table.find("a") is lease
    assert table.find("a") is None
    assert len(table) == 0


async def test_an_unused_lease_ends_by_itself() -> None:
    """A Router that never comes, or has died, holds no place."""
    with LeaseTable(0.02).open("a", SECRET) as lease:
        async with asyncio.timeout(1):
            await lease.wait_ended()


async def test_an_exchange_keeps_its_lease_alive() -> None:
    """A stream may be longer than the idle time."""
    with LeaseTable(0.02).open("a", SECRET) as lease:
        lease.begin_exchange()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.08):
                await asyncio.shield(lease.wait_ended())
        lease.end_exchange()
        async with asyncio.timeout(1):
            await lease.wait_ended()


async def test_an_id_in_use_is_refused() -> None:
    """Two Routers can never share a lease."""
    table = LeaseTable()
    with (
        table.open("a", SECRET),
        pytest.raises(ValueError, match="in use"),
        table.open("a", SECRET),
    ):
        pass


async def test_a_router_can_end_a_lease() -> None:
    """An ended lease returns at once, whatever exchange still runs under it."""
    with LeaseTable().open("a", SECRET) as lease:
        lease.begin_exchange()
        lease.end()
        async with asyncio.timeout(1):
            await lease.wait_ended()
        lease.end_exchange()


async def test_the_leases_of_a_replica_that_is_given_up_end_soon() -> None:
    """Those that are held, with their last exchange, and those that are opened later."""
    table = LeaseTable(60)
    with table.open("idle", SECRET) as idle, table.open("busy", SECRET) as busy:
        busy.begin_exchange()
        table.hasten(0.02)
        with table.open("late", SECRET) as late:
            async with asyncio.timeout(1):
                await idle.wait_ended()
                await late.wait_ended()
        assert table.find("busy") is busy
        busy.end_exchange()
        async with asyncio.timeout(1):
            await busy.wait_ended()
