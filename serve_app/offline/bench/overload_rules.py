"""The rules that `serve-app bench overload` compares: which calls a Router rejects, and when."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from typing import Protocol

from serve_app.core.deadlines import Deadlines
from serve_app.core.errors import TierOverloaded, WouldBeLate
from serve_app.leases.admission import Admission
from serve_app.leases.load import FirstTokens
from serve_app.leases.order import NO_CLAIM, ArrivalOrder
from serve_app.leases.pool import LeasePool
from serve_app.leases.waiting import Waiter

LIMIT_MIN = 4.0
"""The lowest limit of calls at a time."""
LIMIT_FIRST = 1024.0
"""The limit before the first late call."""
BACKOFF = 0.9
"""What a call that was too slow makes of the limit."""
STEP = 4.0
"""By how much as many calls in time as the limit raise the limit."""
SLOW_RATIO = 0.5
"""The part of the deadline that the wait for the first token may take."""


class Rule(Protocol):
    """Decides about the calls of one tier."""

    def check(self, call: object, deadlines: Deadlines) -> None:
        """Raise TierOverloaded if a call that arrives now must not wait."""
        ...

    def place_at(self, deadlines: Deadlines) -> float:
        """The time until which a call may wait for a place."""
        ...

    def placed(self, call: object) -> None:
        """A call has got a place."""
        ...

    def began(self, call: object) -> None:
        """The first token of a call has come."""
        ...

    def ended(self, call: object) -> None:
        """A call has ended or has been rejected."""
        ...


class TakeAll:
    """Today's rule: every call waits for as long as its client lets it."""

    def __init__(self, pool: LeasePool) -> None:
        self._pool = pool

    def check(self, call: object, deadlines: Deadlines) -> None:
        """Let every call wait."""

    def place_at(self, deadlines: Deadlines) -> float:
        """No time."""
        return math.inf

    def placed(self, call: object) -> None:
        """Nothing is measured."""

    def began(self, call: object) -> None:
        """Nothing is measured."""

    def ended(self, call: object) -> None:
        """Nothing is counted."""


class NewestFirst(ArrivalOrder[Waiter]):
    """The call that has waited for the shortest time gets the next place."""

    @property
    def first(self) -> Waiter | None:
        return next(reversed(self._waiters), None)


class TakeNewest(TakeAll):
    """Every call waits, and the newest call is served first."""

    def __init__(self, pool: LeasePool) -> None:
        super().__init__(pool)
        pool.use_order(NewestFirst())


class ByFirstTokens(TakeAll):
    """The estimate that the routing by load uses: `FirstTokens`."""

    def __init__(self, pool: LeasePool) -> None:
        super().__init__(pool)
        self._waits = FirstTokens()

    def check(self, call: object, deadlines: Deadlines) -> None:
        """Reject a call whose estimated wait is longer than its deadline."""
        now = asyncio.get_running_loop().time()
        wait_s = self._waits.estimate(now, self._pool.waiting)
        assert deadlines.first_token_at is not None
        if wait_s is not None and now + wait_s > deadlines.first_token_at:
            raise WouldBeLate(retry_after_s=1)
        self._waits.begin(call, now)

    def began(self, call: object) -> None:
        """Measure the whole wait."""
        self._waits.end(call, asyncio.get_running_loop().time())

    def ended(self, call: object) -> None:
        """Forget a call without a first token."""
        self._waits.forget(call)


class ByForecast(TakeAll):
    """The rule of `leases/admission.py`."""

    def __init__(self, pool: LeasePool) -> None:
        super().__init__(pool)
        self._admission = Admission(pool)

    def check(self, call: object, deadlines: Deadlines) -> None:
        """Reject a call that would be late by the forecast."""
        self._admission.check(NO_CLAIM, deadlines)

    def place_at(self, deadlines: Deadlines) -> float:
        """The last moment from which the first token still comes in time."""
        return self._admission.place_at(deadlines)

    def placed(self, call: object) -> None:
        """The engine's part begins."""
        self._admission.firsts.begin(call, asyncio.get_running_loop().time())

    def began(self, call: object) -> None:
        """Measure the engine's part."""
        self._admission.firsts.end(call, asyncio.get_running_loop().time())


class ByForecastNewest(ByForecast):
    """The same, and the newest call is served first."""

    def __init__(self, pool: LeasePool) -> None:
        super().__init__(pool)
        pool.use_order(NewestFirst())


class ByLimit(TakeAll):
    """A limit of calls at a time: more with each call in time, a tenth less with each late call."""

    def __init__(self, pool: LeasePool) -> None:
        super().__init__(pool)
        self._limit = LIMIT_FIRST
        self._now: dict[object, float] = {}
        self._deadline_s = 0.0
        self._lowered_at = 0.0

    def check(self, call: object, deadlines: Deadlines) -> None:
        """Reject a call beyond the limit."""
        now = asyncio.get_running_loop().time()
        assert deadlines.first_token_at is not None
        self._deadline_s = deadlines.first_token_at - now
        if len(self._now) >= self._limit:
            raise TierOverloaded(retry_after_s=1)
        self._now[call] = now

    def began(self, call: object) -> None:
        """Move the limit; the calls that were there at the last step down do not lower it again."""
        now = asyncio.get_running_loop().time()
        arrived_at = self._now[call]
        if now - arrived_at > SLOW_RATIO * self._deadline_s:
            if arrived_at > self._lowered_at:
                self._limit = max(LIMIT_MIN, BACKOFF * self._limit)
                self._lowered_at = now
        elif len(self._now) >= BACKOFF * self._limit:
            self._limit += STEP / self._limit

    def ended(self, call: object) -> None:
        """A call has left."""
        self._now.pop(call, None)


class ByForecastAndLimit(ByForecast):
    """The forecast, and a limit that the engine's part of the wait moves."""

    def __init__(self, pool: LeasePool) -> None:
        super().__init__(pool)
        self._by_limit = ByLimit(pool)

    def check(self, call: object, deadlines: Deadlines) -> None:
        """Reject a call that would be late, and a call beyond the limit."""
        super().check(call, deadlines)
        self._by_limit.check(call, deadlines)

    def began(self, call: object) -> None:
        """Measure the engine's part, and move the limit."""
        super().began(call)
        self._by_limit.began(call)

    def ended(self, call: object) -> None:
        """A call has left."""
        self._by_limit.ended(call)


RULES: Mapping[str, Callable[[LeasePool], Rule]] = {
    "none, first come first served": TakeAll,
    "none, newest first": TakeNewest,
    "estimate of routing (FirstTokens)": ByFirstTokens,
    "limit (AIMD)": ByLimit,
    "forecast": ByForecast,
    "forecast, newest first": ByForecastNewest,
    "forecast and limit": ByForecastAndLimit,
}
"""By what the report calls them; the first is today's."""
