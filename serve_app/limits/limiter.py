"""The step on the way of a call that reserves before it and settles after it."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence

from serve_app.core.call import Call, Record, Reservation, Route
from serve_app.core.caller import Caller
from serve_app.core.errors import LimitsUnavailable, RateLimited
from serve_app.core.limit_use import LimitUse
from serve_app.limits.budgets import Budgets
from serve_app.limits.estimate import NOTHING, Estimator, Uses
from serve_app.limits.headers import remaining, render_limits
from serve_app.limits.limit import (
    Charge,
    Counters,
    CountersUnreachable,
    Limit,
    LimitAsk,
    LimitVerdict,
    Measure,
)
from serve_app.limits.rules import LimitRules
from serve_app.limits.windows import SECOND_MS

logger = logging.getLogger("ray.serve")

RETRY_S = 1
WARN_EVERY_S = 10.0
NO_USES = Uses(NOTHING, {})

Clock = Callable[[], float]


class CallerLimiter:
    """Holds callers to the rules of the config, with counters that all Routers share.

    `replica` makes the ids of calls unique, because two Routers may see the same request id.
    """

    def __init__(
        self,
        rules: LimitRules,
        estimator: Estimator,
        counters: Counters,
        replica: str,
        *,
        open_on_failure: bool,
        clock: Clock = time.time,
    ) -> None:
        self._rules = rules
        self._estimator = estimator
        self._counters = counters
        self._replica = replica
        self._open_on_failure = open_on_failure
        self._clock = clock
        self._calls = 0
        self._warned_at = -math.inf
        self._budgets = Budgets()

    def start(self) -> None:
        """Begin to settle, in the running event loop."""
        self._counters.start()

    async def close(self) -> None:
        """Settle what has not been settled, as far as the counters can be reached."""
        await self._counters.close()

    async def reserve(self, call: Call, record: Record, route: Route) -> Reservation:
        """Reserve what the call may use at most; `record.headers` gets the state of the limits.

        Raises:
            RateLimited: a limit of the caller does not allow the call now.
            LimitsUnavailable: the counters cannot be reached, and the config says `closed`.
        """
        limits = self._rules.limits_of(record.caller)
        estimate = self._estimator.estimate(call, route) if limits else NO_USES
        asks = _asks(limits, estimate)
        self._calls += 1
        held = HeldReservation(self, f"{self._replica}-{self._calls}", limits, estimate, asks)
        if not asks:
            return held
        try:
            verdict = await self._counters.reserve(held.call_id, asks)
        except CountersUnreachable as error:
            self._without_counters(held, error)
            return held
        except BaseException:
            # The client left. The counters may have reserved, or may still do it.
            held.cancel()
            raise
        self._tell(record, asks, verdict)
        return held

    def _without_counters(self, held: HeldReservation, error: CountersUnreachable) -> None:
        """Raises LimitsUnavailable unless calls may pass."""
        now = self._clock()
        if now - self._warned_at >= WARN_EVERY_S:
            self._warned_at = now
            what = "pass" if self._open_on_failure else "are refused"
            logger.warning("the counters of limits cannot be reached (%s): calls %s", error, what)
        if not self._open_on_failure:
            held.cancel()
            raise LimitsUnavailable(RETRY_S) from None

    def _tell(self, record: Record, asks: Sequence[LimitAsk], verdict: LimitVerdict) -> None:
        """Raises RateLimited if there was no room."""
        now_ms = int(self._clock() * SECOND_MS)
        record.headers += render_limits(
            asks, verdict.standings, anthropic=record.endpoint.anthropic, now_ms=now_ms
        )
        seen = zip((ask.limit for ask in asks), verdict.standings, strict=True)
        self._budgets.note(record.caller.tenant, seen, now_ms)
        if verdict.refused is not None:
            ask = asks[verdict.refused]
            raise RateLimited(_refusal(ask), math.ceil(verdict.retry_ms / SECOND_MS))

    def settle(self, held: HeldReservation, record: Record | None) -> None:
        """Charge an ended call; None for a call that has never begun."""
        counted = None if record is None else self._estimator.count(record, held.estimate)
        charges = [_charge(limit, held, counted) for limit in held.limits]
        charges = [charge for charge in charges if charge.reserved or charge.used]
        if charges:
            self._counters.settle(held.call_id, charges)

    def budgets(self) -> Mapping[tuple[str, str], float]:
        """The spent share of the budgets of a day and a month, by tenant and kind."""
        return self._budgets.spent(int(self._clock() * SECOND_MS))

    async def describe(self, caller: Caller) -> Sequence[LimitUse]:
        """The limits of a caller, and how much of each is used.

        Raises:
            LimitsUnavailable: the counters cannot be read.
        """
        limits = self._rules.limits_of(caller)
        try:
            verdict = await self._counters.peek(limits)
        except CountersUnreachable:
            raise LimitsUnavailable(RETRY_S) from None
        return [
            LimitUse(
                limit=limit.words,
                measure=limit.measure.value,
                tier=limit.tier,
                amount=limit.amount,
                used=standing.used,
                remaining=remaining(limit.amount, standing),
                resets_in_s=standing.reset_ms / SECOND_MS,
            )
            for limit, standing in zip(limits, verdict.standings, strict=True)
        ]


class HeldReservation:
    """What is reserved for one call. Settling it again changes nothing."""

    __slots__ = ("_ended", "_limiter", "asked", "call_id", "estimate", "limits")

    def __init__(
        self,
        limiter: CallerLimiter,
        call_id: str,
        limits: Sequence[Limit],
        estimate: Uses,
        asks: Sequence[LimitAsk],
    ) -> None:
        self._limiter = limiter
        self._ended = False
        self.call_id = call_id
        self.limits = limits
        self.estimate = estimate
        self.asked: Mapping[str, int] = {ask.limit.key: ask.amount for ask in asks}
        """What the call asked of each limit, by the key of the limit."""

    def settle(self, record: Record) -> None:
        """Charge what the call has used, and give the rest back."""
        self._end(record)

    def cancel(self) -> None:
        """Give everything back, because the call does not begin."""
        self._end(None)

    def _end(self, record: Record | None) -> None:
        if not self._ended:
            self._ended = True
            try:
                self._limiter.settle(self, record)
            except Exception:
                # The estimate stays charged. A call that has ended must not fail for it.
                logger.exception("a call could not be settled")


def _asks(limits: Sequence[Limit], estimate: Uses) -> list[LimitAsk]:
    """What the call asks of each limit; limits of tiers that it does not use are left out."""
    return [
        LimitAsk(limit, estimate.amount(limit.measure, limit.tier))
        for limit in limits
        if limit.tier is None or limit.tier in estimate.tiers
    ]


def _charge(limit: Limit, held: HeldReservation, counted: Uses | None) -> Charge:
    used = 0 if counted is None else counted.amount(limit.measure, limit.tier)
    reserved = held.asked.get(limit.key, 0)
    return Charge(limit, reserved, 0 if limit.measure is Measure.CALLS else used)


def _refusal(ask: LimitAsk) -> str:
    """Which limit was hit, in words that hold nothing about other callers."""
    limit = ask.limit
    if limit.amount < ask.amount and limit.measure is Measure.TOKENS:
        return f"the call may need {ask.amount} tokens, and the limit is {limit.words}"
    if limit.amount < ask.amount and limit.measure is Measure.MONEY:
        return f"the call may cost more than the limit of {limit.words}"
    return limit.words
