"""The learned scorer's view of one user turn: hashed n-grams, and a few counted terms.

The terms are the terms of `HeuristicScorer`, bounded in the same way. So the hand weights are a
point in the learned scorer's space, and learning starts from that point where there are no labels.
"""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve_app.core.call import Prompt
from serve_app.routing.features import (
    Features,
    Language,
    TextFeatures,
    cut_window,
    extract_context,
    extract_text_features,
    list_asks,
    system_texts,
)
from serve_app.routing.ngrams import hash_ngrams
from serve_app.routing.scorer import WEIGHTS, HeuristicWeights
from serve_app.routing.seen import Seen

FEATURES_VERSION = 2
"""Must be raised when the same prompt gives another vector, because older weights no longer fit.

Version 1 had all TERMS except the last; weights of it get 0 for the last.
"""

NGRAM_HEAD_CHARS, NGRAM_TAIL_CHARS = 800, 400
EARLIER_HEAD_CHARS, EARLIER_TAIL_CHARS = 300, 150
TERM_HEAD_CHARS, TERM_TAIL_CHARS = 450, 200
SYSTEM_HEAD_CHARS, SYSTEM_TAIL_CHARS = 300, 150
SYSTEM_SALT = 1
SYSTEMS_MAX = 64

TEXT_TERMS = (
    "hard_asks", "hard_terms", "easy_asks", "bounds", "steps", "items", "questions", "maths",
    "code", "options", "clauses", "long_words", "numbers", "length", "quantity",
    "quantity_numbers", "log_tokens", "option_count", "chinese", "other_language",
)  # fmt: skip
CONTEXT_TERMS = (
    "system_bounds", "system_length", "turns", "turns_with_rules", "assistant_code", "tools",
    "tool_turns", "schema", "image", "reasoning",
)  # fmt: skip
TERMS = (*TEXT_TERMS, *CONTEXT_TERMS, "log_chars")

CHARS_MIN, CHARS_USUAL, CHARS_MAX = 8, 300, 3000
CHARS_EASY_MAX = 40
"""A text to be translated or summarized does not make the ask harder."""
CHARS_PER_HAN = 2.5
"""Characters of English that say about as much as a Chinese character."""

_COUNT_MAX = 255
# Repetition counts, but ever less. The factors are in a table, because a logarithm of every bucket
# costs too much.
_SUBLINEAR = np.concatenate([[0.0], 1.0 + np.log(np.arange(1, _COUNT_MAX + 1))]).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Vector:
    """One user turn in its surroundings.

    `buckets` are the buckets of its n-grams. `values` say how often each bucket occurs, as a vector
    of length 1. `terms` are the TERMS, and `text` holds the features that they come from.
    """

    buckets: NDArray[np.int64]
    values: NDArray[np.float32]
    terms: NDArray[np.float32]
    text: TextFeatures


class SystemViews:
    """What is seen of the system prompts of the latest calls, which many calls share."""

    def __init__(self) -> None:
        self._features = Seen[TextFeatures](SYSTEMS_MAX)
        self._ngrams = Seen[NDArray[np.uint16]](SYSTEMS_MAX)

    def read(self, text: str) -> TextFeatures:
        """The features of a window of the system prompt."""
        return self._features.recall((text,), lambda: extract_text_features(text))

    def hash(self, text: str) -> NDArray[np.uint16]:
        """The buckets of its n-grams."""
        return self._ngrams.recall((text,), lambda: hash_ngrams(text, SYSTEM_SALT))


class Observer:
    """Turns the asks of one prompt into vectors, and computes their shared parts once."""

    def __init__(self, prompt: Prompt, systems: SystemViews | None = None) -> None:
        self.asks = list_asks(prompt) or [""]
        self._systems = systems or SystemViews()
        self._context = _context_terms(extract_context(prompt, read=self._systems.read))
        system = [cut_window(t, SYSTEM_HEAD_CHARS, SYSTEM_TAIL_CHARS) for t in system_texts(prompt)]
        self._system = "\n".join(system) if system else None

    def texts(self, age: int) -> tuple[str, str, str]:
        """All of the prompt that the vector of an ask depends on, but for the context's terms: the
        windows for its n-grams and for its terms, and the system prompt's."""
        ask = self.asks[age]
        if age:
            window = cut_window(ask, EARLIER_HEAD_CHARS, EARLIER_TAIL_CHARS)
            return window, window, self._system or ""
        return (
            cut_window(ask, NGRAM_HEAD_CHARS, NGRAM_TAIL_CHARS),
            cut_window(ask, TERM_HEAD_CHARS, TERM_TAIL_CHARS),
            self._system or "",
        )

    def observe(self, age: int) -> Vector:
        """The vector of the newest ask (age 0) or of an earlier ask."""
        seen, text, _ = self.texts(age)
        features = extract_text_features(text)
        return Vector(*self._weigh(hash_ngrams(seen)), self.list_terms(features, age), features)

    def list_terms(self, text: TextFeatures, age: int) -> NDArray[np.float32]:
        """The TERMS of an ask with these features, in the context of this prompt."""
        length = measure_length(len(self.asks[age]), text)
        terms = [*_text_terms(text), *self._context, length]
        return np.frombuffer(array("f", terms), dtype=np.float32)

    def _weigh(self, grams: NDArray[np.uint16]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        # The vector is sparse: short enough for BLAS to stay in this thread, which shares its cores
        # with other threads.
        if self._system is not None:
            grams = np.concatenate([grams, self._systems.hash(self._system)])
        if not len(grams):
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
        grams.sort(kind="stable")  # of 16-bit integers: a radix sort
        ends = _find_ends(grams)
        values: NDArray[np.float32] = _SUBLINEAR.take(_count_runs(ends), mode="clip")
        length = math.sqrt(float(values @ values))
        return grams[ends].astype(np.int64), values / np.float32(length or 1.0)


def _find_ends(grams: NDArray[np.uint16]) -> NDArray[np.int64]:
    """The last place of each of the sorted numbers."""
    is_end = np.empty(len(grams), dtype=np.bool_)
    is_end[-1] = True
    np.not_equal(grams[1:], grams[:-1], out=is_end[:-1])
    return is_end.nonzero()[0]


def _count_runs(ends: NDArray[np.int64]) -> NDArray[np.int64]:
    counts = np.empty_like(ends)
    counts[0] = ends[0] + 1
    np.subtract(ends[1:], ends[:-1], out=counts[1:])
    return counts


def observe(prompt: Prompt) -> Vector:
    """The vector of a prompt's newest ask, which a label belongs to."""
    return Observer(prompt).observe(0)


def measure_length(chars: int, text: TextFeatures) -> float:
    """The logarithm of the length of a whole ask, bounded; 0 for a usual examination question.

    `tokens` of the features are those of a window, which is shorter than many questions.
    """
    written = chars * CHARS_PER_HAN if text.language is Language.CHINESE else chars
    easy = text.easy_asks and not text.hard_asks
    bound = CHARS_EASY_MAX if easy else CHARS_MAX
    return math.log(min(max(written, CHARS_MIN), bound) / CHARS_USUAL)


def weigh_terms(weights: HeuristicWeights = WEIGHTS) -> NDArray[np.float64]:
    """The hand weights of TERMS; their sum over a vector's terms is the heuristic's evidence."""
    w = weights
    text = [
        w.hard_ask, w.hard_term, w.easy_ask, w.bound, w.step, w.item, w.question, w.maths, w.code,
        w.options, w.clause, w.long_word, w.number, w.length, w.quantity, w.quantity_number,
        0.0, 0.0, 0.0, 0.0,
    ]  # fmt: skip
    context = [
        w.system_bound, w.system_length, w.turn, w.turn_with_rules, w.assistant_code, w.tools,
        w.tool_turn, w.schema, w.image, w.reasoning,
    ]  # fmt: skip
    return np.array([*text, *context, 0.0])


def _text_terms(text: TextFeatures) -> list[float]:
    w = WEIGHTS
    numbers = min(text.numbers, w.numbers_max)
    quantity = bool(text.quantity and (text.numbers >= 3 or text.hard_terms))
    return [
        min(text.hard_asks, w.hard_asks_max),
        min(text.hard_terms, w.hard_terms_max),
        min(text.easy_asks, w.easy_asks_max),
        min(text.bounds, w.bounds_max),
        min(text.steps, w.steps_max),
        min(text.items, w.items_max),
        min(max(0, text.questions - 1), w.questions_max),
        min(text.maths, w.maths_max),
        min(text.code, w.code_max),
        text.options >= 4,
        min(text.clauses, w.clauses_max),
        min(text.long_words, w.long_words_max),
        numbers,
        min(1.0, text.tokens / w.length_tokens_max),
        quantity,
        quantity * numbers,
        math.log1p(text.tokens),
        min(text.options, 10),
        text.language is Language.CHINESE,
        text.language is Language.OTHER,
    ]


def _context_terms(features: Features) -> list[float]:
    w = WEIGHTS
    turns = min(features.turn_index, w.turns_max)
    length = min(1.0, features.system_tokens / w.system_tokens_max)
    return [
        min(features.system.bounds, w.system_bounds_max),
        length,
        turns,
        turns * length,
        features.assistant_code,
        math.log2(1 + min(features.tools, w.tools_max)),
        min(features.tool_turns, w.tool_turns_max),
        features.schema,
        features.images > 0,
        features.reasoning,
    ]
