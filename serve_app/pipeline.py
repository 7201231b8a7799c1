"""One request from decision to the last byte; the only file that names the steps in order."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from serve_app.config.runtime import DeadlinesConfig, RuntimeConfig
from serve_app.config.tiers import TierConfig
from serve_app.core.call import Call, Decision, Record
from serve_app.core.errors import TooManyCalls
from serve_app.routing.choose import choose_tier
from serve_app.routing.scorer import Scorer
from serve_app.tiers.client import UpstreamRequest


class Answer(Protocol):
    """An engine's answer: head known, body read piece by piece."""

    status: int
    headers: list[tuple[bytes, bytes]]

    async def read(self) -> bytes:
        """The next body bytes, b'' after the last ones."""
        ...


class Tier(Protocol):
    """What answers a call: the replicas of one model."""

    def exchange(
        self, request: UpstreamRequest, deadlines: DeadlinesConfig
    ) -> AbstractAsyncContextManager[Answer]:
        """Send a request; closing the block ends it on the replica as well."""
        ...


class Pipeline:
    """The way of every call through one Router replica."""

    def __init__(
        self,
        configs: Sequence[TierConfig],
        tiers: Mapping[str, Tier],
        scorer: Scorer,
        runtime: RuntimeConfig,
    ) -> None:
        self._configs = tuple(configs)
        self._tiers = tiers
        self.scorer = scorer
        self.runtime = runtime
        """What the next call will see; calls in flight keep what they began with."""
        self._in_flight = 0

    def decide(self, call: Call) -> Decision:
        """Choose the tier: pure, and cheap enough for every call.

        Raises:
            ModelNotFound: the call asks for a model that no tier has.
            InvalidField: the call asks for a tier that does not exist, or for what no tier can do.
        """
        return choose_tier(call, self._configs, self.runtime.routing, self.scorer)

    @asynccontextmanager
    async def answer(self, call: Call, record: Record) -> AsyncIterator[Answer]:
        """Decide, lease a replica, exchange; everything closes after the last byte has gone.

        Raises:
            GatewayError: the call could not be answered.
        """
        runtime = self.runtime
        if self._in_flight >= runtime.limits.calls_max:
            raise TooManyCalls(retry_after_s=1)
        self._in_flight += 1
        try:
            decision = record.decision = self.decide(call)
            body = call.payload.for_model(decision.model_id)
            request = UpstreamRequest(
                call.endpoint.value, body, call.request_id, stream=call.stream
            )
            async with self._tiers[decision.tier].exchange(request, runtime.deadlines) as answer:
                yield answer
        finally:
            self._in_flight -= 1
