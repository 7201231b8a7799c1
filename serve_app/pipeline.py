"""One request from decision to the last byte; the only file that names the steps in order."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Protocol

from serve_app.cascade import answer_by_cascade
from serve_app.config.fairness import FairnessConfig
from serve_app.config.prices import PricesConfig
from serve_app.config.runtime import RoutingConfig, RuntimeConfig
from serve_app.config.tiers import TierConfig
from serve_app.core.call import Call, Endpoint, Reason, Record, Route
from serve_app.core.caller import ANONYMOUS, Caller, Credentials
from serve_app.core.deadlines import Deadlines
from serve_app.core.errors import TierOverloaded, TierUnavailable, TooManyCalls, UpstreamFailed
from serve_app.core.load import TierLoad
from serve_app.core.ranks import find_rank
from serve_app.core.residence import NOWHERE, Residence
from serve_app.leases.order import NO_CLAIM, Claim
from serve_app.leases.prefix_choice import Prefix
from serve_app.leases.tier import Answer, Tier, TierCache
from serve_app.routing.choose import choose_route, estimate_tokens
from serve_app.routing.control import ControlState, ThresholdControl
from serve_app.routing.drift import ScoreWindow
from serve_app.routing.history import is_free
from serve_app.routing.limits import fit_limits
from serve_app.routing.live import Live
from serve_app.routing.objectives import Objectives
from serve_app.routing.scorer import Scorer
from serve_app.routing.worth import CostWeights, Weighing
from serve_app.steps import NO_STEPS, Steps
from serve_app.way import Way

CHOSEN_BY_OTHERS = frozenset({Reason.MODEL, Reason.HEADER, Reason.ONLY_TIER, Reason.NO_GENERATION})
"""Why a call went to a tier that the Router did not choose: nothing is saved by routing then."""

RANKED_ENDPOINTS = frozenset({Endpoint.CHAT, Endpoint.COMPLETIONS, Endpoint.RESPONSES})
"""The paths on which vLLM reads a priority."""

NO_LOADS: Mapping[str, TierLoad] = {}


class IdleWork(Protocol):
    """Work that runs while there are no calls, and must not delay any call."""

    def call_began(self) -> None:
        """A call has arrived: stop at once."""
        ...

    def call_ended(self, tokens: int) -> None:
        """A call has been answered or has failed; its prompt and answer had so many tokens."""
        ...


class Pipeline:
    """Carries every call of one Router replica from its decision to its last byte."""

    def __init__(
        self,
        configs: Sequence[TierConfig],
        tiers: Mapping[str, Tier],
        scorer: Scorer,
        runtime: RuntimeConfig,
        idle_work: IdleWork | None = None,
        steps: Steps = NO_STEPS,
        caches: Mapping[str, TierCache] | None = None,
    ) -> None:
        """`caches`: the prefix caches of the tiers, which may decide with the score."""
        self._caches = caches or {}
        self._configs = tuple(configs)
        self._strongest = find_strongest(configs)
        self._ranking = find_ranking(configs)
        self._tiers = tiers
        self.scorer = scorer
        self.runtime = runtime
        """The config for the next call; calls in flight keep their old config."""
        self.steps = steps
        """The steps for the next call; calls in flight keep their old steps."""
        self._idle_work = idle_work
        self._in_flight = 0
        self._held: Counter[str] = Counter()
        self._control = ThresholdControl()
        self._objectives = Objectives(configs)
        self.wanted = dict.fromkeys(tiers, 0)
        """The number of calls meant for each tier, whether the tier had a place for them or not.
        Lines of batches that shall add no replicas do not count."""

    @property
    def in_flight(self) -> int:
        """The number of calls that this Router holds."""
        return self._in_flight

    async def authenticate(self, credentials: Credentials) -> Caller:
        """Who asks, before the request's body is read.

        Raises:
            Unauthorized: the credentials prove nothing.
            Forbidden: the client's address may not call.
            AccessUnavailable: the source of keys cannot be reached.
        """
        if self.steps.access is None:
            return ANONYMOUS
        return await self.steps.access.authenticate(credentials)

    def authorise(self, call: Call, caller: Caller) -> Call:
        """The call as the caller may make it.

        Raises:
            Forbidden: the caller may not make the call.
            InvalidField: the call asks for more tokens than the caller may.
        """
        return call if self.steps.access is None else self.steps.access.authorise(call, caller)

    def visible(self, caller: Caller) -> Sequence[TierConfig]:
        """The tiers that the caller may use, each with the models that the caller may name.

        Raises:
            Forbidden: there are none.
        """
        if self.steps.access is None:
            return self._configs
        return self.steps.access.visible(caller, self._configs)

    def decide(self, call: Call, caller: Caller = ANONYMOUS) -> Route:
        """Choose the tiers, in order: without side effects, and cheap enough for every call.

        Raises:
            ModelNotFound: the call asks for a model that no tier of the caller has.
            InvalidField: the call asks for a tier that does not exist, or for a task that no tier
                can do.
            Forbidden: the caller may use no tier.
        """
        routing = self.runtime.routing
        residency = self._residency(call) if routing.residency_weight else None
        weighing = self._weigh(call)
        live = Live(self._control.threshold(routing), self._loads(routing), residency, weighing)
        tiers = self.visible(caller)
        routing = fit_limits(routing, self._configs, tiers)
        return choose_route(call, tiers, routing, self.scorer, live)

    def _weigh(self, call: Call) -> Weighing | None:
        """How an objective weighs the call, None where there is none."""
        runtime = self.runtime
        if call.objective is None and runtime.routing.objective is None:
            return None
        loads = self.loads() if runtime.routing.objectives.time_weight else NO_LOADS
        residences = self._residence(call)
        return self._objectives.weigh(call, runtime, self.scorer.heads, residences, loads)

    def _residency(self, call: Call) -> Callable[[TierConfig], Residence]:
        """What each tier has cached of a call, in seconds of GPUs; computed when asked for."""
        find = self._residence(call)
        return lambda tier: find(tier).on_gpus(tier.gpus)

    def _residence(self, call: Call) -> Callable[[TierConfig], Residence]:
        """The same in seconds of a replica."""

        def find(tier: TierConfig) -> Residence:
            cache = self._caches.get(tier.name)
            if cache is None:
                return NOWHERE
            tokens = estimate_tokens(call.prompt)
            return cache.residence(Prefix(call.payload.prefix_keys, tier.model_id, tokens))

        return find

    def _loads(self, routing: RoutingConfig) -> Mapping[str, TierLoad]:
        """The load of every tier, if a rule reads it."""
        return self.loads() if routing.load.watched or self._down() else NO_LOADS

    def loads(self) -> Mapping[str, TierLoad]:
        """The load of every tier by name."""
        return {name: tier.load() for name, tier in self._tiers.items()}

    def control_state(self) -> ControlState | None:
        """The controller of the share of strong calls, None where the threshold is fixed."""
        return self._control.state(self.runtime.routing)

    def cost_weights(self) -> CostWeights | None:
        """What money and time weigh for the objective of the config, None where there is none."""
        return self._objectives.cost_weights(self.runtime)

    def scores(self) -> ScoreWindow:
        """The newest scores that decided a call, and whether they drift."""
        return self._control.scores(self.runtime.routing)

    @asynccontextmanager
    async def answer(
        self, call: Call, record: Record, deadlines: Deadlines
    ) -> AsyncIterator[Answer]:
        """Authorise, decide, reserve, look in the cache, exchange; `record.caller` is the caller.

        Everything closes after the last byte has been sent; `settle` comes after that.

        Raises:
            GatewayError: the call could not be answered.
        """
        runtime, steps = self.runtime, self.steps
        self._admit(record.caller.tenant)
        if self._idle_work is not None:
            self._idle_work.call_began()
        try:
            if steps.audit is not None:
                steps.audit.check()
            if steps.access is not None:
                call = steps.access.authorise(call, record.caller)
            route = self.decide(call, record.caller)
            record.decision = route.first
            if steps.limiter is not None:
                # After the decision, because limits and prices differ from tier to tier.
                record.reservation = await steps.limiter.reserve(call, record, route)
            if record.trace is not None:
                record.trace.note_decided()
            claim = NO_CLAIM
            if runtime.fairness is not None:
                claim = make_claim(call, record.caller, runtime.fairness)
            rank, turn = find_rank(record.caller), record.caller.turn
            spare = turn is not None and not turn.adds_replicas
            claim = replace(claim, batch=rank > 0, spare=spare)
            if rank and self._ranking and call.endpoint in RANKED_ENDPOINTS:
                call = replace(call, payload=call.payload.ranked(rank, self._ranking))
            way = Way(call, record, runtime.routing, deadlines, claim)
            begin = partial(self._begin, way, route)
            opened = (
                begin() if steps.cache is None else steps.cache.answer(call, record, route, begin)
            )
            async with opened as answer:
                yield answer if steps.audit is None else steps.audit.watch(call, record, answer)
        finally:
            self._release(record.caller.tenant)
            if self._idle_work is not None:
                usage = record.usage
                self._idle_work.call_ended(
                    (usage.prompt_tokens or 0) + (usage.completion_tokens or 0)
                )

    def _admit(self, tenant: str) -> None:
        """Take one of the Router's places for calls.

        Raises:
            TooManyCalls: none is free, or the tenant has as many as one tenant may have.
        """
        limits, fairness = self.runtime.limits, self.runtime.fairness
        tenant_max = limits.calls_max
        if fairness is not None and self.steps.access is not None:
            tenant_max = max(1, int(tenant_max * fairness.tenant_calls_ratio_max))
        if self._in_flight >= limits.calls_max or self._held[tenant] >= tenant_max:
            raise TooManyCalls(retry_after_s=1)
        self._in_flight += 1
        self._held[tenant] += 1

    def _release(self, tenant: str) -> None:
        self._in_flight -= 1
        self._held[tenant] -= 1
        if not self._held[tenant]:
            del self._held[tenant]

    def settle(self, record: Record) -> None:
        """Price, charge and audit an ended call; its usage is known."""
        steps = self.steps
        self._objectives.note_end(record, self.runtime)
        if steps.prices is not None:
            record.cost = price_call(record, steps.prices)
            record.strong_cost = price_strong(record, steps.prices, self._strongest)
        if record.reservation is not None:
            record.reservation.settle(record)
        if steps.audit is not None:
            steps.audit.add(record)
        if steps.tracer is not None and record.trace is not None:
            steps.tracer.end(record, record.trace)

    def _begin(self, way: Way, route: Route) -> AbstractAsyncContextManager[Answer]:
        """Count the call for its tier, and begin the exchange."""
        decision = route.first
        strongest = self._configs[-1].name
        self._control.note(decision, way.routing, strongest)
        if decision.prospects:
            self._objectives.note(decision, self.runtime)
        busy = decision.reason is Reason.STRONG_BUSY
        self._count(way, strongest if busy else decision.tier)
        return self._open(way, route)

    def _open(self, way: Way, route: Route) -> AbstractAsyncContextManager[Answer]:
        if route.draft is None:
            return self._exchange(way, route)
        tier = self._tiers[route.draft.tier]
        return answer_by_cascade(way, route, tier, partial(self._escalate, way))

    def _escalate(self, way: Way, route: Route) -> AbstractAsyncContextManager[Answer]:
        """Count an escalated call for its new tier, because that tier must grow for it."""
        self._count(way, route.decision.tier)
        return self._exchange(way, route)

    def _count(self, way: Way, tier: str) -> None:
        if not way.claim.spare:
            self.wanted[tier] += 1

    @asynccontextmanager
    async def _exchange(self, way: Way, route: Route) -> AsyncIterator[Answer]:
        """The exchange with a tier that takes the call."""
        async with AsyncExitStack() as exchange:
            yield await self._walk(way, route, exchange)

    async def _walk(self, way: Way, route: Route, exchange: AsyncExitStack) -> Answer:
        """The answer of the chosen tier, or of the next tier that takes the call.

        No answer has begun before this returns, so no byte has gone to the client. The record holds
        the decision that was carried out. A tier that failed at a draft is not asked again.

        Raises:
            GatewayError: none of the tiers that the call may go to could answer.
        """
        decision = route.decision
        refused = way.failed_drafts(decision)
        patience_s = way.routing.fallback_after_s if route.others else None
        while True:
            try:
                tier = self._tiers[decision.tier]
                return await way.send(tier, decision, exchange, patience_s)
            except (TierOverloaded, TierUnavailable, UpstreamFailed) as error:
                way.note_refusal(decision.tier, error)
                refused |= {decision.tier}
                other = route.other(refused.union(self._down()))
                if other is None:
                    raise
                decision = way.record.decision = other

    def _down(self) -> list[str]:
        return [name for name, tier in self._tiers.items() if tier.down]


def find_ranking(configs: Sequence[TierConfig]) -> frozenset[str]:
    """The tiers whose engines schedule by the priority of calls."""
    return frozenset(
        tier.name for tier in configs if tier.engine.get("scheduling_policy") == "priority"
    )


def find_strongest(configs: Sequence[TierConfig]) -> TierConfig | None:
    """The strongest tier that generates text; None if there is none."""
    generating = [tier for tier in configs if "generate" in tier.tasks]
    return generating[-1] if generating else None


def price_call(record: Record, prices: PricesConfig) -> int:
    """The cost of an ended call in nanos, the draft of a cascade included."""
    decision, draft = record.decision, record.draft
    if decision is None or is_free(record):
        return 0
    cost = prices.find(decision.tier, decision.model_id).cost(record.usage)
    if draft is not None and draft.discarded:
        draft.cost = prices.find(draft.tier, draft.model_id).cost(draft.usage)
        cost += draft.cost
    return cost


def make_claim(call: Call, caller: Caller, fairness: FairnessConfig) -> Claim:
    """What a call weighs while it waits for a place."""
    output = call.output_tokens_max or fairness.answer_tokens_assumed
    tokens = estimate_tokens(call.prompt) + output
    return Claim(caller.tenant, fairness.weight(caller.tenant), tokens)


def price_strong(record: Record, prices: PricesConfig, strongest: TierConfig | None) -> int | None:
    """The cost of a priced call if the strongest tier had answered it with the same tokens.

    The cost is that of the call where the Router had no choice, and where an answer came from the
    cache. None if the strongest tier has no price.
    """
    decision = record.decision
    if decision is None or is_free(record) or decision.reason in CHOSEN_BY_OTHERS:
        return record.cost
    if strongest is None or not prices.has(strongest.name, strongest.model_id):
        return None
    return prices.find(strongest.name, strongest.model_id).cost(record.usage)
