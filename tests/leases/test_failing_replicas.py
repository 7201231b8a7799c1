"""A tier some of whose replicas fail: the others answer, and none of its calls is lost."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from serve_app.config.runtime import DeadlinesConfig, LeaseConfig
from serve_app.core.errors import GatewayError, TierOverloaded, TierUnavailable, UpstreamFailed
from serve_app.leases.breaker import OPEN_S, OPEN_S_MAX
from serve_app.leases.client import TierClient, UpstreamRequest
from serve_app.leases.http1 import Address
from serve_app.leases.lease import Grant
from serve_app.leases.penalties import Penalties
from tests.fakes import FakeGrant
from tests.leases.replica import Replica, Replicas, running

A: Address = ("10.0.0.1", 1)
DEADLINES = DeadlinesConfig(lease_s=5, first_byte_s=5, gap_s=5, total_s=5)


class LeastBusy(Replicas):
    """Chooses as Ray does at its worst: a replica that fails each call at once is always free."""

    async def __call__(self, session: str | None = None) -> FakeGrant:
        self.granted += 1
        await asyncio.sleep(0)
        return min(self.replicas, key=lambda replica: len(replica.leases)).grant()


class Unreachable(Replica):
    """A replica on which Ray grants places, but whose port this Router does not reach."""

    def __init__(self) -> None:
        super().__init__()
        self._closed = socket.socket()
        self._closed.bind(("127.0.0.1", 0))

    @property
    def address(self) -> Address:
        host, port = self._closed.getsockname()
        return host, port

    async def stop(self) -> None:
        self._closed.close()
        await super().stop()


class WatchedClient(TierClient):
    """Counts how often the tier has gone down, however shortly."""

    downs = 0

    def _mark_down(self) -> None:
        self.downs += 1
        super()._mark_down()


@asynccontextmanager
async def client_of(tier: Replicas) -> AsyncIterator[WatchedClient]:
    client = WatchedClient("strong", tier, LeaseConfig())
    try:
        yield client
    finally:
        client.close()


async def ask(client: TierClient, *, stream: bool = True) -> bytes:
    body = b""
    request = UpstreamRequest("/v1/chat/completions", b"{}", "id", stream=stream)
    deadlines = DEADLINES.start(asyncio.get_running_loop().time())
    async with client.exchange(request, deadlines) as answer:
        while chunk := await answer.read():
            body += chunk
    return body


async def ask_often(client: TierClient, clients: int = 8, calls: int = 25) -> list[GatewayError]:
    """So many clients, each with so many calls after each other: the errors that they get."""
    errors: list[GatewayError] = []

    async def one() -> None:
        for _ in range(calls):
            try:
                await ask(client)
            except GatewayError as error:
                errors.append(error)

    await asyncio.gather(*(one() for _ in range(clients)))
    return errors


@asynccontextmanager
async def tier_of(*replicas: Replica) -> AsyncIterator[LeastBusy]:
    async with running(0) as plain:
        tier = LeastBusy()
        tier.replicas = plain.replicas
        for replica in replicas:
            await replica.start()
            tier.replicas.append(replica)
        yield tier


async def test_one_unreachable_replica_of_four_costs_no_call() -> None:
    """The calls go to the other three, and the tier is not down."""
    async with (
        tier_of(Unreachable(), Replica(), Replica(), Replica()) as tier,
        client_of(tier) as client,
    ):
        assert await ask_often(client) == []
        assert client.downs == 0
        assert sum(len(replica.asked) for replica in tier.replicas) == 200


@pytest.mark.parametrize("status", [500, 503])
async def test_one_replica_of_four_that_answers_500_costs_no_call(status: int) -> None:
    """A call that it refused is asked elsewhere, and it gets few more."""
    bad = Replica()
    bad.status = status
    async with tier_of(bad, Replica(), Replica(), Replica()) as tier, client_of(tier) as client:
        assert await ask_often(client) == []
        assert not client.down
        assert len(bad.asked) < 200 / 4


async def test_a_replica_that_recovers_gets_calls_again() -> None:
    """A penalty ends by itself, and with the first answer for good."""
    bad, good = Replica(), Replica()
    bad.status = 500
    async with tier_of(bad, good) as tier, client_of(tier) as client:
        await ask_often(client, clients=2, calls=5)
        bad.status = 200
        before = len(bad.asked)
        async with asyncio.timeout(3 * OPEN_S):
            while len(bad.asked) < before + 5:
                await ask_often(client, clients=4, calls=1)
                await asyncio.sleep(0.01)
        assert not client._leases.penalties.active(bad.address, asyncio.get_running_loop().time())


@pytest.mark.parametrize(
    ("status", "error"), [(500, UpstreamFailed), (502, UpstreamFailed), (503, TierOverloaded)]
)
async def test_a_tier_that_fails_everywhere_is_asked_twice(
    status: int, error: type[GatewayError]
) -> None:
    """What every engine fails at may be the call's own fault: the tier is not down for that."""
    replicas = [Replica() for _ in range(4)]
    for replica in replicas:
        replica.status = status
    async with tier_of(*replicas) as tier, client_of(tier) as client:
        with pytest.raises(error):
            await ask(client)
        assert sum(len(replica.asked) for replica in replicas) == 2
        assert not client.down
        assert client.open_leases == 0


async def test_a_single_replica_is_not_asked_twice() -> None:
    """There is no elsewhere, so the error is known at once."""
    bad = Replica()
    bad.status = 500
    async with tier_of(bad) as tier, client_of(tier) as client:
        with pytest.raises(UpstreamFailed):
            await ask(client)
        assert len(bad.asked) == 1


async def test_calls_that_fail_everywhere_take_the_tier_from_nobody() -> None:
    """A penalty is a preference: where all replicas have one, they answer as before."""
    replicas = [Replica(), Replica()]
    async with tier_of(*replicas) as tier, client_of(tier) as client:
        for replica in replicas:
            replica.status = 500
        for _ in range(5):
            with pytest.raises(UpstreamFailed):
                await ask(client)
        for replica in replicas:
            replica.status = 200
        assert await ask_often(client, clients=4, calls=2) == []


async def test_a_call_on_a_good_replica_keeps_the_tier_up() -> None:
    """Another call has met none but lost replicas; that the tier answers is seen all the same."""
    good, lost = Replica(), Unreachable()
    good.released.clear()
    request = UpstreamRequest("/v1/chat/completions", b"{}", "id", stream=True)
    async with tier_of(good, lost) as tier, client_of(tier) as client:
        deadlines = DEADLINES.start(asyncio.get_running_loop().time())
        async with client.exchange(request, deadlines) as answer:
            assert len(good.asked) == 1
            tier.replicas = [lost]
            with pytest.raises(TierUnavailable):
                await ask(client)
            assert client.downs == 0
            good.released.set()
            assert await answer.read()


async def test_a_replica_that_has_failed_is_not_asked_while_another_is_there() -> None:
    """Ray would name it each time, because it has the fewest calls."""
    bad, good = Replica(), Replica()
    bad.status = 500
    async with tier_of(bad, good) as tier, client_of(tier) as client:
        await ask(client)
        tier.replicas.reverse()
        client._leases.reuse_s = 0.0  # Each call is a question to Ray, which names the bad one.
        for _ in range(10):
            await ask(client)
        assert len(bad.asked) < 5  # Once for each penalty that has passed, if this machine is slow.
        assert len(good.asked) == 11


async def test_a_tier_none_of_whose_replicas_is_reached_is_down() -> None:
    """Calls that wait for replicas as lost as the others are no reason to think otherwise."""
    async with tier_of(Unreachable(), Unreachable()) as tier, client_of(tier) as client:
        errors = await ask_often(client, clients=8, calls=1)
        assert {type(error) for error in errors} == {TierUnavailable}
        assert client.down


async def test_a_replica_that_dies_under_rays_question_is_not_the_calls_fault() -> None:
    """Ray is asked again while the tier answers others."""
    held, good = Replica(), Replica()
    held.released.clear()
    async with tier_of(held, good) as tier:
        refusals = 1

        async def opener(session: str | None = None) -> Grant:
            nonlocal refusals
            if refusals and len(held.leases):
                refusals -= 1
                raise TierUnavailable(retry_after_s=2)
            return await tier(session)

        client = TierClient("strong", opener, LeaseConfig())
        stream = asyncio.create_task(ask(client))
        async with asyncio.timeout(5):
            while not held.asked:
                await asyncio.sleep(0.005)
        assert await ask(client)
        assert not client.down
        held.released.set()
        await stream
        client.close()


def test_penalties_grow_and_end() -> None:
    """Failures that follow each other double it; failures at one moment are one."""
    penalties = Penalties()
    penalties.note(A, 0.0)
    penalties.note(A, 0.1)
    assert penalties.active(A, 0.9 * OPEN_S)
    assert not penalties.active(A, OPEN_S)
    penalties.note(A, OPEN_S)
    assert penalties.active(A, 2.9 * OPEN_S)
    assert not penalties.active(A, 3 * OPEN_S)
    now = 3 * OPEN_S
    for _ in range(10):
        penalties.note(A, now)
        now += OPEN_S_MAX
    assert not penalties.active(A, now)
    penalties.note(A, now)
    penalties.clear(A)
    assert not penalties.active(A, now)


def test_old_failures_are_forgotten() -> None:
    """The next one begins with a short penalty, and nothing is kept of replicas that have gone."""
    penalties = Penalties()
    penalties.note(A, 0.0)
    assert not penalties.active(A, 100.0)
    assert not penalties._breakers
