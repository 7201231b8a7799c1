"""From token log-probabilities to P(right), and back from labels to the map."""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.config.cascade import ConfidenceConfig
from serve_app.routing.confidence import DraftFeatures, draft_features, p_right
from serve_app.routing.confidence_fit import (
    LabelledDraft,
    calibration_error,
    fit_confidence,
    fit_threshold,
    judge_threshold,
)

TRUE_MAP = ConfidenceConfig(bias=-4, mean_probability_weight=3, min_probability_weight=5)
probabilities = st.floats(0, 1)


def draw(count: int, seed: int = 0) -> list[LabelledDraft]:
    """Drafts that are right exactly as often as `TRUE_MAP` says."""
    rng = Random(seed)
    drafts = []
    for _ in range(count):
        least, mean = sorted((rng.random(), rng.random()))
        features = DraftFeatures(mean, least)
        right = rng.random() < p_right(features, TRUE_MAP)
        drafts.append(LabelledDraft(features, right, strong_right=rng.random() < 0.9))
    return drafts


def test_the_features_are_probabilities() -> None:
    """The geometric mean, and the least probable token."""
    features = draft_features([math.log(0.5), math.log(0.5), math.log(0.125)])
    assert features.mean_probability == pytest.approx(0.5 ** (5 / 3))
    assert features.min_probability == pytest.approx(0.125)


def test_a_draft_without_tokens_is_sure_of_nothing() -> None:
    """A sequence that ended before its first token is judged like an impossible one."""
    assert draft_features([]) == DraftFeatures(0, 0)


@given(probabilities, probabilities, st.floats(-1000, 1000), st.floats(-1000, 1000))
def test_thresholds_of_0_and_1_mean_always_and_never(
    mean: float, least: float, bias: float, weight: float
) -> None:
    """Whatever the map, P(right) lies between them and is neither."""
    confidence = ConfidenceConfig(
        bias=bias, mean_probability_weight=weight, min_probability_weight=weight
    )
    assert 0 < p_right(DraftFeatures(mean, least), confidence) < 1


@given(probabilities, probabilities)
def test_surer_tokens_never_lower_the_default_confidence(first: float, second: float) -> None:
    """With the shipped map, P(right) grows with both features."""
    low, high = sorted((first, second))
    shipped = ConfidenceConfig()
    assert p_right(DraftFeatures(high, low), shipped) >= p_right(DraftFeatures(low, low), shipped)
    assert p_right(DraftFeatures(high, high), shipped) >= p_right(DraftFeatures(high, low), shipped)


def test_a_fit_finds_the_map_that_made_the_labels() -> None:
    """From some thousand labels the three parameters come back, and are calibrated on others."""
    fitted = fit_confidence(draw(8000))
    assert fitted.bias == pytest.approx(TRUE_MAP.bias, abs=0.4)
    assert fitted.mean_probability_weight == pytest.approx(3, abs=0.6)
    assert fitted.min_probability_weight == pytest.approx(5, abs=0.6)
    others = draw(4000, seed=1)
    assert calibration_error(others, fitted) < 0.03
    assert calibration_error(others, ConfidenceConfig(bias=5)) > 0.2


def test_a_fit_to_drafts_that_can_be_told_apart_stays_finite() -> None:
    """Labels without an exception give a steep map, not an infinite one."""
    drafts = [LabelledDraft(DraftFeatures(p, p), p > 0.5) for p in (0.1, 0.2, 0.8, 0.9) * 20]
    fitted = fit_confidence(drafts)
    assert p_right(DraftFeatures(0.9, 0.9), fitted) > 0.9
    assert p_right(DraftFeatures(0.1, 0.1), fitted) < 0.1


def test_too_few_labels_are_refused_with_their_numbers() -> None:
    """A fit to a handful of drafts would be noise."""
    drafts = [LabelledDraft(DraftFeatures(0.5, 0.5), right) for right in [True] * 50 + [False] * 3]
    with pytest.raises(ValueError, match="50 right and 3 wrong"):
        fit_confidence(drafts)


def test_a_threshold_is_judged_by_what_it_would_have_done() -> None:
    """Shares and accuracies, of the cases for which they can be known."""
    sure, unsure = DraftFeatures(1, 1), DraftFeatures(0, 0)
    drafts = [
        LabelledDraft(sure, right=True, strong_right=True),
        LabelledDraft(sure, right=False, strong_right=True),
        LabelledDraft(unsure, right=False, strong_right=True),
        LabelledDraft(unsure, right=True, strong_right=None),
    ]
    report = judge_threshold(drafts, ConfidenceConfig(), 0.5)
    assert report.escalated_ratio == 0.5
    assert report.released_accuracy == 0.5
    assert report.accuracy == pytest.approx(2 / 3)
    never = judge_threshold(drafts, ConfidenceConfig(), 1)
    assert never.escalated_ratio == 1
    assert math.isnan(never.released_accuracy)


@given(st.floats(0, 1))
def test_a_fitted_threshold_keeps_the_quality_and_is_the_lowest(quality_min: float) -> None:
    """It costs no more strong answers than the quality needs."""
    drafts = draw(300)
    strong_accuracy = sum(bool(draft.strong_right) for draft in drafts) / len(drafts)
    report = fit_threshold(drafts, TRUE_MAP, quality_min)
    assert report.accuracy >= quality_min * strong_accuracy
    if report.confidence_min > 0:
        lower = judge_threshold(drafts, TRUE_MAP, round(report.confidence_min - 0.01, 2))
        assert lower.accuracy < quality_min * strong_accuracy


def test_a_threshold_needs_the_strong_tiers_answers() -> None:
    """Without them nobody knows what escalating buys."""
    with pytest.raises(ValueError, match="strong_right"):
        fit_threshold([LabelledDraft(DraftFeatures(1, 1), right=True)], TRUE_MAP, 0.98)
