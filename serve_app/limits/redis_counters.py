"""The counters in Redis: one atomic script to reserve, one to settle."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from serve_app.config.reader import read_redis_options
from serve_app.config.redis import RedisConfig
from serve_app.limits.limit import (
    Charge,
    CountersUnreachable,
    Limit,
    LimitAsk,
    LimitVerdict,
    Standing,
)
from serve_app.limits.redis_lanes import Lanes, Script
from serve_app.limits.scripts import RESERVE, SETTLE
from serve_app.limits.windows import SECOND_MS, LimitWindow, month_starts

logger = logging.getLogger("ray.serve")

PREFIX = "serve-app:limits:"
CONNECTIONS_MAX = 16
COMMAND_S = 2.0
"""How long a command may occupy its connection; a call waits much shorter."""
BATCH_MAX = 128
UNSETTLED_MAX = 100_000
"""Settlements that wait for Redis. Calls beyond that stay charged by their estimate."""
RETRY_MIN_S, RETRY_MAX_S = 0.05, 5.0
GATHER_S = 0.002
CLOSE_S = 2.0


@dataclass(frozen=True, slots=True)
class Settlement:
    """One call that is to be settled."""

    call_id: str
    charges: Sequence[Charge]
    taken: asyncio.Future[None]
    """Done when Redis has taken it."""


class RedisCounters:
    """Counters that Routers share through one Redis.

    Settlements wait in a queue, and are sent again until Redis has taken them.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        deadline_s: float,
        marker_s: float,
        place_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`marker_s` must be longer than a call may last. `clock` names the month."""
        self._redis = redis
        self._deadline_s = deadline_s
        self._marker_ms = int(marker_s * SECOND_MS)
        self._place_ms = int(place_s * SECOND_MS)
        self._clock = clock
        self._month = (0, 0, "")
        self._ahead_ms = 0
        """How far the clock of Redis is ahead of this clock."""
        self._reserve, self._settle = Script(RESERVE), Script(SETTLE)
        self._unsettled: deque[Settlement] = deque(maxlen=UNSETTLED_MAX)
        self._wake = asyncio.Event()
        self._places: dict[str, str] = {}
        """The key of the calls at a time, by the id of each call that holds a place."""
        self._tasks: list[asyncio.Task[None]] = []
        self._lanes = Lanes(redis)

    def start(self) -> None:
        """Begin to settle and to keep places, in the running event loop."""
        self._lanes.start()
        if not self._tasks:
            loop = asyncio.get_running_loop()
            self._tasks = [
                loop.create_task(self._settle_forever()),
                loop.create_task(self._keep_places()),
            ]

    async def close(self) -> None:
        """Settle the rest, as far as Redis answers, and close the connections."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                while self._unsettled and self._tasks:
                    self._wake.set()
                    await asyncio.sleep(0.01)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        await self._lanes.close()
        await self._redis.aclose()

    async def reserve(self, call_id: str, asks: Sequence[LimitAsk]) -> LimitVerdict:
        """Reserve all or nothing.

        Raises:
            CountersUnreachable: Redis did not answer in time. It may have reserved.
        """
        verdict = await self._ask(call_id, asks, commit=True)
        if self._waits_for_place(asks, verdict):
            # A client may send its next call before Redis knows that its last call has ended.
            await asyncio.wait({self._unsettled[-1].taken}, timeout=self._deadline_s)
            verdict = await self._ask(call_id, asks, commit=True)
        if verdict.refused is None:
            for ask in asks:
                if ask.limit.window is LimitWindow.NOW:
                    self._places[f"{call_id}/{ask.limit.key}"] = ask.limit.key
        return verdict

    def _waits_for_place(self, asks: Sequence[LimitAsk], verdict: LimitVerdict) -> bool:
        """Whether a call was refused for want of a place, and calls have ended that Redis still
        counts."""
        if verdict.refused is None or not self._unsettled:
            return False
        return asks[verdict.refused].limit.window is LimitWindow.NOW

    async def peek(self, limits: Sequence[Limit]) -> LimitVerdict:
        """The standings of limits, without a reservation.

        Raises:
            CountersUnreachable: Redis did not answer in time.
        """
        if not limits:
            return LimitVerdict(())
        return await self._ask("peek", [LimitAsk(limit, 0) for limit in limits], commit=False)

    def settle(self, call_id: str, charges: Sequence[Charge]) -> None:
        """Charge what a call has used instead of what was reserved, as soon as Redis takes it."""
        if len(self._unsettled) == UNSETTLED_MAX:
            logger.error("a call stays charged by its estimate: too many calls wait for Redis")
        for charge in charges:
            self._places.pop(f"{call_id}/{charge.limit.key}", None)
        taken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._unsettled.append(Settlement(call_id, charges, taken))
        self._wake.set()

    @property
    def unsettled(self) -> int:
        """How many settlements wait for Redis."""
        return len(self._unsettled)

    async def _ask(self, call_id: str, asks: Sequence[LimitAsk], *, commit: bool) -> LimitVerdict:
        keys = [self._marker(call_id, asks[0].limit), *(PREFIX + ask.limit.key for ask in asks)]
        flag = "1" if commit else "0"
        arguments = [self._months(), self._marker_ms, self._place_ms, call_id, flag]
        for ask in asks:
            arguments += [ask.limit.window.value, ask.limit.amount, ask.amount]
        answer = await self._in_time(self._lanes.send(self._reserve, keys, arguments))
        self._ahead_ms = int(answer[2]) - self._now_ms()
        return _parse(answer, len(asks))

    async def _in_time(self, answer: asyncio.Future[Any]) -> list[Any]:
        """The answer of a command, which goes on after the deadline.

        Raises:
            CountersUnreachable: no answer in time.
        """
        done, _ = await asyncio.wait({answer}, timeout=self._deadline_s)
        if not done:
            raise CountersUnreachable("no answer in time")
        try:
            answered: list[Any] = answer.result()
        except (RedisError, OSError) as error:
            raise CountersUnreachable(type(error).__name__) from None
        return answered

    async def _settle_forever(self) -> None:
        wait_s = RETRY_MIN_S
        while True:
            await self._wake.wait()
            self._wake.clear()
            # Settlements that come together cost less, and nobody waits for them.
            await asyncio.sleep(GATHER_S)
            while self._unsettled:
                batch = [self._unsettled[n] for n in range(min(BATCH_MAX, len(self._unsettled)))]
                if await self._settle_batch(batch):
                    wait_s = RETRY_MIN_S
                else:
                    await asyncio.sleep(wait_s)
                    wait_s = min(2 * wait_s, RETRY_MAX_S)

    async def _settle_batch(self, batch: Sequence[Settlement]) -> bool:
        """Whether Redis has taken the settlements; each of them changes nothing a second time."""
        sent = (self._send(settlement) for settlement in batch)
        errors = [one for one in await asyncio.gather(*sent, return_exceptions=True) if one]
        if errors:
            logger.warning("calls cannot be settled yet: %s", type(errors[0]).__name__)
            return False
        for settlement in batch:
            if not settlement.taken.done():
                settlement.taken.set_result(None)
            if self._unsettled and self._unsettled[0] is settlement:
                self._unsettled.popleft()
        return True

    async def _send(self, settlement: Settlement) -> None:
        charges = settlement.charges
        keys = [
            self._marker(settlement.call_id, charges[0].limit),
            *(PREFIX + charge.limit.key for charge in charges),
        ]
        arguments: list[Any] = [self._months(), self._marker_ms, settlement.call_id]
        for charge in charges:
            more = charge.used - charge.reserved
            arguments += [charge.limit.window.value, charge.used, more]
        await self._lanes.send(self._settle, keys, arguments)

    async def _keep_places(self) -> None:
        """Tell Redis that the places of this Router are still held, well before they expire."""
        while True:
            await asyncio.sleep(self._place_ms / SECOND_MS / 4)
            if self._places:
                with suppress(RedisError, OSError):
                    await self._renew()

    async def _renew(self) -> None:
        ends = self._now_ms() + self._ahead_ms + self._place_ms
        async with self._redis.pipeline(transaction=False) as pipeline:
            for place, key in self._places.items():
                # Only a place that is still there, so that a settled call does not come back.
                call_id = place.partition("/")[0]
                pipeline.zadd(PREFIX + key, {call_id: ends}, xx=True)
            await pipeline.execute()

    def _marker(self, call_id: str, limit: Limit) -> str:
        tag, _, _ = limit.key.partition(":")
        return f"{PREFIX}{tag}:call:{call_id}"

    def _months(self) -> str:
        """The months around the present, which the scripts choose from."""
        now = self._now_ms()
        if not self._month[0] <= now < self._month[1]:
            _, this, after, _ = starts = month_starts(now)
            self._month = (this, after, " ".join(map(str, starts)))
        return self._month[2]

    def _now_ms(self) -> int:
        return int(self._clock() * SECOND_MS)


def connect(config: RedisConfig, deadline_s: float) -> Redis:
    """A client that connects when it is first used, and never repeats a command by itself.

    Raises:
        ConfigError: the password cannot be read.
    """
    options: dict[str, Any] = {**read_redis_options(config)}
    pool = BlockingConnectionPool.from_url(
        config.url,
        max_connections=CONNECTIONS_MAX,
        timeout=COMMAND_S,
        socket_timeout=max(COMMAND_S, deadline_s),
        socket_connect_timeout=max(COMMAND_S, deadline_s),
        retry=Retry(NoBackoff(), 0),
        **options,
    )
    return Redis.from_pool(pool)


def _parse(answer: list[Any], counters: int) -> LimitVerdict:
    """The script's answer: index of the refused ask or 0, retry, time, then used and reset each."""
    refused, retry_ms = int(answer[0]), int(answer[1])
    if refused < 0:
        raise CountersUnreachable("the reservation came after its call had been given up")
    numbers = [int(number) for number in answer[3:]]
    standings = tuple(Standing(*numbers[2 * n : 2 * n + 2]) for n in range(counters))
    return LimitVerdict(standings, refused - 1 if refused else None, retry_ms)
