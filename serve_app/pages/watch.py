"""Follows the numbers of all Routers, once a second and only while somebody watches."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass
from typing import Protocol

import orjson

from serve_app.core.call import TierState
from serve_app.core.errors import TooManyCalls
from serve_app.pages.numbers import RouterNumbers
from serve_app.pages.summary import summarise

logger = logging.getLogger("ray.serve")

PERIOD_S = 1.0
ASK_S = 2.0
"""How long the other Routers, and Serve's controller, may take to answer."""
WATCHERS_MAX = 32
"""Pages that one Router serves at a time; they share its questions to the other Routers."""
LATE = "Serve's controller does not answer; the states of the tiers are those it told last"


@dataclass(frozen=True, slots=True)
class Replies:
    """The numbers of the Routers that have answered, and the number of the others."""

    numbers: Sequence[RouterNumbers]
    missing: int = 0


class States(Protocol):
    """The source of the tiers' states."""

    async def tiers(self) -> Sequence[TierState]:
        """The state of every tier, the strongest last."""
        ...


class NumbersWatch:
    """The numbers of all Routers for every page that this Router serves."""

    def __init__(
        self,
        ask: Callable[[], Awaitable[Replies]],
        states: States,
        unknown: Sequence[TierState],
        *,
        period_s: float = PERIOD_S,
        ask_s: float = ASK_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`unknown` are the tiers before their states are known."""
        self._ask = ask
        self._source = states
        self._states = unknown
        self._period_s = period_s
        self._ask_s = ask_s
        self._clock = clock
        self._watchers = 0
        self._task: asyncio.Task[None] | None = None
        self._newest = b""
        self._changed = asyncio.Event()

    async def follow(self) -> AsyncIterator[bytes]:
        """The newest summary as JSON, again and again.

        Raises:
            TooManyCalls: too many pages are open already.
        """
        if self._watchers >= WATCHERS_MAX:
            raise TooManyCalls(retry_after_s=30)
        self._watchers += 1
        try:
            self._start()
            while True:
                changed = self._changed
                await changed.wait()
                yield self._newest
        finally:
            self._watchers -= 1

    def close(self) -> None:
        """Ask nobody any more."""
        if self._task is not None:
            self._task.cancel()

    def _start(self) -> None:
        if self._task is None:
            # A context of its own: Serve cancels what a request has begun once its client has gone.
            loop = asyncio.get_running_loop()
            self._task = loop.create_task(self._run(), context=Context())

    async def _run(self) -> None:
        try:
            while self._watchers:
                try:
                    self._newest = await self._summarise()
                    self._changed.set()
                    self._changed = asyncio.Event()
                except Exception:
                    logger.exception("the dashboard has no new numbers")
                await asyncio.sleep(self._period_s)
        finally:
            self._task = None

    async def _summarise(self) -> bytes:
        replies, unclear = await asyncio.gather(self._ask(), self._read_states())
        return orjson.dumps(
            summarise(
                replies.numbers,
                self._states,
                missing=replies.missing,
                at=self._clock(),
                unclear=unclear,
            )
        )

    async def _read_states(self) -> str | None:
        """Take the states of the tiers; why they are not fresh, None if they are."""
        try:
            async with asyncio.timeout(self._ask_s):
                self._states = await self._source.tiers() or self._states
        except Exception as error:
            logger.debug("no states of the tiers", exc_info=error)
            return LATE
        return None


async def gather_replies(
    questions: Sequence[Awaitable[RouterNumbers]], wait_s: float = ASK_S
) -> Replies:
    """The answers that come in time. A Router that fails or is late hides no other one."""
    tasks = [asyncio.ensure_future(question) for question in questions]
    if not tasks:
        return Replies(())
    done, late = await asyncio.wait(tasks, timeout=wait_s)
    for task in late:
        task.cancel()
    answered = [task.result() for task in tasks if task in done and task.exception() is None]
    with suppress(asyncio.CancelledError):
        await asyncio.gather(*late, return_exceptions=True)
    return Replies(answered, len(tasks) - len(answered))
