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
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Protocol

from serve_app.core.errors import GatewayError, InternalError
from serve_app.tiers.http1 import Address


class Grant(Protocol):
    """What Ray gave: the address of a replica, and a way to give the place back."""

    lease_id: str
    address: Address

    def cancel(self) -> None:
        """Give the place back to Ray."""
        ...


Opener = Callable[[], Awaitable[Grant]]


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

    def end(self) -> None:
        """Give the place back to Ray."""
        self._grant.cancel()


class LeasePool:
    """The leases that one Router replica holds on one tier."""

    def __init__(self, opener: Opener, *, reuse_s: float, age_max_s: float) -> None:
        self.reuse_s = reuse_s
        self.age_max_s = age_max_s
        self._opener = opener
        self._idle: list[Lease] = []
        self._waiters: deque[asyncio.Future[Lease]] = deque()
        self._opening: list[asyncio.Task[None]] = []
        self._sweeper: asyncio.TimerHandle | None = None
        self._in_use = 0

    @property
    def open_leases(self) -> int:
        """Places held at this moment, idle ones included."""
        return self._in_use + len(self._idle)

    @property
    def waiting(self) -> int:
        """Calls that wait for a place."""
        return len(self._waiters)

    async def acquire(self) -> Lease:
        """A place; whoever gets it must `release` it.

        Raises:
            GatewayError: Ray refused.
        """
        if self._idle:
            lease = self._idle.pop()
        else:
            lease = await self._wait_for_lease()
        self._in_use += 1
        return lease

    def release(self, lease: Lease, *, reusable: bool) -> None:
        """Give a place back; not `reusable` ends it, and with it what the replica still does."""
        self._in_use -= 1
        now = asyncio.get_running_loop().time()
        if not reusable or self.reuse_s == 0 or now - lease.granted_at > self.age_max_s:
            lease.end()
        else:
            lease.idle_since = now
            self._offer(lease)

    def drop_idle(self, address: Address) -> None:
        """End the idle leases on a replica that cannot be reached any more."""
        for lease in [lease for lease in self._idle if lease.address == address]:
            self._idle.remove(lease)
            lease.end()

    def close(self) -> None:
        """End idle leases and stop asking for new ones; leases in use end with their calls."""
        self.reuse_s = 0.0
        for task in self._opening:
            task.cancel()
        while self._idle:
            self._idle.pop().end()

    async def _wait_for_lease(self) -> Lease:
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[Lease] = loop.create_future()
        self._waiters.append(waiter)
        # An empty context: Ray would otherwise tie the lease to the request that happens to open
        # it, and cancel it with that request although another call uses it by then.
        self._opening.append(loop.create_task(self._open(), context=Context()))
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._offer(waiter.result())
            raise
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            self._cancel_surplus()

    async def _open(self) -> None:
        task = asyncio.current_task()
        try:
            lease = Lease(await self._opener(), asyncio.get_running_loop().time())
        except GatewayError as error:
            self._refuse(error)
        except Exception:
            self._refuse(InternalError())
            raise
        else:
            self._offer(lease)
        finally:
            self._opening = [other for other in self._opening if other is not task]

    def _offer(self, lease: Lease) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(lease)
                return
        if self.reuse_s == 0:
            lease.end()
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

    def _cancel_surplus(self) -> None:
        for _ in range(len(self._opening) - len(self._waiters)):
            self._opening.pop().cancel()

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        self._sweeper = None
        oldest_kept = loop.time() - self.reuse_s
        # The last one given back is the first one taken, so the idle ones are in order of age.
        while self._idle and self._idle[0].idle_since <= oldest_kept:
            self._idle.pop(0).end()
        if self._idle:
            delay_s = self._idle[0].idle_since + self.reuse_s - loop.time()
            self._sweeper = loop.call_later(max(delay_s, 0.01), self._sweep)
