"""Keys of the beginnings of a prompt."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.prefix import (
    DENSE_BYTES,
    LONGEST_BYTES,
    NO_KEYS,
    OFFSETS,
    parse_prefix_keys,
    prefix_keys,
    render_prefix_keys,
)

texts = st.binary(max_size=64).map(lambda text: text * 100)


def common(left: tuple[int, ...], right: tuple[int, ...]) -> int:
    """The number of equal keys at the beginning."""
    pairs = zip(left, right, strict=False)
    return next(
        (at for at, (one, other) in enumerate(pairs) if one != other), min(map(len, (left, right)))
    )


@given(st.lists(texts, max_size=6), st.lists(texts, max_size=6))
def test_a_conversation_that_grows_keeps_its_keys(before: list[bytes], more: list[bytes]) -> None:
    """What comes later changes no earlier key."""
    short, long = prefix_keys(before), prefix_keys([*before, *more])
    assert long.keys[: len(short.keys)] == short.keys
    assert long.size_bytes >= short.size_bytes


@given(texts, texts, texts)
def test_keys_are_common_up_to_the_first_difference(start: bytes, one: bytes, other: bytes) -> None:
    """A key covers all text before its offset."""
    left, right = prefix_keys([start, b"a", one]), prefix_keys([start, b"b", other])
    shared = common(left.keys, right.keys)
    assert shared == sum(offset <= len(start) for offset in OFFSETS[: len(left.keys)]) or (
        shared == min(len(left.keys), len(right.keys))
    )


def test_parts_are_only_pieces_of_one_text() -> None:
    """Where a text is cut does not matter."""
    assert prefix_keys([b"x" * 700, b"y" * 700]) == prefix_keys([b"x" * 700 + b"y" * 700])


def test_a_short_text_has_no_key() -> None:
    """Below 256 bytes nothing is worth a key."""
    assert prefix_keys([b"x" * 255]).keys == ()
    assert len(prefix_keys([b"x" * 256]).keys) == 1


def test_offsets_grow_with_the_text() -> None:
    """The part behind the last common key is small, in bytes or in proportion."""
    for offset, after in pairwise(OFFSETS):
        assert after - offset == 256 if offset < DENSE_BYTES else after - offset <= offset / 16
    assert OFFSETS[-1] <= LONGEST_BYTES < 1.07 * OFFSETS[-1]


def test_the_header_of_the_longest_prompt_is_short() -> None:
    """Keys cost a call at most 1.5 KB on the way to its replica."""
    keys = prefix_keys([b"z" * (LONGEST_BYTES + 1)])
    value = render_prefix_keys(keys)
    assert len(keys.keys) == len(OFFSETS) == 130
    assert len(value) < 1536
    assert parse_prefix_keys(value) == keys


@given(st.lists(texts, max_size=6))
def test_a_header_gives_the_keys_back(parts: list[bytes]) -> None:
    """A replica reads what a Router has written."""
    keys = prefix_keys(parts).for_model("m")
    assert parse_prefix_keys(render_prefix_keys(keys)) == keys


@given(st.binary(max_size=80))
def test_any_header_is_read_or_refused(value: bytes) -> None:
    """A header that holds no keys is no error, and keys always fit their size."""
    found = parse_prefix_keys(value)
    assert found is None or found.size_bytes >= (OFFSETS[len(found.keys) - 1] if found.keys else 0)


@pytest.mark.parametrize("value", [b"", b"-1.", b"x.", b"5.AAAAAAAAAAA=", b"9999.AAAA"])
def test_a_broken_header_is_refused(value: bytes) -> None:
    """A size or a list of keys that cannot be is no header."""
    assert parse_prefix_keys(value) is None


def test_models_share_no_keys() -> None:
    """The same text before two models has other keys, the same ones each time."""
    keys = prefix_keys([b"text " * 200])
    assert not set(keys.for_model("a").keys) & set(keys.for_model("b").keys)
    assert keys.for_model("a") == keys.for_model("a")
    assert NO_KEYS.for_model("a") == NO_KEYS


def test_tokens_are_in_proportion_to_text() -> None:
    """A key in the middle of a text covers half of its tokens."""
    assert prefix_keys([b"x" * 512]).tokens_at(0, 100) == 50
