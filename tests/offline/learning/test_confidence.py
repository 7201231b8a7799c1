"""From labelled drafts to the map of a cascade, and to its threshold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.config.cascade import ConfidenceConfig
from serve_app.offline.learning.confidence import (
    Drafts,
    Values,
    calibration_error,
    choose_threshold,
    fit_confidence,
    judge_threshold,
    learn_confidence,
    stack_features,
)
from serve_app.routing.confidence import DraftFeatures, p_right

TRUE_MAP = ConfidenceConfig(bias=-4, mean_probability_weight=3, min_probability_weight=5)


def judge(features: Values, confidence: ConfidenceConfig) -> Values:
    """P(right) of every draft."""
    return np.array([p_right(DraftFeatures(*row), confidence) for row in features.tolist()])


def draw(count: int, seed: int = 0) -> Drafts:
    """Drafts that are right exactly as often as `TRUE_MAP` says."""
    rng = np.random.default_rng(seed)
    features = np.sort(rng.random((count, 2)), axis=1)[:, ::-1]
    fast = rng.random(count) < judge(features, TRUE_MAP)
    strong = rng.random(count) < 0.9
    return Drafts(features, fast.astype(float), strong.astype(float), np.arange(count))


def test_a_fit_finds_the_map_that_made_the_labels() -> None:
    """From some thousand labels the three parameters come back, and are calibrated on others."""
    fitted = fit_confidence(draw(8000))
    assert fitted.bias == pytest.approx(TRUE_MAP.bias, abs=0.4)
    assert fitted.mean_probability_weight == pytest.approx(3, abs=0.6)
    assert fitted.min_probability_weight == pytest.approx(5, abs=0.6)
    others = draw(4000, seed=1)
    assert calibration_error(judge(others.features, fitted), others.right) < 0.03
    wrong = judge(others.features, ConfidenceConfig(bias=5))
    assert calibration_error(wrong, others.right) > 0.2


def test_a_fit_to_drafts_that_can_be_told_apart_stays_finite() -> None:
    """Labels without an exception give a steep map, not an infinite one."""
    features = stack_features([DraftFeatures(p, p) for p in (0.1, 0.2, 0.8, 0.9) * 20])
    right = (features[:, 0] > 0.5).astype(float)
    fitted = fit_confidence(Drafts(features, right, right, np.arange(80)))
    assert p_right(DraftFeatures(0.9, 0.9), fitted) > 0.9
    assert p_right(DraftFeatures(0.1, 0.1), fitted) < 0.1


def test_a_lesson_is_judged_on_held_out_drafts() -> None:
    """It tells right from wrong, keeps the quality asked for, and says what to set."""
    report = learn_confidence(draw(1000), quality_min=0.95, folds=5)
    assert report.drafts == 1000
    assert report.auc > 0.75
    assert report.ece < 0.1
    # The figures are of drafts that did not choose the threshold, so they may fall a little short.
    assert 0.93 < report.chosen.of_strong < 1
    assert report.settings["confidence_min"] == report.chosen.confidence_min
    escalated = [threshold.escalated_ratio for threshold in report.thresholds]
    assert escalated == sorted(escalated)


def test_labels_without_a_rule_promise_nothing() -> None:
    """Shuffled verdicts give an AUC of about chance, because judging is held out."""
    drafts = draw(600)
    shuffled = replace(drafts, fast=np.random.default_rng(5).permutation(drafts.fast))
    assert learn_confidence(shuffled, 0.98, folds=5).auc < 0.6


def test_too_few_labels_are_refused_with_their_numbers() -> None:
    """A fit to a handful of drafts would be noise; one group has none to judge by."""
    right = np.array([1.0] * 50 + [0.0] * 3)
    few = Drafts(np.full((53, 2), 0.5), right, right, np.arange(53))
    assert not few.enough
    with pytest.raises(ValueError, match="50 right and 3 wrong"):
        learn_confidence(few, 0.98, folds=5)
    assert not replace(draw(200), groups=np.zeros(200, dtype=np.int64)).enough


def test_a_threshold_is_judged_by_what_it_would_have_done() -> None:
    """Shares and accuracies; where nothing is released, nobody knows how right that is."""
    drafts = Drafts(np.zeros((4, 2)), np.array([1.0, 0, 0, 1]), np.ones(4), np.arange(4))
    chances = np.array([0.9, 0.9, 0.1, 0.1])
    report = judge_threshold(chances, drafts, 0.5)
    assert (report.escalated_ratio, report.released_right) == (0.5, 0.5)
    assert (report.right, report.of_strong) == (0.75, 0.75)
    never = judge_threshold(chances, drafts, 1)
    assert (never.escalated_ratio, never.released_right, never.right) == (1, None, 1)


@given(st.floats(0, 1))
def test_a_chosen_threshold_keeps_the_quality_and_is_the_lowest(quality_min: float) -> None:
    """It costs no more strong answers than the quality needs."""
    drafts = draw(300)
    chances = judge(drafts.features, TRUE_MAP)
    report = choose_threshold(chances, drafts, quality_min)
    assert report.of_strong >= quality_min
    if report.confidence_min > 0:
        lower = round(report.confidence_min - 0.01, 2)
        assert judge_threshold(chances, drafts, lower).of_strong < quality_min
