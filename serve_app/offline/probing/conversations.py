"""Conversations of several questions, and what a rule of stickiness does to them.

Each conversation is made of the demo's held-out questions in one language. The history of a turn
has the right answers, so that both models are asked the same, whatever tier answered before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from random import Random

import numpy as np
from numpy.typing import NDArray

from serve_app.core.call import Prompt, Turn
from serve_app.offline.demo.skills import GENERATORS
from serve_app.offline.demo.skills.example import LANGUAGES, Example, Language, Level
from serve_app.offline.evaluate.checks import parse_check
from serve_app.offline.evaluate.stats import Interval
from serve_app.offline.learning.metrics import Values, resample
from serve_app.offline.probing.questions import Part, Question
from serve_app.routing.learned import LearnedScorer
from serve_app.routing.vector import observe
from serve_app.routing.weights import RoutingWeights

TURNS = 4
SEED = 31
RESAMPLES = 1000

LEVELS: Sequence[Level] = ("easy", "hard")
KINDS: Mapping[str, Sequence[Sequence[Level]]] = {
    "one hard topic": [["hard"]] * TURNS,
    "one easy topic": [["easy"]] * TURNS,
    "hard, then easy": [["hard"], ["hard"], ["easy"], ["easy"]],
    "easy, then hard": [["easy"], ["easy"], ["hard"], ["hard"]],
    "each turn drawn": [LEVELS] * TURNS,
}
"""The levels that each turn is drawn from. The first two stay with one skill; elsewhere each turn
draws its own."""
_SKILLS: Mapping[Level, Sequence[str]] = {
    "easy": ["talk", "facts", "arithmetic", "lists", "units", "problems", "formats"],
    "hard": ["facts", "arithmetic", "lists", "units", "problems", "formats"],
}
_ONE_TOPIC = ("one hard topic", "one easy topic")


@dataclass(frozen=True, slots=True)
class Conversation:
    """The questions, each with the turns before it."""

    kind: str
    questions: Sequence[Question]


def draw_conversations(count: int) -> Sequence[Conversation]:
    """So many of each kind, half in each language; the same in every run."""
    rng = Random(SEED)
    return [
        _draw(rng, kind, number, LANGUAGES[number % len(LANGUAGES)])
        for kind in KINDS
        for number in range(count)
    ]


def _draw(rng: Random, kind: str, number: int, language: Language) -> Conversation:
    turns: tuple[Turn, ...] = ()
    questions: list[Question] = []
    topic = rng.choice(_SKILLS[KINDS[kind][0][0]])
    for place, levels in enumerate(KINDS[kind]):
        level = rng.choice(levels)
        skill = topic if kind in _ONE_TOPIC else rng.choice(_SKILLS[level])
        example = GENERATORS[skill](rng, "test", level, language)
        asked = (*turns, *(Turn(message.role, message.content) for message in example.messages))
        questions.append(_build(f"{kind} {number}-{place}", asked, example))
        turns = (*asked, Turn("assistant", example.answer))
    return Conversation(kind, questions)


def _build(key: str, turns: tuple[Turn, ...], example: Example) -> Question:
    check = parse_check(example.check.render())
    return Question(key, Part.TEST, turns, check, example.skill, example.language)


Rule = Callable[[RoutingWeights, Sequence[Question]], Sequence[float]]
"""The scores of a conversation's turns, to be compared with one threshold."""


def score_alone(weights: RoutingWeights, questions: Sequence[Question]) -> Sequence[float]:
    """Each turn by its own words, as if it were the first."""
    return [weights.score(observe(Prompt(question.turns[-1:]))) for question in questions]


def score_in_place(weights: RoutingWeights, questions: Sequence[Question]) -> Sequence[float]:
    """Each turn with what stands around it, such as the number of turns; nothing is inherited."""
    return [weights.score(observe(Prompt(question.turns))) for question in questions]


def score_served(weights: RoutingWeights, questions: Sequence[Question]) -> Sequence[float]:
    """As the Router scores: in place, and a turn inherits from those before it."""
    scorer = LearnedScorer(weights)
    return [scorer.score(Prompt(question.turns)) for question in questions]


def score_sticky(weights: RoutingWeights, questions: Sequence[Question]) -> Sequence[float]:
    """A conversation never leaves the strong tier again."""
    return list(accumulate(score_alone(weights, questions), max))


def score_first(weights: RoutingWeights, questions: Sequence[Question]) -> Sequence[float]:
    """The first turn decides for all: no switch at all."""
    return [score_alone(weights, questions[:1])[0]] * len(questions)


RULES: Mapping[str, Rule] = {
    "each turn by itself": score_alone,
    "in place, nothing inherited": score_in_place,
    "in place and inherited, as served": score_served,
    "strong stays strong": score_sticky,
    "the first turn decides": score_first,
}


@dataclass(frozen=True, slots=True)
class Kept:
    """A rule at a share of strong calls. `right` is the accuracy of all turns, `gained` that less
    the accuracy of turns by themselves, with whole conversations resampled."""

    rule: str
    strong_ratio: float
    right: float
    gained: Interval
    switches: float
    by_kind: Mapping[str, float]


def measure_rules(
    conversations: Sequence[Conversation],
    rights: Mapping[str, tuple[bool, bool]],
    weights: RoutingWeights,
    strong_ratio: float,
) -> Iterator[Kept]:
    """All rules at one share; `rights` says by key whether fast and strong are right."""
    kinds = np.array([c.kind for c in conversations for _ in c.questions])
    groups = np.array([n for n, c in enumerate(conversations) for _ in c.questions])
    both = np.array([rights[q.key] for c in conversations for q in c.questions])
    draws = resample(groups, RESAMPLES)
    base: Values | None = None
    for name, rule in RULES.items():
        scores = np.array([rule(weights, c.questions) for c in conversations])
        strong = choose_share(scores, strong_ratio)
        right = np.where(strong.ravel(), both[:, 1], both[:, 0]).astype(float)
        base = right if base is None else base
        gains = [(right[drawn] - base[drawn]).mean() for drawn in draws]
        yield Kept(
            name,
            float(strong.mean()),
            float(right.mean()),
            Interval(*np.percentile(gains, [2.5, 97.5]).tolist()),
            float(np.mean([count_switches(row) for row in strong.tolist()])),
            {kind: float(right[kinds == kind].mean()) for kind in KINDS},
        )


def choose_share(scores: Values, strong_ratio: float) -> NDArray[np.bool_]:
    """The share of the turns with the highest scores; of equal scores the earlier turns."""
    chosen = np.zeros(scores.size, dtype=bool)
    chosen[np.argsort(-scores.ravel(), kind="stable")[: round(strong_ratio * scores.size)]] = True
    return chosen.reshape(scores.shape)


def count_switches(strong: Sequence[bool]) -> int:
    """How often a conversation changes its tier."""
    return sum(earlier != later for earlier, later in pairwise(strong))
