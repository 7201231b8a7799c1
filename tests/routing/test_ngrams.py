"""Hashing n-grams: stable, complete, bounded."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

from serve_app.routing.ngrams import BUCKETS, CHARS_MAX, hash_ngrams
from tests.routing.strategies import ANY_TEXT


def test_the_hash_never_changes() -> None:
    """Weights files rely on these numbers; another hash needs another FEATURES_VERSION."""
    assert hash_ngrams("ab c").tolist() == [6604, 7798, 9877, 15842, 8891]
    assert hash_ngrams("你好吗").tolist() == [15217, 11446, 16054, 8952, 7709, 13305]


@pytest.mark.parametrize(
    ("text", "grams"),
    [
        ("", 0),
        (" \n", 0),
        ("word", 1 + 0 + 2 + 0),
        ("two words", 2 + 1 + 7 + 5),
        ("a+b", 3 + 2 + 1 + 0),
        ("中文字", 3 + 2 + 1 + 0),
    ],
)
def test_words_pairs_and_character_grams_are_counted(text: str, grams: int) -> None:
    """Words, pairs of them, and runs of three and five characters; a Chinese one is a word."""
    assert len(hash_ngrams(text)) == grams


def test_equal_words_hash_alike_wherever_they_stand() -> None:
    """The place in the text plays no part, case neither."""
    assert hash_ngrams("cats like Cats")[0] == hash_ngrams("cats like Cats")[2]
    assert set(hash_ngrams("cats")[:1]) <= set(hash_ngrams("Many more, and so: CATS"))


def test_salts_keep_texts_apart() -> None:
    """The same words of another speaker fall into other buckets."""
    text = "answer briefly and politely"
    assert len(set(hash_ngrams(text)) & set(hash_ngrams(text, salt=1))) <= 2


def test_buckets_are_filled_evenly() -> None:
    """Ten thousand numbers leave few buckets empty and none crowded."""
    text = " ".join(str(number) for number in range(700))
    words = np.concatenate([hash_ngrams(text, salt)[:700] for salt in range(15)])
    counts = np.bincount(words, minlength=BUCKETS)
    assert (counts == 0).mean() < 0.6
    assert counts.max() < 10


@given(ANY_TEXT)
def test_any_text_hashes(text: str) -> None:
    """Lone surrogates included; always the same, always within the buckets."""
    buckets = hash_ngrams(text)
    assert np.array_equal(buckets, hash_ngrams(text))
    assert ((buckets >= 0) & (buckets < BUCKETS)).all()


def test_a_long_text_is_cut() -> None:
    """Work and memory are bounded even where nobody has windowed the text."""
    longest = ("ab " * CHARS_MAX)[:CHARS_MAX]
    assert np.array_equal(hash_ngrams("ab " * 1_000_000), hash_ngrams(longest))
    assert len(hash_ngrams("İ" * 1_000_000)) < 4 * CHARS_MAX
