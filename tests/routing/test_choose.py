"""Which tier is chosen, and why."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.config.runtime import RoutingConfig
from serve_app.config.tiers import TierConfig
from serve_app.core.call import (
    Call,
    Decision,
    Endpoint,
    Policy,
    Prompt,
    Reason,
    Route,
    TierLimits,
    Turn,
)
from serve_app.core.errors import InvalidField, ModelNotFound
from serve_app.core.load import TierLoad
from serve_app.core.tokens import estimate_tokens
from serve_app.routing.choose import choose_route, resolve_model
from serve_app.routing.live import Live
from serve_app.routing.scorer import HeuristicScorer
from tests.routing.fakes import FakePayload, FakeScorer
from tests.routing.strategies import PROMPTS


def tier(name: str, *tasks: str, context: int | None = None) -> TierConfig:
    engine = {} if context is None else {"max_model_len": context}
    return TierConfig.model_validate(
        {"name": name, "model_id": f"Qwen/{name}", "tasks": tasks or ("generate",)}
        | {"engine": engine}
    )


FAST, MIDDLE, STRONG = tier("fast"), tier("middle"), tier("strong")
EMBED = tier("embed", "embed")
BOTH = tier("both", "embed", "score")
TWO, THREE = (FAST, STRONG), (FAST, MIDDLE, STRONG)


def call(
    model: str = "auto",
    header: str | None = None,
    endpoint: Endpoint = Endpoint.CHAT,
    chars: int = 0,
    output_tokens_max: int | None = None,
) -> Call:
    prompt = Prompt(turns=(Turn("user", "x" * chars),), output_tokens_max=output_tokens_max)
    return Call("id", endpoint, model, FakePayload(), prompt, tier=header)


def choose(
    request: Call,
    tiers: tuple[TierConfig, ...] = TWO,
    score: float = 0.0,
    **routing: object,
) -> Decision:
    return find_route(request, tiers, score, **routing).first


def find_route(
    request: Call,
    tiers: tuple[TierConfig, ...] = TWO,
    score: float = 0.0,
    **routing: object,
) -> Route:
    return choose_route(request, tiers, RoutingConfig.model_validate(routing), FakeScorer(score))


@pytest.mark.parametrize(
    ("requested", "expected"),
    [("auto", None), ("fast", FAST), ("Qwen/strong", STRONG)],
)
def test_resolve_model(requested: str, expected: TierConfig | None) -> None:
    """A model is named by its tier or its id; `auto` leaves the choice to the router."""
    assert resolve_model(requested, TWO) is expected


@pytest.mark.parametrize("requested", ["", "gpt-4", "FAST", "fast ", "Auto", "Qwen"])
def test_unknown_models_are_not_found(requested: str) -> None:
    """Names are compared exactly, and an unknown one is the caller's error."""
    with pytest.raises(ModelNotFound):
        resolve_model(requested, TWO)


@pytest.mark.parametrize(
    ("model", "header", "name", "reason"),
    [
        ("strong", None, "strong", Reason.MODEL),
        ("Qwen/fast", None, "fast", Reason.MODEL),
        ("auto", "strong", "strong", Reason.HEADER),
        ("auto", "Qwen/strong", "strong", Reason.HEADER),
        ("fast", "strong", "strong", Reason.HEADER),
        ("gpt-4", "strong", "strong", Reason.HEADER),
        ("strong", "auto", "fast", Reason.SIMPLE),
    ],
)
def test_the_caller_may_choose(model: str, header: str | None, name: str, reason: Reason) -> None:
    """The header wins over `model`, and either over the router; `auto` in the header wins too."""
    decision = choose(call(model, header))
    assert (decision.tier, decision.model_id) == (name, f"Qwen/{name}")
    assert decision.reason is reason


def test_an_unknown_tier_in_the_header_is_named() -> None:
    """A header that names no tier is refused by name, and does not echo what it held."""
    with pytest.raises(InvalidField, match="x-route-tier") as refusal:
        choose(call(header="nope"))
    assert "nope" not in refusal.value.message
    assert "fast" in refusal.value.message


@pytest.mark.parametrize(("model", "header"), [("legal", None), ("auto", "legal")])
def test_an_adapter_is_asked_for_by_name(model: str, header: str | None) -> None:
    """Its tier answers, and the body goes out under the adapter's name; `auto` never takes it."""
    adapted = STRONG.model_copy(update={"adapters": {"legal": "/adapters/legal"}})
    decision = choose(call(model, header), (FAST, adapted))
    assert (decision.tier, decision.model_id) == ("strong", "legal")
    assert choose(call("strong"), (FAST, adapted)).model_id == "Qwen/strong"


def test_an_unknown_model_is_refused() -> None:
    """Without a header the model must be known."""
    with pytest.raises(ModelNotFound):
        choose(call("gpt-4"))


@pytest.mark.parametrize(
    ("model", "header", "endpoint", "expected"),
    [
        ("auto", None, Endpoint.EMBEDDINGS, "a model that supports embeddings"),
        ("fast", None, Endpoint.EMBEDDINGS, "a model that supports embeddings"),
        ("auto", "fast", Endpoint.EMBEDDINGS, "a model that supports embeddings"),
        ("auto", None, Endpoint.RERANK, "a model that supports reranking and scoring"),
        ("strong", None, Endpoint.SCORE, "a model that supports reranking and scoring"),
    ],
)
def test_reading_needs_a_tier_that_reads(
    model: str, header: str | None, endpoint: Endpoint, expected: str
) -> None:
    """Named or not, a tier that cannot embed or score is not asked to."""
    with pytest.raises(InvalidField) as refusal:
        choose(call(model, header, endpoint))
    assert (refusal.value.param, refusal.value.expected) == ("model", expected)


@pytest.mark.parametrize("endpoint", [e for e in Endpoint if e.generates])
@pytest.mark.parametrize("model", ["embed", "Qwen/embed"])
def test_generation_needs_a_tier_that_generates(endpoint: Endpoint, model: str) -> None:
    """An embedding model is not asked to write."""
    with pytest.raises(InvalidField, match="generate text"):
        choose(call(model, endpoint=endpoint), (EMBED, FAST))


@pytest.mark.parametrize(
    ("tiers", "endpoint", "name", "reason"),
    [
        ((FAST, EMBED, STRONG), Endpoint.EMBEDDINGS, "embed", Reason.ONLY_TIER),
        ((FAST, BOTH, EMBED), Endpoint.EMBEDDINGS, "both", Reason.NO_GENERATION),
        ((FAST, EMBED, BOTH), Endpoint.RERANK, "both", Reason.ONLY_TIER),
        ((FAST, EMBED, BOTH), Endpoint.SCORE, "both", Reason.ONLY_TIER),
        ((EMBED, FAST), Endpoint.CHAT, "fast", Reason.ONLY_TIER),
        ((FAST,), Endpoint.MESSAGES, "fast", Reason.ONLY_TIER),
        (TWO, Endpoint.TOKENIZE, "fast", Reason.NO_GENERATION),
        (TWO, Endpoint.DETOKENIZE, "fast", Reason.NO_GENERATION),
        (TWO, Endpoint.COUNT_TOKENS, "fast", Reason.NO_GENERATION),
        ((EMBED, FAST, STRONG), Endpoint.COUNT_TOKENS, "fast", Reason.NO_GENERATION),
    ],
)
def test_what_needs_no_score(
    tiers: tuple[TierConfig, ...], endpoint: Endpoint, name: str, reason: Reason
) -> None:
    """Where there is nothing to choose, or nothing to write, nothing is scored."""
    scorer = FakeScorer(1.0)
    decision = choose_route(call(endpoint=endpoint), tiers, RoutingConfig(), scorer).first
    assert (decision.tier, decision.reason) == (name, reason)
    assert (decision.score, decision.threshold, scorer.seen) == (None, None, [])


def test_a_named_embedding_tier_tokenizes() -> None:
    """Every model has a tokenizer, whatever its task."""
    assert choose(call("embed", endpoint=Endpoint.TOKENIZE), (EMBED, FAST)).tier == "embed"


@pytest.mark.parametrize("endpoint", [e for e in Endpoint if not e.pools])
def test_a_default_tier_takes_every_auto_call(endpoint: Endpoint) -> None:
    """With a default tier set nothing is scored, and the reason says that it was policy."""
    decision = choose(call(endpoint=endpoint), score=1.0, default_tier="fast")
    assert decision == Decision("fast", "Qwen/fast", Reason.POLICY)


def test_a_default_tier_leaves_other_tasks_alone() -> None:
    """A default tier that cannot embed does not stop embeddings."""
    decision = choose(call(endpoint=Endpoint.EMBEDDINGS), (FAST, BOTH, EMBED), default_tier="fast")
    assert decision.tier == "both"


def test_a_default_tier_yields_to_the_caller() -> None:
    """Policy speaks for `auto` only."""
    assert choose(call("strong"), default_tier="fast").reason is Reason.MODEL


@pytest.mark.parametrize(
    ("score", "name", "reason"),
    [
        (0.0, "fast", Reason.SIMPLE),
        (0.499, "fast", Reason.SIMPLE),
        (0.5, "strong", Reason.COMPLEX),
        (1.0, "strong", Reason.COMPLEX),
    ],
)
def test_the_threshold_is_inclusive(score: float, name: str, reason: Reason) -> None:
    """From the threshold on a call is complex; the decision carries both numbers."""
    assert choose(call(), score=score) == Decision(name, f"Qwen/{name}", reason, score, 0.5)


@pytest.mark.parametrize(
    ("score", "name"),
    [(0.0, "fast"), (0.24, "fast"), (0.25, "middle"), (0.49, "middle"), (0.5, "strong")],
)
def test_the_others_share_the_range_below(score: float, name: str) -> None:
    """With three tiers the range below the threshold is halved between the first two."""
    assert choose(call(), THREE, score=score).tier == name


@given(threshold=st.floats(0, 1, exclude_min=True), count=st.integers(2, 8))
def test_just_below_the_threshold_is_not_the_strongest(threshold: float, count: int) -> None:
    """However little is missing, the strongest of the other tiers answers."""
    tiers = tuple(tier(f"t{n}") for n in range(count))
    score = math.nextafter(threshold, 0)
    decision = choose(call(), tiers, score=score, strong_score_min=threshold)
    assert decision.reason is Reason.SIMPLE
    assert decision.tier != f"t{count - 1}"


def test_a_threshold_of_zero_sends_everything_up() -> None:
    """Zero is a threshold like any other."""
    assert choose(call(), strong_score_min=0).reason is Reason.COMPLEX


@pytest.mark.parametrize("tiers", [TWO, THREE])
@pytest.mark.parametrize(
    ("policy", "header"),
    [("cascade", None), ("complexity", Policy.CASCADE), ("cascade", Policy.CASCADE)],
)
def test_a_cascade_begins_at_the_weakest_and_ends_at_the_strongest(
    tiers: tuple[TierConfig, ...], policy: str, header: Policy | None
) -> None:
    """The route names both; a caller's header turns it on as well as the config."""
    request = replace(call(), policy=header)
    route = find_route(request, tiers, 0.7, policy=policy, cascade={"draft_score_max": 0.8})
    assert route.draft == Decision("fast", "Qwen/fast", Reason.DRAFT, 0.7, 0.8)
    assert route.decision == Decision("strong", "Qwen/strong", Reason.ESCALATED, 0.7, 0.8)
    assert route.first is route.draft


@pytest.mark.parametrize(
    "request_",
    [
        replace(call(), policy=Policy.COMPLEXITY),
        replace(call(), draftable=False),
        call(model="fast"),
        call(header="strong"),
        call(chars=40_000),
        call(endpoint=Endpoint.COUNT_TOKENS),
        call(endpoint=Endpoint.TOKENIZE),
    ],
)
def test_other_rules_come_before_a_cascade(request_: Call) -> None:
    """What is pinned, too long, writes nothing or cannot be judged is not drafted."""
    assert find_route(request_, policy="cascade").draft is None


def test_a_default_tier_and_a_lone_tier_draft_nothing() -> None:
    """With nobody to escalate to, or nothing to decide, a policy changes nothing."""
    pinned = find_route(call(), policy="cascade", default_tier="strong")
    assert (pinned.decision.reason, pinned.draft) == (Reason.POLICY, None)
    assert choose(call(), (FAST,), policy="cascade").reason is Reason.ONLY_TIER


@pytest.mark.parametrize(
    ("score", "reason"), [(0.79, Reason.DRAFT), (0.8, Reason.COMPLEX), (1.0, Reason.COMPLEX)]
)
def test_clearly_hard_calls_are_not_drafted(score: float, reason: Reason) -> None:
    """The bound is inclusive, and the decision tells it."""
    decision = choose(call(), score=score, policy="cascade", cascade={"draft_score_max": 0.8})
    assert (decision.reason, decision.threshold) == (reason, 0.8)


@pytest.mark.parametrize(
    ("tiers", "limits", "begins", "ends", "reason"),
    [
        (TWO, TierLimits(never_above="fast"), "fast", None, Reason.NEVER_ABOVE),
        (TWO, TierLimits(never_below="strong"), "strong", None, Reason.NEVER_BELOW),
        (THREE, TierLimits(never_above="middle"), "fast", "middle", Reason.DRAFT),
        (THREE, TierLimits(never_below="middle"), "middle", None, Reason.NEVER_BELOW),
    ],
)
def test_a_cascade_keeps_within_limits(
    tiers: tuple[TierConfig, ...],
    limits: TierLimits,
    begins: str,
    ends: str | None,
    reason: Reason,
) -> None:
    """It needs two allowed tiers, of which the weakest of all is one; else one tier answers."""
    route = find_route(replace(call(), limits=limits), tiers, 0.4, policy="cascade")
    assert (route.first.tier, route.first.reason) == (begins, reason)
    assert (route.decision.tier if route.draft else None) == ends


@pytest.mark.parametrize(("down", "other"), [("fast", "strong"), ("strong", "fast")])
def test_a_cascade_needs_both_tiers(down: str, other: str) -> None:
    """Where one is down the other answers alone."""
    live = Live(0.5, {"fast": TierLoad(), "strong": TierLoad(), down: TierLoad(down=True)})
    routing = RoutingConfig.model_validate({"policy": "cascade"})
    route = choose_route(call(), TWO, routing, FakeScorer(0.4), live)
    assert (route.decision.tier, route.decision.reason) == (other, Reason.FALLBACK)
    assert route.draft is None


@pytest.mark.parametrize(("down", "other"), [("fast", "strong"), ("strong", "fast")])
def test_a_broken_cascade_keeps_its_other_tier(down: str, other: str) -> None:
    """A tier between them does not answer in its place."""
    live = Live(0.5, {tier.name: TierLoad(down=tier.name == down) for tier in THREE})
    routing = RoutingConfig.model_validate({"policy": "cascade"})
    route = choose_route(call(), THREE, routing, FakeScorer(0.4), live)
    assert (route.decision.tier, route.draft) == (other, None)


@pytest.mark.parametrize("down", ["middle", None])
def test_a_cascade_needs_no_tier_between(down: str | None) -> None:
    """Where both of its tiers are up, the draft stays."""
    live = Live(0.5, {tier.name: TierLoad(down=tier.name == down) for tier in THREE})
    routing = RoutingConfig.model_validate({"policy": "cascade"})
    route = choose_route(call(), THREE, routing, FakeScorer(0.4), live)
    assert route.draft is not None
    assert (route.draft.tier, route.decision.tier) == ("fast", "strong")


# 3,500 characters are about 1,000 tokens.
@pytest.mark.parametrize(
    ("contexts", "chars", "output", "name", "reason"),
    [
        ((None, None, None), 3_000, None, "fast", Reason.SIMPLE),
        ((None, None, None), 40_000, None, "middle", Reason.PROMPT_TOO_LONG),
        ((None, None, None), 3_000, 100_000, "fast", Reason.SIMPLE),
        ((2048, 4096, 8192), 3_500, 500, "fast", Reason.SIMPLE),
        ((2048, 4096, 8192), 3_500, 1500, "middle", Reason.PROMPT_TOO_LONG),
        ((2048, 4096, 8192), 3_500, 4000, "strong", Reason.PROMPT_TOO_LONG),
        ((2048, 4096, 8192), 3_500, 9000, "strong", Reason.PROMPT_TOO_LONG),
        ((32768, 4096, 4096), 20_000, None, "fast", Reason.PROMPT_TOO_LONG),
        ((32768, 4096, 4096), 40_000, None, "fast", Reason.PROMPT_TOO_LONG),
        ((32768, 4096, 32768), 40_000, None, "strong", Reason.PROMPT_TOO_LONG),
    ],
)
def test_length(
    contexts: tuple[int | None, ...], chars: int, output: int | None, name: str, reason: Reason
) -> None:
    """A prompt goes to the next tier that it fits, and never to one that it does not if it can."""
    tiers = tuple(tier(t.name, context=context) for t, context in zip(THREE, contexts, strict=True))
    decision = choose(call(chars=chars, output_tokens_max=output), tiers)
    assert (decision.tier, decision.reason) == (name, reason)


def test_the_longest_prompt_of_the_weakest_tier_is_inclusive() -> None:
    """One token more goes to the next tier."""
    request = call(chars=3_500)
    tokens = estimate_tokens(request.prompt)
    assert choose(request, fast_prompt_tokens_max=tokens).reason is Reason.SIMPLE
    assert choose(request, fast_prompt_tokens_max=tokens - 1).reason is Reason.PROMPT_TOO_LONG


def test_complexity_does_not_send_a_prompt_where_it_does_not_fit() -> None:
    """The strongest of the tiers that fit takes a complex call."""
    tiers = (tier("fast", context=32768), tier("middle", context=32768), tier("strong", context=1))
    assert choose(call(chars=3_500), tiers, score=1.0).tier == "middle"


@given(
    prompt=PROMPTS,
    endpoint=st.sampled_from(Endpoint),
    model=st.sampled_from(["auto", "fast", "Qwen/strong", "embed", "nope"]),
    header=st.sampled_from([None, "auto", "strong", "nope"]),
    tiers=st.lists(st.sampled_from([*THREE, EMBED, BOTH]), min_size=1, unique_by=lambda t: t.name),
)
def test_a_decision_names_a_tier_or_the_caller_erred(
    prompt: Prompt, endpoint: Endpoint, model: str, header: str | None, tiers: list[TierConfig]
) -> None:
    """Any call ends at an existing tier that can do its task, or in an error of the caller's."""
    request = Call("id", endpoint, model, FakePayload(), prompt, tier=header)
    try:
        route = choose_route(request, tiers, RoutingConfig(), HeuristicScorer())
    except (InvalidField, ModelNotFound):
        return
    decision = route.first
    [chosen] = [t for t in tiers if t.name == decision.tier]
    assert decision.model_id == chosen.model_id
    assert not endpoint.generates or "generate" in chosen.tasks
    assert (decision.score is None) == (decision.reason not in (Reason.SIMPLE, Reason.COMPLEX))


@given(
    score=st.floats(0, 1),
    thresholds=st.lists(st.floats(0, 1), min_size=2, max_size=6).map(sorted),
    count=st.integers(2, 8),
)
def test_a_higher_threshold_never_means_a_stronger_tier(
    score: float, thresholds: list[float], count: int
) -> None:
    """Raising the threshold can only move calls down."""
    tiers = tuple(tier(f"t{n}") for n in range(count))
    ranks = [
        int(choose(call(), tiers, score=score, strong_score_min=threshold).tier[1:])
        for threshold in thresholds
    ]
    assert all(low >= high for low, high in pairwise(ranks))


@given(scores=st.lists(st.floats(0, 1), min_size=2).map(sorted), count=st.integers(2, 8))
def test_a_higher_score_never_means_a_weaker_tier(scores: list[float], count: int) -> None:
    """A harder call never goes to a weaker tier."""
    tiers = tuple(tier(f"t{n}") for n in range(count))
    ranks = [int(choose(call(), tiers, score=score).tier[1:]) for score in scores]
    assert ranks == sorted(ranks)
