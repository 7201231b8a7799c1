"""Delivers the events of ended batches beside the calls of clients, in one Router replica."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import Context
from datetime import UTC, datetime
from enum import StrEnum
from typing import Protocol

from serve_app.batches.ledger import LedgerUnavailable
from serve_app.batches.notices import Notice, NoticeClaim, NotPosted, Reply, WaitingEvents
from serve_app.batches.store import BatchStore
from serve_app.config.webhooks import DeliveryConfig

logger = logging.getLogger("ray.serve")

POLL_S = 1.0
"""How often the ledger is asked for events."""
LOOK_S = 10.0
"""How often the waiting events are counted."""
LEASE_RATIO = 2.0
"""A sender that lives has noted the end of its attempt within twice the time that it may take."""
GONE = 410
"""The receiver says that it will not take the event at any time."""
BUSY = frozenset({429, 503})


class AttemptEnd(StrEnum):
    """The end of an attempt."""

    DELIVERED = "delivered"
    RETRIED = "retried"
    GIVEN_UP = "given_up"


class Heard(Protocol):
    """Takes note of an event that has left the ledger."""

    def __call__(self, notice: Notice, tries: int, fate: AttemptEnd, status: int | None) -> None:
        """`status` is the receiver's last answer, None if there was none."""
        ...


class NoticeSender:
    """One Router's share of the deliveries. Senders of other Routers take the rest.

    Each receiver has `at_once` places of its own, so one that does not answer holds up no other,
    and no batch.
    """

    def __init__(
        self,
        find_store: Callable[[], BatchStore | None],
        heard: Heard,
        clock: Callable[[], float] = time.time,
        poll_s: float = POLL_S,
    ) -> None:
        """`find_store` gives the store of the newest config; None: batches are off."""
        self._find_store = find_store
        self._heard = heard
        self._clock = clock
        self._poll_s = poll_s
        self._sending: dict[asyncio.Task[None], str] = {}
        self._more = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._look_at = 0.0
        self._fates: Counter[tuple[str, AttemptEnd]] = Counter()
        self.waiting: Mapping[str, WaitingEvents] = {}
        """The events that receivers have not got, as they were counted last."""

    def start(self) -> None:
        """Begin, in the running event loop."""
        # The context is empty because Ray would otherwise tie the work to a request.
        self._task = asyncio.get_running_loop().create_task(self._run(), context=Context())

    async def close(self) -> None:
        """Stop. Events without an answer go to another sender at once."""
        tasks = [*self._sending, *([] if self._task is None else [self._task])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def take(self) -> Counter[tuple[str, AttemptEnd]]:
        """The attempts that have ended since the last call, by receiver."""
        fates, self._fates = self._fates, Counter()
        return fates

    async def _run(self) -> None:
        while True:
            store = self._find_store()
            self._more.clear()
            if store is not None and store.posts:
                await self._tend(store)
            else:
                self.waiting = {}
            with suppress(TimeoutError):
                async with asyncio.timeout(self._poll_s):
                    await self._more.wait()

    async def _tend(self, store: BatchStore) -> None:
        try:
            while claim := await self._claim(store):
                task = asyncio.create_task(self._deliver(store, claim))
                self._sending[task] = claim.notice.hook
                task.add_done_callback(self._end)
            await self._look(store)
        except LedgerUnavailable as error:
            logger.warning("events wait for the ledger: %s", error)

    async def _claim(self, store: BatchStore) -> NoticeClaim | None:
        delivery = store.config.delivery
        busy = Counter(self._sending.values())
        free = {name for name in store.posts if busy[name] < delivery.at_once}
        if not free:
            return None
        lease_s = delivery.answer_s * LEASE_RATIO
        return await store.run(store.notices.claim, free, self._clock(), lease_s)

    async def _look(self, store: BatchStore) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._look_at:
            self._look_at = now + LOOK_S
            waiting = await store.run(store.notices.waiting)
            self.waiting = {name: waiting.get(name, WaitingEvents(0, 0.0)) for name in store.posts}

    def _end(self, task: asyncio.Task[None]) -> None:
        del self._sending[task]
        self._more.set()

    async def _deliver(self, store: BatchStore, claim: NoticeClaim) -> None:
        """An attempt whose end cannot be noted is repeated once its lease has ended."""
        try:
            await self._attempt(store, claim)
        except LedgerUnavailable as error:
            logger.warning("event %s waits for the ledger: %s", claim.notice.event_id, error)
        except asyncio.CancelledError:
            with suppress(LedgerUnavailable, RuntimeError):
                await store.run(store.notices.postpone, claim, self._clock())
            raise
        except Exception:
            logger.exception("event %s could not be sent", claim.notice.event_id)

    async def _attempt(self, store: BatchStore, claim: NoticeClaim) -> None:
        notice, delivery = claim.notice, store.config.delivery
        reply = await self._send(store, claim)
        status = None if reply is None else reply.status
        due_at = self._clock() + choose_pause_s(delivery, claim.tries, reply)
        if reply is not None and reply.taken:
            await self._settle(store, claim, AttemptEnd.DELIVERED, status)
        elif status == GONE or due_at > notice.created_at + delivery.give_up_s:
            logger.error("webhook %s: event %s is given up", notice.hook, notice.event_id)
            await self._settle(store, claim, AttemptEnd.GIVEN_UP, status)
        else:
            await store.run(store.notices.postpone, claim, due_at)
            self._fates[notice.hook, AttemptEnd.RETRIED] += 1

    async def _send(self, store: BatchStore, claim: NoticeClaim) -> Reply | None:
        hook, event_id = claim.notice.hook, claim.notice.event_id
        reply = None
        try:
            reply = await store.posts[hook].send(claim.notice, self._clock())
            found = f"answered {reply.status}"
        except NotPosted as error:
            found = str(error)
        level = logging.INFO if reply is not None and reply.taken else logging.WARNING
        logger.log(
            level, "webhook %s: event %s, attempt %d: %s", hook, event_id, claim.tries, found
        )
        return reply

    async def _settle(
        self, store: BatchStore, claim: NoticeClaim, fate: AttemptEnd, status: int | None
    ) -> None:
        if await store.run(store.notices.settle, claim):
            self._fates[claim.notice.hook, fate] += 1
            self._heard(claim.notice, claim.tries, fate, status)


def render_delivery(
    notice: Notice, tries: int, fate: AttemptEnd, status: int | None
) -> dict[str, object]:
    """The end of an event, for the audit log."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "webhook": notice.hook,
        "event_id": notice.event_id,
        "event": notice.kind,
        "tenant": notice.tenant,
        "fate": fate.value,
        "attempts": tries,
        "status": status,
    }


def choose_pause_s(delivery: DeliveryConfig, tries: int, reply: Reply | None) -> float:
    """The time until the next attempt, part of it random; a busy receiver may ask for more."""
    longest_s = min(delivery.pause_s * 2.0 ** min(tries - 1, 40), delivery.pause_s_max)
    asked_s = 0.0
    if reply is not None and reply.status in BUSY:
        asked_s = min(reply.retry_after_s or 0.0, delivery.pause_s_max)
    return max(longest_s * random.uniform(0.5, 1), asked_s)
