"""When new weights may take the place of old ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from serve_app.offline.learning.comparison import Comparison, check_succession, compare_gains
from serve_app.offline.learning.learning_errors import (
    WouldReplaceBetter,
    WouldReplaceRicher,
    WouldReplaceUnknown,
)
from serve_app.offline.learning.metrics import Outcomes, Values, resample

OUT = Path("w.safetensors")


def judge(new: Values, old: Values, *, known: bool = True) -> Comparison:
    """On two hundred calls, half of which only the strong model gets right."""
    strong = np.ones(200)
    outcomes = Outcomes(np.arange(200) % 2.0, strong, np.arange(200))
    return compare_gains(new, old, outcomes, resample(outcomes.groups, 200), known=known)


GOOD, BAD = 1 - np.arange(200) % 2.0, np.arange(200) % 2.0
EVEN = np.zeros(200)


def test_the_old_weights_stay_if_they_are_better() -> None:
    """However many calls the new ones were learnt from; the message has both figures."""
    with pytest.raises(WouldReplaceBetter, match=r"APGR 0\.750, and 0\.250 .* --force"):
        check_succession(OUT, judge(BAD, GOOD), 1000, 10)


def test_old_weights_that_may_know_the_calls_are_not_called_better() -> None:
    """They stay, and the message says that nothing is known."""
    with pytest.raises(WouldReplaceUnknown, match="do not say what they were learnt from"):
        check_succession(OUT, judge(BAD, GOOD, known=False), 1000, 10)


@pytest.mark.parametrize(("new", "old"), [(GOOD, BAD), (GOOD, EVEN)])
def test_better_weights_are_written(new: Values, old: Values) -> None:
    """From however few calls, and even if the old ones may know the calls that judge."""
    check_succession(OUT, judge(new, old), 10, 1000)
    check_succession(OUT, judge(new, old, known=False), 10, 1000)


def test_equal_weights_are_replaced_by_those_from_about_as_many_calls() -> None:
    """Noise keeps no lesson from being written; only far fewer calls do."""
    even = judge(GOOD, GOOD)
    assert even.old_better == 0.5
    check_succession(OUT, even, 50, 100)
    with pytest.raises(WouldReplaceRicher, match="learnt from 100 calls, and the new weights from"):
        check_succession(OUT, even, 49, 100)


def test_calls_without_a_gap_do_not_tell() -> None:
    """Nor do no calls at all."""
    outcomes = Outcomes(np.ones(3), np.ones(3), np.arange(3))
    found = compare_gains(GOOD[:3], BAD[:3], outcomes, [], known=True)
    assert (found.calls, found.new, found.old, found.old_better) == (3, None, None, 0.5)
    none = np.zeros(0)
    empty = Outcomes(none, none, np.arange(0))
    assert compare_gains(none, none, empty, [], known=True).new is None
