"""How far scores are from earlier scores."""

from __future__ import annotations

import math

import pytest

from serve_app.routing.drift import DRIFT_ENDS, DriftWatch, Reference, ScoreWindow

TEN = [n / 10 for n in range(10)]


def test_a_distribution_is_at_no_distance_from_itself() -> None:
    """However many scores there are, and where many are equal."""
    assert Reference(TEN).distance(TEN) == 0.0
    assert Reference([0.5] * 30).distance([0.5] * 30) == 0.0


def test_the_distance_is_the_population_stability_index() -> None:
    """Over ten bins of one score each, with half a score added to each bin."""
    # Nine bins lose their score, and the last one has ten.
    expected = 9 * (0.5 / 15 - 0.1) * math.log(1 / 3) + (10.5 / 15 - 0.1) * math.log(7)
    assert Reference(TEN).distance([0.95] * 10) == pytest.approx(expected)
    # The first bin ends below the second score.
    assert Reference(TEN).distance([0.05] * 10) == pytest.approx(expected)


def test_equal_scores_share_a_bin() -> None:
    """Of two values, each begins a bin; below the first there is a bin without a score."""
    reference = Reference([0.2] * 20 + [0.7] * 80)
    shares = [(20.5 / 101.5, 0.5 / 101.5), (80.5 / 101.5, 100.5 / 101.5)]
    expected = sum((now - then) * math.log(now / then) for then, now in shares)
    assert reference.distance([0.7] * 100) == pytest.approx(expected)


def fill(watch: DriftWatch, score: float) -> bool:
    for step in range(100):
        watch.note(score + step / 1000)
    return watch.drifting


def test_drift_ends_where_traffic_returns_or_stays() -> None:
    """A block near the reference ends it; so does a block near the one before, the new usual."""
    watch = DriftWatch(100)
    assert watch.distance([0.1]) is None
    assert [fill(watch, score) for score in (0.1, 0.1, 0.5, 0.1)] == [False, False, True, False]
    assert [fill(watch, score) for score in (0.5, 0.8, 0.8)] == [True, True, False]
    usual = watch.distance([0.8 + step / 1000 for step in range(100)])
    assert usual is not None
    assert usual < DRIFT_ENDS
    assert fill(watch, 0.1)


def test_a_full_window_drops_its_oldest_score() -> None:
    """The scores are kept in the order of their coming and in that of their size."""
    window = ScoreWindow(3, [0.9, 0.1])
    for score in (0.5, 0.3, 0.1):
        window.note(score)
    assert (window.newest, window.sorted) == ((0.5, 0.3, 0.1), [0.1, 0.3, 0.5])
    assert window.size == 3
