"""Which prompts the heuristic finds hard."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given

from serve_app.config.runtime import RoutingConfig
from serve_app.core.call import Prompt, Turn
from serve_app.routing.features import RECENT_ASKS_MAX, Features, TextFeatures
from serve_app.routing.scorer import (
    WEIGHTS,
    HeuristicScorer,
    HeuristicWeights,
    context_evidence,
    text_evidence,
)
from tests.routing.prompts import AROUND, DO_IT, EASY_EN, EASY_ZH, HARD_EN, HARD_ZH
from tests.routing.strategies import PROMPTS

THRESHOLD = RoutingConfig().strong_score_min
STANDING_RULES = (
    "You are the claims assistant of an insurer. You must answer in at most four sentences, never "
    "name a competitor, always quote the clause number, and only use the customer's language. "
    "Each figure must carry its currency. Do not give legal advice unless asked twice. "
) * 4


def ask(*texts: str, system: str | None = None) -> Prompt:
    """A conversation of these user turns, each answered but the last."""
    turns = [Turn("system", system)] if system else []
    for text in texts[:-1]:
        turns += [Turn("user", text), Turn("assistant", "Done.")]
    return Prompt(turns=(*turns, Turn("user", texts[-1])))


def score(*texts: str, system: str | None = None) -> float:
    return HeuristicScorer().score(ask(*texts, system=system))


@pytest.mark.parametrize("text", EASY_EN + EASY_ZH)
def test_everyday_prompts_stay_below_the_threshold(text: str) -> None:
    """Chit-chat, short facts, rewriting and short translations are for the small model."""
    assert score(text) < THRESHOLD


@pytest.mark.parametrize("text", HARD_EN + HARD_ZH)
def test_hard_prompts_reach_the_threshold(text: str) -> None:
    """Proofs, multi-step maths, design and debugging, constrained analysis are for the large."""
    assert score(text) >= THRESHOLD


@pytest.mark.parametrize(
    "text",
    [
        "Summarize this: " + "The garden was quiet and the tea was warm. " * 400,
        "Translate to French: " + "We walked along the river and ate ice cream. " * 400,
        "帮我概括一下：" + "院子里很安静，茶还是热的。" * 800,
    ],
)
def test_long_is_not_hard(text: str) -> None:
    """A long text with an everyday ask stays with the small model."""
    assert score(text) < THRESHOLD


@pytest.mark.parametrize(
    "follow_up", ["now commit it", "and in Chinese?", "ok", "继续", "用中文再说一遍", "why?"]
)
def test_a_follow_up_inherits(follow_up: str) -> None:
    """A short turn after a hard one stays with the large model, but is worth less than it."""
    hard = HARD_EN[1]
    assert THRESHOLD <= score(hard, follow_up) < score(hard)


def test_inheritance_fades() -> None:
    """Each further easy turn counts a hard one for less, and in the end for nothing."""
    scores = [score(HARD_EN[1], *["ok"] * n) for n in range(1, RECENT_ASKS_MAX + 1)]
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] < THRESHOLD


@pytest.mark.parametrize("text", ["Thanks!", "谢谢", "bye"])
def test_thanks_inherit_nothing(text: str) -> None:
    """Thanks after a hard turn need no large model."""
    assert score(HARD_EN[1], text) < THRESHOLD


def test_a_long_system_prompt_weighs_more_with_every_turn() -> None:
    """The same plain question crosses over once standing rules have had time to be forgotten."""
    question = "Can I hand in the form next week?"
    scores = [score(*[question] * turns, system=STANDING_RULES) for turns in range(1, 6)]
    assert scores == sorted(scores)
    assert scores[0] < THRESHOLD <= scores[-1]


def test_a_long_chat_without_rules_stays_easy() -> None:
    """Turns alone do not make a conversation hard."""
    assert score(*["And what about dogs?"] * 12, system="You are a helpful assistant.") < THRESHOLD


@pytest.mark.parametrize("prompt", AROUND.values(), ids=AROUND)
def test_the_call_around_the_text_raises_the_score(prompt: Prompt) -> None:
    """Tools, form, images, asked-for reasoning and an agent's depth each count."""
    scorer = HeuristicScorer()
    assert scorer.score(prompt) > scorer.score(Prompt((DO_IT,)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\ud800\udfff",
        "\x00" * 10,
        "?" * 100_000,
        "证明" * 500_000,
        "9" * 1_000_000,
        "$^_{\\" * 9,
    ],
)
def test_odd_texts_have_a_score(text: str) -> None:
    """Empty, broken and huge texts score like any other."""
    assert 0 <= score(text) <= 1


@given(PROMPTS)
def test_scores_are_shares(prompt: Prompt) -> None:
    """Any prompt scores a finite number from 0 to 1, and the same one twice."""
    value = HeuristicScorer().score(prompt)
    assert math.isfinite(value)
    assert 0 <= value <= 1
    assert HeuristicScorer().score(prompt) == value


def test_weights_can_be_replaced() -> None:
    """The weights are the scorer's only setting: with no evidence counted, the bias is left."""
    names = [field.name for field in dataclasses.fields(HeuristicWeights)]
    silent = HeuristicWeights(**{name: 0 for name in names if not name.endswith("_tokens_max")})
    assert HeuristicScorer(silent).score(ask(HARD_EN[0])) == 0.5


def test_nothing_scores_the_bias() -> None:
    """A prompt that shows nothing scores what the bias says."""
    assert HeuristicScorer().score(Prompt()) == pytest.approx(1 / (1 + math.exp(-WEIGHTS.bias)))


@pytest.mark.parametrize(
    ("feature", "weight", "bound"),
    [
        ("hard_asks", WEIGHTS.hard_ask, WEIGHTS.hard_asks_max),
        ("hard_terms", WEIGHTS.hard_term, WEIGHTS.hard_terms_max),
        ("easy_asks", WEIGHTS.easy_ask, WEIGHTS.easy_asks_max),
        ("bounds", WEIGHTS.bound, WEIGHTS.bounds_max),
        ("steps", WEIGHTS.step, WEIGHTS.steps_max),
        ("items", WEIGHTS.item, WEIGHTS.items_max),
        ("maths", WEIGHTS.maths, WEIGHTS.maths_max),
        ("code", WEIGHTS.code, WEIGHTS.code_max),
        ("clauses", WEIGHTS.clause, WEIGHTS.clauses_max),
        ("long_words", WEIGHTS.long_word, WEIGHTS.long_words_max),
        ("numbers", WEIGHTS.number, WEIGHTS.numbers_max),
        ("tokens", WEIGHTS.length / WEIGHTS.length_tokens_max, WEIGHTS.length_tokens_max),
    ],
)
def test_one_kind_of_evidence_is_bounded(feature: str, weight: float, bound: int) -> None:
    """Each further term weighs as much as the first, up to a bound."""
    for count in (0, 1, bound, bound + 1, 10 * bound):
        evidence = text_evidence(TextFeatures(**{feature: count}), WEIGHTS)
        assert evidence == pytest.approx(weight * min(count, bound))


@pytest.mark.parametrize(
    ("text", "evidence"),
    [
        (TextFeatures(questions=1), 0.0),
        (TextFeatures(questions=2), WEIGHTS.question),
        (TextFeatures(questions=9), WEIGHTS.question * WEIGHTS.questions_max),
        (TextFeatures(options=3), 0.0),
        (TextFeatures(options=4), WEIGHTS.options),
        (TextFeatures(options=9), WEIGHTS.options),
        (TextFeatures(quantity=True), 0.0),
        (TextFeatures(quantity=True, numbers=2), 2 * WEIGHTS.number),
        (
            TextFeatures(quantity=True, numbers=3),
            WEIGHTS.quantity + 3 * (WEIGHTS.quantity_number + WEIGHTS.number),
        ),
        (
            TextFeatures(quantity=True, numbers=99),
            WEIGHTS.quantity + WEIGHTS.numbers_max * (WEIGHTS.quantity_number + WEIGHTS.number),
        ),
        (TextFeatures(quantity=True, hard_terms=1), WEIGHTS.quantity + WEIGHTS.hard_term),
        (
            TextFeatures(hard_asks=1, easy_asks=1, maths=1),
            WEIGHTS.hard_ask + WEIGHTS.easy_ask + WEIGHTS.maths,
        ),
    ],
)
def test_evidence_in_a_text(text: TextFeatures, evidence: float) -> None:
    """The first question, few options and a quantity without numbers show nothing; kinds add up."""
    assert text_evidence(text, WEIGHTS) == pytest.approx(evidence)


@pytest.mark.parametrize(
    ("features", "evidence"),
    [
        (Features(assistant_code=True), WEIGHTS.assistant_code),
        (Features(tools=1), WEIGHTS.tools),
        (Features(tools=3), 2 * WEIGHTS.tools),
        (Features(tools=99), 4 * WEIGHTS.tools),
        (Features(tool_turns=1), WEIGHTS.tool_turn),
        (Features(tool_turns=99), WEIGHTS.tool_turns_max * WEIGHTS.tool_turn),
        (Features(schema=True), WEIGHTS.schema),
        (Features(images=1), WEIGHTS.image),
        (Features(images=9), WEIGHTS.image),
        (Features(reasoning=True), WEIGHTS.reasoning),
        (Features(system=TextFeatures(bounds=1)), WEIGHTS.system_bound),
        (
            Features(system=TextFeatures(bounds=9)),
            WEIGHTS.system_bounds_max * WEIGHTS.system_bound,
        ),
        (Features(system_tokens=WEIGHTS.system_tokens_max // 2), WEIGHTS.system_length / 2),
        (Features(system_tokens=9999), WEIGHTS.system_length),
        (Features(turn_index=2), 2 * WEIGHTS.turn),
        (Features(turn_index=99), WEIGHTS.turns_max * WEIGHTS.turn),
        (
            Features(turn_index=2, system_tokens=WEIGHTS.system_tokens_max // 2),
            WEIGHTS.system_length / 2 + 2 * (WEIGHTS.turn + WEIGHTS.turn_with_rules / 2),
        ),
        (Features(schema=True, reasoning=True), WEIGHTS.schema + WEIGHTS.reasoning),
    ],
)
def test_evidence_around_the_text(features: Features, evidence: float) -> None:
    """It adds to the bias; tools count by doublings, images once, and rules weigh with turns."""
    assert context_evidence(features, WEIGHTS) == pytest.approx(WEIGHTS.bias + evidence)
