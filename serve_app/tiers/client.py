"""One tier as the pipeline sees it: lease a replica, talk HTTP to its engine, give it back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import Context

from serve_app.config.runtime import DeadlinesConfig, LeaseConfig
from serve_app.core.errors import (
    DeadlineExceeded,
    TierOverloaded,
    TierUnavailable,
    UpstreamFailed,
)
from serve_app.tiers.draft_report import DRAFT_TOKENS_HEADER
from serve_app.tiers.http1 import (
    Connection,
    ConnectionBroken,
    ConnectionPool,
    ExchangeTimeout,
    Headers,
)
from serve_app.tiers.lease_pool import Lease, LeasePool, Opener

LEASE_HEADER = b"x-lease-id"
LEASE_REFUSED_HEADER = b"x-lease-refused"
LEASE_PATH = "/lease"
"""A request to it ends the lease that it is sent under."""

END_LEASE_S = 2.0
"""How long a replica may take to end a lease before it is left to find out by itself."""

ATTEMPTS_MAX = 3
"""Leases tried for one call while no replica has begun to answer it."""


class Upstream:
    """An engine's answer: its head is known, its body is read piece by piece."""

    __slots__ = ("_connection", "headers", "status")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.status = connection.status
        self.headers: Headers = connection.headers

    async def read(self) -> bytes:
        """The body bytes that have come since the last call, b'' after the last ones.

        Raises:
            DeadlineExceeded: the next bytes did not come in time.
            UpstreamFailed: the engine broke off.
        """
        try:
            return await self._connection.read()
        except ExchangeTimeout as error:
            raise DeadlineExceeded(error.limit, error.seconds) from None
        except ConnectionBroken:
            raise UpstreamFailed from None


class TierClient:
    """The replicas of one tier."""

    def __init__(self, name: str, opener: Opener, leases: LeaseConfig) -> None:
        self.name = name
        self._leases = LeasePool(
            opener, self._end_soon, reuse_s=leases.reuse_s, age_max_s=leases.age_max_s
        )
        self._connections = ConnectionPool()
        self._ending: set[asyncio.Task[None]] = set()

    @property
    def open_leases(self) -> int:
        """Places held on the tier's replicas."""
        return self._leases.open_leases

    @property
    def waiting(self) -> int:
        """Calls that wait for a place."""
        return self._leases.waiting

    def configure(self, leases: LeaseConfig) -> None:
        """Take new lease settings; leases in use keep what they have."""
        self._leases.reuse_s = leases.reuse_s
        self._leases.age_max_s = leases.age_max_s

    def close(self) -> None:
        """Give back everything that no call is using."""
        self._leases.close()
        self._connections.close()

    @asynccontextmanager
    async def exchange(
        self, request: UpstreamRequest, deadlines: DeadlinesConfig
    ) -> AsyncIterator[Upstream]:
        """Send one request to a replica of the tier's choice; closing the block ends it there too.

        A replica that has not begun to answer is left for another one; after the first byte nothing
        is tried again.

        Raises:
            TierOverloaded: no place came free in time.
            TierUnavailable: no replica could be reached.
            DeadlineExceeded: no answer began in time.
        """
        lease, connection = await self._begin(request, deadlines)
        try:
            yield Upstream(connection)
        finally:
            self._give_back(lease, connection, reusable=True)

    async def _begin(
        self, request: UpstreamRequest, deadlines: DeadlinesConfig
    ) -> tuple[Lease, Connection]:
        for _ in range(ATTEMPTS_MAX):
            lease = await self._acquire(deadlines.lease_s)
            connection: Connection | None = None
            begun = False
            try:
                connection = await self._connections.take(lease.address)
                begun = await _send(connection, lease, request, deadlines)
                if begun:
                    return lease, connection
                # What this replica took back it may have taken back all at once.
                self._leases.drop_idle(lease.address)
            except ConnectionBroken:
                self._leases.drop_idle(lease.address)
            except ExchangeTimeout as error:
                raise DeadlineExceeded(error.limit, error.seconds) from None
            finally:
                if not begun:
                    self._give_back(lease, connection, reusable=False)
        raise TierUnavailable(retry_after_s=1)

    async def _acquire(self, lease_s: float) -> Lease:
        try:
            async with asyncio.timeout(lease_s):
                return await self._leases.acquire()
        except TimeoutError:
            raise TierOverloaded(retry_after_s=5) from None

    def _give_back(self, lease: Lease, connection: Connection | None, *, reusable: bool) -> None:
        clean = connection is not None and self._connections.give(lease.address, connection)
        self._leases.release(lease, reusable=reusable and clean)

    def _end_soon(self, lease: Lease) -> None:
        task = asyncio.get_running_loop().create_task(self._end(lease), context=Context())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _end(self, lease: Lease) -> None:
        try:
            connection = await self._connections.take(lease.address)
        except ConnectionBroken:
            return  # A lost replica has lost its leases, too.
        try:
            connection.request(
                _render(LEASE_PATH.encode(), lease, b"", b""),
                first_byte_s=END_LEASE_S,
                gap_s=END_LEASE_S,
                total_s=END_LEASE_S,
            )
            await connection.head()
        except (ConnectionBroken, ExchangeTimeout):
            pass  # The replica ends the lease when it has been idle for long.
        finally:
            self._connections.give(lease.address, connection)


async def _send(
    connection: Connection, lease: Lease, request: UpstreamRequest, deadlines: DeadlinesConfig
) -> bool:
    """Send the request and wait for the head; False if the replica does not know the lease."""
    connection.request(
        request.render(lease),
        first_byte_s=deadlines.first_byte_s if request.stream else deadlines.total_s,
        gap_s=deadlines.gap_s,
        total_s=deadlines.total_s,
    )
    await connection.head()
    return connection.status != 403 or all(
        name != LEASE_REFUSED_HEADER for name, _ in connection.headers
    )


class UpstreamRequest:
    """A request that can be rendered for any replica.

    `stream`: the answer's head comes before the answer is complete. `draft_tokens`: it comes with a
    report on the first so many tokens; 0 for an answer that nobody is to judge.
    """

    __slots__ = ("_body", "_headers", "_path", "_request_id", "stream")

    def __init__(
        self, path: str, body: bytes, request_id: str, *, stream: bool, draft_tokens: int = 0
    ) -> None:
        self._path = path.encode()
        self._body = body
        self._request_id = request_id.encode()
        self._headers = b""
        if draft_tokens:
            self._headers = b"%b: %d\r\n" % (DRAFT_TOKENS_HEADER, draft_tokens)
        self.stream = stream

    def render(self, lease: Lease) -> bytes:
        """The bytes on the wire, with the lease that opens the engine's port."""
        return _render(self._path, lease, self._request_id, self._body, self._headers)


def _render(
    path: bytes, lease: Lease, request_id: bytes, body: bytes, headers: bytes = b""
) -> bytes:
    return (
        b"POST %b HTTP/1.1\r\nhost: engine\r\ncontent-type: application/json\r\n"
        b"x-request-id: %b\r\n%b: %b\r\n%bcontent-length: %d\r\n\r\n%b"
        % (path, request_id, LEASE_HEADER, lease.lease_id.encode(), headers, len(body), body)
    )
