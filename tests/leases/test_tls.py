"""TLS between a Router and a replica's door: the lease says which certificate is the replica's."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator

import pytest

from serve_app.config.runtime import DeadlinesConfig, LeaseConfig
from serve_app.core.errors import TierUnavailable
from serve_app.leases.client import TierClient, UpstreamRequest
from serve_app.leases.http1 import Address, ConnectionBroken, ConnectionPool
from tests.fakes import FakeGrant
from tests.leases.replica import Replica

DEADLINES = DeadlinesConfig(lease_s=1, first_byte_s=1, gap_s=1, total_s=5)
REQUEST = UpstreamRequest("/v1/chat/completions", b'{"a":1}', "id-1", stream=True, patience_s=0.2)


@pytest.fixture
async def replica() -> AsyncIterator[Replica]:
    """A replica that speaks TLS."""
    started = Replica(tls=True)
    await started.start()
    yield started
    await started.stop()


class Opener:
    """Grants places on the replica, at the address that Ray would have carried."""

    def __init__(self, replica: Replica, address: Address) -> None:
        self._replica = replica
        self._address = address

    async def __call__(self, session: str | None = None) -> FakeGrant:
        grant = self._replica.grant()
        await asyncio.sleep(0)
        return FakeGrant(grant.lease_id, self._address, grant.signer)


async def ask(replica: Replica, address: Address) -> bytes:
    """The answer to one call."""
    client = TierClient("fast", Opener(replica, address), LeaseConfig())
    deadlines = DEADLINES.start(asyncio.get_running_loop().time())
    try:
        async with client.exchange(REQUEST, deadlines) as answer:
            return await answer.read()
    finally:
        client.close()


async def test_a_call_passes_by_tls(replica: Replica) -> None:
    """The address of the lease holds the digest, and the door answers as without TLS."""
    assert [len(pin) for pin in replica.address[2:]] == [32]
    assert await ask(replica, replica.address) == b"data: [DONE]\n\n"


async def test_a_server_with_another_certificate_gets_no_byte_of_a_call(replica: Replica) -> None:
    """A machine that took the replica's address cannot read a prompt."""
    host, port, *_ = replica.address
    with pytest.raises(TierUnavailable):
        await ask(replica, (host, port, b"x" * 32))
    assert replica.asked == []


async def test_a_server_without_tls_gets_no_byte_of_a_call() -> None:
    """Nor can one that speaks plain HTTP."""
    plain = Replica()
    await plain.start()
    host, port, *_ = plain.address
    with pytest.raises(ConnectionBroken):
        await ConnectionPool().take((host, port, b"x" * 32))
    await plain.stop()


async def test_the_door_speaks_nothing_but_tls_1_3(replica: Replica) -> None:
    """A Router that expects plain HTTP and a client of TLS 1.2 get no answer."""
    host, port, *_ = replica.address
    with pytest.raises(TierUnavailable):
        await ask(replica, (host, port))
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection(host, port, ssl=context)
    assert replica.asked == []


async def test_each_replica_has_its_own_certificate(replica: Replica) -> None:
    """The certificate of one replica opens no connection to another."""
    other = Replica(tls=True)
    await other.start()
    assert replica.address[2:] != other.address[2:]
    await other.stop()
