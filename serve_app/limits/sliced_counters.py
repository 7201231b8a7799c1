"""The counters without Redis: a Router spends slices that the owner has handed to it.

Most calls are served from the purse, without a message. A Router that dies leaves what it held
charged: its calls by their estimates, and the unspent slices.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol
from weakref import WeakValueDictionary

from serve_app.limits.limit import (
    Charge,
    CountersUnreachable,
    Limit,
    LimitAsk,
    LimitVerdict,
    Standing,
)
from serve_app.limits.owner import PLACE_MS, SLICES, Note, SliceAsk, SliceVerdict
from serve_app.limits.purse import Held, Purse
from serve_app.limits.windows import SECOND_MS, LimitWindow

logger = logging.getLogger("ray.serve")

FLUSH_S = 0.1
HEARTBEAT_S = 5.0
SEND_S = 2.0
CLOSE_S = 2.0
CLOSE_RETRY_S = 0.1
REFUSAL_MS = 100
ATTEMPTS = 3
"""A slice may end on its way, because its slot closes."""


class OwnerPort(Protocol):
    """The way to the owner of the counters.

    The messages of a Router arrive in the order in which it sent them, or not at all: a message
    that says which places it holds must not arrive after a later question for places.

    Every method raises CountersUnreachable if the owner does not answer.
    """

    async def take(self, router: str, asks: Sequence[SliceAsk]) -> SliceVerdict:
        """Slices for every ask, or none."""
        ...

    async def change(self, router: str, note: Note) -> None:
        """Correct what the Router has spent; a number that came before changes nothing."""
        ...

    async def standings(self, limits: Sequence[Limit]) -> Sequence[Standing]:
        """The state of each counter."""
        ...


class SliceOrder:
    """A call that waits for slices. `held` is filled while the call still waits."""

    def __init__(self, asks: Sequence[LimitAsk]) -> None:
        self.asks = asks
        self.held: list[Held] = []
        self.abandoned = False


@dataclass(frozen=True, slots=True)
class KnownRefusal:
    """What the owner has refused, and until when the Router does not ask again."""

    amount: int
    retry_at: int
    until: int


class SlicedCounters:
    """Counters that Routers share through one owner."""

    def __init__(
        self,
        port: OwnerPort,
        router: str,
        *,
        deadline_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # Two limiters of one Router may overlap while its config changes.
        self._router = f"{router}-{secrets.token_hex(4)}"
        self._port = port
        self._deadline_s = deadline_s
        self._clock = clock
        self._purse = Purse()
        self._calls: dict[str, list[Held]] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._number = 0
        self._unsent: Note | None = None
        self._ahead: set[str] = set()
        """The limits for which a question is under way that no call waits for."""
        self._unsure = False
        """Whether the owner may have counted other places than this Router holds."""
        self._refusals: dict[str, KnownRefusal] = {}
        # The first message finds the owner, or starts it, before there are calls.
        self._heard_at = -math.inf
        self._asking: set[asyncio.Task[SliceVerdict | None]] = set()
        self._orders: set[SliceOrder] = set()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to tell the owner what was spent, in the running event loop."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._flush_forever())

    async def close(self) -> None:
        """Give every slice back, as far as the owner answers."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        if self._asking:
            await asyncio.wait(list(self._asking), timeout=self._deadline_s)
        for task in self._asking:
            task.cancel()
        self._purse.empty()
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self._flush_until_told()
                await self._flush_until_told()

    async def _flush_until_told(self) -> None:
        """Send the changes again if they got lost: the first message to an owner that has been
        started again finds only that the old one is gone."""
        while True:
            try:
                await self.flush()
            except CountersUnreachable:
                await asyncio.sleep(CLOSE_RETRY_S)
            else:
                return

    async def reserve(self, call_id: str, asks: Sequence[LimitAsk]) -> LimitVerdict:
        """Reserve all or nothing.

        Raises:
            CountersUnreachable: the slices do not suffice, and the owner did not answer in time.
        """
        held = self._withdraw(asks)
        if held is None:
            refusal = self._refused_just_now(asks)
            if refusal is not None:
                return refusal
            lock = self._locks.setdefault(asks[0].limit.key, asyncio.Lock())
            try:
                async with asyncio.timeout(self._deadline_s), lock:
                    verdict, held = await self._reserve_slowly(asks)
            except TimeoutError:
                raise CountersUnreachable("no answer in time") from None
            if held is None:
                return verdict
        self._calls[call_id] = held
        self._ask_ahead(asks)
        now = self._now()
        return LimitVerdict(tuple(self._purse.standing(ask.limit, now) for ask in asks))

    def settle(self, call_id: str, charges: Sequence[Charge]) -> None:
        """Charge what a call has used instead of what was reserved."""
        now = self._now()
        parts = {part.limit.key: part for part in self._calls.pop(call_id, ())}
        for charge in charges:
            part = parts.get(charge.limit.key)
            more = charge.used - (0 if part is None else part.amount)
            if charge.limit.window is LimitWindow.NOW:
                self._free_place(part, now)
            elif more > 0:
                self._purse.owe(charge.limit, more, now)
            elif part is not None:
                self._purse.deposit(Held(part.limit, part.slot, -more, part.until), now)

    async def peek(self, limits: Sequence[Limit]) -> LimitVerdict:
        """The standings of limits, without a reservation.

        Raises:
            CountersUnreachable: the owner did not answer in time.
        """
        try:
            async with asyncio.timeout(self._deadline_s):
                standings = await self._port.standings(limits)
        except TimeoutError:
            raise CountersUnreachable("no answer in time") from None
        return LimitVerdict(tuple(standings))

    async def flush(self) -> None:
        """Tell the owner what was spent and what is given back.

        Raises:
            CountersUnreachable: the owner did not answer. The same changes are sent next time.
        """
        now = self._now()
        self._purse.expire(now)
        self._refusals = {key: one for key, one in self._refusals.items() if one.until > now}
        if self._unsent is None:
            self._unsent = self._write_note()
        if self._unsent is not None:
            await self._send(self._unsent)
            self._unsent = None
            self._heard_at = self._clock()

    async def _send(self, note: Note) -> None:
        try:
            async with asyncio.timeout(SEND_S):
                await self._port.change(self._router, note)
        except BaseException as error:
            # The Router may get more places before the message is sent again, and the owner may
            # have freed the places of a Router that it could not hear.
            self._unsent, self._unsure = replace(note, places=None), True
            if isinstance(error, TimeoutError):
                raise CountersUnreachable("no answer in time") from None
            raise

    def _write_note(self) -> Note | None:
        """The next message, None if there is nothing to say."""
        changes = tuple(self._purse.take_changes())
        # While a question is under way, nobody knows which places its answer will bring.
        places = self._places() if self._unsure and not self._asking else None
        silent_s = self._clock() - self._heard_at
        if not changes and places is None and silent_s < HEARTBEAT_S:
            return None
        if places is not None:
            self._unsure = False
        self._number += 1
        return Note(self._number, changes, places)

    def _places(self) -> dict[str, int]:
        """The places that this Router holds: with a call, for a call that still waits, and free."""
        taken = [*self._calls.values(), *(order.held for order in self._orders)]
        held = [*self._purse.held(), *(part for parts in taken for part in parts)]
        places: dict[str, int] = {}
        for part in held:
            if part.limit.window is LimitWindow.NOW:
                places[part.limit.key] = places.get(part.limit.key, 0) + part.amount
        return places

    def _refused_just_now(self, asks: Sequence[LimitAsk]) -> LimitVerdict | None:
        """The refusal, if the owner has just refused as much of one of the limits. So a flood of
        calls beyond a limit does not become a flood of messages."""
        now = self._now()
        for index, ask in enumerate(asks):
            known = self._refusals.get(ask.limit.key)
            if known is not None and known.until > now and ask.amount >= known.amount:
                standings = tuple(self._purse.standing(one.limit, now) for one in asks)
                return LimitVerdict(standings, index, max(1, known.retry_at - now))
        return None

    def _note_refusal(self, ask: LimitAsk, verdict: LimitVerdict) -> None:
        now = self._now()
        until = now + min(REFUSAL_MS, verdict.retry_ms)
        self._refusals[ask.limit.key] = KnownRefusal(ask.amount, now + verdict.retry_ms, until)

    def _free_place(self, part: Held | None, now: int) -> None:
        """Keep a place for the next call, but not for long."""
        if part is not None:
            until = now + PLACE_MS
            self._purse.deposit(Held(part.limit, part.slot, part.amount, until), now)

    def _withdraw(self, asks: Sequence[LimitAsk]) -> list[Held] | None:
        """Everything that is asked for, None if the purse does not hold all of it."""
        now = self._now()
        held = [self._purse.withdraw(ask.limit, ask.amount, now) for ask in asks]
        if all(part.amount == ask.amount for part, ask in zip(held, asks, strict=True)):
            return held
        self._put_back(held)
        return None

    def _put_back(self, held: Sequence[Held]) -> None:
        now = self._now()
        for part in held:
            self._purse.deposit(part, now)

    async def _reserve_slowly(
        self, asks: Sequence[LimitAsk]
    ) -> tuple[LimitVerdict, list[Held] | None]:
        """Raises CountersUnreachable if the owner does not answer."""
        for _ in range(ATTEMPTS):
            held = self._withdraw(asks)
            if held is not None:
                return LimitVerdict(()), held
            refusal = self._refused_just_now(asks)
            if refusal is not None:
                return refusal, None
            order = SliceOrder(asks)
            verdict = await self._wait_for(order)
            if verdict is not None:
                return verdict, None
            if order.held:
                return LimitVerdict(()), order.held
        raise CountersUnreachable("slices ended before they could be spent")

    async def _wait_for(self, order: SliceOrder) -> LimitVerdict | None:
        """The refusal, None if the order was filled or its slices have ended."""
        task = asyncio.create_task(self._fill(order))
        self._asking.add(task)
        task.add_done_callback(self._forget)
        self._orders.add(order)
        try:
            # A question goes on without its call, because its slices must come into the purse.
            answer = await asyncio.shield(task)
        except BaseException:
            order.abandoned = True
            self._put_back(order.held)
            raise
        finally:
            self._orders.discard(order)
        return None if answer is None else answer.verdict

    def _ask_ahead(self, asks: Sequence[LimitAsk]) -> None:
        """Ask for the next slices before the purse is empty, so that the next call need not wait.

        Places are not asked for ahead, nor where a call needs more than half a slice: others would
        lack what this Router may never use.
        """
        now = self._now()
        low = [ask.limit for ask in asks if self._is_low(ask, now)]
        if low:
            self._ahead |= {limit.key for limit in low}
            order = SliceOrder([LimitAsk(limit, 1) for limit in low])
            order.abandoned = True
            task = asyncio.create_task(self._fill(order, ahead=True))
            self._asking.add(task)
            task.add_done_callback(self._forget)

    def _is_low(self, ask: LimitAsk, now: int) -> bool:
        limit, half = ask.limit, ask.limit.amount // SLICES // 2
        return (
            limit.window is not LimitWindow.NOW
            and 0 < ask.amount <= half
            and limit.key not in self._ahead
            and not self._purse.holds(limit, half, now)
            and self._refused_just_now([LimitAsk(limit, 1)]) is None
        )

    def _forget(self, task: asyncio.Task[SliceVerdict | None]) -> None:
        self._asking.discard(task)
        if not task.cancelled():
            task.exception()  # else asyncio reports an error that nobody has read

    async def _fill(self, order: SliceOrder, *, ahead: bool = False) -> SliceVerdict | None:
        """Ask the owner for what is missing; returns the refusal, if it is one.

        What the purse holds already counts for the order, unless the question comes `ahead`.
        """
        sent = self._now()
        asides = [
            self._purse.withdraw(ask.limit, 0 if ahead else ask.amount, sent) for ask in order.asks
        ]
        asks = [
            SliceAsk(ask.limit, ask.amount, aside.slot, aside.amount)
            for ask, aside in zip(order.asks, asides, strict=True)
        ]
        try:
            answer = await self._port.take(self._router, asks)
        except BaseException:
            self._unsure = True
            raise
        finally:
            self._put_back(asides)
            if ahead:
                self._ahead -= {ask.limit.key for ask in order.asks}
        self._heard_at = self._clock()
        for ask, standing in zip(order.asks, answer.verdict.standings, strict=True):
            self._purse.hear(ask.limit, standing, self._now())
        if answer.verdict.refused is not None:
            self._note_refusal(order.asks[answer.verdict.refused], answer.verdict)
            return answer
        for ask, part in zip(order.asks, answer.slices, strict=True):
            held = Held(ask.limit, part.slot, part.amount, sent + part.valid_ms)
            self._purse.deposit(held, self._now())
        if not order.abandoned:
            order.held = self._withdraw(order.asks) or []
        return None

    def _now(self) -> int:
        return int(self._clock() * SECOND_MS)

    async def _flush_forever(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            try:
                await self.flush()
            except CountersUnreachable as error:
                logger.warning("the owner of the limits cannot be told: %s", error)
                await asyncio.sleep(1.0)
