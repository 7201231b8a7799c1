"""What a call may use at most, before it runs, and what it has used, after it has ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from serve_app.config.prices import PricesConfig
from serve_app.config.tiers import TierConfig
from serve_app.core.call import Call, Decision, Draft, Endpoint, Outcome, Record, Route, Usage
from serve_app.core.tokens import estimate_tokens
from serve_app.limits.limit import Measure


class Amounts(NamedTuple):
    """Tokens, and money in nanos."""

    tokens: int = 0
    money: int = 0

    def plus(self, other: Amounts) -> Amounts:
        """The sum."""
        return Amounts(self.tokens + other.tokens, self.money + other.money)

    def most(self, other: Amounts) -> Amounts:
        """The larger of each."""
        return Amounts(max(self.tokens, other.tokens), max(self.money, other.money))


NOTHING = Amounts()


@dataclass(frozen=True, slots=True)
class Uses:
    """The use of one call: of each tier that works for it, and of all tiers together.

    A request counts once, and once for each of its tiers.
    """

    whole: Amounts
    tiers: Mapping[str, Amounts]

    def amount(self, measure: Measure, tier: str | None) -> int:
        """The use of one measure on one tier; None: on all tiers."""
        if tier is not None and tier not in self.tiers:
            return 0
        amounts = self.whole if tier is None else self.tiers[tier]
        if measure is Measure.TOKENS:
            return amounts.tokens
        return amounts.money if measure is Measure.MONEY else 1


class Estimator:
    """Bounds and counts the use of calls."""

    def __init__(
        self,
        tiers: Sequence[TierConfig],
        prices: PricesConfig | None,
        *,
        unbounded_output_tokens: int | None,
        checkpoint_tokens: int,
    ) -> None:
        self._contexts = {tier.name: tier.max_model_len for tier in tiers}
        self._prices = prices or PricesConfig()
        self._unbounded_output_tokens = unbounded_output_tokens
        self._checkpoint_tokens = checkpoint_tokens

    def estimate(self, call: Call, route: Route) -> Uses:
        """What the call may use. A cascade uses either the whole draft, or the draft up to its
        checkpoint and the answer of the other tier."""
        decision, draft = route.decision, route.draft
        if not uses_tokens(call.endpoint):
            return Uses(NOTHING, {one.tier: NOTHING for one in (decision, draft) if one})
        prompt = estimate_tokens(call.prompt)
        answer = self._answer(call, decision, prompt)
        if draft is None:
            return Uses(answer, {decision.tier: answer})
        released = self._answer(call, draft, prompt)
        checkpoint = self._checkpoint_tokens * call.prompt.answers
        discarded = self._amounts(draft.tier, draft.model_id, Usage(prompt, checkpoint))
        tiers = {decision.tier: answer, draft.tier: released.most(discarded)}
        return Uses(released.most(discarded.plus(answer)), tiers)

    def count(self, record: Record, estimate: Uses) -> Uses:
        """What an ended call has used. Where no engine could say it, the estimate stands for a call
        whose client got an answer or left it; a call that the service broke off uses nothing."""
        decision = record.decision
        if decision is None:
            return Uses(NOTHING, {})
        if record.cache is not None and record.cache.free:
            return Uses(NOTHING, {decision.tier: NOTHING})
        if _is_unknown(record):
            return estimate
        answer = self._amounts(decision.tier, decision.model_id, record.usage)
        return _with_draft(answer, decision, record.draft, self._draft(record.draft))

    def _draft(self, draft: Draft | None) -> Amounts:
        if draft is None or not draft.discarded:
            return NOTHING
        return self._amounts(draft.tier, draft.model_id, draft.usage)

    def _answer(self, call: Call, decision: Decision, prompt_tokens: int) -> Amounts:
        output = self._output_tokens(call, decision.tier, prompt_tokens)
        return self._amounts(decision.tier, decision.model_id, Usage(prompt_tokens, output))

    def _output_tokens(self, call: Call, tier: str, prompt_tokens: int) -> int:
        if not call.endpoint.generates:
            return 0
        context, asked = self._contexts.get(tier), call.output_tokens_max
        bounds = [] if context is None else [max(0, context - prompt_tokens)]
        if asked is not None:
            bounds.append(max(0, asked))
        elif self._unbounded_output_tokens is not None:
            bounds.append(self._unbounded_output_tokens)
        return min(bounds, default=0) * call.prompt.answers

    def _amounts(self, tier: str, model_id: str, usage: Usage) -> Amounts:
        tokens = (usage.prompt_tokens or 0) + (usage.completion_tokens or 0)
        return Amounts(tokens, self._prices.find(tier, model_id).cost(usage))


def uses_tokens(endpoint: Endpoint) -> bool:
    """Whether a call to this path makes a model work."""
    return endpoint.generates or endpoint.pools


def _with_draft(answer: Amounts, decision: Decision, draft: Draft | None, drafted: Amounts) -> Uses:
    tiers = {decision.tier: answer}
    if draft is not None:
        tiers[draft.tier] = tiers.get(draft.tier, NOTHING).plus(drafted)
    return Uses(answer.plus(drafted), tiers)


def _is_unknown(record: Record) -> bool:
    """Whether the client got some of an answer whose tokens no engine has reported."""
    return (
        uses_tokens(record.endpoint)
        and record.usage.prompt_tokens is None
        and record.usage.completion_tokens is None
        and record.first_byte_s is not None
        and record.status < 400
        and record.outcome in (Outcome.OK, Outcome.DISCONNECTED)
    )
