"""APGR, CPT and calibration error."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.offline.learning.metrics import (
    Outcomes,
    Values,
    apgr,
    calibration_error,
    cpt,
    measure,
    random_scores,
    recover,
    resample,
)


def outcomes(fast: list[float], strong: list[float]) -> Outcomes:
    return Outcomes(np.array(fast, float), np.array(strong, float), np.arange(len(fast)))


# Ten calls; only the last two gain anything.
TWO_OF_TEN = outcomes([1.0] * 4 + [0.0] * 6, [1.0] * 4 + [0.0] * 4 + [1.0] * 2)
KNOWING = np.arange(10.0)


def test_who_knows_the_gain_recovers_it_first() -> None:
    """Two calls in ten bring all of it: the curve rises to 1 at 0.2 and stays there."""
    shares, parts = recover(KNOWING, TWO_OF_TEN)
    assert parts[2:] == pytest.approx(1)
    assert shares[2] == pytest.approx(0.2)
    assert apgr(KNOWING, TWO_OF_TEN) == pytest.approx(0.9)
    assert cpt(KNOWING, TWO_OF_TEN, 0.5) == pytest.approx(0.1)
    assert cpt(KNOWING, TWO_OF_TEN, 0.8) == pytest.approx(0.16)


def test_who_knows_the_opposite_recovers_it_last() -> None:
    """The same curve, turned about the middle."""
    assert apgr(-KNOWING, TWO_OF_TEN) == pytest.approx(0.1)
    assert cpt(-KNOWING, TWO_OF_TEN, 0.5) == pytest.approx(0.9)


@pytest.mark.parametrize("order", [KNOWING, -KNOWING])
def test_equal_scores_are_worth_chance(order: Values) -> None:
    """In whatever order the calls came."""
    same = Outcomes(
        TWO_OF_TEN.fast[order.astype(int)], TWO_OF_TEN.strong[order.astype(int)], np.arange(10)
    )
    assert apgr(np.zeros(10), same) == pytest.approx(0.5)
    assert cpt(np.zeros(10), same, 0.8) == pytest.approx(0.8)


def test_chance_is_a_half() -> None:
    """On many calls a random score has an APGR of a half, and CPT(x) of x."""
    rng = np.random.default_rng(2)
    many = outcomes(list(rng.integers(0, 2, 20_000)), [1.0] * 20_000)
    scores = random_scores(20_000)
    assert apgr(scores, many) == pytest.approx(0.5, abs=0.02)
    assert cpt(scores, many, 0.8) == pytest.approx(0.8, abs=0.02)


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(-3, 3)), min_size=1))
def test_only_the_order_of_scores_counts(calls: list[tuple[bool, bool, int]]) -> None:
    """Any increasing mapping leaves the curve as it is; without a lead there is no curve."""
    fast, strong, scores = (np.array(column, float) for column in zip(*calls, strict=True))
    found = Outcomes(fast, strong, np.arange(len(calls)))
    if (strong - fast).sum() <= 0:
        with pytest.raises(ValueError, match="no better"):
            apgr(scores, found)
        return
    assert apgr(np.exp(scores), found) == pytest.approx(apgr(scores, found))
    assert 0 <= cpt(scores, found, 0.5) <= cpt(scores, found, 0.8) <= 1


def test_calibration_error_is_in_points_of_gain() -> None:
    """A constant prediction is off by its distance to the mean gain of each bin."""
    halves = outcomes([0.0] * 100, [0.0, 1.0] * 50)
    assert calibration_error(np.full(100, 0.5), halves) == pytest.approx(0)
    assert calibration_error(np.full(100, 0.8), halves) == pytest.approx(0.3)
    # A bin is judged by its mean: single calls are right or wrong, and no prediction is both.
    sharp = outcomes([0.0] * 100, [0.0] * 50 + [1.0] * 50)
    assert calibration_error(np.repeat([0.0, 1.0], 50), sharp) == pytest.approx(0)


def test_intervals_hold_the_value_and_shrink_with_the_calls() -> None:
    """Resampling says how sure a number is."""
    rng = np.random.default_rng(3)
    widths = []
    for count in (100, 2000):
        skill = rng.random(count)
        found = Outcomes(
            np.zeros(count), (rng.random(count) < skill).astype(float), np.arange(count)
        )
        measures = measure(skill, found, skill, resample(found.groups, 200))
        for estimate in (measures.apgr, measures.cpt50, measures.cpt80, measures.ece):
            assert estimate is not None
            assert estimate.value is not None
            assert estimate.interval is not None
            assert estimate.interval.low <= estimate.value <= estimate.interval.high
        assert measures.apgr.interval is not None
        widths.append(measures.apgr.interval.high - measures.apgr.interval.low)
    assert widths[1] < widths[0] / 3


def test_groups_are_drawn_whole() -> None:
    """A hundred copies of a call are one call: they are drawn or not, all of them."""
    together = resample(np.repeat([5, 9], 100), 50)
    assert {int((rows < 100).sum()) for rows in together} == {0, 100, 200}
    assert all(len(rows) == 200 for rows in together)
    alone = resample(np.arange(200), 50)
    assert all(60 < (rows < 100).sum() < 140 for rows in alone)


def test_no_lead_has_no_numbers() -> None:
    """Where the strong model is no better, nothing is measured and nothing breaks."""
    assert measure(KNOWING, outcomes([1.0] * 10, [0.0] * 10)).apgr.value is None
