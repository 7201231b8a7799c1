"""How sure a model is of its first tokens: from token log-probabilities to P(right).

There are two features, both within 0 and 1, because one impossible token must not outweigh all the
others: the geometric mean of the tokens' probabilities, and the probability of the least probable
token. The map is logistic and has three parameters (`ConfidenceConfig`), which belong to one model
and one kind of traffic. `offline/learning/confidence.py` fits them to labelled drafts and reports
the effect of each threshold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from serve_app.config.cascade import ConfidenceConfig


@dataclass(frozen=True, slots=True)
class DraftFeatures:
    """The features of a draft; probabilities, 0 to 1."""

    mean_probability: float
    min_probability: float


def draft_features(logprobs: Sequence[float]) -> DraftFeatures:
    """The features of one sequence from its tokens' natural log-probabilities.

    A sequence that was stopped before its first token is sure of nothing, so both features are 0.
    """
    if not logprobs:
        return DraftFeatures(0.0, 0.0)
    return DraftFeatures(math.exp(sum(logprobs) / len(logprobs)), math.exp(min(logprobs)))


def p_right(features: DraftFeatures, confidence: ConfidenceConfig) -> float:
    """The probability that an answer with these first tokens is right: above 0, below 1."""
    log_odds = (
        confidence.bias
        + confidence.mean_probability_weight * features.mean_probability
        + confidence.min_probability_weight * features.min_probability
    )
    # The bounds keep the result apart from 0 and 1, which as thresholds mean always and never.
    return 1 / (1 + math.exp(-min(max(log_odds, -30.0), 30.0)))
