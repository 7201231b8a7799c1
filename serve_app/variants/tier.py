"""A tier with variants: the calls of one name, answered by several engines."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import Context
from dataclasses import replace

from serve_app.core.chunks import Take
from serve_app.core.deadlines import Deadlines
from serve_app.core.errors import (
    DeadlineExceeded,
    GatewayError,
    TierOverloaded,
    TierUnavailable,
    UpstreamFailed,
)
from serve_app.core.load import TierLoad
from serve_app.leases.client import UpstreamRequest
from serve_app.leases.tier import Answer, Tier
from serve_app.variants.trial import Drawn, Signal, Trial

logger = logging.getLogger("ray.serve")

NOT_TAKEN = (TierOverloaded, TierUnavailable, UpstreamFailed)
"""The errors of a tier that has begun no answer."""
FAULTS = (TierUnavailable, UpstreamFailed, DeadlineExceeded)
"""The errors that count against the engine. A full tier does not: its replicas are too few."""
SHADOW_PATIENCE_S = 0.5
SHADOW_TOTAL_S = 120.0
"""How long a shadow call may take."""


class Watched:
    """An answer whose end is noted."""

    __slots__ = ("_answer", "_loop", "bad", "first_at", "headers", "status")

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._loop = asyncio.get_running_loop()
        self.status, self.headers = answer.status, answer.headers
        self.bad: list[Signal] = [Signal.REFUSED] if answer.status >= 400 else []
        self.first_at: float | None = None

    async def read(self) -> bytes:
        """The next body bytes, b'' after the last ones."""
        try:
            chunk = await self._answer.read()
        except FAULTS:
            self.bad.append(Signal.FAULTS)
            raise
        if self.first_at is None:
            self.first_at = self._loop.time()
        return chunk

    def divert(self, take: Take) -> None:
        """Offer the chunks that come from now on to `take` first; the end is still noted."""
        self._answer.divert(take)


class VariantTier:
    """A tier whose calls go to the incumbent or to a variant, as its trial draws them.

    A call that a variant does not begin goes to the incumbent, so a broken variant loses no call.
    """

    def __init__(self, incumbent: Tier, variants: Mapping[str, Tier], trial: Trial) -> None:
        self._incumbent = incumbent
        self._variants = variants
        self.trial = trial
        self._shadows: set[asyncio.Task[None]] = set()

    @property
    def down(self) -> bool:
        """Whether nobody who has a share of the calls can be reached."""
        return all(tier.down for tier in self._sharing())

    def _sharing(self) -> list[Tier]:
        trial = self.trial
        sharing = [self._variants[name] for name, share in trial.shares.items() if share]
        if trial.config.incumbent_share or trial.out or not sharing:
            sharing.append(self._incumbent)
        return sharing

    def load(self) -> TierLoad:
        """The load of everybody who has a share of the calls, together."""
        return merge_loads([tier.load() for tier in self._sharing()], down=self.down)

    @asynccontextmanager
    async def exchange(
        self, request: UpstreamRequest, deadlines: Deadlines
    ) -> AsyncIterator[Answer]:
        """Send a request; closing the block also ends the request on the replica.

        Raises:
            GatewayError: as at each of the tiers.
        """
        loop = asyncio.get_running_loop()
        trial = self.trial  # A new trial may begin before the call ends, and has not drawn it.
        drawn = trial.draw(self._key(request))
        began_at = loop.time()
        bad: list[Signal] = []
        watched: Watched | None = None
        try:
            async with AsyncExitStack() as exchange:
                answer = await self._begin(drawn, request, deadlines, exchange, bad)
                watched = Watched(answer)
                self._begin_shadows(request)
                yield watched
        finally:
            answered = request.variant == drawn.variant
            first_at = watched.first_at if watched and answered and not watched.bad else None
            told = first_at is not None and request.opens_with_token
            trial.note_end(
                drawn,
                {*bad, *(watched.bad if watched and answered else ())},
                request.request_id,
                first_token_s=first_at - began_at if told and first_at is not None else None,
            )

    def _key(self, request: UpstreamRequest) -> str | None:
        match self.trial.config.sticky:
            case "session":
                return request.session
            case "caller":
                return request.caller
            case _:
                return None

    async def _begin(
        self,
        drawn: Drawn,
        request: UpstreamRequest,
        deadlines: Deadlines,
        exchange: AsyncExitStack,
        bad: list[Signal],
    ) -> Answer:
        """The answer of whoever was drawn, otherwise of the incumbent."""
        request.variant = drawn.variant
        if drawn.variant is None:
            return await self._enter(self._incumbent, request, deadlines, exchange, bad)
        try:
            variant = self._variants[drawn.variant]
            return await self._enter(variant, request, deadlines, exchange, bad)
        except NOT_TAKEN:
            request.variant = None
            return await exchange.enter_async_context(self._incumbent.exchange(request, deadlines))

    @staticmethod
    async def _enter(
        tier: Tier,
        request: UpstreamRequest,
        deadlines: Deadlines,
        exchange: AsyncExitStack,
        bad: list[Signal],
    ) -> Answer:
        try:
            return await exchange.enter_async_context(tier.exchange(request, deadlines))
        except FAULTS:
            bad.append(Signal.FAULTS)
            raise

    def _begin_shadows(self, request: UpstreamRequest) -> None:
        for name in self.trial.draw_shadows():
            variant, load = self._variants[name], self._variants[name].load()
            full = len(self._shadows) >= self.trial.config.shadow_calls_max
            if full or name == request.variant or load.down or load.waiting or load.queued:
                continue
            # The context is empty because Ray would otherwise cancel the task with the request.
            loop = asyncio.get_running_loop()
            task = loop.create_task(self._shadow(name, variant, request.copy()), context=Context())
            self._shadows.add(task)
            task.add_done_callback(self._shadows.discard)

    async def _shadow(self, name: str, tier: Tier, request: UpstreamRequest) -> None:
        """Read an answer that nobody gets."""
        now = asyncio.get_running_loop().time()
        total_s = SHADOW_TOTAL_S
        deadlines = Deadlines(
            now, place_s=SHADOW_PATIENCE_S, first_byte_s=total_s, gap_s=total_s, total_s=total_s
        )
        try:
            async with tier.exchange(request, deadlines) as answer:
                while await answer.read():
                    pass
                bad = [Signal.REFUSED] if answer.status >= 400 else []
        except TierOverloaded:
            return  # It has become busy meanwhile: no call, and no fault.
        except GatewayError:
            bad = [Signal.FAULTS]
        self.trial.note_shadow(name, bad)

    async def close(self) -> None:
        """End the shadow calls."""
        for task in list(self._shadows):
            task.cancel()
        await asyncio.gather(*self._shadows, return_exceptions=True)


def merge_loads(loads: list[TierLoad], *, down: bool) -> TierLoad:
    """The load of several engines as that of one tier; waits are the longest."""
    first, *others = loads
    if not others:
        return first
    waits = [load.first_token_s for load in loads if load.first_token_s is not None]
    told = [load for load in loads if load.replicas]
    free = [
        (load.kv_free_ratio, load.replicas or 0) for load in told if load.kv_free_ratio is not None
    ]
    return replace(
        first,
        down=down,
        waiting=sum(load.waiting for load in loads),
        ongoing=sum(load.ongoing for load in loads),
        first_token_s=max(waits, default=None),
        replicas=sum(load.replicas or 0 for load in told) if told else None,
        running=sum(load.running or 0 for load in told) if told else None,
        queued=sum(load.queued or 0 for load in told) if told else None,
        kv_free_ratio=sum(ratio * n for ratio, n in free) / sum(n for _, n in free)
        if free
        else None,
        avoided=sum(load.avoided for load in loads),
    )
