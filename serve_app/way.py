"""The state of one call on its way from tier to tier."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

from serve_app.config.runtime import RoutingConfig
from serve_app.core.call import Call, Decision, Draft, Reason, Record
from serve_app.core.caller import Caller
from serve_app.core.deadlines import Deadlines
from serve_app.core.errors import WouldBeLate
from serve_app.core.tokens import estimate_tokens
from serve_app.core.trace import ExchangeTrace
from serve_app.leases.client import UpstreamRequest
from serve_app.leases.order import NO_CLAIM, Claim
from serve_app.leases.prefix_choice import Prefix
from serve_app.leases.tier import Answer, Tier


class Way:
    """The state of one call: the call itself, its record, its rules and its deadlines."""

    __slots__ = ("call", "claim", "deadlines", "record", "routing")

    def __init__(
        self,
        call: Call,
        record: Record,
        routing: RoutingConfig,
        deadlines: Deadlines,
        claim: Claim = NO_CLAIM,
    ) -> None:
        self.call = call
        self.record = record
        self.routing = routing
        self.deadlines = deadlines
        self.claim = claim

    def failed_drafts(self, decision: Decision) -> frozenset[str]:
        """The tiers that have failed this call before `decision`."""
        draft = self.record.draft
        if draft is None or decision.reason is not Reason.DRAFT_FAILED:
            return frozenset()
        return frozenset({draft.tier})

    def note_refusal(self, tier: str, error: BaseException) -> None:
        """A tier has not taken the call."""
        if isinstance(error, WouldBeLate):
            self.record.late_tiers.append(tier)

    async def send(
        self, tier: Tier, decision: Decision, exchange: AsyncExitStack, patience_s: float | None
    ) -> Answer:
        """The answer of a tier; closing `exchange` ends the exchange there.

        Raises:
            GatewayError: no answer began.
        """
        call = self.call
        request = UpstreamRequest(
            call.endpoint.value,
            call.payload.for_model(decision.model_id, decision.tier),
            call.request_id,
            stream=call.stream,
            patience_s=patience_s,
            session=call.session,
            usage=self.record.usage,
            claim=self.claim,
            prefix=self._prefix(decision),
        )
        return await self.enter(tier, decision.tier, request, exchange)

    def draft_request(self, decision: Decision, draft: Draft) -> UpstreamRequest:
        """The request for an answer that is judged at its checkpoint."""
        call = self.call
        return UpstreamRequest(
            call.endpoint.value,
            call.payload.for_model(decision.model_id, decision.tier),
            call.request_id,
            stream=True,
            session=call.session,
            draft_tokens=self.routing.cascade.checkpoint_tokens,
            # After its checkpoint an answer in one piece is silent until it is complete.
            silent=not call.stream,
            usage=draft.usage,
            claim=self.claim,
            prefix=self._prefix(decision),
        )

    def _prefix(self, decision: Decision) -> Prefix:
        call = self.call
        return Prefix(call.payload.prefix_keys, decision.model_id, estimate_tokens(call.prompt))

    async def enter(
        self, tier: Tier, name: str, request: UpstreamRequest, exchange: AsyncExitStack
    ) -> Answer:
        """Send a request under the call's deadlines; closing `exchange` ends it.

        Raises:
            GatewayError: no answer began, or none could begin in time.
        """
        self.deadlines.check(asyncio.get_running_loop().time(), stream=request.stream)
        exchange.callback(self._settle, request)
        request.caller = render_caller(self.record.caller)
        trace = self.record.trace
        if trace is not None:
            noted = trace.begin(name)
            request.traceparent = trace.render_for(noted)
            answer = await self._enter_traced(tier, request, exchange, noted)
        else:
            answer = await exchange.enter_async_context(tier.exchange(request, self.deadlines))
        self.record.variant = request.variant
        return answer

    async def _enter_traced(
        self, tier: Tier, request: UpstreamRequest, exchange: AsyncExitStack, noted: ExchangeTrace
    ) -> Answer:
        request.trace = noted
        exchange.callback(note_end, noted)
        answer = await exchange.enter_async_context(tier.exchange(request, self.deadlines))
        noted.head_at = time.time()
        return answer

    def _settle(self, request: UpstreamRequest) -> None:
        if request.settling is not None:
            self.record.settling.append(request.settling)


def note_end(exchange: ExchangeTrace) -> None:
    """The exchange has ended; its last byte has been read, or nobody reads it any more."""
    exchange.ended_at = time.time()


def render_caller(caller: Caller) -> str:
    """The narrowest name of a caller: the user, otherwise the key, otherwise the tenant."""
    return f"{caller.tenant}/{caller.user or caller.key_id or ''}"
