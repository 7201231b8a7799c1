"""The form of an API key."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.access.keys import (
    DIGITS,
    KEY_PATTERN,
    create_key,
    is_key_id,
    parse_key,
    render_checksum,
)

DOCS = Path(__file__).parents[2] / "docs/keys.md"
KEY_CHARS = len(create_key().text)


def complete(key_id: str, secret: str) -> str:
    """The text of a key with this id and this secret."""
    body = f"sk-serve-{key_id}-{secret}"
    return body + render_checksum(body)


keys = st.builds(
    complete,
    st.text(DIGITS, min_size=12, max_size=12),
    st.text(DIGITS, min_size=43, max_size=43),
)
places = st.integers(0, KEY_CHARS - 1)


@given(keys)
def test_a_key_is_read_back(text: str) -> None:
    """A key has the published form, and its id is part of it."""
    key = parse_key(text)
    assert key is not None
    assert re.fullmatch(KEY_PATTERN, text)
    assert (key.text, key.key_id) == (text, text[9:21])
    assert is_key_id(key.key_id)


def test_a_made_key_is_well_formed() -> None:
    """Its own parser takes it; an id is no key."""
    made = create_key()
    assert parse_key(made.text) == made
    assert parse_key(made.key_id) is None
    assert not is_key_id(made.text)


@given(keys, places, st.characters())
def test_a_slip_in_one_character_is_found(text: str, place: int, other: str) -> None:
    """Any other character at any place makes the key malformed, without a look into a store."""
    slipped = text[:place] + other + text[place + 1 :]
    assert (parse_key(slipped) is None) == (slipped != text)


@given(keys, places)
def test_two_swapped_neighbours_are_found(text: str, place: int) -> None:
    """The usual typing slip of a person."""
    swapped = text[:place] + text[place : place + 2][::-1] + text[place + 2 :]
    assert (parse_key(swapped) is None) == (swapped != text)


@given(st.text())
def test_any_text_is_read_without_an_error(text: str) -> None:
    """A header may hold anything."""
    assert parse_key(text) is None
    assert parse_key(f"sk-serve-{text}") is None


@pytest.mark.parametrize("cut", [0, 1, 21, 70])
def test_a_key_that_is_cut_off_or_too_long_is_malformed(cut: int) -> None:
    """A key that was not copied as a whole."""
    text = create_key().text
    assert parse_key(text[:cut]) is None
    assert parse_key(text + DIGITS[cut % 62]) is None
    assert parse_key(text + "\n") is None


def test_a_key_does_not_print_its_secret() -> None:
    """Its repr may reach a log or a traceback."""
    key = create_key()
    assert key.text not in repr(key)
    assert key.text[22:] not in repr(key)


def test_keys_are_not_made_twice() -> None:
    """A thousand keys have a thousand ids and secrets; a rotated key keeps its id."""
    made = [create_key() for _ in range(1000)]
    assert len({key.key_id for key in made}) == len({key.text for key in made}) == 1000
    again = create_key(made[0].key_id)
    assert again.key_id == made[0].key_id
    assert again.text != made[0].text


def test_the_docs_publish_the_pattern() -> None:
    """Operators of secret scanners copy it from there."""
    assert KEY_PATTERN in DOCS.read_text()
