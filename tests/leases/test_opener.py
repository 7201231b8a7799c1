"""Places from Ray Serve, asked for over a handle that a test drives."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle

from serve_app.core.errors import TierOverloaded, TierUnavailable
from serve_app.leases.http1 import Address
from serve_app.leases.lease import Opener
from serve_app.leases.opener import RayLeases
from serve_app.leases.signature import LeaseVerifier, parse_lease

ADDRESS: Address = ("10.0.0.1", 8000)


class FakeHandle:
    """A deployment handle whose replica yields its address and then waits for the lease's end."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.options_seen: list[dict[str, Any]] = []
        self.asked: list[tuple[str, bytes]] = []
        self.ended = asyncio.Event()
        self.breaks = False
        self.read_to_end = asyncio.Event()
        self.lease = self

    def options(self, **options: Any) -> FakeHandle:
        self.options_seen.append(options)
        return self

    async def remote(self, lease_id: str, secret: bytes) -> AsyncIterator[Address]:
        self.asked.append((lease_id, secret))
        if self.error is not None:
            raise self.error
        yield ADDRESS
        await self.ended.wait()
        self.read_to_end.set()
        if self.breaks:
            raise ConnectionError


def build(handle: FakeHandle) -> Opener:
    return RayLeases(cast("DeploymentHandle[object]", handle)).open


async def test_a_place_is_where_ray_says() -> None:
    """The grant holds the replica's address and the id that the replica knows."""
    handle = FakeHandle()
    grant = await build(handle)()
    assert grant.address == ADDRESS
    assert [grant.lease_id] == [lease_id for lease_id, _ in handle.asked]
    assert handle.options_seen == [{"stream": True}]


async def test_each_place_has_its_own_id_and_secret() -> None:
    """A lease cannot be guessed from another lease."""
    handle = FakeHandle()
    opener = build(handle)
    await opener()
    await opener()
    (first_id, first_secret), (second_id, second_secret) = handle.asked
    assert len(first_id) == 32
    assert first_id != second_id
    assert first_secret != second_secret


async def test_a_place_signs_with_the_secret_that_the_replica_got() -> None:
    """The replica accepts the signature of the path, the draft and the length of the body."""
    handle = FakeHandle()
    grant = await build(handle)()
    ((_, secret),) = handle.asked
    lease_id, counter, mac = parse_lease(grant.sign(b"/v1/completions", b"4", 17))
    assert lease_id == grant.lease_id
    assert LeaseVerifier(secret).accepts(counter, mac, b"/v1/completions", b"4", b"17")


async def test_ray_sees_the_session() -> None:
    """Its request router may choose the replica by the session."""
    handle = FakeHandle()
    await build(handle)("s")
    assert handle.options_seen[1:] == [{"stream": True, "session_id": "s"}]


async def test_a_queue_that_is_full_is_an_overload() -> None:
    """The caller may try again in a moment."""
    opener = build(FakeHandle(BackPressureError(num_queued_requests=3, max_queued_requests=3)))
    with pytest.raises(TierOverloaded) as caught:
        await opener()
    assert caught.value.retry_after_s == 5


async def test_a_replica_that_cannot_be_asked_is_no_place(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log holds Ray's message; the error that clients see does not."""
    monkeypatch.setattr(logging.getLogger("ray.serve"), "propagate", True)
    with caplog.at_level(logging.WARNING), pytest.raises(TierUnavailable) as caught:
        await build(FakeHandle(RuntimeError("10.0.0.1 died")))()
    assert caught.value.retry_after_s == 2
    assert caught.value.__suppress_context__
    assert "10.0.0.1" not in str(caught.value)
    assert "no lease: RuntimeError" in caplog.text


@pytest.mark.parametrize("breaks", [False, True])
async def test_the_call_of_a_lease_is_read_to_its_end(breaks: bool) -> None:
    """Ray counts the call as ongoing until then; a replica that dies first is no error here."""
    handle = FakeHandle()
    handle.breaks = breaks
    await build(handle)()
    assert not handle.read_to_end.is_set()
    handle.ended.set()
    async with asyncio.timeout(5):
        await handle.read_to_end.wait()
        while len(asyncio.all_tasks()) > 1:
            await asyncio.sleep(0)


async def test_a_listener_is_held_until_its_end() -> None:
    """The event loop alone would let a task go that nothing else refers to."""
    handle = FakeHandle()
    leases = RayLeases(cast("DeploymentHandle[object]", handle))
    await leases.open()
    (listener,) = leases._listening
    handle.ended.set()
    await listener
    await asyncio.sleep(0)
    assert not leases._listening
