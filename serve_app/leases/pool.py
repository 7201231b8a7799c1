"""The Router's side of leases: places on the replicas of one tier, asked of Ray and used again.

Asking Ray for a place costs more CPU than moving the answer's bytes. So a place whose call has
ended is kept for `reuse_s` and given to the next call; Ray goes on counting it as one ongoing
request, which it is within that time. `age_max_s` and `CALLS_MIN` bound how long a place can be
passed on, so that a new replica gets its share and Ray's request router keeps choosing; a draining
replica refuses to begin another call by itself. A call that waits takes whatever place comes first:
one that Ray grants, or one that another call gives back.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextvars import Context
from typing import Protocol

from serve_app.core.errors import GatewayError, InternalError, TierUnavailable
from serve_app.leases.http1 import Address, Headers
from serve_app.leases.penalties import Penalties
from serve_app.leases.sessions import SessionMap

CALLS_MIN = 4
"""How many calls a place may serve whatever its age. Without it a place on a tier whose answers
take longer than `age_max_s` would serve one call: a request to Ray and one to the replica for each.
With more, calls would stay for longer where Ray once put them, and a new replica would wait."""

ASKS_MAX = 3
"""How often Ray is asked for one place, while it names replicas that are to be avoided."""

PARKED_S = 0.5
"""How long a place on a replica to be avoided is held, unused: Ray prefers the replica with the
fewest calls, and one that fails each call at once has none."""

KNOWN_S = 30.0
"""How long a replica that has granted a place counts as one that could grant another."""


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

    def sign(self, path: bytes, draft_tokens: bytes, body_bytes: int) -> bytes:
        """The lease header of one request; see `LeaseSigner`."""
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

    __slots__ = ("_grant", "calls", "granted_at", "idle_since", "on_ended")

    def __init__(self, grant: Grant, now: float) -> None:
        self._grant = grant
        self.granted_at = now
        self.idle_since = now
        self.calls = 0
        """Calls that have used the place."""
        self.on_ended: Callable[[Headers], None] | None = None
        """Takes what the replica says at the lease's end; no headers if it says nothing."""

    @property
    def address(self) -> Address:
        """Host and port of the replica's engine app."""
        return self._grant.address

    @property
    def lease_id(self) -> str:
        """What the engine app asks for."""
        return self._grant.lease_id

    def sign(self, path: bytes, draft_tokens: bytes, body_bytes: int) -> bytes:
        """The lease header of one request."""
        return self._grant.sign(path, draft_tokens, body_bytes)


class Ask:
    """One request to Ray for a place, and the waiting call that it stands for.

    Exactly one stands for each call that waits. So Ray's refusal meets the newest call, whose
    request it refused, and not the one that has waited for longest.
    """

    __slots__ = ("session", "waiter")

    def __init__(self, waiter: Waiter, session: str | None) -> None:
        self.waiter: Waiter | None = waiter
        self.session = session


class Waiter(asyncio.Future[Lease]):
    """A call that waits for a place, and the request to Ray that stands for it."""

    def __init__(self, session: str | None, *, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self.session = session
        self.timer: asyncio.TimerHandle | None = None
        self.ask: Ask | None = None


class IdleLeases:
    """Places that no call uses: the newest first, or one of a given replica."""

    def __init__(self) -> None:
        self._all: OrderedDict[Lease, None] = OrderedDict()
        self._at: dict[Address, OrderedDict[Lease, None]] = {}

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Lease]:
        return iter(self._all)

    @property
    def oldest(self) -> Lease | None:
        """The one that has been idle for longest."""
        return next(iter(self._all), None)

    def add(self, lease: Lease) -> None:
        """A place has become idle."""
        self._all[lease] = None
        self._at.setdefault(lease.address, OrderedDict())[lease] = None

    def pop(self) -> Lease:
        """Take the newest."""
        lease = next(reversed(self._all))
        self.remove(lease)
        return lease

    def pop_at(self, address: Address) -> Lease | None:
        """Take the newest on a replica, None if it has none."""
        here = self._at.get(address)
        if not here:
            return None
        lease = next(reversed(here))
        self.remove(lease)
        return lease

    def pop_all_at(self, address: Address) -> list[Lease]:
        """Take all that are on a replica."""
        leases = list(self._at.get(address, ()))
        for lease in leases:
            self.remove(lease)
        return leases

    def remove(self, lease: Lease) -> None:
        """Take this one."""
        del self._all[lease]
        here = self._at[lease.address]
        del here[lease]
        if not here:
            del self._at[lease.address]


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
        self.penalties = Penalties()
        self._asks_by_session = asks_by_session
        self._opener = opener
        self._closer = closer
        self._idle = IdleLeases()
        self._waiters: OrderedDict[Waiter, None] = OrderedDict()
        self._opening: set[asyncio.Task[None]] = set()
        self._orphans: OrderedDict[Ask, None] = OrderedDict()
        self._sweeper: asyncio.TimerHandle | None = None
        self._in_use: set[Lease] = set()
        self._in_use_at: Counter[Address] = Counter()
        self._known: OrderedDict[Address, float] = OrderedDict()
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

    def serving(self, now: float) -> bool:
        """Whether a call is in use of a place on a replica that has not just failed."""
        return any(not self.penalties.active(address, now) for address in self._in_use_at)

    async def acquire(
        self, session: str | None = None, *, patience_s: float | None = None
    ) -> Lease:
        """A place; who gets it must `release` it.

        A call of a session gets one on the replica of its last call, if one is idle there.
        `patience_s` is how long the call waits while there is no place at all, and none is granted.

        Raises:
            GatewayError: Ray refused.
            TierUnavailable: the call's patience is at its end.
        """
        if session is not None:
            return await self._acquire_for(session, patience_s)
        lease = self._idle.pop() if self._idle else await self._wait_for_lease(None, patience_s)
        return self._use(lease)

    async def _acquire_for(self, session: str, patience_s: float | None) -> Lease:
        loop = asyncio.get_running_loop()
        lease = self._pop_idle(self.sessions.find(session, loop.time()))
        if lease is None:
            lease = await self._wait_for_lease(session, patience_s)
        self.sessions.note(session, lease.address, loop.time())
        return self._use(lease)

    def _use(self, lease: Lease) -> Lease:
        lease.calls += 1
        self._in_use.add(lease)
        self._in_use_at[lease.address] += 1
        return lease

    def _pop_idle(self, wanted: Address | None) -> Lease | None:
        """The newest idle place on that replica, otherwise any, unless Ray chooses by session."""
        found = None if wanted is None else self._idle.pop_at(wanted)
        if found is None and self._idle and not self._asks_by_session:
            return self._idle.pop()
        return found

    def release(self, lease: Lease, *, reusable: bool) -> None:
        """Give a place back; one that is not `reusable` ends."""
        self._in_use.discard(lease)
        self._in_use_at[lease.address] -= 1
        if self._in_use_at[lease.address] <= 0:
            del self._in_use_at[lease.address]
        now = asyncio.get_running_loop().time()
        if reusable and self._may_go_on(lease, now):
            lease.idle_since = now
            self._offer(lease)
        else:
            self._closer(lease)

    def _may_go_on(self, lease: Lease, now: float) -> bool:
        if self.reuse_s == 0 or self.penalties.active(lease.address, now):
            return False
        return lease.calls < CALLS_MIN or now - lease.granted_at <= self.age_max_s

    def drop_idle(self, address: Address) -> None:
        """Forget the idle leases on a replica that has lost them."""
        self._idle.pop_all_at(address)

    def avoid(self, address: Address) -> None:
        """A replica has failed a call: for a moment others get its calls, if there are others."""
        self.penalties.note(address, asyncio.get_running_loop().time())
        for lease in self._idle.pop_all_at(address):
            self._closer(lease)

    def lose(self, address: Address) -> None:
        """A replica cannot be reached: as `avoid`, and its idle leases are lost."""
        self.drop_idle(address)
        self.avoid(address)

    def close(self) -> None:
        """Pass nothing on any more; leases in use end with their calls, idle ones now."""
        self.reuse_s = 0.0
        while self._idle:
            self._closer(self._idle.pop())

    async def _wait_for_lease(self, session: str | None, patience_s: float | None) -> Lease:
        loop = asyncio.get_running_loop()
        waiter = Waiter(session, loop=loop)
        self._waiters[waiter] = None
        if patience_s is not None:
            waiter.timer = loop.call_later(patience_s, self._lose_patience, waiter, patience_s)
        self._stand_for(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._offer(waiter.result())
            raise
        finally:
            self._leave(waiter)

    def _stand_for(self, waiter: Waiter) -> None:
        """Let a request to Ray stand for the call: one whose own call has gone, or a new one."""
        if self._orphans:
            ask, _ = self._orphans.popitem(last=False)
            ask.waiter, waiter.ask = waiter, ask
            return
        waiter.ask = Ask(waiter, waiter.session if self._asks_by_session else None)
        # An empty context: Ray would otherwise tie the lease to the request that happens to
        # open it, and cancel it with that request although another call uses it by then.
        loop = asyncio.get_running_loop()
        self._opening.add(loop.create_task(self._open(waiter.ask), context=Context()))

    def _leave(self, waiter: Waiter) -> None:
        """The call waits no more; the request to Ray that stood for it is for another one."""
        self._waiters.pop(waiter, None)
        if waiter.timer is not None:
            waiter.timer.cancel()
        ask, waiter.ask = waiter.ask, None
        if ask is not None:
            ask.waiter = None
            self._orphans[ask] = None

    def _lose_patience(self, waiter: Waiter, patience_s: float) -> None:
        """Let a call go that has waited for so long without any place in sight."""
        if waiter.done():
            return
        loop = asyncio.get_running_loop()
        quiet_s = 0.0 if self.open_leases else loop.time() - self._granted_at
        if quiet_s >= patience_s:
            self._leave(waiter)
            waiter.set_exception(TierUnavailable(retry_after_s=1))
        else:
            delay_s = patience_s - quiet_s
            waiter.timer = loop.call_later(delay_s, self._lose_patience, waiter, patience_s)

    async def _open(self, ask: Ask) -> None:
        """Ask Ray for one place, and let it be used by the call that has waited for longest.

        If the place was asked for a session, a call of that session is first. A request to Ray is
        not withdrawn when its call gives up: the place serves the next call, or ends as an idle
        one.
        """
        try:
            lease = await self._ask_ray(ask)
        except GatewayError as error:
            self._refuse(ask, error)
        except Exception:
            self._refuse(ask, InternalError())
            raise
        else:
            self._grant(ask, lease)
        finally:
            task = asyncio.current_task()
            assert task is not None
            self._opening.discard(task)

    async def _ask_ray(self, ask: Ask) -> Lease:
        """A place, on a replica that has not just failed if Ray names one soon.

        Raises:
            GatewayError: Ray refused.
        """
        loop = asyncio.get_running_loop()
        for left in reversed(range(ASKS_MAX)):
            try:
                grant = await (self._opener(ask.session) if ask.session else self._opener())
            except TierUnavailable:
                # The replica that Ray chose died under the question.
                if left and self.serving(loop.time()):
                    continue
                raise
            now = self._granted_at = loop.time()
            lease = Lease(grant, now)
            if not left or not self._better_elsewhere(lease.address, now):
                break
            loop.call_later(PARKED_S, self._closer, lease)
        return lease

    def _better_elsewhere(self, address: Address, now: float) -> bool:
        """Whether the replica is to be avoided and another one is known that is not."""
        self._known[address] = now
        self._known.move_to_end(address)
        while self._known[next(iter(self._known))] < now - KNOWN_S:
            self._known.popitem(last=False)
        if not self.penalties.active(address, now):
            return False
        return any(not self.penalties.active(other, now) for other in self._known)

    def _grant(self, ask: Ask, lease: Lease) -> None:
        """Give the place to a call that waits; the one that `ask` stood for goes on waiting."""
        own = ask.waiter
        if ask.session is not None and own is not None and own.session == ask.session:
            first: Waiter | None = own
        else:
            first = next(iter(self._waiters), None)
        self._swap(ask, first)
        self._retire(ask)
        if first is None:
            self._keep(lease)
        else:
            self._serve(first, lease)

    def _swap(self, ask: Ask, waiter: Waiter | None) -> None:
        """Let `ask` stand for this call, and the request that did for the call of `ask`."""
        own = ask.waiter
        if waiter is None or waiter is own:
            return
        other = waiter.ask
        assert other is not None, "a request to Ray stands for every call that waits"
        ask.waiter, waiter.ask = waiter, ask
        other.waiter = own
        if own is not None:
            own.ask = other
        else:
            self._orphans[other] = None

    def _retire(self, ask: Ask) -> None:
        """The request to Ray has been answered."""
        self._orphans.pop(ask, None)
        if ask.waiter is not None:
            ask.waiter.ask = None
            ask.waiter = None

    def _offer(self, lease: Lease) -> None:
        """Give the place to the call that has waited for longest, otherwise keep it."""
        first = next(iter(self._waiters), None)
        if first is None:
            self._keep(lease)
        else:
            self._serve(first, lease)

    def _serve(self, waiter: Waiter, lease: Lease) -> None:
        self._leave(waiter)
        if waiter.done():
            # It has been cancelled in this turn of the loop and has not run since.
            self._offer(lease)
        else:
            waiter.set_result(lease)

    def _keep(self, lease: Lease) -> None:
        if self.reuse_s == 0:
            self._closer(lease)
            return
        self._idle.add(lease)
        if self._sweeper is None:
            loop = asyncio.get_running_loop()
            self._sweeper = loop.call_later(self.reuse_s, self._sweep)

    def _refuse(self, ask: Ask, error: GatewayError) -> None:
        """Refuse the call that the request to Ray stood for, and none that has waited longer."""
        waiter = ask.waiter
        self._retire(ask)
        if waiter is None:
            return
        self._leave(waiter)
        if not waiter.done():
            waiter.set_exception(error)

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        self._sweeper = None
        oldest_kept = loop.time() - self.reuse_s
        # The last one given back is the first one taken, so the idle ones are in order of age.
        while (oldest := self._idle.oldest) is not None and oldest.idle_since <= oldest_kept:
            self._idle.remove(oldest)
            self._closer(oldest)
        if oldest is not None:
            delay_s = oldest.idle_since + self.reuse_s - loop.time()
            self._sweeper = loop.call_later(max(delay_s, 0.01), self._sweep)
