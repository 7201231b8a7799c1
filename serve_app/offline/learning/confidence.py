"""Learn a cascade's map of `routing/confidence.py`, and the threshold on it.

A draft can be used if the record holds the draft's features (or its tokens' log-probabilities) and
the verdicts on both models. Every number is held out: each draft is judged by a map that was fitted
to the other groups of near-duplicates.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold

from serve_app.config.cascade import ConfidenceConfig
from serve_app.routing.confidence import DraftFeatures

Values = NDArray[np.float64]

LABELS_MIN = 20
"""Right and wrong drafts, each, below which a fit would be noise."""

INVERSE_RIDGE = 100.0
"""The pull of the weights towards 0, which keeps them finite if drafts can be separated
perfectly."""

BINS = 10
SHOWN = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9)
STEPS = 100


@dataclass(frozen=True, slots=True)
class Drafts:
    """Drafts of the weakest model: features of shape (drafts, 2), mean and least probability, and
    how right (0..1) its answer and the strongest model's were; `groups` belong together."""

    features: Values
    fast: Values
    strong: Values
    groups: NDArray[np.int64]

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether each draft's answer counts as right."""
        return self.fast >= 0.5

    def choose(self, rows: NDArray[np.int64]) -> Drafts:
        """Some of the drafts."""
        return Drafts(self.features[rows], self.fast[rows], self.strong[rows], self.groups[rows])

    @property
    def enough(self) -> bool:
        """Whether there are right and wrong ones to fit to, and others to judge by."""
        right = int(self.right.sum())
        several = len(np.unique(self.groups)) > 1
        return several and min(right, len(self.right) - right) >= LABELS_MIN


@dataclass(frozen=True, slots=True)
class ThresholdReport:
    """What a threshold does; all are shares, 0 to 1, `released_right` None where none is released.

    `right` is the cascade's accuracy, and `of_strong` that as a share of the strongest model's.
    """

    confidence_min: float
    escalated_ratio: float
    released_right: float | None
    right: float
    of_strong: float


@dataclass(frozen=True, slots=True)
class CascadeReport:
    """The map fitted to all drafts, and what held-out drafts say of such maps.

    `auc` is how well P(right) separates right from wrong drafts (0.5 is chance), `ece` its
    expected calibration error. `chosen` is the lowest threshold that keeps `quality_min` of the
    strongest model's accuracy, and its figures are of drafts that did not choose it.
    """

    drafts: int
    confidence: ConfidenceConfig
    auc: float
    ece: float
    quality_min: float
    chosen: ThresholdReport
    thresholds: Sequence[ThresholdReport]

    @property
    def settings(self) -> dict[str, object]:
        """What belongs below `routing.cascade`."""
        return {
            "confidence_min": self.chosen.confidence_min,
            "confidence": self.confidence.model_dump(),
        }


def stack_features(features: Sequence[DraftFeatures]) -> Values:
    """The features as rows."""
    rows = [(f.mean_probability, f.min_probability) for f in features]
    return np.array(rows, dtype=np.float64).reshape(-1, 2)


def learn_confidence(drafts: Drafts, quality_min: float, folds: int) -> CascadeReport:
    """Fits the map, and chooses the threshold by held-out drafts.

    Raises:
        ValueError: too few drafts are right or wrong (see `Drafts.enough`).
    """
    if not drafts.enough:
        right = int(drafts.right.sum())
        raise ValueError(
            f"{right} right and {len(drafts.right) - right} wrong drafts are too few for a fit; "
            f"{LABELS_MIN} of each are needed"
        )
    chances = _hold_out(drafts, folds)
    return CascadeReport(
        drafts=len(drafts.right),
        confidence=fit_confidence(drafts),
        auc=float(roc_auc_score(drafts.right, chances)),
        ece=calibration_error(chances, drafts.right),
        quality_min=quality_min,
        chosen=_judge_choice(chances, drafts, quality_min, folds),
        thresholds=[judge_threshold(chances, drafts, at) for at in SHOWN],
    )


def fit_confidence(drafts: Drafts) -> ConfidenceConfig:
    """The map that makes these labels most likely."""
    model = _fit(drafts.features, drafts.right)
    mean, least = (round(float(weight), 4) for weight in model.coef_[0])
    return ConfidenceConfig(
        bias=round(float(model.intercept_[0]), 4),
        mean_probability_weight=mean,
        min_probability_weight=least,
    )


def judge_threshold(chances: Values, drafts: Drafts, confidence_min: float) -> ThresholdReport:
    """What this threshold would have done to drafts of these P(right)."""
    return _judge_release(chances >= confidence_min, drafts, confidence_min)


def _judge_release(
    released: NDArray[np.bool_], drafts: Drafts, confidence_min: float
) -> ThresholdReport:
    right = float(np.where(released, drafts.fast, drafts.strong).mean())
    strong = float(drafts.strong.mean())
    return ThresholdReport(
        confidence_min=confidence_min,
        escalated_ratio=float(1 - released.mean()),
        released_right=float(drafts.fast[released].mean()) if released.any() else None,
        right=right,
        of_strong=right / strong if strong else 1.0,
    )


def choose_threshold(chances: Values, drafts: Drafts, quality_min: float) -> ThresholdReport:
    """The lowest threshold, in steps of 0.01, that keeps this share of the strongest's accuracy.

    1 releases nothing, and so keeps all of it.
    """
    reports = (judge_threshold(chances, drafts, step / STEPS) for step in range(STEPS))
    found = (report for report in reports if report.of_strong >= quality_min)
    return next(found, judge_threshold(chances, drafts, 1.0))


def _judge_choice(
    chances: Values, drafts: Drafts, quality_min: float, folds: int
) -> ThresholdReport:
    """The threshold that all drafts choose. Each draft is judged by the choice of other folds."""
    released = np.zeros(len(chances), dtype=bool)
    for others, held in _split(drafts, folds):
        found = choose_threshold(chances[others], drafts.choose(others), quality_min)
        released[held] = chances[held] >= found.confidence_min
    at = choose_threshold(chances, drafts, quality_min).confidence_min
    return _judge_release(released, drafts, at)


def calibration_error(chances: Values, right: NDArray[np.bool_]) -> float:
    """Expected calibration error over bins of equal width: 0 is perfect, 1 the worst."""
    bins = np.minimum((chances * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, weights=chances - right, minlength=BINS)
    return float(np.abs(gaps).sum() / len(chances))


def _hold_out(drafts: Drafts, folds: int) -> Values:
    chances = np.zeros(len(drafts.right))
    for fitted, held in _split(drafts, folds):
        if len(np.unique(drafts.right[fitted])) < 2:
            chances[held] = drafts.right[fitted].mean()
            continue
        model = _fit(drafts.features[fitted], drafts.right[fitted])
        chances[held] = model.predict_proba(drafts.features[held])[:, 1]
    return chances


def _split(drafts: Drafts, folds: int) -> Iterable[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """The rows of each fold and the others; a group is never in two folds."""
    split = GroupKFold(min(folds, len(np.unique(drafts.groups))))
    found: Iterable[tuple[NDArray[np.int64], NDArray[np.int64]]] = split.split(
        drafts.features, drafts.right, drafts.groups
    )
    return found


def _fit(features: Values, right: NDArray[np.bool_]) -> LogisticRegression:
    return LogisticRegression(C=INVERSE_RIDGE, max_iter=1000).fit(features, right)
