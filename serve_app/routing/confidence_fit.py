"""Fitting the map of `confidence.py`, and judging it: for `serve-app learn`, not for the Router."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from serve_app.config.cascade import ConfidenceConfig
from serve_app.routing.confidence import DraftFeatures, p_right

LABELS_MIN = 20
"""Right and wrong drafts, each, below which a fit would be noise."""

STEPS_MAX = 100
RIDGE = 0.01
"""Pulls the weights a little towards 0, so that drafts that can be told apart perfectly do not
send them to infinity."""


@dataclass(frozen=True, slots=True)
class LabelledDraft:
    """A draft of the weakest tier, and whether its answer was right.

    `strong_right` tells the same of the strongest tier's answer, None where it was not asked.
    """

    features: DraftFeatures
    right: bool
    strong_right: bool | None = None


@dataclass(frozen=True, slots=True)
class ThresholdReport:
    """What a threshold does to labelled drafts; all ratios, 0 to 1, NaN where there is no case.

    `accuracy` is that of the cascade, over the drafts whose `strong_right` is known.
    """

    confidence_min: float
    escalated_ratio: float
    released_accuracy: float
    accuracy: float


def fit_confidence(drafts: Sequence[LabelledDraft]) -> ConfidenceConfig:
    """The map that makes these labels most likely: logistic regression by Newton's method.

    Raises:
        ValueError: there are too few right or too few wrong drafts to fit to.
    """
    right = np.array([draft.right for draft in drafts], dtype=float)
    if min(right.sum(), len(right) - right.sum()) < LABELS_MIN:
        raise ValueError(
            f"{int(right.sum())} right and {int(len(right) - right.sum())} wrong drafts are too few"
            f" to fit to; at least {LABELS_MIN} of each are needed"
        )
    rows = np.array(
        [(1.0, d.features.mean_probability, d.features.min_probability) for d in drafts]
    )
    penalty = np.diag([0.0, RIDGE, RIDGE])
    weights = np.zeros(3)
    for _ in range(STEPS_MAX):
        p = 1 / (1 + np.exp(-np.clip(rows @ weights, -30, 30)))
        slope = rows.T @ (right - p) - penalty @ weights
        step = np.linalg.solve((rows.T * (p * (1 - p))) @ rows + penalty, slope)
        weights += step
        if float(abs(step).max()) < 1e-8:
            break
    bias, mean, minimum = (round(float(weight), 4) for weight in weights)
    return ConfidenceConfig(bias=bias, mean_probability_weight=mean, min_probability_weight=minimum)


def judge_threshold(
    drafts: Sequence[LabelledDraft], confidence: ConfidenceConfig, confidence_min: float
) -> ThresholdReport:
    """What this threshold would have done to these drafts."""
    released = [p_right(draft.features, confidence) >= confidence_min for draft in drafts]
    answers = [
        draft.right if kept else draft.strong_right
        for draft, kept in zip(drafts, released, strict=True)
        if draft.strong_right is not None
    ]
    return ThresholdReport(
        confidence_min=confidence_min,
        escalated_ratio=1 - _ratio(released),
        released_accuracy=_ratio(
            [draft.right for draft, kept in zip(drafts, released, strict=True) if kept]
        ),
        accuracy=_ratio(answers),
    )


def fit_threshold(
    drafts: Sequence[LabelledDraft], confidence: ConfidenceConfig, quality_min: float
) -> ThresholdReport:
    """The lowest threshold that keeps this share (0 to 1) of the strongest tier's accuracy.

    Thresholds are tried in steps of 0.01; 1, which releases nothing, keeps all of it.

    Raises:
        ValueError: no draft says whether the strongest tier was right.
    """
    strong = [draft.strong_right for draft in drafts if draft.strong_right is not None]
    if not strong:
        raise ValueError("no draft says whether the strongest tier was right (`strong_right`)")
    accuracy_min = quality_min * _ratio(strong)
    reports = (judge_threshold(drafts, confidence, step / 100) for step in range(101))
    return next(report for report in reports if report.accuracy >= accuracy_min)


def calibration_error(
    drafts: Sequence[LabelledDraft], confidence: ConfidenceConfig, bins: int = 10
) -> float:
    """Expected calibration error over bins of equal width: 0 is perfect, 1 the worst."""
    groups: list[list[tuple[float, bool]]] = [[] for _ in range(bins)]
    total = 0
    for draft in drafts:
        p = p_right(draft.features, confidence)
        groups[min(int(p * bins), bins - 1)].append((p, draft.right))
        total += 1
    gaps = (abs(sum(p - right for p, right in group)) for group in groups)
    return sum(gaps) / total if total else math.nan


def _ratio(values: Sequence[bool | None]) -> float:
    return sum(map(bool, values)) / len(values) if values else math.nan
