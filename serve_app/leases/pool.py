"""The Router's side of leases: places on the replicas of one tier, requested from Ray and reused.

Asking Ray for a place costs more CPU than moving the answer's bytes. So a place whose call has
ended is kept for `reuse_s` and given to the next call, and Ray keeps counting it as one ongoing
request. `age_max_s` and `CALLS_MIN` bound how long a place can be passed on, so that a new replica
gets its share and Ray's request router keeps choosing. While no call waits, a place that is too old
serves on until Ray has granted the place that follows it, so that no call waits for Ray's answer. A
draining replica itself rejects new calls.
A call that waits takes the first place that Ray grants or that another call gives back. Of the
first few waiting calls the place goes to the one that gains most on its replica, with aging.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from contextvars import Context
from functools import partial

from serve_app.core.errors import GatewayError, InternalError, TierUnavailable
from serve_app.leases.forecast import Fullness, TimePerCall
from serve_app.leases.http1 import Address
from serve_app.leases.lease import Closer, IdleLeases, Lease, Opener, RankedOpener
from serve_app.leases.order import NO_CLAIM, Claim, WaitingOrder
from serve_app.leases.penalties import Penalties
from serve_app.leases.ranking import Ranking
from serve_app.leases.sessions import SessionMap
from serve_app.leases.waiting import Ask, Waiter, WaitingCalls

CALLS_MIN = 4
"""How many calls a place may serve at any age. Without this minimum, a place on a tier whose
answers take longer than `age_max_s` would serve one call, and each call would cost a request to Ray
and a request to the replica. With a higher minimum, calls would stay longer where Ray once put
them, and a new replica would wait for its share."""

RENEWALS_MAX = 2
"""How many places may ask for their successors at a time: places that were granted together do not
ask together."""
OVERDUE = 2.0
"""A place ends without a successor at this multiple of `age_max_s`."""

ASKS_MAX = 3
"""How often Ray is asked for one place while it names replicas that are to be avoided."""

PARKED_S = 0.5
"""How long a place on a replica to be avoided is held, unused. Ray prefers the replica with the
fewest calls, and a replica that fails each call at once has none."""

RANKED_S = 0.05
"""How long a call waits for a replica that its ranking accepts while it could have another place.
"""
RANKED_MAX = 8
"""The waiting calls that a place is offered to: where they have rankings, it goes to the one that
gains most."""

KNOWN_S = 30.0
"""How long a replica that has granted a place counts as able to grant another place."""


class LeasePool:
    """The leases that one Router replica holds on one tier."""

    def __init__(
        self,
        opener: Opener,
        closer: Closer,
        *,
        reuse_s: float,
        age_max_s: float,
        session_s: float,
        asks_by_session: bool,
        ranked: RankedOpener | None = None,
    ) -> None:
        """`asks_by_session`: Ray places the calls of one session on one replica. `ranked` asks for
        the places of calls with a ranking."""
        self.reuse_s = reuse_s
        self.age_max_s = age_max_s
        self.sessions = SessionMap(session_s)
        self.penalties = Penalties()
        self._holds = TimePerCall()
        self._fullness = Fullness()
        self._asks_by_session = asks_by_session
        self._opener = opener
        self._ranked = ranked
        self._closer = closer
        self._idle = IdleLeases()
        self._waiting = WaitingCalls()
        self._picky: OrderedDict[Waiter, None] = OrderedDict()
        """The waiting calls that would not take any replica, the first to wait first."""
        self._opening: set[asyncio.Task[None]] = set()
        self._renewals: dict[Lease, asyncio.Task[None]] = {}
        """The requests to Ray for the places that follow places that are too old."""
        self._sweeper: asyncio.TimerHandle | None = None
        self._in_use: set[Lease] = set()
        self._in_use_at: Counter[Address] = Counter()
        self._spare: asyncio.Task[None] | None = None
        """The request to Ray for a place on another replica than that of a late call."""
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

    def in_use_at(self, address: Address) -> int:
        """Places that calls are using on a replica."""
        return self._in_use_at.get(address, 0)

    @property
    def waiting(self) -> int:
        """Calls that wait for a place."""
        return len(self._waiting)

    @property
    def oldest_wait_s(self) -> float:
        """The age of the call that has waited for longest; 0 if no call waits."""
        oldest = self._waiting.oldest
        return 0.0 if oldest is None else asyncio.get_running_loop().time() - oldest.since

    def expected_wait_s(self, claim: Claim) -> float:
        """The time within which a call that arrives now has a place; 0 if nothing is known."""
        now = asyncio.get_running_loop().time()
        if self._idle or not self.waiting or not self.in_use or not self._fullness.full(now):
            return 0.0
        return self._holds.longest_s(self._waiting.ahead(claim) + 1) / self.in_use

    def serving(self, now: float) -> bool:
        """Whether a call is using a place on a replica that has not just failed."""
        return any(not self.penalties.active(address, now) for address in self._in_use_at)

    def use_order(self, order: WaitingOrder[Waiter]) -> None:
        """Let waiting calls have places in this order."""
        self._waiting.use_order(order)

    def correct(self, claim: Claim, tokens: int) -> None:
        """A call has cost so many tokens."""
        self._waiting.correct(claim, tokens)

    async def acquire(
        self,
        session: str | None = None,
        *,
        patience_s: float | None = None,
        claim: Claim = NO_CLAIM,
        ranking: Ranking | None = None,
    ) -> Lease:
        """A place; the caller must `release` it.

        A call of a session gets a place on the replica of its last call, if a place is idle there.
        A call with a ranking gets an idle place if that costs less than a request to Ray.
        `patience_s` is how long the call waits while the Router holds no place and gets none.

        Raises:
            GatewayError: Ray refused.
            TierUnavailable: the call's patience is at its end.
        """
        if ranking is not None:
            lease = self._pop_ranked(ranking)
            if lease is None:
                lease = await self._wait_for_lease(None, patience_s, claim, ranking)
            return self._use(lease)
        if session is not None:
            return await self._acquire_for(session, patience_s, claim)
        if self._idle:
            return self._use(self._idle.pop())
        return self._use(await self._wait_for_lease(None, patience_s, claim))

    async def _acquire_for(self, session: str, patience_s: float | None, claim: Claim) -> Lease:
        loop = asyncio.get_running_loop()
        lease = self._pop_idle(self.sessions.find(session, loop.time()))
        if lease is None:
            lease = await self._wait_for_lease(session, patience_s, claim)
        self.sessions.note(session, lease.address, loop.time())
        return self._use(lease)

    async def acquire_elsewhere(self, address: Address) -> Lease | None:
        """A place on another replica, None if there is none to spare.

        The caller must `release` the place. Calls that wait for a place come first.
        """
        now = asyncio.get_running_loop().time()
        if self.waiting or not self._may_be_elsewhere(address, now):
            return None
        lease = self._idle.pop_elsewhere(address)
        if lease is None and self._spare is None:
            lease = await self._wait_for_spare(address)
        return None if lease is None else self._use(lease)

    def _may_be_elsewhere(self, address: Address, now: float) -> bool:
        """Whether there is another replica that has not just failed."""
        recent = (other for other, at in self._known.items() if at >= now - KNOWN_S)
        return any(
            other != address and not self.penalties.active(other, now)
            for other in (*self._in_use_at, *recent)
        )

    async def _wait_for_spare(self, address: Address) -> Lease | None:
        loop = asyncio.get_running_loop()
        place: asyncio.Future[Lease | None] = loop.create_future()
        # As in `_ask`: Ray must not see that the call which opens the lease is cancelled.
        self._spare = loop.create_task(self._open_spare(place, address), context=Context())
        try:
            return await place
        except asyncio.CancelledError:
            if not place.cancelled() and (lease := place.result()) is not None:
                self._offer(lease)
            raise

    async def _open_spare(self, place: asyncio.Future[Lease | None], address: Address) -> None:
        lease = None
        try:
            lease = await self._ask_elsewhere(place, address)
        except GatewayError:
            pass  # The call goes on at its first replica.
        finally:
            self._spare = None
            if not place.done():
                place.set_result(lease)
            elif lease is not None:
                self._offer(lease)

    async def _ask_elsewhere(
        self, place: asyncio.Future[Lease | None], address: Address
    ) -> Lease | None:
        """A place on another replica, None if Ray names no other or nobody waits any more.

        Raises:
            GatewayError: Ray refused.
        """
        loop = asyncio.get_running_loop()
        for _ in range(ASKS_MAX):
            grant = await self._opener()
            now = self._granted_at = loop.time()
            lease = Lease(grant, now)
            if lease.address != address and not self.penalties.active(lease.address, now):
                return lease
            loop.call_later(PARKED_S, self._closer, lease)
            if place.done():
                break
        return None

    def _use(self, lease: Lease) -> Lease:
        now = asyncio.get_running_loop().time()
        lease.calls += 1
        lease.used_since = now
        self._in_use.add(lease)
        self.penalties.begin(lease.address, now)
        self._fullness.note(self.waiting, self.in_use, now)
        self._in_use_at[lease.address] += 1
        return lease

    def _pop_idle(self, wanted: Address | None) -> Lease | None:
        """The newest idle place on that replica, otherwise any, unless Ray chooses by session."""
        found = None if wanted is None else self._idle.pop_at(wanted)
        if found is None and self._idle and not self._asks_by_session:
            return self._idle.pop()
        return found

    def _pop_ranked(self, ranking: Ranking) -> Lease | None:
        """The idle place that is best for a call, None if Ray may know a better one."""
        best = min(self._idle.addresses(), key=ranking.lost_s, default=None)
        if best is None or not ranking.accepts(best):
            return None
        return self._idle.pop_at(best)

    def release(self, lease: Lease, *, reusable: bool) -> None:
        """Give a place back; a place that is not `reusable` ends."""
        self._in_use.discard(lease)
        self._in_use_at[lease.address] -= 1
        if self._in_use_at[lease.address] <= 0:
            del self._in_use_at[lease.address]
        now = asyncio.get_running_loop().time()
        self._holds.note(now - lease.used_since, 1)
        if reusable and self._may_go_on(lease, now):
            lease.idle_since = now
            self._offer(lease)
        else:
            self._closer(lease)

    def _may_go_on(self, lease: Lease, now: float) -> bool:
        if self.reuse_s == 0 or lease.has_successor or self.penalties.active(lease.address, now):
            return False
        if lease.calls < CALLS_MIN or now - lease.granted_at <= self.age_max_s:
            return True
        return self._renew(lease, now)

    def _renew(self, lease: Lease, now: float) -> bool:
        """Whether the place may serve on until its successor is there, which is asked for.

        Waiting calls have requests of their own, whose places come first. A place for calls of one
        session or prefix is asked for by the call.
        """
        if self.waiting or self._asks_by_session or self._ranked is not None:
            return False
        if now - lease.granted_at > OVERDUE * self.age_max_s:
            return False
        if lease not in self._renewals and len(self._renewals) < RENEWALS_MAX:
            # As in `_ask`: the successor has nothing to do with the call that has just ended.
            task = asyncio.get_running_loop().create_task(self._replace(lease), context=Context())
            self._renewals[lease] = task
        return True

    async def _replace(self, lease: Lease) -> None:
        try:
            successor = await self._ask_ray(Ask(None, None))
        except GatewayError:
            return  # The place asks again after its next call.
        finally:
            del self._renewals[lease]
        lease.has_successor = True
        if self._idle.discard(lease):
            self._closer(lease)
        self._offer(successor)

    def drop_idle(self, address: Address) -> None:
        """Forget the idle leases on a replica that has lost them."""
        self._idle.pop_all_at(address)

    def avoid(self, address: Address) -> None:
        """A replica has failed a call: prefer other replicas for a moment."""
        self.penalties.note(address, asyncio.get_running_loop().time())
        for lease in self._idle.pop_all_at(address):
            self._closer(lease)

    def lose(self, address: Address) -> None:
        """A replica cannot be reached: avoid it, and drop its idle leases."""
        self.drop_idle(address)
        self.avoid(address)

    def close(self) -> None:
        """Stop the reuse of leases; leases in use end with their calls, idle leases end now."""
        self.reuse_s = 0.0
        while self._idle:
            self._closer(self._idle.pop())

    async def _wait_for_lease(
        self,
        session: str | None,
        patience_s: float | None,
        claim: Claim,
        ranking: Ranking | None = None,
    ) -> Lease:
        loop = asyncio.get_running_loop()
        self._fullness.note(self.waiting, self.in_use, loop.time())
        waiter = Waiter(session, loop=loop, claim=claim, ranking=ranking)
        if ranking is not None:
            self._picky[waiter] = None
            loop.call_later(RANKED_S, self._settle_for_any, waiter)
        if patience_s is not None:
            waiter.timer = loop.call_later(patience_s, self._lose_patience, waiter, patience_s)
        ask = self._waiting.add(waiter, session if self._asks_by_session else None)
        if ask is not None:
            self._ask(ask)
        try:
            return await waiter
        except asyncio.CancelledError:
            # The waiter is done: a cancellation ends it, or comes after a grant or a refusal.
            if not waiter.cancelled() and waiter.exception() is None:
                self._offer(waiter.result())
            raise
        finally:
            self._picky.pop(waiter, None)
            self._waiting.leave(waiter)

    def _settle_for_any(self, waiter: Waiter) -> None:
        """The call has waited for its replica for long enough: any place will do."""
        self._picky.pop(waiter, None)
        ranking, waiter.ranking = waiter.ranking, None
        if ranking is None or waiter.done():
            # A place that this call did not take may be idle before a call that takes any.
            if self._idle and self.waiting:
                self._offer(self._idle.pop())
            return
        best = min(self._idle.addresses(), key=ranking.lost_s, default=None)
        if best is not None and (lease := self._idle.pop_at(best)) is not None:
            self._serve(waiter, lease)

    def _taker(self, lease: Lease) -> Waiter | None:
        """The call that gets a place, None if no call takes it.

        Of the first calls of one turn it is the call with the largest sum of what it gains there
        and of its age, in seconds. So a call is passed only by calls that are younger by less than
        the difference of the gains.
        """
        if self._ranked is None:
            return self._waiting.first
        calls = [each for each in self._waiting.head(RANKED_MAX) if self._takes(each, lease)]
        if not any(each.prospects for each in calls):
            return calls[0] if calls else None
        return max(calls, key=partial(_claims_s, lease.address))

    def _takes(self, waiter: Waiter, lease: Lease) -> bool:
        """Whether a call takes a place on this replica."""
        ranking = waiter.ranking
        return waiter not in self._picky or ranking is None or ranking.accepts(lease.address)

    def _ask(self, ask: Ask) -> None:
        # The context is empty because Ray would otherwise tie the lease to the request that opens
        # it, and cancel the lease with that request although another call uses the lease by then.
        loop = asyncio.get_running_loop()
        self._opening.add(loop.create_task(self._open(ask), context=Context()))

    def _lose_patience(self, waiter: Waiter, patience_s: float) -> None:
        """Fail a call after `patience_s` in which the Router held no place and Ray granted none."""
        if waiter.done():
            return
        loop = asyncio.get_running_loop()
        quiet_s = 0.0 if self.open_leases else loop.time() - self._granted_at
        if quiet_s >= patience_s:
            self._waiting.leave(waiter)
            waiter.set_exception(TierUnavailable(retry_after_s=1))
        else:
            delay_s = patience_s - quiet_s
            waiter.timer = loop.call_later(delay_s, self._lose_patience, waiter, patience_s)

    async def _open(self, ask: Ask) -> None:
        """Ask Ray for one place, and give the place to a call that waits."""
        try:
            lease = await self._ask_ray(ask)
        except GatewayError as error:
            self._refuse(ask, error)
        except Exception:
            self._refuse(ask, InternalError())
            raise
        else:
            self._give(self._waiting.grant_to(ask, self._taker(lease)), lease)
        finally:
            task = asyncio.current_task()
            assert task is not None
            self._opening.discard(task)

    async def _ask_ray(self, ask: Ask) -> Lease:
        """A place, if possible on a replica that has not just failed.

        Raises:
            GatewayError: Ray refused.
        """
        loop = asyncio.get_running_loop()
        ranking = () if ask.ranking is None else ask.ranking.names
        for left in reversed(range(ASKS_MAX)):
            try:
                if ranking and self._ranked is not None:
                    grant = await self._ranked(ranking)
                else:
                    grant = await (self._opener(ask.session) if ask.session else self._opener())
            except TierUnavailable:
                # The replica that Ray chose died during the request.
                if left and self.serving(loop.time()):
                    continue
                raise
            now = self._granted_at = loop.time()
            lease = Lease(grant, now)
            if not left or not self._better_elsewhere(lease.address, now):
                break
            loop.call_later(PARKED_S, self._closer, lease)
            ranking = ()  # It would name the same replica again.
        return lease

    def _better_elsewhere(self, address: Address, now: float) -> bool:
        """Whether this replica is to be avoided and another known replica is not."""
        self._known[address] = now
        self._known.move_to_end(address)
        while self._known[next(iter(self._known))] < now - KNOWN_S:
            self._known.popitem(last=False)
        if not self.penalties.active(address, now):
            return False
        return any(not self.penalties.active(other, now) for other in self._known)

    def _offer(self, lease: Lease) -> None:
        """Give the place to the call whose turn it is; otherwise keep the place."""
        self._give(self._taker(lease), lease)

    def _give(self, waiter: Waiter | None, lease: Lease) -> None:
        # A loop, because thousands of calls may be cancelled in one turn.
        while waiter is not None and waiter.done():
            # The call has been cancelled in this turn of the loop and has not run since.
            self._picky.pop(waiter, None)
            self._waiting.leave(waiter)
            waiter = self._taker(lease)
        if waiter is None:
            self._keep(lease)
        else:
            self._serve(waiter, lease)

    def _serve(self, waiter: Waiter, lease: Lease) -> None:
        self._picky.pop(waiter, None)
        self._waiting.serve(waiter)
        lease.charged = waiter.claim
        waiter.set_result(lease)

    def _keep(self, lease: Lease) -> None:
        lease.charged = None
        if self.reuse_s == 0:
            self._closer(lease)
            return
        self._idle.add(lease)
        if self._sweeper is None:
            loop = asyncio.get_running_loop()
            self._sweeper = loop.call_later(self.reuse_s, self._sweep)

    def _refuse(self, ask: Ask, error: GatewayError) -> None:
        """Refuse one call, but none that has waited for longer (`leases/order.py`)."""
        waiter = self._waiting.refuse(ask)
        if waiter is None:
            return
        self._settle_for_any(waiter)
        self._waiting.leave(waiter)
        if not waiter.done():
            waiter.set_exception(error)

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        self._sweeper = None
        oldest_kept = loop.time() - self.reuse_s
        # The newest idle lease is taken first, so the idle leases are in order of age.
        while (oldest := self._idle.oldest) is not None and oldest.idle_since <= oldest_kept:
            self._idle.remove(oldest)
            self._closer(oldest)
        if oldest is not None:
            delay_s = oldest.idle_since + self.reuse_s - loop.time()
            self._sweeper = loop.call_later(max(delay_s, 0.01), self._sweep)


def _claims_s(address: Address, waiter: Waiter) -> float:
    """What a call gains on a replica, and its age from a moment that is the same for all calls."""
    gain_s = 0.0 if waiter.prospects is None else waiter.prospects.gain_s(address)
    return gain_s - waiter.since
