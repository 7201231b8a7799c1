"""The calls that wait for a place, and the requests to Ray for places.

One request to Ray stands for every call that waits. So Ray's refusal fails one call, chosen by
`leases/order.py`: the newest call, or the newest call of the tenant with the most waiting work. A
granted place goes to the call that is first in that order, whichever call the request stood for. Of
the first few of one turn it goes to the call that gains most on that replica (`leases/pool.py`).

A request is in one of three states:

standing    a call waits, and the request stands for it
orphaned    its call has gone: served by another place, refused, or given up by its client
answered    Ray has granted or refused; the request is forgotten

    add (no orphan)          standing
    add (an orphan)          orphaned -> standing, for the new call
    leave                    standing -> orphaned
    grant, refuse            standing or orphaned -> answered

A request to Ray is never withdrawn: an orphan's place serves the next call, or ends as an idle one.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence

from serve_app.leases.lease import Lease
from serve_app.leases.order import NO_CLAIM, ArrivalOrder, Claim, WaitingOrder
from serve_app.leases.ranking import Ranking

ORPHANS_SPARED = 4
"""So many requests without a call are left alone by calls that wait for certain replicas."""


class Ask:
    """One request to Ray for a place, and the waiting call that it stands for, if there is one."""

    __slots__ = ("ranking", "session", "waiter")

    def __init__(self, waiter: Waiter | None, session: str | None) -> None:
        self.waiter = waiter
        self.ranking = None if waiter is None else waiter.ranking
        """The ranking by which Ray chooses the replica, None if Ray does not."""
        self.session = session
        """The session by which Ray chooses the replica, None if Ray does not."""


class Waiter(asyncio.Future[Lease]):
    """A call that waits for a place, and the request to Ray that stands for it."""

    def __init__(
        self,
        session: str | None,
        *,
        loop: asyncio.AbstractEventLoop,
        claim: Claim = NO_CLAIM,
        ranking: Ranking | None = None,
    ) -> None:
        super().__init__(loop=loop)
        self.ranking = ranking
        """Which replicas the call waits for; None: any."""
        self.prospects = ranking
        """What the call would gain on each replica, also once any will do; None: unknown."""
        self.session = session
        self.claim = claim
        self.since = loop.time()
        self.timer: asyncio.TimerHandle | None = None
        self.ask: Ask | None = None


class WaitingCalls:
    """The calls that wait, in their order."""

    def __init__(self) -> None:
        self._order: WaitingOrder[Waiter] = ArrivalOrder()
        self._orphans: OrderedDict[Ask, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._order)

    @property
    def orphans(self) -> int:
        """Requests to Ray whose calls no longer wait."""
        return len(self._orphans)

    @property
    def first(self) -> Waiter | None:
        """The call that gets the next place."""
        return self._order.first

    @property
    def oldest(self) -> Waiter | None:
        """The call that has waited for longest."""
        return self._order.oldest

    def head(self, calls_max: int) -> Sequence[Waiter]:
        """The first calls of those whose turn it is."""
        return self._order.head(calls_max)

    def ahead(self, claim: Claim) -> int:
        """About how many of the waiting calls would come before a new call."""
        return self._order.ahead(claim)

    def use_order(self, order: WaitingOrder[Waiter]) -> None:
        """Use this order from now on, also for the calls that wait already."""
        for waiter in self._order.drain():
            order.add(waiter)
        self._order = order

    def correct(self, claim: Claim, tokens: int) -> None:
        """A call that was served has cost so many tokens."""
        self._order.correct(claim, tokens)

    def add(self, waiter: Waiter, session: str | None) -> Ask | None:
        """Add a call that waits. Returns the request to send to Ray, None if an orphan serves."""
        self._order.add(waiter)
        # A call that waits for certain replicas asks for itself, unless many requests are in vain.
        if len(self._orphans) > (ORPHANS_SPARED if waiter.ranking is not None else 0):
            ask, _ = self._orphans.popitem(last=False)
            ask.waiter, waiter.ask = waiter, ask
            return None
        waiter.ask = Ask(waiter, session)
        return waiter.ask

    def serve(self, waiter: Waiter) -> None:
        """A call has got a place; its request becomes an orphan."""
        self._order.serve(waiter)
        self.leave(waiter)

    def leave(self, waiter: Waiter) -> None:
        """Remove a call that no longer waits; its request becomes an orphan."""
        self._order.remove(waiter)
        if waiter.timer is not None:
            waiter.timer.cancel()
        ask, waiter.ask = waiter.ask, None
        if ask is not None:
            ask.waiter = None
            self._orphans[ask] = None

    def grant(self, ask: Ask) -> Waiter | None:
        """`grant_to` the call whose turn it is."""
        return self.grant_to(ask, self.first)

    def grant_to(self, ask: Ask, taker: Waiter | None) -> Waiter | None:
        """Ray has granted a place. Returns the call that gets the place, None if no call waits.

        If the place was requested for a session or by a ranking, the call of that session or
        ranking comes first, then `taker`. The call that `ask` stood for keeps waiting, with the
        request of the call that gets the place.
        """
        own = ask.waiter
        served = own if own is not None and _is_for(ask, own) else taker or own
        self._swap(ask, served)
        self._retire(ask)
        return served

    def refuse(self, ask: Ask) -> Waiter | None:
        """Ray has refused. Returns the call that fails, None if no call waits for the request."""
        if ask.waiter is not None:
            self._swap(ask, self._order.victim(ask.waiter))
        waiter = ask.waiter
        self._retire(ask)
        return waiter

    def _swap(self, ask: Ask, waiter: Waiter | None) -> None:
        """Let `ask` stand for this call, and this call's request for the call of `ask`."""
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
        self._orphans.pop(ask, None)
        if ask.waiter is not None:
            ask.waiter.ask = None
            ask.waiter = None


def _is_for(ask: Ask, waiter: Waiter) -> bool:
    """Whether Ray has chosen the replica for this very call."""
    if ask.ranking is not None and waiter.ranking is ask.ranking:
        return True
    return ask.session is not None and waiter.session == ask.session
