"""How complex a prompt is, from 0 to 1."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from serve_app.core.call import Prompt
from serve_app.routing.features import Features, TextFeatures, extract_features


@dataclass(frozen=True, slots=True)
class Rating:
    """The score of a prompt, and P(right) of each of the scorer's heads."""

    score: float
    chances: tuple[float, ...] = ()


class Scorer(Protocol):
    """Estimates how much a call would gain from a stronger model."""

    @property
    def heads(self) -> tuple[str, ...]:
        """The names of the heads, weakest first; none if the scorer gives a score alone."""
        ...

    def score(self, prompt: Prompt) -> float:
        """The complexity in 0..1. Pure, and fast enough to be called for every request."""
        ...

    def rate(self, prompt: Prompt) -> Rating:
        """The same score, with the chances that it comes from."""
        ...


@dataclass(frozen=True, slots=True)
class HeuristicWeights:
    """Evidence in log-odds: the score is the logistic function of `bias` plus the evidence found.

    The score is 0.5 where the evidence adds up to `-bias`. Each `_max` bounds one kind of evidence,
    so that many items of one kind cannot outweigh everything else.
    """

    bias: float = -1.5  # a call without evidence scores 0.18: most traffic is everyday traffic
    hard_ask: float = 2.2  # one request to prove, debug or design is enough by itself
    hard_asks_max: int = 2
    hard_term: float = 0.6  # three terms of a hard field make a hard question, one term does not
    hard_terms_max: int = 4
    easy_ask: float = -1.2  # small models translate, rewrite and chat about as well as large ones
    easy_asks_max: int = 2
    bound: float = 0.45  # each constraint is a further chance of a mistake
    bounds_max: int = 5
    step: float = 0.4  # dependent steps: errors multiply
    steps_max: int = 3
    item: float = 0.15  # a list of requirements; lists of plain facts look alike, so a low weight
    items_max: int = 6
    question: float = 0.3  # every question after the first
    questions_max: int = 3
    quantity: float = 0.8  # the text asks for a quantity, of given numbers or in a hard field
    quantity_number: float = 0.25  # then each number is a further chance of a mistake
    number: float = 0.1  # a number anywhere
    numbers_max: int = 6
    maths: float = 0.7  # notation
    maths_max: int = 3
    code: float = 0.4  # reading code is easier than the same length of proof
    code_max: int = 4
    options: float = 0.8  # an examination question with four or more choices
    length: float = 1.0  # everyday asks have a dozen tokens; above sixty, length says little
    length_tokens_max: int = 60
    clause: float = 0.15  # the question has parts
    clauses_max: int = 5
    long_word: float = 0.2  # a technical vocabulary, in any field
    long_words_max: int = 5
    system_bound: float = 0.1  # standing rules hold for every turn, but seldom matter in each
    system_bounds_max: int = 5
    system_length: float = 0.3  # a small model ignores some rules of a long system prompt
    system_tokens_max: int = 300
    turn: float = 0.1  # per turn: long conversations drift
    turn_with_rules: float = 0.4  # ... with long rules much more (SysBench: 0.48 -> 0.15 right)
    turns_max: int = 5
    assistant_code: float = 0.5  # the conversation is about code, even if this turn is not
    tools: float = 0.3  # choosing among tools, per doubling of their number
    tools_max: int = 15
    tool_turn: float = 0.3  # deep in an agent's task; errors accumulate
    tool_turns_max: int = 4
    schema: float = 0.2  # guided decoding enforces the form; only the content can be wrong
    image: float = 0.4
    reasoning: float = 1.2  # the client asked for reasoning; many clients do so by default
    decay: float = 0.9  # the share that the next turn keeps: 'now commit it' is not easy


WEIGHTS = HeuristicWeights()


class HeuristicScorer:
    """A hand-weighted sum of `Features`: routes before there are labels to learn from."""

    heads: tuple[str, ...] = ()

    def __init__(self, weights: HeuristicWeights = WEIGHTS) -> None:
        self._weights = weights

    def score(self, prompt: Prompt) -> float:
        """The highest score of the newest user turns, each decayed by its age."""
        features = extract_features(prompt)
        asks = features.asks[:1] if features.small_talk else features.asks
        context = context_evidence(features, self._weights)
        scores = [
            self._weights.decay**age * _logistic(text_evidence(ask, self._weights) + context)
            for age, ask in enumerate(asks or (TextFeatures(),))
        ]
        return max(scores)

    def rate(self, prompt: Prompt) -> Rating:
        """The score alone: hand weights say nothing about the chance of a model."""
        return Rating(self.score(prompt))


def text_evidence(text: TextFeatures, weights: HeuristicWeights) -> float:
    """The evidence in one user turn about its difficulty, in log-odds."""
    w = weights
    return (
        w.hard_ask * min(text.hard_asks, w.hard_asks_max)
        + w.hard_term * min(text.hard_terms, w.hard_terms_max)
        + w.easy_ask * min(text.easy_asks, w.easy_asks_max)
        + w.bound * min(text.bounds, w.bounds_max)
        + w.step * min(text.steps, w.steps_max)
        + w.item * min(text.items, w.items_max)
        + w.question * min(max(0, text.questions - 1), w.questions_max)
        + w.maths * min(text.maths, w.maths_max)
        + w.code * min(text.code, w.code_max)
        + w.options * (text.options >= 4)
        + w.clause * min(text.clauses, w.clauses_max)
        + w.long_word * min(text.long_words, w.long_words_max)
        + w.number * min(text.numbers, w.numbers_max)
        + w.length * min(1.0, text.tokens / w.length_tokens_max)
        + _word_problem(text, w)
    )


def context_evidence(features: Features, weights: HeuristicWeights) -> float:
    """The evidence around the user's turns: bias, system prompt, turn index, tools, form."""
    w = weights
    return (
        w.bias
        + _standing_rules(features, w)
        + w.assistant_code * features.assistant_code
        + w.tools * math.log2(1 + min(features.tools, w.tools_max))
        + w.tool_turn * min(features.tool_turns, w.tool_turns_max)
        + w.schema * features.schema
        + w.image * (features.images > 0)
        + w.reasoning * features.reasoning
    )


def _standing_rules(features: Features, w: HeuristicWeights) -> float:
    system, turns = features.system, min(features.turn_index, w.turns_max)
    length = min(1.0, features.system_tokens / w.system_tokens_max)
    return (
        w.system_bound * min(system.bounds, w.system_bounds_max)
        + w.system_length * length
        + turns * (w.turn + w.turn_with_rules * length)
    )


def _word_problem(text: TextFeatures, w: HeuristicWeights) -> float:
    if not text.quantity or (text.numbers < 3 and not text.hard_terms):
        return 0.0
    return w.quantity + w.quantity_number * min(text.numbers, w.numbers_max)


def _logistic(log_odds: float) -> float:
    return 1.0 / (1.0 + math.exp(-log_odds))
