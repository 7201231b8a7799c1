"""The Router's side of leases: places on the replicas of one tier, asked of Ray and used again.

Asking Ray for a place costs more CPU than moving the answer's bytes. So a place whose call has
ended is kept for `reuse_s` and given to the next call; Ray goes on counting it as one ongoing
request, which it is within that time. `age_max_s` bounds how long a place can be passed on, so that
a new replica gets its share, a draining one gets free, and Ray's request router keeps choosing. A
call that waits takes whatever place comes first: one that Ray grants, or one that another call
gives back.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextvars import Context
from typing import Protocol

from serve_app.core.errors import GatewayError, InternalError, TierUnavailable
from serve_app.tiers.http1 import Address
from serve_app.tiers.sessions import SessionMap


class Grant(Protocol):
    """A place on a replica."""

    @property
    def lease_id(self) -> str:
        """What opens the replica's engine app."""
        ...

    @property
    def address(self) -> Address:
        """Host and port of the replica's engine app."""
        ...


class Opener(Protocol):
    """Asks Ray for places."""

    async def __call__(self, session: str | None = None) -> Grant:
        """A place on a replica of Ray's choice; the session is there to choose by.

        Raises:
            GatewayError: Ray refused.
        """
        ...


class Closer(Protocol):
    """Tells a replica that a lease will not be used any more."""

    def __call__(self, lease: Lease) -> None:
        """Begin to end the lease; what cannot be told, the replica finds out by itself."""
        ...


class Lease:
    """One place on one replica, used by one call at a time."""

    __slots__ = ("_grant", "granted_at", "idle_since")

    def __init__(self, grant: Grant, now: float) -> None:
        self._grant = grant
        self.granted_at = now
        self.idle_since = now

    @property
    def address(self) -> Address:
        """Host and port of the replica's engine app."""
        return self._grant.address

    @property
    def lease_id(self) -> str:
        """What the engine app asks for."""
        return self._grant.lease_id


class Waiter(asyncio.Future[Lease]):
    """A call that waits for a place."""

    def __init__(self, session: str | None, *, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self.session = session
        self.timer: asyncio.TimerHandle | None = None


class LeasePool:
    """The leases that one Router replica holds on one tier."""

    def __init__(
        self,
        opener: Opener,
        closer: Closer,
        *,
        reuse_s: float,
        age_max_s: float,
        session_s: float = 0.0,
        asks_by_session: bool = False,
    ) -> None:
        """`asks_by_session`: Ray places the calls of one session on one replica."""
        self.reuse_s = reuse_s
        self.age_max_s = age_max_s
        self.sessions = SessionMap(session_s)
        self._asks_by_session = asks_by_session
        self._opener = opener
        self._closer = closer
        self._idle: list[Lease] = []
        self._waiters: deque[Waiter] = deque()
        self._opening: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._in_use: set[Lease] = set()
        self._granted_at = float("-inf")

    @property
    def in_use(self) -> int:
        """Places that calls are using."""
        return len(self._in_use)

    @property
    def open_leases(self) -> int:
        """Places held at this moment, idle ones included."""
        return len(self._in_use) + len(self._idle)

    def held(self) -> list[Lease]:
        """One of the places that are held on each replica, the newest."""
        leases = [*self._in_use, *self._idle]
        leases.sort(key=lambda lease: lease.granted_at)
        return list({lease.address: lease for lease in leases}.values())

    @property
    def waiting(self) -> int:
        """Calls that wait for a place."""
        return len(self._waiters)

    async def acquire(
        self, session: str | None = None, *, patience_s: float | None = None
    ) -> Lease:
        """A place; whoever gets it must `release` it.

        A call of a session gets one on the replica of its last call, if one is idle there.
        `patience_s` is how long the call waits while there is no place at all, and none is granted.

        Raises:
            GatewayError: Ray refused.
            TierUnavailable: the call's patience is at its end.
        """
        if session is not None:
            return await self._acquire_for(session, patience_s)
        lease = self._idle.pop() if self._idle else await self._wait_for_lease(None, patience_s)
        self._in_use.add(lease)
        return lease

    async def _acquire_for(self, session: str, patience_s: float | None) -> Lease:
        loop = asyncio.get_running_loop()
        lease = self._pop_idle(self.sessions.find(session, loop.time()))
        if lease is None:
            lease = await self._wait_for_lease(session, patience_s)
        self._in_use.add(lease)
        self.sessions.note(session, lease.address, loop.time())
        return lease

    def _pop_idle(self, wanted: Address | None) -> Lease | None:
        """The newest idle place on that replica, else any where Ray would know no better."""
        for index in reversed(range(len(self._idle))):
            if self._idle[index].address == wanted:
                return self._idle.pop(index)
        return self._idle.pop() if self._idle and not self._asks_by_session else None

    def release(self, lease: Lease, *, reusable: bool) -> None:
        """Give a place back; one that is not `reusable` ends."""
        self._in_use.discard(lease)
        now = asyncio.get_running_loop().time()
        if reusable and self.reuse_s > 0 and now - lease.granted_at <= self.age_max_s:
            lease.idle_since = now
            self._offer(lease)
        else:
            self._closer(lease)

    def drop_idle(self, address: Address) -> None:
        """Forget the idle leases on a replica that has lost them."""
        self._idle = [lease for lease in self._idle if lease.address != address]

    def close(self) -> None:
        """Pass nothing on any more; leases in use end with their calls, idle ones now."""
        self.reuse_s = 0.0
        while self._idle:
            self._closer(self._idle.pop())

    async def _wait_for_lease(self, session: str | None, patience_s: float | None) -> Lease:
        loop = asyncio.get_running_loop()
        waiter = Waiter(session, loop=loop)
        self._waiters.append(waiter)
        if patience_s is not None:
            waiter.timer = loop.call_later(patience_s, self._lose_patience, waiter, patience_s)
        if len(self._opening) < len(self._waiters):
            # An empty context: Ray would otherwise tie the lease to the request that happens to
            # open it, and cancel it with that request although another call uses it by then.
            asked = self._open(session if self._asks_by_session else None)
            self._opening.add(loop.create_task(asked, context=Context()))
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._offer(waiter.result())
            raise
        finally:
            if waiter.timer is not None:
                waiter.timer.cancel()
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def _lose_patience(self, waiter: Waiter, patience_s: float) -> None:
        """Let a call go that has waited for so long without any place in sight."""
        if waiter.done():
            return
        loop = asyncio.get_running_loop()
        quiet_s = 0.0 if self.open_leases else loop.time() - self._granted_at
        if quiet_s >= patience_s:
            waiter.set_exception(TierUnavailable(retry_after_s=1))
        else:
            delay_s = patience_s - quiet_s
            waiter.timer = loop.call_later(delay_s, self._lose_patience, waiter, patience_s)

    async def _open(self, session: str | None) -> None:
        """Ask Ray for one place, and let it be used by whoever waits by then.

        If it was asked for a session, that is first. A request to Ray is not withdrawn when its
        call gives up: the place serves the next call, or ends as an idle one.
        """
        try:
            grant = await (self._opener() if session is None else self._opener(session))
        except GatewayError as error:
            self._refuse(error)
        except Exception:
            self._refuse(InternalError())
            raise
        else:
            self._granted_at = asyncio.get_running_loop().time()
            self._prefer(session)
            self._offer(Lease(grant, self._granted_at))
        finally:
            task = asyncio.current_task()
            assert task is not None
            self._opening.discard(task)

    def _prefer(self, session: str | None) -> None:
        """Let a waiting call of the session be the next one."""
        if session is None:
            return
        for waiter in self._waiters:
            if waiter.session == session:
                self._waiters.remove(waiter)
                self._waiters.appendleft(waiter)
                return

    def _offer(self, lease: Lease) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(lease)
                return
        if self.reuse_s == 0:
            self._closer(lease)
            return
        self._idle.append(lease)
        if self._sweeper is None:
            loop = asyncio.get_running_loop()
            self._sweeper = loop.call_later(self.reuse_s, self._sweep)

    def _refuse(self, error: GatewayError) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_exception(error)
                return

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        self._sweeper = None
        oldest_kept = loop.time() - self.reuse_s
        # The last one given back is the first one taken, so the idle ones are in order of age.
        while self._idle and self._idle[0].idle_since <= oldest_kept:
            self._closer(self._idle.pop(0))
        if self._idle:
            delay_s = self._idle[0].idle_since + self.reuse_s - loop.time()
            self._sweeper = loop.call_later(max(delay_s, 0.01), self._sweep)
