"""From token log-probabilities to P(right)."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.config.cascade import ConfidenceConfig
from serve_app.routing.confidence import DraftFeatures, draft_features, p_right

probabilities = st.floats(0, 1)


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


def test_the_map_is_logistic() -> None:
    """The bias and the weighted features are log-odds."""
    confidence = ConfidenceConfig(bias=-1, mean_probability_weight=2, min_probability_weight=4)
    p = p_right(DraftFeatures(0.5, 0.25), confidence)
    assert math.log(p / (1 - p)) == pytest.approx(-1 + 2 * 0.5 + 4 * 0.25)
