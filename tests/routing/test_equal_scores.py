"""The quick scorer gives what the plain definition of its features gives."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.call import Prompt, Turn
from serve_app.routing import lexicon
from serve_app.routing.features import extract_text_features
from serve_app.routing.learned import LearnedScorer
from serve_app.routing.ngrams import hash_ngrams
from serve_app.routing.weights import read_weights
from tests.routing import plain
from tests.routing.prompts import EASY_EN, EASY_ZH, HARD_EN, HARD_ZH
from tests.routing.strategies import PROMPTS, ROLES, TEXT

WEIGHTS = read_weights()
OTHER_LANGUAGES = (
    "Erkläre die Lösung Schritt für Schritt, und zwar für 3,5 km.",
    "¿Cuántas manzanas quedan si vendo 7?",
    "Объясни, как работает мьютекс, и докажи.",
    "日本の首都はどこですか？",
    "안녕하세요, 오늘 날씨 어때요?",
    "مرحبا، كيف حالك؟",
    "İstanbul'un nüfusu kaç?",
)
ODD_WORDS = (
    "it_1",
    "its",
    "go on",
    "and then",
    "step-by-step",
    "a--b",
    "1,2.3:4",
    "在职证明",
    "证",
)
LEXICON = sorted(
    {
        term
        for terms in vars(lexicon).values()
        if isinstance(terms, tuple | frozenset)
        for term in terms
    }
)
PIECES = st.sampled_from((*LEXICON, *OTHER_LANGUAGES, *ODD_WORDS))
TEXTS = st.one_of(
    TEXT,
    st.sampled_from((*EASY_EN, *EASY_ZH, *HARD_EN, *HARD_ZH, *OTHER_LANGUAGES)),
    st.tuples(st.sampled_from(("", " ", "\n", ", ")), st.lists(PIECES, max_size=20)).map(
        lambda drawn: drawn[0].join(drawn[1])
    ),
)
CONVERSATIONS = st.lists(st.builds(Turn, role=ROLES, text=TEXTS), max_size=8).map(
    lambda turns: Prompt(turns=tuple(turns))
)


@given(TEXTS)
def test_every_feature_is_that_of_a_plain_search(text: str) -> None:
    """The tables of words, phrases, marks and characters change only the cost."""
    assert extract_text_features(text) == plain.read(text)


@given(TEXTS, st.integers(0, 1))
def test_every_ngram_has_the_bucket_of_its_definition(text: str, salt: int) -> None:
    """Prefix sums and shared runs give what one hash after another gives."""
    assert sorted(hash_ngrams(text, salt).tolist()) == sorted(plain.hash_text(text, salt))


@given(st.one_of(PROMPTS, CONVERSATIONS))
def test_scores_are_those_of_the_definition(prompt: Prompt) -> None:
    """To the accuracy of 32-bit floats, in which the weights are multiplied."""
    assert LearnedScorer(WEIGHTS).score(prompt) == pytest.approx(
        plain.score(prompt, WEIGHTS), abs=2e-6
    )


@given(st.lists(st.one_of(PROMPTS, CONVERSATIONS), min_size=1, max_size=4))
def test_what_was_seen_changes_no_score(prompts: Sequence[Prompt]) -> None:
    """A scorer that has met the texts before gives exactly the score of a new one."""
    remembers = LearnedScorer(WEIGHTS)
    expected = [LearnedScorer(WEIGHTS).score(prompt) for prompt in prompts]
    for _ in range(2):
        assert [remembers.score(prompt) for prompt in prompts] == expected
