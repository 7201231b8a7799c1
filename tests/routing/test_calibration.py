"""What thresholds buy, on calls small enough to count by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.routing.calibration import Calibration, Prices, ScoredCall, Unattainable

TEN = [ScoredCall(n / 10, small=float(n < 5), large=1.0) for n in range(10)]
SCORES = st.lists(st.floats(0, 1) | st.sampled_from([0.2, 0.5, 1.0]), min_size=1, max_size=50)


def share(scores: list[float], threshold: float) -> float:
    return sum(score >= threshold for score in scores) / len(scores)


@given(scores=SCORES)
def test_each_threshold_gives_its_share(scores: list[float]) -> None:
    """A choice is true of the very calls it was counted on, and all of them are there."""
    choices = Calibration([ScoredCall(score) for score in scores]).choices
    for choice in choices:
        assert 0 <= choice.threshold <= 1
        assert share(scores, choice.threshold) == pytest.approx(choice.strong_ratio)
    assert len(choices) == len(set(scores)) + (max(scores) < 1)
    ratios = [choice.strong_ratio for choice in choices]
    assert ratios == sorted(ratios)


@given(scores=SCORES, ratio=st.floats(0, 1))
def test_a_share_is_a_cap(scores: list[float], ratio: float) -> None:
    """The chosen share is the highest one within the budget."""
    calibration = Calibration([ScoredCall(score) for score in scores])
    try:
        choice = calibration.at_ratio(ratio)
    except Unattainable:
        assert scores.count(1.0) / len(scores) > ratio
        return
    assert choice.strong_ratio <= ratio
    assert all(
        other.strong_ratio <= choice.strong_ratio or other.strong_ratio > ratio
        for other in calibration.choices
    )
    low, high = calibration.bounds(ratio)
    assert 0 <= low <= high <= 1


def test_the_quality_of_a_share() -> None:
    """The small model fails at the five highest scores: five strong calls recover the whole gap."""
    calibration = Calibration(TEN)
    half = calibration.at_ratio(0.5)
    assert (half.quality, half.quality_ratio, half.gap_ratio) == (1.0, 1.0, 1.0)
    none = calibration.at_ratio(0.0)
    assert (none.quality, none.quality_ratio, none.gap_ratio) == (0.5, 0.5, 0.0)
    assert (half.quality_margin, none.quality_margin) == (0.0, pytest.approx(0.31, abs=1e-3))
    assert 0.4 < half.threshold <= 0.5


def test_a_quality_floor_takes_the_fewest_strong_calls() -> None:
    """Nine of ten right needs four strong calls."""
    assert Calibration(TEN).at_quality(0.9).strong_ratio == pytest.approx(0.4)


def test_a_budget_buys_the_most_strong_calls() -> None:
    """1,000 calls cost 1 on the fast tier and 11 on the strong one: 5 pays for four in ten."""
    choice = Calibration(TEN, Prices(1, 11)).at_cost(5)
    assert choice.strong_ratio == pytest.approx(0.4)
    assert choice.cost == pytest.approx(5)


def test_equal_scores_cannot_be_told_apart() -> None:
    """Where nine of ten calls score the same, a share of a half comes down to one of ten."""
    calibration = Calibration([ScoredCall(0.2)] * 9 + [ScoredCall(0.7)])
    assert calibration.at_ratio(0.5).strong_ratio == pytest.approx(0.1)


def test_what_cannot_be_had() -> None:
    """A budget below the cheapest choice, quality without labels, a share that no score keeps."""
    with pytest.raises(Unattainable, match="cheapest choice costs 1"):
        Calibration(TEN, Prices(1, 11)).at_cost(0.5)
    with pytest.raises(Unattainable, match="no prices"):
        Calibration(TEN).at_cost(5)
    with pytest.raises(Unattainable, match="small_score and large_score"):
        Calibration([*TEN, ScoredCall(0.5)]).at_quality(0.9)
    with pytest.raises(Unattainable, match="never right"):
        Calibration([ScoredCall(0.5, 0.0, 0.0)]).at_quality(0.9)
    with pytest.raises(Unattainable, match="score 1"):
        Calibration([ScoredCall(1.0)]).at_ratio(0.5)
