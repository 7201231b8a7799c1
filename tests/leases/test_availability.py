"""A tier that goes down, comes back, or has much to do, seen from its client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from serve_app.config.runtime import DeadlinesConfig, LeaseConfig
from serve_app.core.deadlines import Deadlines
from serve_app.core.errors import TierUnavailable, UpstreamFailed
from serve_app.leases.client import TierClient, UpstreamRequest
from tests.leases.replica import Replicas, Stats, running

DEADLINES = DeadlinesConfig(lease_s=5, first_byte_s=5, gap_s=5, total_s=5)


def start(deadlines: DeadlinesConfig = DEADLINES) -> Deadlines:
    return deadlines.start(asyncio.get_running_loop().time())


def request(
    *,
    patience_s: float | None = None,
    stream: bool = True,
    path: str = "/v1/chat/completions",
) -> UpstreamRequest:
    return UpstreamRequest(path, b"{}", "id", stream=stream, patience_s=patience_s)


def build_client(tier: Replicas, *, watches_load: bool = False) -> TierClient:
    client = TierClient("strong", tier, LeaseConfig(), board=tier.board)
    client.configure(LeaseConfig(), watches_load=watches_load)
    client.start()
    return client


async def ask(client: TierClient, **options: object) -> bytes:
    body = b""
    async with client.exchange(request(**options), start()) as answer:  # type: ignore[arg-type]
        while chunk := await answer.read():
            body += chunk
    return body


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_call_that_may_leave_does_not_wait_for_a_tier_that_is_not_there() -> None:
    """It leaves after its patience, and then nobody need wait any more."""
    async with running(0) as tier:
        client = build_client(tier)
        with pytest.raises(TierUnavailable):
            await ask(client, patience_s=0.05)
        assert client.down
        assert client.load().down
        client.close()


async def test_a_tier_is_up_again_when_a_replica_can_be_reached() -> None:
    """No call need try it: the Router finds out by itself, and its probe does not count as one."""
    async with running(0) as tier:
        client = build_client(tier)
        with pytest.raises(TierUnavailable):
            await ask(client, patience_s=0.02)
        assert client.waiting == 0
        replica = await tier.add()
        await until(lambda: not client.down)
        assert replica.asked == []
        assert await ask(client, patience_s=0.02)
        await until(lambda: len(replica.leases) == client.open_leases == 0)
        client.close()


async def test_a_call_that_may_not_leave_waits_for_the_tier() -> None:
    """And what it finds out is known to all."""
    async with running(0) as tier:
        client = build_client(tier)
        with pytest.raises(TierUnavailable):
            await ask(client, patience_s=0.02)
        waiting = asyncio.create_task(ask(client))
        await until(lambda: client.waiting == 1)
        await tier.add()
        assert await waiting
        assert not client.down
        client.close()


async def test_a_full_tier_is_not_down() -> None:
    """While this Router holds places there, calls wait for one of them, patient or not."""
    async with running() as tier:
        client = build_client(tier)
        tier.replicas[0].released.clear()
        first = asyncio.create_task(ask(client))
        await until(lambda: client.open_leases == 1)
        replica = tier.replicas.pop()
        second = asyncio.create_task(ask(client, patience_s=0.02))
        await asyncio.sleep(0.1)
        assert not second.done()
        assert not client.down
        replica.released.set()
        assert await first == await second
        tier.replicas.append(replica)
        client.close()


async def test_a_tier_that_dies_under_a_waiting_call_is_left() -> None:
    """Patience counts from when there is no place any more, not from when the call came."""
    async with running() as tier:
        client = build_client(tier)
        (replica,) = tier.replicas
        replica.released.clear()
        stream = asyncio.create_task(ask(client))
        await until(lambda: client.open_leases == 1)
        tier.replicas.clear()
        waiting = asyncio.create_task(ask(client, patience_s=0.05))
        await asyncio.sleep(0.15)
        assert not waiting.done()
        replica.breaks = True
        replica.released.set()
        with pytest.raises(UpstreamFailed):
            await stream
        with pytest.raises(TierUnavailable):
            await waiting
        assert client.down
        client.close()
        await replica.stop()


async def test_replicas_that_nobody_can_reach_are_down() -> None:
    """Ray still grants places, but their ports are closed; the next probe finds them open."""
    async with running() as tier:
        client = build_client(tier)
        await tier.replicas[0].stop()
        with pytest.raises(TierUnavailable):
            await ask(client)
        assert client.down
        del tier.replicas[0]
        await tier.add()
        await until(lambda: not client.down)
        client.close()


async def test_a_refusal_of_rays_is_down_until_it_grants_again() -> None:
    """The probe goes on asking."""
    async with running() as tier:
        client = build_client(tier)
        tier.refusing = True
        with pytest.raises(TierUnavailable):
            await ask(client)
        assert client.down
        tier.refusing = False
        await until(lambda: not client.down)
        client.close()


async def test_the_engines_tell_their_load() -> None:
    """Without a call of this Router; the numbers are sums, that of the cache is the mean."""
    async with running(2) as tier:
        client = build_client(tier)
        for replica, stats in zip(
            tier.replicas, [Stats(3, 1, 0.9), Stats(2, 0, 0.25)], strict=True
        ):
            replica.stats.record(stats, None)
        await until(lambda: client.load().running == 5)
        load = client.load()
        assert (load.ongoing, load.waiting, load.queued) == (0, 0, 1)
        assert load.kv_free_ratio == pytest.approx(0.425, abs=1e-4)
        assert load.replicas == 2
        assert tier.granted == 0
        client.close()


async def test_the_wait_for_the_first_token_is_measured() -> None:
    """A stalled engine shows while the call still waits, and a quick one after it."""
    async with running() as tier:
        client = build_client(tier, watches_load=True)
        tier.replicas[0].released.clear()
        call = asyncio.create_task(ask(client))
        await until(lambda: (client.load().first_token_s or 0) > 0.1)
        tier.replicas[0].released.set()
        await call
        assert (client.load().first_token_s or 0) > 0.1
        client.close()


@pytest.mark.parametrize("options", [{"stream": False}, {"path": "/v1/responses"}])
async def test_some_first_bytes_are_no_token(options: dict[str, object]) -> None:
    """Those of a whole answer come with the last ones, those of responses before any token."""
    async with running() as tier:
        client = build_client(tier, watches_load=True)
        await ask(client, **options)
        assert client.load().first_token_s is None
        client.close()


async def test_a_refusal_is_no_token() -> None:
    """It comes at once, and would make a stalled tier look fast."""
    async with running() as tier:
        client = build_client(tier, watches_load=True)
        tier.replicas[0].status = 400
        await ask(client)
        assert client.load().first_token_s is None
        client.close()


async def test_no_wait_is_measured_where_no_rule_looks() -> None:
    """By default a call is not timed."""
    async with running() as tier:
        client = build_client(tier)
        await ask(client)
        assert client.load().first_token_s is None
        client.close()
