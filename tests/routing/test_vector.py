"""What the learned scorer sees of a prompt."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from numpy.typing import NDArray

from serve_app.core.call import Prompt, Turn
from serve_app.routing.features import extract_context, extract_text_features
from serve_app.routing.learned import LearnedScorer
from serve_app.routing.ngrams import BUCKETS
from serve_app.routing.scorer import WEIGHTS, context_evidence, text_evidence
from serve_app.routing.vector import TERMS, Observer, Vector, observe, weigh_terms
from serve_app.routing.weights import read_weights
from tests.routing.strategies import PROMPTS


def ask(text: str) -> Prompt:
    return Prompt(turns=(Turn("user", text),))


def dense(vector: Vector) -> NDArray[np.float64]:
    """Every bucket's value."""
    return np.bincount(vector.buckets, vector.values, BUCKETS)


@given(PROMPTS)
def test_the_heuristic_is_a_point_among_the_terms(prompt: Prompt) -> None:
    """The hand weights over a vector's terms give the heuristic's evidence of the same text."""
    vector = observe(prompt)
    expected = text_evidence(vector.text, WEIGHTS) + context_evidence(
        extract_context(prompt), WEIGHTS
    )
    assert vector.terms @ weigh_terms() + WEIGHTS.bias == pytest.approx(expected, abs=1e-4)


@given(PROMPTS)
def test_any_prompt_has_a_vector(prompt: Prompt) -> None:
    """N-grams of length one, or none at all; finite terms; the same twice."""
    vector = observe(prompt)
    assert np.linalg.norm(vector.values) == pytest.approx(1, abs=1e-3) or not len(vector.values)
    assert np.isfinite(vector.terms).all()
    assert vector.terms.shape == (len(TERMS),)
    assert dense(vector).tolist() == dense(observe(prompt)).tolist()


def test_the_system_prompt_is_part_of_it() -> None:
    """An application is known by its system prompt, and not mistaken for a user who says it."""
    rules = Turn("system", "You are the claims assistant of an insurer.")
    with_rules = observe(Prompt((rules, Turn("user", "Hello"))))
    without = observe(ask("Hello"))
    as_user = observe(ask(rules.text + "\nHello"))
    assert dense(with_rules) @ dense(without) < 0.9
    assert dense(with_rules) @ dense(as_user) < 0.9


def test_asks_are_newest_first() -> None:
    """Age 0 is what the call asks now."""
    turns = (Turn("user", "first"), Turn("assistant", "yes"), Turn("user", "second"))
    observer = Observer(Prompt(turns))
    assert observer.asks == ["second", "first"]
    assert observer.observe(0).text == extract_text_features("second")
    assert observer.observe(1).text == extract_text_features("first")


def test_the_middle_of_a_long_text_is_not_seen() -> None:
    """Head and tail are, so that work is bounded and an instruction at either end counts."""
    long = "h" * 1000 + "{}" + "t" * 1000
    one, two = observe(ask(long.format("a" * 99_000))), observe(ask(long.format("b" * 99_000)))
    assert np.array_equal(dense(one), dense(two))
    other = observe(ask("prove " + long.format("a" * 99_000)))
    assert not np.array_equal(dense(one), dense(other))


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("m" * 300, None),
        ("", "m" * 8),
        ("m" * 4000, "m" * 3000),
        ("中" * 120, None),
        ("Summarize this: " + "m" * 4000, "m" * 40),
        ("Prove this, then summarize it: " + "m" * 4000, "m" * 3000),
    ],
)
def test_the_length_of_the_whole_text_is_a_term(text: str, same: str | None) -> None:
    """In logarithms around 300 characters, bounded; a Chinese character counts for 2.5. What
    an everyday ask is about does not count."""
    expected = 0.0 if same is None else float(observe(ask(same)).terms[-1])
    assert float(observe(ask(text)).terms[-1]) == pytest.approx(expected, abs=1e-6)
    assert TERMS[-1] == "log_chars"
    assert observe(ask("m" * 600)).terms[-1] == pytest.approx(np.log(2), abs=1e-6)


def test_texts_of_one_view_may_differ_in_length() -> None:
    """A scorer that has seen one of two long texts with the same windows does not mix them up."""
    weights, texts = read_weights(), ["h" * 1000 + "x" * n + "t" * 1000 for n in (0, 900)]
    scorer = LearnedScorer(weights)
    once = [scorer.score(ask(text)) for text in texts]
    assert once == [LearnedScorer(weights).score(ask(text)) for text in texts]
