"""Which tier answers a call: pure functions, no clock and no I/O.

The rules, in order; the first rule that applies decides:

A call with images goes only to tiers that take them, whichever rule decides.

1. the `x-route-tier` header names a tier or model id            HEADER
2. `model` names a tier or model id                              MODEL
3. only one tier can do the task                                 ONLY_TIER
4. `routing.default_tier` is set, and can do the task            POLICY
5. the model writes nothing: the weakest that can do the task    NO_GENERATION
6. the prompt is too long for the weakest, or for the others     PROMPT_TOO_LONG
7. the complexity score                                          COMPLEX or SIMPLE
   moved by what the tiers have cached, if that has a weight     WARM
   near the threshold the load of the tiers, if it is watched    STRONG_BUSY or STRONG_IDLE
   with an objective, the tier that is worth most, in its place  QUALITY, COST or WEIGHTED
   with the policy `cascade`                                     COMPLEX or DRAFT

A tier that the router chose by rules 3 to 7 is then moved: into the limits of the call and of the
config (NEVER_BELOW, NEVER_ABOVE), and away from a tier that is down (FALLBACK). This module also
decides which tier takes over from a draft, and which tiers answer where a tier takes no call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from serve_app.config.runtime import RoutingConfig
from serve_app.config.tiers import TierConfig
from serve_app.core.call import (
    AUTO,
    NO_LIMITS,
    Call,
    Decision,
    Policy,
    Reason,
    Route,
    Task,
    TierLimits,
)
from serve_app.core.errors import InvalidField, ModelNotFound
from serve_app.core.headers import TIER_HEADER
from serve_app.core.tokens import estimate_tokens
from serve_app.routing.limits import allowed_tiers, keep_within
from serve_app.routing.live import Live, choose_by_load, fits, leave_down, list_others
from serve_app.routing.media import able_to_see
from serve_app.routing.residency import weigh_draft, weigh_switch
from serve_app.routing.scorer import Rating, Scorer
from serve_app.routing.worth import Weighing

__all__ = ["choose_route", "estimate_tokens", "resolve_model"]

_NEEDED: dict[Task, str] = {
    "generate": "a model that can generate text",
    "embed": "a model that supports embeddings",
    "score": "a model that supports reranking and scoring",
}


def resolve_model(requested: str, tiers: Sequence[TierConfig]) -> TierConfig | None:
    """Find the tier that a model name stands for; None for `auto`.

    Raises:
        ModelNotFound: the name is not `auto`, a tier's name, or the id of a model or adapter.
    """
    if requested == AUTO:
        return None
    for tier in tiers:
        if tier.find_model(requested) is not None:
            return tier
    raise ModelNotFound(requested)


def check_model(call: Call, tiers: Sequence[TierConfig]) -> None:
    """Check that some tier could answer the call, without choosing one.

    Raises:
        InvalidField: no tier that may be chosen can do the task.
        ModelNotFound: `model` names no tier.
    """
    named = resolve_model(call.model, tiers)
    _able(tiers if named is None else [named], call.endpoint.task)


def choose_route(
    call: Call,
    tiers: Sequence[TierConfig],
    config: RoutingConfig,
    scorer: Scorer,
    live: Live | None = None,
) -> Route:
    """Decide once which tiers may answer a call. `tiers` has at least one tier, weakest first.

    `live` is the state of the moment; without it `strong_score_min` is the threshold. A call that
    names its tier has no other tiers. Neither has a call that generates no text, because vectors
    and token counts of another model are no substitute.

    Raises:
        InvalidField: a header names no tier, or no tier that may be chosen can do the task.
        ModelNotFound: `model` names no tier.
    """
    task = call.endpoint.task
    named = _named_tier(call, tiers)
    if named is not None:
        return Route(_decide_named(call, *named, task))
    candidates = able_to_see(call.prompt, _able(tiers, task))
    tokens = _count_tokens(call, candidates)
    route = _choose_among(
        candidates, call, tokens, config, scorer, live or Live(config.strong_score_min)
    )
    if not call.endpoint.generates:
        return route
    allowed = _allowed(candidates, call, tiers, config)
    if allowed is not candidates:
        route = keep_within(route, allowed, tiers)
    if not config.fallback or len(allowed) == 1:
        return route
    total_tokens = _total(call, tokens)
    if live is not None and live.loads:
        route = leave_down(route, allowed, total_tokens, live.down)
    others = list_others(route.decision, allowed, total_tokens)
    return Route(route.decision, route.draft, others)


def _decide_named(call: Call, tier: TierConfig, reason: Reason, task: Task | None) -> Decision:
    """The tier that the call names, with the model or adapter that the call names."""
    able_to_see(call.prompt, _able([tier], task))
    requested = call.model if call.tier is None else call.tier
    return replace(_decision(tier, reason), model_id=tier.find_model(requested) or tier.model_id)


def _allowed(
    candidates: Sequence[TierConfig],
    call: Call,
    tiers: Sequence[TierConfig],
    config: RoutingConfig,
) -> Sequence[TierConfig]:
    if call.limits is NO_LIMITS and config.never_below is None and config.never_above is None:
        return candidates
    standing = TierLimits(config.never_below, config.never_above)
    return allowed_tiers(candidates, tiers, call.limits, standing)


def _count_tokens(call: Call, candidates: Sequence[TierConfig]) -> int:
    """The prompt's tokens at the candidate whose model makes the most of the images."""
    if not call.endpoint.generates:
        return 0
    if not call.prompt.images:
        return estimate_tokens(call.prompt)
    return max(estimate_tokens(call.prompt, tier.patch_grid) for tier in candidates)


def _total(call: Call, prompt_tokens: int) -> int:
    """The tokens that must fit a context: the prompt and the most that the model may generate."""
    return prompt_tokens + (call.output_tokens_max or 0)


def _named_tier(call: Call, tiers: Sequence[TierConfig]) -> tuple[TierConfig, Reason] | None:
    """The tier that the client asked for; a header wins over `model`, even with `auto`."""
    if call.tier is not None:
        tier, reason = _resolve_header(call.tier, tiers), Reason.HEADER
    else:
        tier, reason = resolve_model(call.model, tiers), Reason.MODEL
    return None if tier is None else (tier, reason)


def _resolve_header(requested: str, tiers: Sequence[TierConfig]) -> TierConfig | None:
    try:
        return resolve_model(requested, tiers)
    except ModelNotFound:
        names = ", ".join(tier.name for tier in tiers)
        raise InvalidField(TIER_HEADER.decode(), f"one of {AUTO}, {names}, or a model id") from None


def _able(tiers: Sequence[TierConfig], task: Task | None) -> list[TierConfig]:
    able = [tier for tier in tiers if task is None or task in tier.tasks]
    if task is not None and not able:
        raise InvalidField("model", _NEEDED[task])
    return able


def _choose_among(
    candidates: Sequence[TierConfig],
    call: Call,
    prompt_tokens: int,
    config: RoutingConfig,
    scorer: Scorer,
    live: Live,
) -> Route:
    if len(candidates) == 1:
        return Route(_decision(candidates[0], Reason.ONLY_TIER))
    for tier in candidates:
        if tier.name == config.default_tier:
            return Route(_decision(tier, Reason.POLICY))
    if not call.endpoint.generates:
        return Route(_decision(candidates[0], Reason.NO_GENERATION))
    return _choose_for_prompt(candidates, call, prompt_tokens, config, scorer, live)


def _choose_for_prompt(
    candidates: Sequence[TierConfig],
    call: Call,
    prompt_tokens: int,
    config: RoutingConfig,
    scorer: Scorer,
    live: Live,
) -> Route:
    """Choose by length, then by score among the tiers that the prompt fits.

    A strong tier often has a shorter context than the weak tier, to save memory. Complexity must
    not send a prompt to a tier that can only reject it.
    """
    total_tokens = _total(call, prompt_tokens)
    weakest, *others = candidates
    fitting = [tier for tier in others if fits(tier, total_tokens)]
    if prompt_tokens > config.fast_prompt_tokens_max or not fits(weakest, total_tokens):
        tier = _too_long_tier(weakest, others, fitting, total_tokens)
        return Route(_decision(tier, Reason.PROMPT_TOO_LONG))
    if not fitting:
        return Route(_decision(weakest, Reason.PROMPT_TOO_LONG))
    rating = scorer.rate(call.prompt)
    if call.draftable and (call.policy or config.policy) == Policy.CASCADE:
        worthiest = _choose_by_worth(fitting, rating, prompt_tokens, live.weighing)
        takes_over = next((t for t in fitting if worthiest and t.name == worthiest.tier), None)
        return _draft_by_score(weakest, takes_over or fitting[-1], rating.score, config, live)
    tiers = [weakest, *fitting]
    worthiest = _choose_by_worth(tiers, rating, prompt_tokens, live.weighing)
    return Route(worthiest or _choose_by_score(tiers, rating.score, config, live))


def _choose_by_worth(
    candidates: Sequence[TierConfig],
    rating: Rating,
    prompt_tokens: int,
    weighing: Weighing | None,
) -> Decision | None:
    """The tier that an objective chooses; None without one, or without a head for any tier."""
    if weighing is None:
        return None
    prospects = weighing.list_prospects(candidates, rating.chances, prompt_tokens)
    if not prospects:
        return None
    chosen, warm = weighing.choose(prospects)
    tier = next(tier for tier in candidates if tier.name == chosen.tier)
    reason = Reason.WARM if warm else Reason(weighing.objective)
    found = _decision(tier, reason, rating.score)
    return replace(found, objective=weighing.objective, prospects=prospects)


def _too_long_tier(
    weakest: TierConfig, others: Sequence[TierConfig], fitting: Sequence[TierConfig], tokens: int
) -> TierConfig:
    """The next tier that the prompt fits, otherwise the weakest if it fits, otherwise the
    strongest."""
    if fitting:
        return fitting[0]
    return weakest if fits(weakest, tokens) else others[-1]


def _choose_by_score(
    candidates: Sequence[TierConfig], score: float, config: RoutingConfig, live: Live
) -> Decision:
    """The tier of the score, moved by what the tiers have cached, unless the load chooses."""
    threshold, compared, weighed = live.threshold, score, None
    if config.residency_weight and live.residency is not None:
        strong, weak = live.residency(candidates[-1]), live.residency(candidates[0])
        compared = weighed = weigh_switch(score, config.residency_weight, strong, weak)
    shifted = choose_by_load(candidates, compared, live, config.load) if live.loads else None
    tier, reason = shifted or _split(candidates, compared, threshold)
    if weighed is not None and shifted is None:
        reason = reason if tier is _split(candidates, score, threshold)[0] else Reason.WARM
    return _decision(tier, reason, score, threshold, weighed)


def _split(
    candidates: Sequence[TierConfig], score: float, threshold: float
) -> tuple[TierConfig, Reason]:
    """The strongest tier from the threshold on; the other tiers share the range below evenly."""
    if score >= threshold:
        return candidates[-1], Reason.COMPLEX
    return candidates[int(score / threshold * (len(candidates) - 1))], Reason.SIMPLE


def _draft_by_score(
    weakest: TierConfig,
    strongest: TierConfig,
    score: float,
    config: RoutingConfig,
    live: Live,
) -> Route:
    """A draft by the weakest tier, unless the call would pay for a draft and then be escalated."""
    score_max, compared, weighed = config.cascade.draft_score_max, score, None
    if config.residency_weight and live.residency is not None:
        strong, weak = live.residency(strongest), live.residency(weakest)
        compared = weighed = weigh_draft(score, config.residency_weight, strong, weak)
    if compared >= score_max:
        reason = Reason.COMPLEX if score >= score_max else Reason.WARM
        return Route(_decision(strongest, reason, score, score_max, weighed))
    return Route(
        _decision(strongest, Reason.ESCALATED, score, score_max, weighed),
        draft=_decision(weakest, Reason.DRAFT, score, score_max, weighed),
    )


def _decision(
    tier: TierConfig,
    reason: Reason,
    score: float | None = None,
    threshold: float | None = None,
    weighed: float | None = None,
) -> Decision:
    return Decision(tier.name, tier.model_id, reason, score, threshold, weighed)
