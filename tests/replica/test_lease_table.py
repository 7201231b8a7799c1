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
