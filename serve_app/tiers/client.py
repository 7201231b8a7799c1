"""One tier as the pipeline sees it: lease a replica, talk HTTP to its engine, give it back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import Context

from serve_app.config.runtime import DeadlinesConfig, LeaseConfig
from serve_app.core.call import Endpoint
from serve_app.core.errors import (
    DeadlineExceeded,
    GatewayError,
    TierOverloaded,
    TierUnavailable,
    UpstreamFailed,
)
from serve_app.core.load import TierLoad
from serve_app.tiers.draft_report import DRAFT_TOKENS_HEADER
from serve_app.tiers.http1 import (
    Connection,
    ConnectionBroken,
    ConnectionPool,
    ExchangeTimeout,
    Headers,
)
from serve_app.tiers.lease_pool import Lease, LeasePool, Opener
from serve_app.tiers.load import LOAD_HEADER, EngineLoads, FirstTokens, parse_engine_load

LEASE_HEADER = b"x-lease-id"
LEASE_REFUSED_HEADER = b"x-lease-refused"
LEASE_PATH = "/lease"
"""A request to it ends the lease that it is sent under."""

LOAD_PATH = "/serve-app/load"
"""A request to it, under any live lease, is answered with the replica's load."""

RESPONSES_PATH = Endpoint.RESPONSES.value.encode()

TELL_S = 2.0
"""How long a replica may take for an answer of its own; then it is left alone."""

POLL_S = 0.9
"""How often replicas are asked for their load, while calls hold leases on them."""

PROBE_S = 1.0
"""How soon a tier that could not be reached is tried again."""

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


class TimedUpstream(Upstream):
    """An answer whose first bytes are noted."""

    __slots__ = ("_call", "_first_tokens")

    def __init__(self, connection: Connection, first_tokens: FirstTokens, call: object) -> None:
        super().__init__(connection)
        self._first_tokens = first_tokens
        self._call = call

    async def read(self) -> bytes:
        chunk = await super().read()
        self._first_tokens.end(self._call, asyncio.get_running_loop().time())
        return chunk


class TierClient:
    """The replicas of one tier."""

    def __init__(
        self, name: str, opener: Opener, leases: LeaseConfig, *, asks_by_session: bool = False
    ) -> None:
        self.name = name
        self.down = False
        """No replica could be reached; a probe finds out when one can be again."""
        self.watches_load = False
        """Whether waits are measured and replicas asked for their load."""
        self._first_tokens = FirstTokens()
        self._engines = EngineLoads()
        self._poller: asyncio.Task[None] | None = None
        self._polled_at = float("-inf")
        self._probe: asyncio.Task[None] | None = None
        self._probe_waits = False
        self._leases = LeasePool(
            opener,
            self._end_soon,
            reuse_s=leases.reuse_s,
            age_max_s=leases.age_max_s,
            session_s=leases.session_s,
            asks_by_session=asks_by_session,
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
        return self._leases.waiting - self._probe_waits

    def load(self) -> TierLoad:
        """What is known of the tier's load now; costs microseconds and asks nobody."""
        now = asyncio.get_running_loop().time()
        ongoing, waiting = self._leases.in_use, self.waiting
        engines = self._engines.fresh(now)
        running = sum(load.running for load in engines)
        queued = sum(load.queued for load in engines)
        # Of what waits in the engines, other Routers have their part.
        ours = queued * min(1.0, ongoing / max(running + queued, 1))
        free = [1 - load.kv_used_ratio for load in engines if load.kv_used_ratio is not None]
        return TierLoad(
            down=self.down,
            waiting=waiting,
            ongoing=ongoing,
            first_token_s=self._first_tokens.estimate(now, waiting + ours),
            running=running if engines else None,
            queued=queued if engines else None,
            kv_free_ratio=max(free, default=None),
        )

    def configure(self, leases: LeaseConfig, *, watches_load: bool = False) -> None:
        """Take new settings; leases in use keep what they have."""
        self._leases.reuse_s = leases.reuse_s
        self._leases.age_max_s = leases.age_max_s
        self._leases.sessions.kept_s = leases.session_s
        self.watches_load = watches_load

    def close(self) -> None:
        """Give back everything that no call is using."""
        for task in (self._poller, self._probe):
            if task is not None:
                task.cancel()
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
        timed = self.watches_load
        if timed:
            self._first_tokens.begin(request, asyncio.get_running_loop().time())
        try:
            lease, connection = await self._begin(request, deadlines)
            try:
                yield (
                    TimedUpstream(connection, self._first_tokens, request)
                    if timed
                    else Upstream(connection)
                )
            finally:
                self._give_back(lease, connection, reusable=True)
        finally:
            if timed:
                self._first_tokens.forget(request)

    async def _begin(
        self, request: UpstreamRequest, deadlines: DeadlinesConfig
    ) -> tuple[Lease, Connection]:
        for _ in range(ATTEMPTS_MAX):
            lease = await self._acquire(request, deadlines.lease_s)
            connection: Connection | None = None
            begun = False
            if self.watches_load:
                self._poll_soon()
                if not request.opens_with_token:
                    self._first_tokens.forget(request)
            try:
                connection = await self._connections.take(lease.address)
                begun = await _send(connection, lease, request, deadlines)
                if begun:
                    self.down = False
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
        self._mark_down()
        raise TierUnavailable(retry_after_s=1)

    async def _acquire(self, request: UpstreamRequest, lease_s: float) -> Lease:
        try:
            async with asyncio.timeout(lease_s):
                return await self._leases.acquire(request.session, patience_s=request.patience_s)
        except TimeoutError:
            raise TierOverloaded(retry_after_s=5) from None
        except TierUnavailable:
            if not self._leases.open_leases:
                self._mark_down()
            raise

    def _mark_down(self) -> None:
        """Nobody need try the tier until the probe has reached a replica, or a call has."""
        self.down = True
        if self._probe is None:
            loop = asyncio.get_running_loop()
            self._probe = loop.create_task(self._probe_until_up(), context=Context())

    async def _probe_until_up(self) -> None:
        try:
            reached = await self._reach()
            while self.down and not reached:
                await asyncio.sleep(PROBE_S)
                reached = await self._reach()
            self.down = False
        finally:
            self._probe = None

    async def _reach(self) -> bool:
        """Wait for a place, as calls do, and ask the replica something."""
        self._probe_waits = True
        try:
            lease = await self._leases.acquire()
        except GatewayError:
            return False
        finally:
            self._probe_waits = False
        reached = False
        try:
            reached = await self._tell(lease, LOAD_PATH)
        finally:
            if not reached:
                self._leases.drop_idle(lease.address)
            self._leases.release(lease, reusable=reached)
        return reached

    def _poll_soon(self) -> None:
        if self._poller is None:
            loop = asyncio.get_running_loop()
            self._poller = loop.create_task(self._poll(), context=Context())

    async def _poll(self) -> None:
        """Ask every replica for its load, about once a second, until no lease is held there."""
        loop = asyncio.get_running_loop()
        try:
            while self._leases.open_leases:
                await asyncio.sleep(max(0.0, self._polled_at + POLL_S - loop.time()))
                self._polled_at = loop.time()
                replicas = self._leases.held()
                await asyncio.gather(*(self._tell(lease, LOAD_PATH) for lease in replicas))
        finally:
            self._poller = None

    def _give_back(self, lease: Lease, connection: Connection | None, *, reusable: bool) -> None:
        clean = connection is not None and self._connections.give(lease.address, connection)
        self._leases.release(lease, reusable=reusable and clean)

    def _end_soon(self, lease: Lease) -> None:
        task = asyncio.get_running_loop().create_task(self._end(lease), context=Context())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _end(self, lease: Lease) -> None:
        # A replica that is not reached ends the lease itself when it has been idle for long.
        await self._tell(lease, LEASE_PATH)

    async def _tell(self, lease: Lease, path: str) -> bool:
        """Send the replica itself a request, and note the load that it answers with."""
        try:
            connection = await self._connections.take(lease.address)
        except ConnectionBroken:
            return False
        try:
            connection.request(
                _render(path.encode(), lease, b"", b""),
                first_byte_s=TELL_S,
                gap_s=TELL_S,
                total_s=TELL_S,
            )
            await connection.head()
        except (ConnectionBroken, ExchangeTimeout):
            return False
        else:
            self._note_load(lease, connection)
            return connection.status == 200
        finally:
            self._connections.give(lease.address, connection)

    def _note_load(self, lease: Lease, connection: Connection) -> None:
        for name, value in connection.headers:
            if name == LOAD_HEADER and (load := parse_engine_load(value)) is not None:
                self._engines.note(lease.address, load, asyncio.get_running_loop().time())


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

    `patience_s` is how long it waits for a tier on which this Router holds no place at all; None:
    as long as for a full one. `session` is the hash of the conversation that it belongs to.
    `stream`: the answer's head comes before the answer is complete. `draft_tokens`: it comes with a
    report on the first so many tokens; 0 for an answer that nobody is to judge.
    """

    __slots__ = ("_body", "_headers", "_path", "_request_id", "patience_s", "session", "stream")

    def __init__(
        self,
        path: str,
        body: bytes,
        request_id: str,
        *,
        stream: bool,
        patience_s: float | None = None,
        session: str | None = None,
        draft_tokens: int = 0,
    ) -> None:
        self.patience_s = patience_s
        self.session = session
        self._path = path.encode()
        self._body = body
        self._request_id = request_id.encode()
        self._headers = b""
        if draft_tokens:
            self._headers = b"%b: %d\r\n" % (DRAFT_TOKENS_HEADER, draft_tokens)
        self.stream = stream

    @property
    def opens_with_token(self) -> bool:
        """Whether the first bytes of the answer mean that the model has begun to write.

        Not if the answer comes whole, and not for responses, whose first event only says hello.
        """
        return self.stream and self._path != RESPONSES_PATH

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
