"""Which calls are kept for judging, and which calls weights have learnt from."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from serve_app.core.call import Prompt, Turn
from serve_app.offline.learning.learnt import (
    LEARNT_FROM_NOTHING,
    Filter,
    list_learnt,
    list_reserved,
    list_unseen,
    note_learnt,
)
from serve_app.offline.learning.records import LabelledCall
from serve_app.routing.weights import LEARNT_BYTES_MAX


def ask(text: str, group: str = "", system: str = "") -> LabelledCall:
    return LabelledCall(Prompt((Turn("system", system), Turn("user", text))), 0, 1, group=group)


def known(calls: list[LabelledCall], learnt: Filter) -> NDArray[np.bool_]:
    return list_learnt([call.prompt for call in calls], learnt)


def number(*numbers: int) -> list[LabelledCall]:
    return [ask(f"question {n}") for n in numbers]


@given(st.lists(st.text(max_size=20), max_size=20), st.floats(0, 1))
def test_a_call_stays_on_its_side(texts: list[str], ratio: float) -> None:
    """Whatever other calls there are, and a larger share keeps what a smaller one keeps."""
    calls = [ask(text) for text in texts]
    together = list_reserved(calls, ratio).tolist()
    assert together == [bool(list_reserved([call], ratio)[0]) for call in calls]
    wider = list_reserved(calls, min(1.0, ratio + 0.1)).tolist()
    assert all(late or not early for early, late in zip(together, wider, strict=True))


def test_the_share_is_about_what_was_asked_for() -> None:
    """Of a thousand calls, a fifth."""
    assert 160 < list_reserved(number(*range(1000)), 0.2).sum() < 240
    assert not list_reserved(number(*range(1000)), 0.0).any()


@pytest.mark.parametrize(
    "twin", ["what is 3 + 4", "What is 3+4?", " WHAT is\n３ + ４", "what is 3, 4!"]
)
def test_twins_are_on_one_side_and_known_alike(twin: str) -> None:
    """Case, width, spaces and punctuation make no other question."""
    calls = [ask("What is 3 + 4?"), ask(twin)]
    for ratio in np.linspace(0, 1, 30):
        first, second = list_reserved(calls, ratio)
        assert first == second
    assert known(calls[1:], note_learnt(calls[:1], LEARNT_FROM_NOTHING)).all()


def test_a_group_is_on_one_side() -> None:
    """By its name."""
    calls = [ask(f"question {n}", group="Ada") for n in range(50)]
    assert len(set(list_reserved(calls, 0.5).tolist())) == 1


@pytest.mark.parametrize("count", [0, 1, 100, 5000])
def test_what_was_learnt_is_found(count: int) -> None:
    """Always; and of other calls at most a few in a hundred."""
    learnt = note_learnt(number(*range(count)), LEARNT_FROM_NOTHING)
    assert known(number(*range(count)), learnt).all()
    others = known(number(*range(10_000, 11_000)), learnt)
    assert others.mean() < 0.02


def test_lessons_add_up() -> None:
    """A lesson that begins with another's weights knows the calls of both."""
    learnt = LEARNT_FROM_NOTHING
    for start in range(0, 4000, 400):
        learnt = note_learnt(number(*range(start, start + 400)), learnt)
    assert known(number(*range(4000)), learnt).all()
    assert known(number(*range(10_000, 11_000)), learnt).mean() < 0.02


def test_a_filter_stays_within_its_bound() -> None:
    """However many calls."""
    full = np.full(LEARNT_BYTES_MAX, 255, np.uint8)
    assert len(note_learnt(number(1), full)) == LEARNT_BYTES_MAX


def test_what_is_like_a_known_call_is_not_unseen() -> None:
    """A near-duplicate of a call that was learnt from would flatter as well."""
    calls = number(1, 2, 3, 4)
    groups = np.array([7, 7, 8, 9])
    learnt = note_learnt(calls[:1], LEARNT_FROM_NOTHING)
    assert list_unseen(calls, groups, learnt, None).tolist() == [False, False, True, True]
    other = note_learnt(calls[3:], LEARNT_FROM_NOTHING)
    assert list_unseen(calls, groups, learnt, other).tolist() == [False, False, True, False]
